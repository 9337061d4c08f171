//! The node table: what the guest has looked up and not forgotten.

use super::budget::Ticket;
use super::mounts::Mount;
use super::slab::Slab;
use pinhole_protocol::{Errno, NodeId};
use rustix::fs::FileType;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What makes two lookups mean the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeKey {
    /// Device number of the file system.
    pub(crate) device: (u32, u32),
    /// Inode number. Not reused while a [`Node`] lives, because its descriptor holds the inode.
    pub(crate) inode: u64,
    /// The mount through which it was reached: one inode under two mounts is two nodes.
    pub(crate) mount: u64,
}

/// A file, directory, link or special file that the guest knows.
///
/// Made by a lookup; kept by the table until the guest has forgotten it, and by operations under way.
#[derive(Debug)]
pub(crate) struct Node {
    /// Opened with O_PATH: names the inode, grants nothing.
    path_fd: OwnedFd,
    pub(crate) key: NodeKey,
    /// Never changes during the life of an inode.
    pub(crate) kind: FileType,
    /// Kept so that SYNCFS reaches every file system that the guest has seen.
    _mount: Arc<Mount>,
    /// Lookups that the guest has not taken back. Not what keeps an operation's node alive: the `Arc` is.
    lookups: AtomicU64,
    _ticket: Option<Ticket>,
}

impl Node {
    pub(crate) fn new(
        path_fd: OwnedFd,
        (key, kind): (NodeKey, FileType),
        mount: Arc<Mount>,
        ticket: Option<Ticket>,
    ) -> Self {
        Self { path_fd, key, kind, _mount: mount, lookups: AtomicU64::new(1), _ticket: ticket }
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.path_fd.as_fd()
    }
}

/// All nodes of one guest; the root is always among them, under [`NodeId::ROOT`].
#[derive(Debug)]
pub(crate) struct NodeTable {
    tables: RwLock<Tables>,
}

#[derive(Debug)]
struct Tables {
    nodes: Slab<Arc<Node>>,
    ids: HashMap<NodeKey, u64>,
}

impl NodeTable {
    pub(crate) fn new(root: Node) -> Self {
        let mut tables = Tables { nodes: Slab::new(), ids: HashMap::new() };
        let key = root.key;
        // The first key of a slab is 1, which is the root's id on the wire.
        if let Ok(id) = tables.nodes.insert(Arc::new(root)) {
            tables.ids.insert(key, id);
        }
        Self { tables: RwLock::new(tables) }
    }

    /// The node of an id.
    ///
    /// # Errors
    /// ESTALE for an id that is forgotten or was never given out.
    pub(crate) fn get(&self, id: NodeId) -> Result<Arc<Node>, Errno> {
        self.read().nodes.get(id.0).map(Arc::clone).ok_or(Errno::ESTALE)
    }

    /// Takes one more lookup on a node that the guest already knows.
    pub(crate) fn reference(&self, key: &NodeKey) -> Option<NodeId> {
        let tables = self.read();
        let id = *tables.ids.get(key)?;
        // Removal needs the write lock, so a node that is found here stays found with its new reference.
        tables.nodes.get(id)?.lookups.fetch_add(1, Ordering::Relaxed);
        Some(NodeId(id))
    }

    /// Adds a node with one lookup, or takes one on the node that another queue has added meanwhile.
    ///
    /// # Errors
    /// ENFILE where the table is full.
    pub(crate) fn insert(&self, node: Node) -> Result<NodeId, Errno> {
        let mut tables = self.write();
        if let Some(&id) = tables.ids.get(&node.key)
            && let Some(known) = tables.nodes.get(id)
        {
            known.lookups.fetch_add(1, Ordering::Relaxed);
            return Ok(NodeId(id));
        }
        let key = node.key;
        let id = tables.nodes.insert(Arc::new(node)).map_err(|_full| Errno::ENFILE)?;
        tables.ids.insert(key, id);
        Ok(NodeId(id))
    }

    /// Takes back `count` lookups, or all that there are where a hostile guest says more.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        let mut tables = self.write();
        let Some(node) = tables.nodes.get(id.0) else { return };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        if left == 0
            && let Some(node) = tables.nodes.remove(id.0)
        {
            tables.ids.remove(&node.key);
            drop(tables);
            // Closing the descriptor may wait for the host; no lock is held.
            drop(node);
        }
    }

    /// Forgets everything but the root.
    pub(crate) fn clear(&self) {
        let mut tables = self.write();
        let gone = tables.nodes.retain(|id, _| id == NodeId::ROOT.0);
        for node in &gone {
            tables.ids.remove(&node.key);
        }
        drop(tables);
        drop(gone);
    }

    /// Whether a node is the root of the share.
    pub(crate) fn is_root(&self, node: &Node) -> bool {
        self.read().nodes.get(NodeId::ROOT.0).is_some_and(|root| root.key == node.key)
    }

    /// Nodes known now, the root among them.
    pub(crate) fn len(&self) -> usize {
        self.read().nodes.len()
    }

    // A panic while the lock is held leaves the tables whole: each change is one insert or remove.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}
