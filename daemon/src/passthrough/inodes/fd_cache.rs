//! Which nodes keep their O_PATH descriptor open.
//!
//! With an open descriptor, the next operation on the node costs one system call. The number of
//! open descriptors is limited. The clock algorithm selects the one to close.

use crate::limits::{DESCRIPTOR_SWEEP_MAX, NODE_DESCRIPTORS_MAX};
use crate::passthrough::inodes::mount_fd::MountAccess;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::inodes::table::NodeTable;
use crate::sync::lock::Mutex;
use pinhole_protocol::NodeId;
use std::sync::Arc;

/// The nodes whose descriptors are open.
#[derive(Debug)]
pub(super) struct FdCache {
    /// A panic under the lock breaks nothing: a frame may name any node.
    frames: Mutex<Frames>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Frames {
    /// Ids of nodes. A node that is forgotten or closed leaves its frame in place until the hand
    /// passes.
    ids: Vec<u64>,
    hand: usize,
}

impl FdCache {
    /// Returns the cache of a share that may hold `descriptors_max` descriptors. A quarter of them
    /// is left to open files.
    pub(super) fn new(descriptors_max: u64) -> Self {
        let share = usize::try_from(descriptors_max / 4 * 3).unwrap_or(usize::MAX);
        Self { frames: Mutex::default(), limit: share.clamp(1, NODE_DESCRIPTORS_MAX) }
    }

    /// Adds a node that was opened. Returns the node to be closed for it.
    pub(super) fn admit(&self, node: &NodeRef, nodes: &NodeTable) -> Option<NodeRef> {
        let mut frames = self.frames.lock();
        let full = frames.ids.len() >= self.limit;
        let Some(free) = full.then(|| frames.sweep(nodes)).flatten() else {
            frames.ids.push(node.id());
            return None;
        };
        if let Some(frame) = frames.ids.get_mut(free.at) {
            *frame = node.id();
        }
        // There are too many frames if no frame was free for a time.
        if frames.ids.len() > self.limit
            && let Some(FreeFrame { at, node: None }) = frames.sweep(nodes)
        {
            frames.ids.swap_remove(at);
        }
        free.node.filter(|victim| !Arc::ptr_eq(victim, node))
    }

    /// Removes the least used node, if any node may be closed.
    pub(super) fn least_used(&self, nodes: &NodeTable) -> Option<NodeRef> {
        let mut frames = self.frames.lock();
        let mut left = frames.ids.len();
        while left > 0 {
            left = left.saturating_sub(DESCRIPTOR_SWEEP_MAX);
            while let Some(free) = frames.sweep(nodes) {
                // The node is closed or about to be.
                frames.ids.swap_remove(free.at);
                if free.node.is_some() {
                    return free.node;
                }
            }
        }
        None
    }

    /// Notes which mounts below the share are used by open descriptors.
    pub(super) fn note_use_of_mounts(&self, nodes: &NodeTable) {
        for node in self.below_the_share(nodes) {
            if node.take_touched() {
                node.mount.access.touch();
            }
        }
    }

    /// Closes descriptors on some mounts, if they may be closed. Returns whether any descriptor
    /// stays open on mounts below the share.
    pub(super) fn close_on(&self, mounts: &[Arc<MountAccess>], nodes: &NodeTable) -> bool {
        let mut is_any_left = false;
        for node in self.below_the_share(nodes) {
            let is_on = |mount: &Arc<MountAccess>| Arc::ptr_eq(mount, &node.mount.access);
            if node.can_be_closed() && mounts.iter().any(is_on) {
                node.set_descriptor(None);
            } else {
                is_any_left = true;
            }
        }
        is_any_left
    }

    /// Returns the nodes that are open on mounts below the share. The lock is not held afterwards,
    /// because closing may wait for the host.
    fn below_the_share(&self, nodes: &NodeTable) -> Vec<NodeRef> {
        let ids = self.frames.lock().ids.clone();
        let known = ids.into_iter().filter_map(|id| nodes.get(NodeId(id)).ok());
        known.filter(|node| !node.mount.access.stays() && node.is_open()).collect()
    }

    /// Forgets all nodes.
    pub(super) fn clear(&self) {
        *self.frames.lock() = Frames::default();
    }
}

/// A frame that may be reused.
struct FreeFrame {
    at: usize,
    /// Its node, if that is still open.
    node: Option<NodeRef>,
}

impl Frames {
    /// Moves the hand to a free frame: its node is closed, or was not used since the hand passed.
    /// Returns `None` if none of the next [`DESCRIPTOR_SWEEP_MAX`] frames is free.
    fn sweep(&mut self, nodes: &NodeTable) -> Option<FreeFrame> {
        let mut second_best = None;
        for _ in 0..DESCRIPTOR_SWEEP_MAX.min(self.ids.len()) {
            let at = self.hand % self.ids.len();
            self.hand = at.saturating_add(1);
            let id = *self.ids.get(at)?;
            match nodes.get(NodeId(id)).ok().filter(|node| node.is_open()) {
                Some(node) if !node.can_be_closed() => {}
                Some(node) if node.take_touched() => second_best = Some(FreeFrame { at, node: Some(node) }),
                node => return Some(FreeFrame { at, node }),
            }
        }
        // Even if all nodes are in use, the sweep ends here: a guest must not make other threads
        // wait.
        second_best
    }
}
