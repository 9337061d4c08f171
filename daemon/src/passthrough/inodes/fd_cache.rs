//! From a node to a descriptor of its inode, and how many of those stay open.
//!
//! A node that is used has its O_PATH descriptor kept open, so that the next operation costs one system call; a
//! bounded number of them, of which the least used are closed for those that come. A closed one comes back by the
//! node's way back, and what comes back is checked to be the inode that the guest means.

use crate::filesystem::Answer;
use crate::limits::{DESCRIPTOR_SWEEP_MAX, NODE_DESCRIPTORS_MAX};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::inode_handle::InodeHandle;
use crate::passthrough::inodes::mount_fd::{Held, MountAccess};
use crate::passthrough::inodes::table::{Descriptor, NodeRef, NodeTable, Origin, WayBack};
use crate::passthrough::resolve::{self, Stat};
use crate::sync::budget::Ticket;
use pinhole_protocol::{Errno, NodeId};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The nodes whose descriptors are kept open; the clock algorithm decides which are closed.
#[derive(Debug)]
pub(crate) struct FdCache {
    frames: Mutex<Frames>,
    /// Frames there are at most.
    limit: usize,
}

#[derive(Debug, Default)]
struct Frames {
    /// Ids of nodes; one that is forgotten or closed leaves its frame to the next that comes by.
    ids: Vec<u64>,
    hand: usize,
}

impl FdCache {
    /// For a share that may hold so many descriptors in all. A quarter is left to files that are open.
    pub(crate) fn new(descriptors_max: u64) -> Self {
        let share = usize::try_from(descriptors_max / 4 * 3).unwrap_or(usize::MAX);
        Self { frames: Mutex::default(), limit: share.clamp(1, NODE_DESCRIPTORS_MAX) }
    }

    /// Notes that a node has been opened; returns the one to be closed for it.
    fn admit(&self, node: &NodeRef, nodes: &NodeTable) -> Option<NodeRef> {
        let mut frames = self.frames();
        let full = frames.ids.len() >= self.limit;
        let Some(found) = full.then(|| frames.sweep(nodes)).flatten() else {
            frames.ids.push(node.id());
            return None;
        };
        if let Some(frame) = frames.ids.get_mut(found.at) {
            *frame = node.id();
        }
        // There are too many after a time when none could be given away.
        if frames.ids.len() > self.limit
            && let Some(Free { at, node: None }) = frames.sweep(nodes)
        {
            frames.ids.swap_remove(at);
        }
        found.node.filter(|victim| !Arc::ptr_eq(victim, node))
    }

    /// The node that is best closed now, if one may be.
    fn least_used(&self, nodes: &NodeTable) -> Option<NodeRef> {
        let mut frames = self.frames();
        let mut looks = frames.ids.len();
        while looks > 0 {
            looks = looks.saturating_sub(DESCRIPTOR_SWEEP_MAX);
            while let Some(found) = frames.sweep(nodes) {
                // Closed or about to be: in either case its frame is of no more use.
                frames.ids.swap_remove(found.at);
                if found.node.is_some() {
                    return found.node;
                }
            }
        }
        None
    }

    /// Notes which mounts below the share are used by what is open on them.
    pub(crate) fn note_use_of_mounts(&self, nodes: &NodeTable) {
        for node in self.below_the_share(nodes) {
            if node.take_touched() {
                node.mount.access.touch();
            }
        }
    }

    /// Closes what is open on some mounts, of what may be closed. Whether anything stays open on mounts below the share.
    pub(crate) fn close_on(&self, mounts: &[Arc<MountAccess>], nodes: &NodeTable) -> bool {
        let mut is_any_left = false;
        for node in self.below_the_share(nodes) {
            let is_on = |mount: &Arc<MountAccess>| Arc::ptr_eq(mount, &node.mount.access);
            if node.is_sheddable() && mounts.iter().any(is_on) {
                node.set_descriptor(None);
            } else {
                is_any_left = true;
            }
        }
        is_any_left
    }

    /// What is open on mounts below the share. Not under the lock: closing may wait for the host.
    fn below_the_share(&self, nodes: &NodeTable) -> Vec<NodeRef> {
        let ids = self.frames().ids.clone();
        let known = ids.into_iter().filter_map(|id| nodes.get(NodeId(id)).ok());
        known.filter(|node| !node.mount.access.stays() && node.is_open()).collect()
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        *self.frames() = Frames::default();
    }

    // A panic while the lock is held breaks nothing: a frame may name anything.
    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame that may be given away.
struct Free {
    at: usize,
    /// Whose it is, where that is still open.
    node: Option<NodeRef>,
}

impl Frames {
    /// Moves the hand to a frame that may be given away: that of a node which is no longer open, or which nobody has
    /// asked for since the hand was there last. `None`: there is none among those next to the hand.
    fn sweep(&mut self, nodes: &NodeTable) -> Option<Free> {
        let mut second_best = None;
        for _ in 0..DESCRIPTOR_SWEEP_MAX.min(self.ids.len()) {
            let at = self.hand % self.ids.len();
            self.hand = at.saturating_add(1);
            let id = *self.ids.get(at)?;
            match nodes.get(NodeId(id)).ok().filter(|node| node.is_open()) {
                Some(node) if !node.is_sheddable() => {}
                Some(node) if node.take_touched() => second_best = Some(Free { at, node: Some(node) }),
                node => return Some(Free { at, node }),
            }
        }
        // A guest that uses all of them must not hold up the others.
        second_best
    }
}

fn open_by_handle(mount: &Held<'_>, handle: &InodeHandle, flags: OFlags) -> Answer<OwnedFd> {
    handle.open(mount.as_fd(), flags).map_err(|error| resolve::io_errno(&error))
}

impl Passthrough {
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
                        self.inodes.proc_fds.reopen_fd(descriptor.as_fd(), flags)
                    }
                    (opened, _) => opened,
                }
            }
            WayBack::Name(_) | WayBack::None => {
                self.inodes.proc_fds.reopen_fd(self.reach(node)?.as_fd(), flags)
            }
        }
    }

    /// The right to one more descriptor, for which a node's may have to be closed.
    ///
    /// # Errors
    /// ENFILE where all are taken by what cannot be closed.
    pub(in crate::passthrough) fn ticket(&self) -> Answer<Ticket> {
        loop {
            match self.inodes.descriptors.ticket() {
                Ok(ticket) => return Ok(ticket),
                Err(errno) => {
                    self.inodes.fd_cache.least_used(&self.inodes.table).ok_or(errno)?.set_descriptor(None);
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
        if let Some(victim) = self.inodes.fd_cache.admit(node, &self.inodes.table) {
            victim.set_descriptor(None);
        }
        if !node.mount.access.stays() {
            self.reaper.watch();
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
                let origin = named.origin.read().unwrap_or_else(PoisonError::into_inner).clone();
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
