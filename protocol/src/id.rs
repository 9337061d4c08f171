//! The identities that travel in messages. Each is a number that the guest repeats back, so none is ever trusted.

/// A node that the server told the guest about, `nodeid` on the wire.
///
/// Made by the host's node table when a lookup succeeds, held by the guest until it sends FORGET, dead after that or
/// after the next INIT. The bits are the table's own business (index and generation); 1 is always the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the share, `FUSE_ROOT_ID`.
    pub const ROOT: Self = Self(crate::abi::FUSE_ROOT_ID);
}

/// An open file or directory, `fh` on the wire.
///
/// Made by OPEN, OPENDIR, CREATE or TMPFILE, dead after RELEASE, RELEASEDIR or the next INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// The guest's number for one request; the reply repeats it. Never interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unique(pub u64);

/// The guest's opaque name for the owner of a POSIX or flock lock; only compared for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner(pub u64);
