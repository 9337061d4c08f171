//! From a node to a descriptor of its inode.
//!
//! A node that is used has its O_PATH descriptor kept open, so that the next operation costs one system call. One that was
//! closed comes back by the node's way back, and what comes back is checked to be the inode that the guest means.

use crate::filesystem::Answer;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::mount_fd::Held;
use crate::passthrough::inodes::node::{Descriptor, NodeRef, Origin, WayBack};
use crate::passthrough::resolve::{self, Stat};
use crate::sync::budget::Ticket;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::Errno;
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

fn open_by_handle(mount: &Held<'_>, handle: &InodeHandle, flags: OFlags) -> Answer<OwnedFd> {
    handle.open(mount.as_fd(), flags).map_err(|error| resolve::io_errno(&error))
}

impl Inodes {
    /// A descriptor of the node's inode, good for as long as it is held.
    ///
    /// # Errors
    /// ESTALE where the inode is no more; ENFILE where there is no descriptor for it.
    pub(in crate::passthrough) fn reach(&self, node: &NodeRef) -> Answer<Arc<Descriptor>> {
        self.reach_within(node, 0)
    }

    /// As [`Self::reach`], for one of `depth` mounts that are being found.
    pub(in crate::passthrough) fn reach_within(
        &self,
        node: &NodeRef,
        depth: usize,
    ) -> Answer<Arc<Descriptor>> {
        if let Some(descriptor) = node.descriptor() {
            node.touch();
            return Ok(descriptor);
        }
        self.reopen(node, depth).map(|(descriptor, _)| descriptor)
    }

    /// What the host says of a node.
    ///
    /// # Errors
    /// As for [`Self::reach`].
    pub(in crate::passthrough) fn stat_node(&self, node: &NodeRef) -> Answer<Stat> {
        if let Some(descriptor) = node.descriptor() {
            node.touch();
            return resolve::stat(descriptor.as_fd());
        }
        self.reopen(node, 0).map(|(_, stat)| stat)
    }

    /// Opens what is in a node: its data or its entries. Only regular files and directories have any.
    ///
    /// # Errors
    /// As for [`Self::reach`], and what the host says.
    pub(in crate::passthrough) fn open_inside(&self, node: &NodeRef, flags: OFlags) -> Answer<OwnedFd> {
        resolve::check_openable(node.kind)?;
        match node.way_back() {
            // Without the way through /proc this is the cheaper call.
            WayBack::Handle(handle) => {
                if !node.is_verified() {
                    // Finds out whether the handle names a file of this kind: another could block or act when it is
                    // opened.
                    drop(self.reach(node)?);
                }
                let opened = self
                    .mount_fd(&node.mount, 0)
                    .and_then(|mount| open_by_handle(&mount, handle, flags | OFlags::NOCTTY));
                match (opened, node.descriptor()) {
                    // Some file systems find nothing by the handle of what has no name any more.
                    (Err(Errno::ESTALE), Some(descriptor)) => {
                        self.proc_fds.reopen_fd(descriptor.as_fd(), flags)
                    }
                    (opened, _) => opened,
                }
            }
            WayBack::Name(_) | WayBack::None => self.proc_fds.reopen_fd(self.reach(node)?.as_fd(), flags),
        }
    }

    /// The right to one more descriptor, for which a node's may have to be closed.
    ///
    /// # Errors
    /// ENFILE where all are taken by what cannot be closed.
    pub(in crate::passthrough) fn ticket(&self) -> Answer<Ticket> {
        loop {
            match self.descriptors.ticket() {
                Ok(ticket) => return Ok(ticket),
                Err(errno) => {
                    self.fd_cache.least_used(&self.table).ok_or(errno)?.set_descriptor(None);
                }
            }
        }
    }

    /// Keeps the descriptor of a node that has just been opened, if it can be opened again; closes another's for it
    /// where there are many.
    pub(in crate::passthrough) fn keep_open(&self, node: &NodeRef) {
        if matches!(node.way_back(), WayBack::None) {
            return;
        }
        if let Some(victim) = self.fd_cache.admit(node, &self.table) {
            victim.set_descriptor(None);
        }
        if !node.mount.access.stays() {
            self.watch.tell();
        }
    }

    /// Opens a node again by its way back.
    fn reopen(&self, node: &NodeRef, depth: usize) -> Answer<(Arc<Descriptor>, Stat)> {
        let ticket = self.ticket()?;
        let fd = match node.way_back() {
            WayBack::Handle(handle) => {
                let mount = self.mount_fd(&node.mount, depth)?;
                open_by_handle(&mount, handle, OFlags::PATH | OFlags::NOFOLLOW)?
            }
            WayBack::Name(named) => {
                // Not under the lock: the host may take its time.
                let origin = named.origin.read().clone();
                self.reopen_by_name(node, &origin.ok_or(Errno::ESTALE)?)?
            }
            WayBack::None => return Err(Errno::ESTALE),
        };
        let stat = resolve::stat(fd.as_fd())?;
        if stat.inode() != node.inode || stat.kind() != node.kind || stat.mount() != node.mount.key {
            return Err(Errno::ESTALE);
        }
        node.set_verified();
        let descriptor = Arc::new(Descriptor::new(fd, Some(ticket)));
        node.set_descriptor(Some(Arc::clone(&descriptor)));
        self.keep_open(node);
        Ok((descriptor, stat))
    }

    /// What stands under a node's last name, if it is still the inode that stood there.
    fn reopen_by_name(&self, node: &NodeRef, origin: &Origin) -> Answer<OwnedFd> {
        let name = pinhole_protocol::Name::parse(&origin.name).map_err(|_checked| Errno::ESTALE)?;
        let directory = self.reach(&origin.directory)?;
        let fd = match resolve::find_beneath(directory.as_fd(), name) {
            Err(Errno::ENOENT) => return Err(Errno::ESTALE),
            found => found?,
        };
        let stat = resolve::stat(fd.as_fd())?;
        let same = stat.birth() == Some(origin.birth) && stat.mount() == node.mount.key;
        if same { Ok(fd) } else { Err(Errno::ESTALE) }
    }
}
