//! The node table: what the guest has looked up and not forgotten.
//!
//! A node costs the guest's host a hundred bytes, not a descriptor: it is found again by its file handle, or, where
//! there are none, by its name in its directory. Descriptors of nodes in use are kept open beside that
//! ([`crate::passthrough::inodes::fd_cache`]).

use crate::limits::NODE_SHARDS;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::node::{Entered, Newcomer, Node, NodeKey, NodeRef, WayBack};
use crate::passthrough::slots::{Table, first_generation};
use crate::sync::lock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use hashbrown::{DefaultHashBuilder, HashTable};
use pinhole_policy::RuleId;
use pinhole_protocol::{Errno, Name, NodeId};
use rustix::fs::FileType;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All nodes of one guest; the root is always among them, under [`NodeId::ROOT`].
#[derive(Debug)]
pub(crate) struct NodeTable {
    nodes: Table<Node>,
    shards: [Shard; NODE_SHARDS],
    hasher: DefaultHashBuilder,
    /// Counts the nodes made.
    clock: AtomicU64,
}

/// Nodes by what they are; several, so that queues seldom want the same one. A cache line for each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(RwLock<HashTable<NodeRef>>);

impl NodeTable {
    /// A table of the root and so many more nodes.
    pub(crate) fn new(root: Newcomer, limit: u32) -> Self {
        let table = Self {
            nodes: Table::new(limit.saturating_add(1), 0),
            shards: std::array::from_fn(|_| Shard::default()),
            hasher: DefaultHashBuilder::default(),
            clock: AtomicU64::new(0),
        };
        // The first key of a table is 1, which is the root's id on the wire. An empty table is not full.
        if table.enter(root).is_err() {
            tracing::error!("the root has no place in the node table");
        }
        table.nodes.begin_with(first_generation());
        table
    }

    /// The node of an id.
    ///
    /// # Errors
    /// ESTALE for an id that is forgotten or was never given out.
    pub(crate) fn get(&self, id: NodeId) -> Result<NodeRef, Errno> {
        self.nodes.get(id.0).ok_or(Errno::ESTALE)
    }

    /// A moment: nodes made later are told from those made before.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Takes one more lookup on the node that has been open under this key since `then`: what had this key at any
    /// time since is that very inode. `reached` sees it before the guest does.
    pub(crate) fn reference_open(
        &self,
        (key, then): (NodeKey, u64),
        reached: impl FnOnce(&NodeRef),
    ) -> Option<NodeId> {
        let hash = self.hash(key);
        let shard = self.read(hash);
        let node = shard.find(hash, |node| node.key() == key)?;
        if node.born >= then || !node.is_open() {
            return None;
        }
        node.touch();
        // Removal needs the write lock, so a node that is found here stays found with its new reference.
        node.lookups.fetch_add(1, Ordering::Relaxed);
        reached(node);
        Some(NodeId(node.id()))
    }

    /// Takes one more lookup on a node, unless the guest has forgotten it or its inode is known to be no more.
    pub(crate) fn reference(&self, node: &NodeRef) -> Option<NodeId> {
        let hash = self.hash(node.key());
        let shard = self.read(hash);
        // Removal needs the write lock.
        shard.find(hash, |known| Arc::ptr_eq(known, node))?;
        node.lookups.fetch_add(1, Ordering::Relaxed);
        Some(NodeId(node.id()))
    }

    /// A node for what was made and is no more: every use of it is ESTALE, and no lookup finds it.
    ///
    /// # Errors
    /// ENFILE where the table is full.
    pub(crate) fn enter_gone(
        &self,
        kind: FileType,
        mount: Arc<Mount>,
        rule: RuleId,
    ) -> Result<NodeRef, Errno> {
        // No file system gives an inode this number.
        let (inode, way_back) = (0, WayBack::None);
        let gone = Newcomer { inode, mount, kind, descriptor: None, way_back, rule, verified: false };
        let born = self.clock.fetch_add(1, Ordering::AcqRel);
        self.nodes.insert(Node::new(gone, born)).map_err(|_full| Errno::ENFILE)
    }

    /// The node that is known under a key, whether or not the inode is still the same.
    pub(crate) fn find(&self, key: NodeKey) -> Option<NodeRef> {
        let hash = self.hash(key);
        self.read(hash).find(hash, |node| node.key() == key).map(Arc::clone)
    }

