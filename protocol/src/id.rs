//! The ids in messages. A guest may send any number as an id, so no id is trusted.

/// A file that the guest knows (`nodeid` on the wire).
///
/// The server's node table creates the id when a lookup succeeds. The guest keeps the id until it
/// has sent FORGET for every lookup. After that, or after the next INIT, the id is invalid. Only
/// the table interprets the bits (index and generation). The id of the root is always 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the share, `FUSE_ROOT_ID`.
    pub const ROOT: Self = Self(crate::abi::FUSE_ROOT_ID);
}

/// An open file or directory (`fh` on the wire).
///
/// OPEN, OPENDIR, CREATE and TMPFILE create a handle. After RELEASE, RELEASEDIR or the next INIT
/// the handle is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// The guest's number for one request. The reply repeats the number; the server never interprets
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unique(pub u64);

impl Unique {
    /// Returns the number in a message, without decoding the rest. Returns 0 if the message is too
    /// short for a number.
    pub fn of_message(message: &[u8]) -> Self {
        /// Byte range of `unique` in `fuse_in_header`.
        const UNIQUE_AT: std::ops::Range<usize> = 8..16;
        let bytes = message.get(UNIQUE_AT).and_then(|bytes| bytes.try_into().ok());
        Self(bytes.map_or(0, u64::from_le_bytes))
    }
}

/// The guest's opaque id for the owner of a POSIX or flock lock. The server only compares owners
/// for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner(pub u64);
