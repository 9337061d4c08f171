//! The node table: what the guest has looked up and not forgotten.
//!
//! A node costs the guest's host a hundred bytes, not a descriptor: it is found again by its file handle, or, where
//! there are none, by its name in its directory. Descriptors of nodes in use are kept open beside that
//! ([`crate::passthrough::inodes::fd_cache`]).

use crate::limits::NODE_SHARDS;
use crate::passthrough::inodes::freshness::told::Told;
use crate::passthrough::inodes::inode_handle::InodeHandle;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::inodes::path_rules::NodeRule;
use crate::passthrough::slots::{Entry, Table, first_generation};
use crate::sync::budget::Ticket;
use hashbrown::{DefaultHashBuilder, HashTable};
use pinhole_policy::RuleId;
use pinhole_protocol::{Errno, Name, NodeId};
use rustix::fs::FileType;
use std::ffi::CStr;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What makes two lookups mean the same node, as long as the inode exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeKey {
    /// [`Mount::number`] of the mount through which it was reached: one inode under two mounts is two nodes.
    pub(crate) mount: u32,
    /// Inode number. A file system gives the number of a deleted inode to another.
    pub(crate) inode: u64,
}

/// A node of the table; its key is the guest's id.
pub(crate) type NodeRef = Arc<Entry<Node>>;

/// A file, directory, link or special file that the guest knows.
///
/// Made by a lookup; kept by the table until the guest has forgotten it, and by operations under way.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) inode: u64,
    pub(crate) mount: Arc<Mount>,
    /// Never changes during the life of an inode.
    pub(crate) kind: FileType,
    /// Of [`VERIFIED`], [`USED`] and [`LARGE`]: a byte for each would make a node larger.
    marks: AtomicU8,
    /// What the policy's path rules say of it.
    pub(crate) rule: NodeRule,
    /// What the guest takes it for.
    pub(crate) told: Told,
    /// Lookups that the guest has not taken back. Not what keeps an operation's node alive: the `Arc` is.
    lookups: AtomicU64,
    /// [`NodeTable::now`] when it was made.
    born: u64,
    /// Opened with O_PATH: names the inode, grants nothing. While it is here the inode number cannot become
    /// another's.
    descriptor: RwLock<Option<Arc<Descriptor>>>,
    way_back: WayBack,
}

/// The way back is known to lead to this inode number and kind.
const VERIFIED: u8 = 1;
/// Asked for since the cache of descriptors last looked.
const USED: u8 = 2;
/// It holds many blocks, as far as is known; see [`crate::passthrough::files::large`].
const LARGE: u8 = 4;

/// An O_PATH descriptor of an inode.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: OwnedFd,
    _ticket: Option<Ticket>,
}

/// How a node without a descriptor is found again.
#[derive(Debug)]
pub(crate) enum WayBack {
    /// By the host's own name for the inode.
    Handle(InodeHandle),
    /// By the name in a directory under which it was seen last; for what is no directory, so that a directory in
    /// turn never has to be found by name.
    Name(Box<Named>),
    /// Not at all: its descriptor stays.
    None,
}

/// What is kept of a node that is found by name.
#[derive(Debug)]
pub(crate) struct Named {
    /// `None`: it has no name.
    pub(crate) origin: RwLock<Option<Origin>>,
    /// [`Pin`]s of the node.
    pins: AtomicU32,
}

impl Named {
    pub(crate) const fn new(origin: Option<Origin>) -> Self {
        Self { origin: RwLock::new(origin), pins: AtomicU32::new(0) }
    }
}

/// Where a node was seen last.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) directory: NodeRef,
    pub(crate) name: Box<CStr>,
    /// Birth time in seconds and nanoseconds: tells an inode from the next with its number.
    pub(crate) birth: (i64, u32),
}

/// What a lookup has found.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) inode: u64,
    pub(crate) mount: Arc<Mount>,
    pub(crate) kind: FileType,
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) way_back: WayBack,
    /// By the way in which it was found.
    pub(crate) rule: RuleId,
    /// The way back was taken from the same descriptor as inode number and kind.
    pub(crate) verified: bool,
}

/// What became of a newcomer.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) node: NodeRef,
    /// The guest knew it already.
    pub(crate) known: bool,
    /// Its descriptor is the newcomer's.
    pub(crate) opened: bool,
}