    /// Gives the guest a node for what a lookup has found: a known one gets one more lookup, a new one is added.
    ///
    /// # Errors
    /// ENFILE where the table is full.
    pub(crate) fn enter(&self, newcomer: Newcomer) -> Result<Entered, Errno> {
        let key = NodeKey { mount: newcomer.mount.number, inode: newcomer.inode };
        let hash = self.hash(key);
        let mut shard = self.write(hash);
        if let Ok(known) = shard.find_entry(hash, |node| node.key() == key) {
            if known.get().is(&newcomer) {
                let known = Arc::clone(known.get());
                known.lookups.fetch_add(1, Ordering::Relaxed);
                drop(shard);
                let opened = known.take_from(newcomer);
                return Ok(Entered { node: known, known: true, opened });
            }
            // Its inode is no more; the guest forgets it in its own time.
            known.remove();
        }
        let born = self.clock.fetch_add(1, Ordering::AcqRel);
        let opened = newcomer.descriptor.is_some();
        let node = self.nodes.insert(Node::new(newcomer, born)).map_err(|_full| Errno::ENFILE)?;
        shard.insert_unique(hash, Arc::clone(&node), |node| self.hash(node.key()));
        Ok(Entered { node, known: false, opened })
    }

    /// Takes back `count` lookups, or all that there are where a hostile guest says more. A node that has none left
    /// is returned: closing its descriptor may wait for the host.
    pub(crate) fn forget(&self, id: NodeId, count: u64) -> Option<NodeRef> {
        if id == NodeId::ROOT {
            return None;
        }
        let node = self.nodes.get(id.0)?;
        let hash = self.hash(node.key());
        let mut shard = self.write(hash);
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

    /// Forgets everything but the root.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.0.write();
            shard.retain(|node| node.id() == NodeId::ROOT.0);
            shard.shrink_to_fit(|node| self.hash(node.key()));
        }
        drop(self.nodes.retain(|node| node.id() == NodeId::ROOT.0));
        self.nodes.shrink();
    }

    /// Fails where no node can be added: asked before one is made on the host.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.nodes.is_full() { Err(Errno::ENFILE) } else { Ok(()) }
    }

    /// Nodes known now, the root among them.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells names apart; never zero.
    pub(crate) fn hash_of_name(&self, name: Name<'_>) -> u64 {
        self.hasher.hash_one(name.as_bytes()) | 1
    }

    fn hash(&self, key: NodeKey) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The table takes a hash's low and highest bits; the shard, those between.
    fn shard(&self, hash: u64) -> &RwLock<HashTable<NodeRef>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(hash >> 48).unwrap_or(0) % NODE_SHARDS;
        &self.shards.get(index).unwrap_or(first).0
    }

    // A panic while a lock is held leaves the shard whole: each change is one insert or remove.
    fn read(&self, hash: u64) -> RwLockReadGuard<'_, HashTable<NodeRef>> {
        self.shard(hash).read()
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, HashTable<NodeRef>> {
        self.shard(hash).write()
    }
}

#[cfg(test)]
mod tests {
    use super::super::mounts::{MountTable, Reached};
    use super::super::node::{Descriptor, Named, Origin};
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    /// Something on the mount of the temporary folder, with numbers as a file system may give them out.
    fn newcomer(inode: u64, kind: FileType, way_back: WayBack) -> Newcomer {
        let folder = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let stat = crate::passthrough::resolve::stat(directory.as_fd()).unwrap();
        let reached = Reached { inode: directory.as_fd(), stat: &stat, place: None };
        let mount = MountTable::new(false, false).reach(reached, || Ok(None)).unwrap();
        let descriptor = Some(Descriptor::new(directory, None));
        Newcomer { inode, mount, kind, descriptor, way_back, rule: RuleId::SHARE, verified: true }
    }

    #[test]
    fn a_number_that_goes_to_something_of_another_kind_is_another_node() {
        let name = || {
            let root = NodeTable::new(newcomer(1, FileType::Directory, WayBack::None), 8);
            let directory = root.get(NodeId::ROOT).unwrap();
            let origin = Origin { directory, name: c"a".into(), birth: (1, 1) };
            WayBack::Name(Box::new(Named::new(Some(origin))))
        };
        let table = NodeTable::new(newcomer(1, FileType::Directory, WayBack::None), 8);
        let first = table.enter(newcomer(7, FileType::RegularFile, name())).unwrap();
        let again = table.enter(newcomer(7, FileType::RegularFile, name())).unwrap();
        assert!(again.known && again.node.id() == first.node.id());
        // Number, birth and way back agree, as where a clock is coarse; only the kind does not.
        let fifo = table.enter(newcomer(7, FileType::Fifo, name())).unwrap();
        assert!(!fifo.known && fifo.node.id() != first.node.id());
        assert_eq!(table.find(fifo.node.key()).unwrap().kind, FileType::Fifo);
    }
}
