//! From a node to a descriptor of its inode, and how many of those stay open.
//!
//! A node that is used has its O_PATH descriptor kept open, so that the next operation costs one system call; a
//! bounded number of them, of which the least used are closed for those that come. A closed one comes back by the
//! node's way back, and what comes back is checked to be the inode that the guest means.

use crate::limits::{DESCRIPTOR_SWEEP_MAX, NODE_DESCRIPTORS_MAX};
use crate::passthrough::inodes::mount_fd::MountAccess;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::inodes::table::NodeTable;
use crate::sync::lock::{Mutex, MutexGuard};
use pinhole_protocol::NodeId;
use std::sync::Arc;

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
    pub(super) fn admit(&self, node: &NodeRef, nodes: &NodeTable) -> Option<NodeRef> {
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
    pub(super) fn least_used(&self, nodes: &NodeTable) -> Option<NodeRef> {
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
        self.frames.lock()
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