impl Descriptor {
    pub(crate) const fn new(fd: OwnedFd, ticket: Option<Ticket>) -> Self {
        Self { fd, _ticket: ticket }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node {
    fn new(newcomer: Newcomer, born: u64) -> Self {
        let Newcomer { inode, mount, kind, descriptor, way_back, rule, verified } = newcomer;
        Self {
            inode,
            mount,
            kind,
            marks: AtomicU8::new(if verified { VERIFIED } else { 0 }),
            rule: NodeRule::new(rule),
            told: Told::new(),
            lookups: AtomicU64::new(1),
            born,
            descriptor: RwLock::new(descriptor.map(Arc::new)),
            way_back,
        }
    }

    fn has(&self, mark: u8) -> bool {
        self.marks.load(Ordering::Relaxed) & mark != 0
    }

    pub(crate) fn key(&self) -> NodeKey {
        NodeKey { mount: self.mount.number, inode: self.inode }
    }

    pub(crate) const fn way_back(&self) -> &WayBack {
        &self.way_back
    }

    /// Whether its way back is another file handle than this one.
    pub(crate) fn has_other_handle(&self, handle: &InodeHandle) -> bool {
        matches!(&self.way_back, WayBack::Handle(own) if own != handle)
    }

    /// Its descriptor, if it is open.
    pub(crate) fn descriptor(&self) -> Option<Arc<Descriptor>> {
        read(&self.descriptor).clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        read(&self.descriptor).is_some()
    }

    /// Keeps a descriptor open, or closes the one that is; operations under way keep theirs.
    pub(crate) fn set_descriptor(&self, descriptor: Option<Arc<Descriptor>>) {
        // The old one is closed after the lock: that may wait for the host.
        let old = std::mem::replace(
            &mut *self.descriptor.write().unwrap_or_else(PoisonError::into_inner),
            descriptor,
        );
        drop(old);
    }

    /// Notes that it is in use; whether it was before.
    pub(crate) fn touch(&self) -> bool {
        // A load first: a store would take the cache line from the other queues each time.
        self.has(USED) || self.marks.fetch_or(USED, Ordering::Relaxed) & USED != 0
    }

    /// Whether its descriptor may be closed and found again.
    pub(crate) fn is_sheddable(&self) -> bool {
        match &self.way_back {
            WayBack::Handle(_) => true,
            WayBack::Name(named) => named.pins.load(Ordering::Acquire) == 0 && read(&named.origin).is_some(),
            WayBack::None => false,
        }
    }

    /// Whether it was in use since this was last asked.
    pub(crate) fn take_touched(&self) -> bool {
        self.marks.fetch_and(!USED, Ordering::Relaxed) & USED != 0
    }

    /// Whether it is known to hold many blocks.
    pub(crate) fn is_large(&self) -> bool {
        self.has(LARGE)
    }

    /// Notes whether it holds many blocks; what was known before.
    pub(crate) fn set_large(&self, large: bool) -> bool {
        let known = self.is_large();
        match (known, large) {
            (false, true) => drop(self.marks.fetch_or(LARGE, Ordering::Relaxed)),
            (true, false) => drop(self.marks.fetch_and(!LARGE, Ordering::Relaxed)),
            (false, false) | (true, true) => {}
        }
        known
    }

    /// Whether its way back is known to lead to it.
    pub(crate) fn is_verified(&self) -> bool {
        self.marks.load(Ordering::Acquire) & VERIFIED != 0
    }

    pub(crate) fn set_verified(&self) {
        self.marks.fetch_or(VERIFIED, Ordering::Release);
    }

    /// Whether a newcomer with the same key is the same inode, not a later one with its number.
    fn is(&self, newcomer: &Newcomer) -> bool {
        // An inode never changes its kind; one that has another is another, whatever else agrees.
        if self.kind != newcomer.kind {
            return false;
        }
        match (&self.way_back, &newcomer.way_back) {
            (WayBack::Handle(own), WayBack::Handle(other)) => own == other,
            // Two descriptors that are open at once are of one inode.
            _ if newcomer.descriptor.is_some() && self.is_open() => true,
            (WayBack::Name(own), WayBack::Name(other)) => {
                let birth = |named: &Named| read(&named.origin).as_ref().map(|origin| origin.birth);
                birth(own).is_some() && birth(own) == birth(other)
            }
            (WayBack::Handle(_) | WayBack::Name(_) | WayBack::None, _) => false,
        }
    }
}

/// Keeps the descriptor of a node open: of one that is found by name, while the guest has it open, because its name may
/// be taken away.
#[derive(Debug)]
pub(crate) struct Pin(NodeRef);

impl Pin {
    /// `None` where the way back does not depend on the name.
    pub(crate) fn new(node: &NodeRef) -> Option<Self> {
        let WayBack::Name(named) = &node.way_back else { return None };
        named.pins.fetch_add(1, Ordering::AcqRel);
        Some(Self(NodeRef::clone(node)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let WayBack::Name(named) = &self.0.way_back {
            named.pins.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

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
            let mut shard = shard.0.write().unwrap_or_else(PoisonError::into_inner);
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
        read(self.shard(hash))
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, HashTable<NodeRef>> {
        self.shard(hash).write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Takes over what a newcomer of the same inode brings that is newer; whether that is its descriptor.
    fn take_from(&self, newcomer: Newcomer) -> bool {
        if let (WayBack::Name(own), WayBack::Name(other)) = (&self.way_back, newcomer.way_back)
            && let Some(origin) = other.origin.into_inner().unwrap_or_else(PoisonError::into_inner)
        {
            *own.origin.write().unwrap_or_else(PoisonError::into_inner) = Some(origin);
        }
        if newcomer.verified {
            self.set_verified();
        }
        match newcomer.descriptor {
            Some(descriptor) if !self.is_open() => {
                self.set_descriptor(Some(Arc::new(descriptor)));
                true
            }
            Some(_) | None => false,
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::mounts::{MountTable, Reached};
    use super::*;

    #[test]
    fn a_node_takes_little_memory() {
        assert!(size_of::<Entry<Node>>() <= 112, "{} bytes", size_of::<Entry<Node>>());
    }

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
