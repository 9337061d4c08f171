//! The ids in messages. A guest may send any number as an id, so no id is trusted.

/// A file that the guest knows (`nodeid` on the wire).
///
/// The server's node table creates the id when a lookup succeeds. The guest keeps it until it
/// sends FORGET. After that, or after the next INIT, the id is invalid. Only the table interprets
/// the bits (index and generation). The root is always 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the share, `FUSE_ROOT_ID`.
    pub const ROOT: Self = Self(crate::abi::FUSE_ROOT_ID);
}

/// An open file or directory (`fh` on the wire).
///
/// OPEN, OPENDIR, CREATE and TMPFILE create a handle. After RELEASE, RELEASEDIR or the next INIT it
/// is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// The guest's number for one request. The reply repeats it; the server never interprets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unique(pub u64);

impl Unique {
    /// Returns the number of a message, also of one that is never decoded; 0 if it is too short to
    /// have one.
    pub fn of_message(message: &[u8]) -> Self {
        /// The place of `unique` in `fuse_in_header`.
        const UNIQUE_AT: std::ops::Range<usize> = 8..16;
        let bytes = message.get(UNIQUE_AT).and_then(|bytes| bytes.try_into().ok());
        Self(bytes.map_or(0, u64::from_le_bytes))
    }
}

/// The guest's opaque id for the owner of a POSIX or flock lock, only compared for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner(pub u64);
