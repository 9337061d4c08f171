//! The node table: the nodes that the guest has looked up and not forgotten.
//!
//! A node costs a hundred bytes of memory and no descriptor. Its descriptor is opened again by the
//! inode handle, or by the name in its directory if there are no inode handles. Descriptors of
//! nodes in use stay open in [`FdCache`](super::fd_cache::FdCache).

use crate::filesystem::Answer;
use crate::limits::NODE_SHARDS;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::{FoundInode, Inserted, Node, NodeKey, NodeRef, Reopen};
use crate::passthrough::slots::{SlotTable, first_generation};
use crate::sync::lock::RwLock;
use hashbrown::{DefaultHashBuilder, HashTable};
use pinhole_policy::RuleId;
use pinhole_protocol::{Errno, Name, NodeId};
use rustix::fs::FileType;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All nodes of one guest. The root is always in it, as [`NodeId::ROOT`].
#[derive(Debug)]
pub(super) struct NodeTable {
    nodes: SlotTable<Node>,
    shards: [NodeShard; NODE_SHARDS],
    hasher: DefaultHashBuilder,
    /// Number of nodes that were ever created.
    created: AtomicU64,
}

/// Nodes by their key. There are several shards, so that queues seldom use the same lock, and each
/// has a cache line of its own. A change is one insertion or removal, which a panic cannot
/// interrupt.
#[derive(Debug, Default)]
#[repr(align(64))]
struct NodeShard(RwLock<HashTable<NodeRef>>);

impl NodeTable {
    /// Returns a table with the root and room for `limit` more nodes.
    pub(super) fn new(root: FoundInode, limit: u32) -> Self {
        let table = Self {
            nodes: SlotTable::new(limit.saturating_add(1), 0),
            shards: std::array::from_fn(|_| NodeShard::default()),
            hasher: DefaultHashBuilder::default(),
            created: AtomicU64::new(0),
        };
        // The first key of a table is 1, which is the root's id on the wire. An empty table is not
        // full.
        if table.insert(root).is_err() {
            tracing::error!("the node table has no room for the root");
        }
        table.nodes.begin_with(first_generation());
        table
    }

    /// Returns the node of an id.
    ///
    /// # Errors
    /// ESTALE for an id that is forgotten or was never given out.
    pub(super) fn get(&self, id: NodeId) -> Answer<NodeRef> {
        self.nodes.get(id.0).ok_or(Errno::ESTALE)
    }

    /// Returns a time stamp that separates nodes created before it from nodes created later.
    pub(super) fn now(&self) -> u64 {
        self.created.load(Ordering::Acquire)
    }

    /// Adds a look-up to the node that has been open under this key since `then`. Every inode that
    /// has had this key since is the inode of that node. Calls `reached` before the guest gets the
    /// node id.
    pub(super) fn reference_open(
        &self,
        (key, then): (NodeKey, u64),
        reached: impl FnOnce(&NodeRef),
    ) -> Option<NodeId> {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        let node = shard.find(hash, |node| node.key() == key)?;
        if node.born >= then || !node.is_open() {
            return None;
        }
        node.touch();
        // The node stays in the table, because removal needs the write lock.
        node.lookups.fetch_add(1, Ordering::Relaxed);
        reached(node);
        Some(NodeId(node.id()))
    }

    /// Adds a look-up to a node, unless the guest has forgotten it or its inode is known to be
    /// gone.
    pub(super) fn reference(&self, node: &NodeRef) -> Option<NodeId> {
        let hash = self.hash(node.key());
        let shard = self.shard(hash).read();
        shard.find(hash, |known| Arc::ptr_eq(known, node))?;
        // The node stays in the table, because removal needs the write lock.
        node.lookups.fetch_add(1, Ordering::Relaxed);
        Some(NodeId(node.id()))
    }

