//! A file, directory, link or special file that the guest knows, and how the daemon opens it again.

use crate::passthrough::inodes::freshness::guest_cache::GuestCache;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::slots::Keyed;
use crate::sync::budget::Ticket;
use crate::sync::lock::RwLock;
use crate::sys::inode_handle::InodeHandle;
use pinhole_policy::{PathRules, RuleId};
use rustix::fs::FileType;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Identifies a node for as long as its inode exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeKey {
    /// [`Mount::number`] of the mount through which the inode was found. One inode under two mounts
    /// is two nodes.
    pub(crate) mount: u32,
    /// Inode number. A file system gives the number of a deleted inode to another.
    pub(crate) inode: u64,
}

/// A node of the table. Its key is the guest's node id.
pub(crate) type NodeRef = Arc<Keyed<Node>>;

/// An inode that the guest knows.
///
/// A look-up creates it. The table keeps it until the guest has forgotten it; operations under way
/// keep it longer.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) inode: u64,
    pub(crate) mount: Arc<Mount>,
    /// Never changes during the life of an inode.
    pub(crate) kind: FileType,
    /// [`VERIFIED`], [`USED`] and [`LARGE`]. A byte for each would make a node larger.
    flags: AtomicU8,
    /// See [`Node::rule`].
    rule: AtomicU32,
    pub(crate) guest_cache: GuestCache,
    /// Look-ups that the guest has not taken back. They do not keep the node of an operation alive;
    /// the `Arc` does.
    pub(super) lookups: AtomicU64,
    /// [`NodeTable::now`](super::table::NodeTable::now) when the node was created.
    pub(super) born: u64,
    /// Opened with O_PATH: names the inode and grants nothing. While it is open, no other inode
    /// gets the inode number.
    descriptor: RwLock<Option<Arc<Descriptor>>>,
    reopen: Reopen,
}

/// `reopen` is known to lead to this inode number and kind.
const VERIFIED: u8 = 1;
/// The node was used since the descriptor cache last looked.
const USED: u8 = 2;
/// The file had many blocks when they were last read; see [`super::large`].
const LARGE: u8 = 4;

/// An O_PATH descriptor of an inode.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: OwnedFd,
    _ticket: Option<Ticket>,
}

/// How the daemon opens the descriptor of a node again.
#[derive(Debug)]
pub(super) enum Reopen {
    /// By the inode handle.
    ByHandle(InodeHandle),
    /// By the last known name in a directory. Directories are never found by name, so this takes
    /// one step.
    ByName(Box<NameRecord>),
    /// The descriptor stays open.
    Never,
}

/// Last known name of a node that is found by name.
#[derive(Debug)]
pub(super) struct NameRecord {
    /// `None` if the inode has no name.
    last_name: RwLock<Option<LastName>>,
    /// Number of [`Pin`]s of the node.
    pins: AtomicU32,
}

/// A name under which a node was found.
#[derive(Clone, Debug)]
pub(super) struct LastName {
    pub(super) directory: NodeRef,
    pub(super) name: Box<CStr>,
    /// Birth time in seconds and nanoseconds. It distinguishes the inode from a later one with the
    /// same number.
    pub(super) birth: (i64, u32),
}

/// An inode that a look-up has found.
#[derive(Debug)]
pub(super) struct FoundInode {
    pub(super) inode: u64,
    pub(super) mount: Arc<Mount>,
    pub(super) kind: FileType,
    pub(super) descriptor: Option<Descriptor>,
    pub(super) reopen: Reopen,
    /// Rule of the name by which it was found.
    pub(super) rule: RuleId,
    /// `reopen` was read from the same descriptor as inode number and kind.
    pub(super) verified: bool,
}

/// Result of [`NodeTable::insert`](super::table::NodeTable::insert).
#[derive(Debug)]
pub(super) struct Inserted {
    pub(super) node: NodeRef,
    /// The guest knew the inode already.
    pub(super) known: bool,
    /// The node has taken the descriptor of the found inode.
    pub(super) opened: bool,
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

impl NameRecord {
    pub(super) const fn new(last_name: Option<LastName>) -> Self {
        Self { last_name: RwLock::new(last_name), pins: AtomicU32::new(0) }
    }

    pub(super) fn last_name(&self) -> Option<LastName> {
        self.last_name.read().clone()
    }

    /// Sets the name, unless it belongs to another inode with the same number.
    pub(super) fn set_last_name(&self, directory: &NodeRef, name: &CStr, birth: (i64, u32)) {
        let mut last_name = self.last_name.write();
        if last_name.as_ref().is_none_or(|before| before.birth == birth) {
            *last_name = Some(LastName { directory: Arc::clone(directory), name: name.into(), birth });
        }
    }

    fn birth(&self) -> Option<(i64, u32)> {
        self.last_name.read().as_ref().map(|last_name| last_name.birth)
    }
}

impl Node {
    pub(super) fn new(found: FoundInode, born: u64) -> Self {
        let FoundInode { inode, mount, kind, descriptor, reopen, rule, verified } = found;
        Self {
            inode,
            mount,
            kind,
            flags: AtomicU8::new(if verified { VERIFIED } else { 0 }),
            rule: AtomicU32::new(rule.bits()),
            guest_cache: GuestCache::new(),
            lookups: AtomicU64::new(1),
            born,
            descriptor: RwLock::new(descriptor.map(Arc::new)),
            reopen,
        }
    }

