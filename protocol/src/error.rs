//! Why bytes are not a valid request, and the errno that the caller in the guest gets.

use crate::{Errno, NameError, Opcode};

/// The error for a message without a whole header. No reply is possible, because the number of the
/// request may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has {len} bytes, fewer than its header of 40 bytes")]
pub struct HeaderError {
    /// Length of the message in bytes.
    pub len: usize,
}

/// Why a message with a header is not a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message explains its fields")]
pub enum DecodeError {
    /// `fuse.h` does not define the opcode.
    #[error("opcode {0} is unknown")]
    UnknownOpcode(u32),
    /// A file server over virtio never gets this opcode: CUSE, notification replies, the opposite
    /// byte order.
    #[error("opcode {0} is not for a file server")]
    NotServed(Opcode),
    /// The length in the header is not the length of the message.
    #[error("the header declares {declared} bytes, but the message has {have}")]
    Length { declared: u32, have: usize },
    /// The message is longer than any valid message of this opcode.
    #[error("the message of {have} bytes is too long")]
    TooLong { have: usize },
    /// The body ends early.
    #[error("{what} needs {need} bytes, but {have} are left")]
    Short { what: &'static str, need: usize, have: usize },
    /// Bytes follow the body.
    #[error("{len} bytes follow the body of {opcode}")]
    Trailing { opcode: Opcode, len: usize },
    /// A string has no terminating NUL.
    #[error("{what} has no terminating NUL")]
    Unterminated { what: &'static str },
    /// A name is not a single path component.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name of an extended attribute does not have 1 to 255 bytes.
    #[error("attribute name has {len} bytes, not 1 to 255")]
    XattrName { len: usize },
    /// The value of an extended attribute is longer than Linux allows.
    #[error("attribute value has {len} bytes, more than 65536")]
    XattrValue { len: usize },
    /// The target of a symbolic link is empty.
    #[error("link target is empty")]
    TargetEmpty,
    /// The target of a symbolic link is longer than any path.
    #[error("link target has {len} bytes, more than 4095")]
    TargetLen { len: usize },
    /// A field has unknown bits, which may change the meaning of the request.
    #[error("{field} has unknown bits {bits:#x}")]
    UnknownFlags { field: &'static str, bits: u64 },
    /// The mode of a FALLOCATE has unknown bits.
    #[error("the fallocate mode has unknown bits {0:#x}")]
    UnknownFallocateMode(u32),
    /// The access mode is 3: neither reading, nor writing, nor both.
    #[error("open flags {0:#o} have no valid access mode")]
    AccessMode(u32),
    /// The nanoseconds of a timestamp are a second or more.
    #[error("{field} has {nanoseconds} nanoseconds, more than 999999999")]
    Nanoseconds { field: &'static str, nanoseconds: u32 },
    /// The lock type is not `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    #[error("lock type {0} is unknown")]
    LockKind(u32),
    /// LSEEK looks for something other than the end, data or a hole.
    #[error("seek direction {0} is unknown")]
    Whence(u32),
    /// MKNOD cannot create this type of file.
    #[error("mode {0:#o} has no file type that MKNOD creates")]
    NodeKind(u32),
    /// A count does not match the message.
    #[error("{what} declares {declared}, but the message has {have}")]
    Count { what: &'static str, declared: u32, have: usize },
    /// The extensions are malformed.
    #[error("extensions: {0}")]
    Extension(&'static str),
    /// An extension has an unknown type.
    #[error("extension type {0} is unknown")]
    ExtensionKind(u32),
}

impl DecodeError {
    /// Returns the error number for the reply.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnknownOpcode(_) | Self::NotServed(_) => Errno::ENOSYS,
            Self::TooLong { .. } | Self::XattrValue { .. } => Errno::E2BIG,
            Self::Name(NameError::TooLong { .. }) | Self::TargetLen { .. } => Errno::ENAMETOOLONG,
            Self::TargetEmpty => Errno::ENOENT,
            Self::XattrName { .. } => Errno::ERANGE,
            Self::UnknownFallocateMode(_) => Errno::EOPNOTSUPP,
            Self::Name(NameError::Unterminated | NameError::Empty | NameError::Dots | NameError::Slash)
            | Self::Length { .. }
            | Self::Short { .. }
            | Self::Trailing { .. }
            | Self::Unterminated { .. }
            | Self::UnknownFlags { .. }
            | Self::AccessMode(_)
            | Self::Nanoseconds { .. }
            | Self::LockKind(_)
            | Self::Whence(_)
            | Self::NodeKind(_)
            | Self::Count { .. }
            | Self::Extension(_)
            | Self::ExtensionKind(_) => Errno::EINVAL,
        }
    }
}
