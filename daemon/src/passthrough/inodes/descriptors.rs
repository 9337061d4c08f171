//! Opens the descriptor of a node's inode.
//!
//! The descriptor of a node in use is open. If it was closed, it is opened again by inode handle or
//! name, and checked to be of the inode that the guest means.

use crate::filesystem::Answer;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::{Descriptor, LastName, NodeRef, Reopen};
use crate::passthrough::resolve::{self, Stat};
use crate::sync::budget::Ticket;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::{Errno, Name};
use rustix::fs::OFlags;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Opens an inode by its last known name, and reads its attributes.
///
/// # Errors
/// ESTALE if nothing has that name.
pub(super) fn find_again(directory: &Descriptor, name: &CStr) -> Answer<(OwnedFd, Stat)> {
    let name = Name::parse(name).map_err(|_checked| Errno::ESTALE)?;
    let fd = match resolve::find_beneath(directory.as_fd(), name) {
        Err(Errno::ENOENT) => return Err(Errno::ESTALE),
        found => found?,
    };
    let stat = resolve::stat(fd.as_fd())?;
    Ok((fd, stat))
}

impl Inodes {
    /// Returns an O_PATH descriptor of the node's inode. It stays open for as long as it is held.
    ///
    /// # Errors
    /// ESTALE if the inode is gone; ENFILE if there is no descriptor left for it.
    pub(crate) fn descriptor(&self, node: &NodeRef) -> Answer<Arc<Descriptor>> {
        self.descriptor_within(node, 0)
    }

    /// Returns a descriptor as [`Self::descriptor`] does. `depth`: see [`Self::mount_fd`].
    pub(super) fn descriptor_within(&self, node: &NodeRef, depth: usize) -> Answer<Arc<Descriptor>> {
        if let Some(descriptor) = node.descriptor() {
            node.touch();
            return Ok(descriptor);
        }
        self.open_descriptor(node, depth).map(|(descriptor, _)| descriptor)
    }

    /// Returns the attributes of the node's inode.
    ///
    /// # Errors
    /// As for [`Self::descriptor`].
    pub(crate) fn stat(&self, node: &NodeRef) -> Answer<Stat> {
        if let Some(descriptor) = node.descriptor() {
            node.touch();
            return resolve::stat(descriptor.as_fd());
        }
        self.open_descriptor(node, 0).map(|(_, stat)| stat)
    }

    /// Opens the data of a regular file or the entries of a directory. No other inode is opened.
    ///
    /// # Errors
    /// As for [`Self::descriptor`], and the error of the host.
    pub(crate) fn open_content(&self, node: &NodeRef, flags: OFlags) -> Answer<OwnedFd> {
        resolve::check_openable(node.kind)?;
        match node.reopen() {
            // This call is cheaper than one through /proc.
            Reopen::ByHandle(handle) => {
                if !node.is_verified() {
                    // Checks that the handle leads to a file of this kind. Opening another kind
                    // could block, or have an effect on the host.
                    drop(self.descriptor(node)?);
                }
                let opened = self.open_by_handle(&node.mount, handle, flags | OFlags::NOCTTY, 0);
                match (opened, node.descriptor()) {
                    // Some file systems find no inode without a name by its handle.
                    (Err(Errno::ESTALE), Some(descriptor)) => {
                        self.proc_fds.reopen_fd(descriptor.as_fd(), flags)
                    }
                    (opened, _) => opened,
                }
            }
            Reopen::ByName(_) | Reopen::Never => {
                self.proc_fds.reopen_fd(self.descriptor(node)?.as_fd(), flags)
            }
        }
    }

    /// Takes the right to one more descriptor. The descriptor of a node may be closed for it.
    ///
    /// # Errors
    /// ENFILE if all descriptors are in use and no node's can be closed.
    pub(crate) fn descriptor_ticket(&self) -> Answer<Ticket> {
        loop {
            match self.descriptors.ticket() {
                Ok(ticket) => return Ok(ticket),
                Err(errno) => {
                    self.fd_cache.least_used(&self.table).ok_or(errno)?.set_descriptor(None);
                }
            }
        }
    }

    /// Adds a node that was opened to the descriptor cache, if it can be opened again.
    pub(super) fn cache_descriptor(&self, node: &NodeRef) {
        if matches!(node.reopen(), Reopen::Never) {
            return;
        }
        if let Some(victim) = self.fd_cache.admit(node, &self.table) {
            victim.set_descriptor(None);
        }
        if !node.mount.access.stays() {
            self.watch.notify();
        }
    }

    fn open_descriptor(&self, node: &NodeRef, depth: usize) -> Answer<(Arc<Descriptor>, Stat)> {
        let ticket = self.descriptor_ticket()?;
        let (fd, stat) = match node.reopen() {
            Reopen::ByHandle(handle) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let fd = self.open_by_handle(&node.mount, handle, flags, depth)?;
                let stat = resolve::stat(fd.as_fd())?;
                (fd, stat)
            }
            Reopen::ByName(record) => self.open_by_name(&record.last_name().ok_or(Errno::ESTALE)?)?,
            Reopen::Never => return Err(Errno::ESTALE),
        };
        if stat.inode() != node.inode || stat.kind() != node.kind || stat.mount() != node.mount.key {
            return Err(Errno::ESTALE);
        }
        node.set_verified();
        let descriptor = Arc::new(Descriptor::new(fd, Some(ticket)));
        node.set_descriptor(Some(Arc::clone(&descriptor)));
        self.cache_descriptor(node);
        Ok((descriptor, stat))
    }

    /// Opens an inode by its handle. `depth`: see [`Self::mount_fd`].
    fn open_by_handle(
        &self,
        mount: &Mount,
        handle: &InodeHandle,
        flags: OFlags,
        depth: usize,
    ) -> Answer<OwnedFd> {
        let counted;
        // A fixed descriptor is borrowed, so that queues that open files at once do not all write
        // to its reference count.
        let mount_fd = if let Some(fixed) = &mount.access.fixed {
            fixed
        } else {
            counted = self.mount_fd(&mount.access, depth)?;
            &counted
        };
        handle.open(mount_fd.as_fd(), flags).map_err(|error| resolve::io_errno(&error))
    }

    /// Opens the last name of a node, if it still belongs to an inode with the same birth time.
    fn open_by_name(&self, last_name: &LastName) -> Answer<(OwnedFd, Stat)> {
        let (fd, stat) = find_again(&*self.descriptor(&last_name.directory)?, &last_name.name)?;
        if stat.birth() == Some(last_name.birth) { Ok((fd, stat)) } else { Err(Errno::ESTALE) }
    }
}