    /// Returns the path rule that applies to the node.
    pub(crate) fn rule(&self) -> RuleId {
        RuleId::from_bits(self.rule.load(Ordering::Acquire))
    }

    /// Narrows the path rule to the accesses that it and another rule both grant.
    pub(super) fn narrow_rule(&self, rules: &PathRules, rule: RuleId) {
        let both = |bits: u32| {
            let both = rules.both(RuleId::from_bits(bits), rule).bits();
            (both != bits).then_some(both)
        };
        // An error means that the rule is as narrow already.
        self.rule.fetch_update(Ordering::AcqRel, Ordering::Acquire, both).unwrap_or_default();
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    pub(crate) fn key(&self) -> NodeKey {
        NodeKey { mount: self.mount.number, inode: self.inode }
    }

    pub(super) const fn reopen(&self) -> &Reopen {
        &self.reopen
    }

    /// Returns whether the node is found by another inode handle than this one.
    pub(super) fn has_other_handle(&self, handle: &InodeHandle) -> bool {
        matches!(&self.reopen, Reopen::ByHandle(own) if own != handle)
    }

    /// Returns the descriptor, if it is open.
    pub(crate) fn descriptor(&self) -> Option<Arc<Descriptor>> {
        self.descriptor.read().clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.descriptor.read().is_some()
    }

    /// Keeps a descriptor open, or closes the open one. Operations under way keep theirs.
    pub(super) fn set_descriptor(&self, descriptor: Option<Arc<Descriptor>>) {
        let old = std::mem::replace(&mut *self.descriptor.write(), descriptor);
        // Not under the lock: closing may wait for the host.
        drop(old);
    }

    /// Notes that the node is in use. Returns whether it was in use before.
    pub(super) fn touch(&self) -> bool {
        // Load first: a store each time would take the cache line from the other queue threads.
        self.has(USED) || self.flags.fetch_or(USED, Ordering::Relaxed) & USED != 0
    }

    /// Returns whether the node was used since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.flags.fetch_and(!USED, Ordering::Relaxed) & USED != 0
    }

    /// Returns whether the descriptor may be closed and opened again.
    pub(super) fn can_be_closed(&self) -> bool {
        match &self.reopen {
            Reopen::ByHandle(_) => true,
            Reopen::ByName(record) => {
                record.pins.load(Ordering::Acquire) == 0 && record.last_name.read().is_some()
            }
            Reopen::Never => false,
        }
    }

    /// Returns whether the file is known to have many blocks.
    pub(super) fn is_large(&self) -> bool {
        self.has(LARGE)
    }

    /// Notes whether the file has many blocks. Returns whether it had many blocks before.
    pub(crate) fn set_large(&self, large: bool) -> bool {
        let known = self.is_large();
        match (known, large) {
            (false, true) => drop(self.flags.fetch_or(LARGE, Ordering::Relaxed)),
            (true, false) => drop(self.flags.fetch_and(!LARGE, Ordering::Relaxed)),
            (false, false) | (true, true) => {}
        }
        known
    }

    /// Returns whether [`Node::reopen`] is known to lead to the inode.
    pub(super) fn is_verified(&self) -> bool {
        self.flags.load(Ordering::Acquire) & VERIFIED != 0
    }

    pub(super) fn set_verified(&self) {
        self.flags.fetch_or(VERIFIED, Ordering::Release);
    }

    /// Returns whether a found inode with the same key is the inode of this node, and not a later
    /// one with its number.
    pub(super) fn is_same_inode(&self, found: &FoundInode) -> bool {
        // An inode never changes its kind.
        if self.kind != found.kind {
            return false;
        }
        match (&self.reopen, &found.reopen) {
            (Reopen::ByHandle(own), Reopen::ByHandle(other)) => own == other,
            // Two descriptors that are open at once are of one inode.
            _ if found.descriptor.is_some() && self.is_open() => true,
            (Reopen::ByName(own), Reopen::ByName(other)) => {
                own.birth().is_some() && own.birth() == other.birth()
            }
            (Reopen::ByHandle(_) | Reopen::ByName(_) | Reopen::Never, _) => false,
        }
    }

    /// Takes over name and descriptor of a found inode, which is the inode of this node. Returns
    /// whether it has taken the descriptor.
    pub(super) fn merge(&self, found: FoundInode) -> bool {
        if let (Reopen::ByName(own), Reopen::ByName(other)) = (&self.reopen, found.reopen)
            && let Some(last_name) = other.last_name.into_inner()
        {
            *own.last_name.write() = Some(last_name);
        }
        if found.verified {
            self.set_verified();
        }
        match found.descriptor {
            Some(descriptor) if !self.is_open() => {
                self.set_descriptor(Some(Arc::new(descriptor)));
                true
            }
            Some(_) | None => false,
        }
    }
}

/// Keeps the descriptor of a node open while the guest has the file open. This is for a node that
/// is found by name, because others may remove that name.
#[derive(Debug)]
pub(crate) struct Pin(NodeRef);

impl Pin {
    /// Returns `None` if the node is not found by name.
    pub(crate) fn new(node: &NodeRef) -> Option<Self> {
        let Reopen::ByName(record) = &node.reopen else { return None };
        record.pins.fetch_add(1, Ordering::AcqRel);
        Some(Self(NodeRef::clone(node)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Reopen::ByName(record) = &self.0.reopen {
            record.pins.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_takes_little_memory() {
        assert!(size_of::<Keyed<Node>>() <= 112, "{} bytes", size_of::<Keyed<Node>>());
    }
}
