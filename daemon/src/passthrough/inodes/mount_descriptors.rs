//! Opens the descriptor of a mount, and keeps it open while a request or a file holds it.

use crate::filesystem::Answer;
use crate::limits::MOUNT_NESTING_MAX;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::descriptors::find_again;
use crate::passthrough::inodes::mount_fd::{MountAccess, MountFd};
use crate::passthrough::inodes::node::NodeRef;
use pinhole_protocol::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;

impl Inodes {
    /// Returns the descriptor of a mount. To find a closed mount, the daemon may first have to find
    /// the mount that contains its mount point. `depth` is the number of such searches in progress.
    ///
    /// # Errors
    /// ESTALE if the mount is gone; ENFILE if there is no descriptor left for it.
    pub(super) fn mount_fd(&self, access: &MountAccess, depth: usize) -> Answer<Arc<MountFd>> {
        match access.open() {
            Some(fd) => {
                access.touch();
                Ok(fd)
            }
            None if access.is_closed() => self.find_mount(access, depth),
            None => Err(Errno::ESTALE),
        }
    }

    /// Finds a mount by its mount point and opens it.
    fn find_mount(&self, access: &MountAccess, depth: usize) -> Answer<Arc<MountFd>> {
        let depth = depth.saturating_add(1);
        if depth > MOUNT_NESTING_MAX {
            return Err(Errno::ESTALE);
        }
        let point = access.point().ok_or(Errno::ESTALE)?;
        let directory = self.descriptor_within(&self.table.get(point.directory)?, depth)?;
        let ticket = self.descriptor_ticket()?;
        let (root, stat) = find_again(&directory, &point.name)?;
        if !access.root.is(root.as_fd(), &stat) {
            return Err(Errno::ESTALE);
        }
        let fd = self.proc_fds.open_for_sync(root.as_fd()).ok_or(Errno::ESTALE)??;
        let fd = access.reopened(fd, Some(ticket))?;
        self.watch.notify();
        Ok(fd)
    }

    /// Returns the descriptor of a node's mount, which an open file or directory holds. Returns
    /// `None` if the mount needs no holder.
    ///
    /// # Errors
    /// ESTALE if the mount is gone; ENFILE if there is no descriptor left for it.
    pub(crate) fn hold_mount(&self, node: &NodeRef) -> Answer<Option<Arc<MountFd>>> {
        let access = &node.mount.access;
        if access.stays() {
            return Ok(None);
        }
        match self.mount_fd(access, 0) {
            // The mount cannot be opened at all. SYNCFS reports that.
            Err(Errno::ESTALE) if !access.is_closed() => Ok(None),
            held => held.map(Some),
        }
    }

    /// Holds the mount of a node that is about to be changed.
    ///
    /// # Errors
    /// As for [`Self::hold_mount`].
    pub(crate) fn hold_to_change(&self, node: &NodeRef) -> Answer<Option<Arc<MountFd>>> {
        let held = self.hold_mount(node)?;
        if let Some(mount) = &held {
            mount.note_change();
        }
        Ok(held)
    }

    /// Keeps a mount open on which the guest maps a file writable, until the guest has forgotten
    /// every node of the mount.
    ///
    /// # Errors
    /// As for [`Self::hold_mount`].
    pub(crate) fn hold_to_map(&self, node: &NodeRef) -> Answer<()> {
        if self.hold_to_change(node)?.is_some() {
            node.mount.access.note_mapping();
        }
        Ok(())
    }
}