    /// Inserts a node for an inode that was created and is gone. Each use of it is ESTALE, and no
    /// look-up finds it.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(super) fn insert_removed(&self, kind: FileType, mount: Arc<Mount>, rule: RuleId) -> Answer<NodeRef> {
        // No file system uses inode number 0.
        let (inode, reopen) = (0, Reopen::Never);
        self.add(FoundInode { inode, mount, kind, descriptor: None, reopen, rule, verified: false })
    }

    /// Returns the node with this key, whether or not its inode still exists.
    pub(super) fn find(&self, key: NodeKey) -> Option<NodeRef> {
        let hash = self.hash(key);
        self.shard(hash).read().find(hash, |node| node.key() == key).map(Arc::clone)
    }

    /// Inserts the inode that a look-up has found. If the guest knows it, its node gets one more
    /// look-up.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(super) fn insert(&self, found: FoundInode) -> Answer<Inserted> {
        let key = NodeKey { mount: found.mount.number, inode: found.inode };
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        if let Ok(known) = shard.find_entry(hash, |node| node.key() == key) {
            if known.get().is_same_inode(&found) {
                let known = Arc::clone(known.get());
                known.lookups.fetch_add(1, Ordering::Relaxed);
                drop(shard);
                let opened = known.merge(found);
                return Ok(Inserted { node: known, known: true, opened });
            }
            // Its inode is gone. The guest will forget the node.
            known.remove();
        }
        let opened = found.descriptor.is_some();
        let node = self.add(found)?;
        shard.insert_unique(hash, Arc::clone(&node), |node| self.hash(node.key()));
        Ok(Inserted { node, known: false, opened })
    }

    fn add(&self, found: FoundInode) -> Answer<NodeRef> {
        let born = self.created.fetch_add(1, Ordering::AcqRel);
        self.nodes.insert(Node::new(found, born)).map_err(|_full| Errno::ENFILE)
    }

    /// Takes back `count` look-ups, or all of them if a hostile guest claims more. Returns the node
    /// if no look-up is left: closing its descriptor may wait for the host.
    pub(super) fn forget(&self, id: NodeId, count: u64) -> Option<NodeRef> {
        if id == NodeId::ROOT {
            return None;
        }
        let node = self.nodes.get(id.0)?;
        let hash = self.hash(node.key());
        let mut shard = self.shard(hash).write();
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 {
            return None;
        }
        if let Ok(found) = shard.find_entry(hash, |found| Arc::ptr_eq(found, &node)) {
            found.remove();
        }
        self.nodes.remove(id.0)
    }

    /// Forgets every node but the root.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.0.write();
            shard.retain(|node| node.id() == NodeId::ROOT.0);
            shard.shrink_to_fit(|node| self.hash(node.key()));
        }
        drop(self.nodes.retain(|node| node.id() == NodeId::ROOT.0));
        self.nodes.shrink();
    }

    /// Fails if no node can be added.
    ///
    /// # Errors
    /// ENFILE.
    pub(super) fn check_room(&self) -> Answer<()> {
        if self.nodes.is_full() { Err(Errno::ENFILE) } else { Ok(()) }
    }

    /// Returns the number of nodes, with the root.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns a hash of a name. It is never 0.
    pub(super) fn hash_of_name(&self, name: Name<'_>) -> u64 {
        self.hasher.hash_one(name.as_bytes()) | 1
    }

    fn hash(&self, key: NodeKey) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Returns the shard of a hash. The hash table uses the lowest and highest bits, the shard
    /// others.
    fn shard(&self, hash: u64) -> &RwLock<HashTable<NodeRef>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(hash >> 48).unwrap_or(0) % NODE_SHARDS;
        &self.shards.get(index).unwrap_or(first).0
    }
}

#[cfg(test)]
mod tests {
    use super::super::mount_fd::MountState;
    use super::super::mounts::{FoundMount, MountTable};
    use super::super::node::{Descriptor, LastName, NameRecord};
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    /// Returns an inode on the mount of the temporary folder, with a number that a file system may
    /// give out.
    fn found(inode: u64, kind: FileType, reopen: Reopen) -> FoundInode {
        let folder = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let stat = crate::passthrough::resolve::stat(directory.as_fd()).unwrap();
        let mount = FoundMount { inode: directory.as_fd(), stat: &stat, place: None };
        let mount = MountTable::new(false, false).get_or_add(mount, || Ok(MountState::Unopenable)).unwrap();
        let descriptor = Some(Descriptor::new(directory, None));
        FoundInode { inode, mount, kind, descriptor, reopen, rule: RuleId::SHARE, verified: true }
    }

    #[test]
    fn inode_number_of_another_kind_is_another_node() {
        let name = || {
            let root = NodeTable::new(found(1, FileType::Directory, Reopen::Never), 8);
            let directory = root.get(NodeId::ROOT).unwrap();
            let last_name = LastName { directory, name: c"a".into(), birth: (1, 1) };
            Reopen::ByName(Box::new(NameRecord::new(Some(last_name))))
        };
        let table = NodeTable::new(found(1, FileType::Directory, Reopen::Never), 8);
        let first = table.insert(found(7, FileType::RegularFile, name())).unwrap();
        let again = table.insert(found(7, FileType::RegularFile, name())).unwrap();
        assert!(again.known && again.node.id() == first.node.id());
        // Number, birth time and name are the same, as with a coarse clock. Only the kind differs.
        let fifo = table.insert(found(7, FileType::Fifo, name())).unwrap();
        assert!(!fifo.known && fifo.node.id() != first.node.id());
        assert_eq!(table.find(fifo.node.key()).unwrap().kind, FileType::Fifo);
    }
}
