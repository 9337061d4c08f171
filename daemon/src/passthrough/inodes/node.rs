//! A file, directory, link or special file that the guest knows, and how it is found again.

use crate::passthrough::inodes::freshness::told::Told;
use crate::passthrough::inodes::mounts::Mount;
use crate::passthrough::slots::Entry;
use crate::sync::budget::Ticket;
use crate::sync::lock::{RwLock, RwLockReadGuard};
use crate::sys::inode_handle::InodeHandle;
use pinhole_policy::{PathRules, RuleId};
use rustix::fs::FileType;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

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
    pub(super) lookups: AtomicU64,
    /// [`NodeTable::now`] when it was made.
    pub(super) born: u64,
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
    pub(super) fn new(newcomer: Newcomer, born: u64) -> Self {
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
        let old = std::mem::replace(&mut *self.descriptor.write(), descriptor);
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
    pub(super) fn is(&self, newcomer: &Newcomer) -> bool {
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

/// The rule of one node.
#[derive(Debug)]
pub(crate) struct NodeRule(AtomicU32);

impl NodeRule {
    pub(crate) const fn new(rule: RuleId) -> Self {
        Self(AtomicU32::new(rule.bits()))
    }

    pub(crate) fn get(&self) -> RuleId {
        RuleId::from_bits(self.0.load(Ordering::Acquire))
    }

    /// The node was reached in another way.
    pub(crate) fn narrow(&self, rules: &PathRules, rule: RuleId) {
        let both = |bits: u32| {
            let both = rules.both(RuleId::from_bits(bits), rule).bits();
            (both != bits).then_some(both)
        };
        // Where it declines, the rule is already as narrow.
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, both).unwrap_or_default();
    }
}

impl Node {
    /// Takes over what a newcomer of the same inode brings that is newer; whether that is its descriptor.
    pub(super) fn take_from(&self, newcomer: Newcomer) -> bool {
        if let (WayBack::Name(own), WayBack::Name(other)) = (&self.way_back, newcomer.way_back)
            && let Some(origin) = other.origin.into_inner()
        {
            *own.origin.write() = Some(origin);
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
    lock.read()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_little_memory() {
        assert!(size_of::<Entry<Node>>() <= 112, "{} bytes", size_of::<Entry<Node>>());
    }
}
