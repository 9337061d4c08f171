//! From a mount to its descriptor, and what keeps that open.

use crate::filesystem::Answer;
use crate::limits::MOUNT_NESTING_MAX;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::mount_fd::{MountAccess, MountFd, MountFdRef};
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve;
use pinhole_protocol::{Errno, Name};
use std::os::fd::AsFd;
use std::sync::Arc;

impl Inodes {
    /// The descriptor of a mount. `depth`: mounts that are being found because of it.
    ///
    /// # Errors
    /// ESTALE where the mount is not there any more; ENFILE where there is no descriptor for it.
    pub(in crate::passthrough) fn mount_fd<'m>(
        &self,
        mount: &'m Mount,
        depth: usize,
    ) -> Answer<MountFdRef<'m>> {
        match &mount.access.fixed {
            Some(fd) => Ok(MountFdRef::Fixed(fd)),
            None => self.counted_mount_fd(&mount.access, depth).map(MountFdRef::Counted),
        }
    }

    fn counted_mount_fd(&self, access: &MountAccess, depth: usize) -> Answer<Arc<MountFd>> {
        match access.open() {
            Some(fd) => {
                access.touch();
                Ok(fd)
            }
            None if access.is_closed() => self.find_mount(access, depth),
            None => Err(Errno::ESTALE),
        }
    }

    fn find_mount(&self, access: &MountAccess, depth: usize) -> Answer<Arc<MountFd>> {
        let depth = depth.saturating_add(1);
        if depth > MOUNT_NESTING_MAX {
            return Err(Errno::ESTALE);
        }
        let point = access.point().ok_or(Errno::ESTALE)?;
        let name = Name::parse(&point.name).map_err(|_checked| Errno::ESTALE)?;
        let directory = self.descriptor_within(&self.table.get(point.directory)?, depth)?;
        let ticket = self.descriptor_ticket()?;
        let root = match resolve::find_beneath(directory.as_fd(), name) {
            Err(Errno::ENOENT) => return Err(Errno::ESTALE),
            found => found?,
        };
        let stat = resolve::stat(root.as_fd())?;
        if !access.root.is(root.as_fd(), &stat) {
            return Err(Errno::ESTALE);
        }
        let fd = self.proc_fds.open_for_sync(root.as_fd()).ok_or(Errno::ESTALE)??;
        let fd = access.reopened(fd, Some(ticket))?;
        self.watch.tell();
        Ok(fd)
    }

    /// Holds a mount below the share, on which something is opened. `None`: nothing has to be held.
    pub(in crate::passthrough) fn hold_mount(&self, node: &NodeRef) -> Answer<Option<Arc<MountFd>>> {
        let access = &node.mount.access;
        if access.stays() {
            return Ok(None);
        }
        match self.counted_mount_fd(access, 0) {
            // It never was open: it cannot be, which SYNCFS tells.
            Err(Errno::ESTALE) if !access.is_closed() => Ok(None),
            held => held.map(Some),
        }
    }

    /// The same where something is about to be changed.
    pub(in crate::passthrough) fn hold_to_change(&self, node: &NodeRef) -> Answer<Option<Arc<MountFd>>> {
        let held = self.hold_mount(node)?;
        if let Some(mount) = &held {
            mount.note_change();
        }
        Ok(held)
    }

    /// The same for a file that is mapped to be written: the mount stays until the guest has forgotten all of it.
    pub(in crate::passthrough) fn hold_to_map(&self, node: &NodeRef) -> Answer<()> {
        if self.hold_to_change(node)?.is_some() {
            node.mount.access.note_mapping();
        }
        Ok(())
    }
}
