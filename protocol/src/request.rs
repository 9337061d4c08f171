//! Decodes one message: its header, and its body or the error in it.

use crate::decode::decode_operation;
use crate::{Errno, Extensions, NameError, NodeId, Opcode, Operation, Unique, abi};
use zerocopy::FromBytes as _;

/// Bytes of a request header (`fuse_in_header`).
pub const HEADER_LEN: usize = size_of::<abi::InHeader>();
/// Bytes of a WRITE without its data: the header and `fuse_write_in`.
pub const WRITE_LEN: usize = 80;
/// The most bytes of one message that are copied out of guest memory.
///
/// The longest messages for a file server are CREATE with a security context and SETXATTR. Both
/// have about 64 KiB (a value of 65,536 bytes, a name of 256, headers). IOCTL input is at most
/// 16 KiB, and `BATCH_FORGET` is as long as the server's own read buffer. The limit is twice the
/// longest message. A longer message fails with E2BIG.
pub const MESSAGE_LEN_MAX: usize = 128 * 1024;

const _: () = assert!(WRITE_LEN == HEADER_LEN + size_of::<abi::WriteIn>());

/// Returns how many bytes of a message to copy out of guest memory for [`Request::decode`].
///
/// `readable_len` is the length of the message in guest memory, `opcode` comes from
/// [`Opcode::of_message`]. All of the message is copied except the data of a WRITE, but never more
/// than [`MESSAGE_LEN_MAX`] bytes.
pub const fn copied_len(opcode: Option<Opcode>, readable_len: usize) -> usize {
    let most = if matches!(opcode, Some(Opcode::Write)) { WRITE_LEN } else { MESSAGE_LEN_MAX };
    if readable_len < most { readable_len } else { most }
}

/// The negotiated features that change the layout of messages. The default applies before INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR has its 16-byte layout (`FUSE_SETXATTR_EXT`).
    pub setxattr_ext: bool,
}

/// The header of a request: the caller, the opcode and the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The opcode as received; see [`Header::known_opcode`].
    pub opcode: u32,
    /// The guest's number for this request.
    pub unique: Unique,
    /// The node that the operation acts on.
    pub node: NodeId,
    /// The caller's user id in the guest.
    pub uid: u32,
    /// The caller's group id in the guest.
    pub gid: u32,
    /// The caller's process id in the guest. 0 means the guest's kernel.
    pub pid: u32,
    /// Groups and security labels. Empty if [`Request::operation`] is an error.
    pub extensions: Extensions<'a>,
}

impl Header<'_> {
    /// Returns the opcode, or `None` if `fuse.h` does not define it.
    pub const fn known_opcode(&self) -> Option<Opcode> {
        Opcode::from_raw(self.opcode)
    }
}

/// One decoded message. If the body is malformed, the header is still known for the reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'a> {
    /// The header.
    pub header: Header<'a>,
    /// The body, or the error in it.
    pub operation: Result<Operation<'a>, DecodeError>,
}

impl<'a> Request<'a> {
    /// Decodes one message.
    ///
    /// `message` holds the first [`copied_len`] bytes of the message. `payload_len` is the number
    /// of bytes that follow in guest memory: the data of a WRITE, 0 for any other request.
    ///
    /// # Errors
    /// [`HeaderError`] if there is no whole header. No reply is possible then.
    pub fn decode(message: &'a [u8], payload_len: usize, dialect: Dialect) -> Result<Self, HeaderError> {
        let Ok((wire, rest)) = abi::InHeader::ref_from_prefix(message) else {
            return Err(HeaderError { len: message.len() });
        };
        let (extensions, operation) = match decode_rest(wire, rest, payload_len, dialect) {
            Ok((extensions, operation)) => (extensions, Ok(operation)),
            Err(error) => (Extensions::default(), Err(error)),
        };
        let header = Header {
            opcode: wire.opcode.get(),
            unique: Unique(wire.unique.get()),
            node: NodeId(wire.nodeid.get()),
            uid: wire.uid.get(),
            gid: wire.gid.get(),
            pid: wire.pid.get(),
            extensions,
        };
        Ok(Self { header, operation })
    }
}

fn decode_rest<'a>(
    wire: &abi::InHeader,
    rest: &'a [u8],
    payload_len: usize,
    dialect: Dialect,
) -> Result<(Extensions<'a>, Operation<'a>), DecodeError> {
    let raw = wire.opcode.get();
    let opcode = Opcode::from_raw(raw).ok_or(DecodeError::UnknownOpcode(raw))?;
    let have = HEADER_LEN.saturating_add(rest.len()).saturating_add(payload_len);
    if usize::try_from(wire.len.get()) != Ok(have) {
        return Err(DecodeError::Length { declared: wire.len.get(), have });
    }
    if payload_len != 0 && opcode != Opcode::Write {
        return Err(DecodeError::TooLong { have });
    }
    let extensions_len = usize::from(wire.total_extlen.get()).saturating_mul(8);
    // Extensions follow everything else, so a message with a payload in guest memory has none.
    let body_len = rest.len().checked_sub(extensions_len).filter(|_| extensions_len == 0 || payload_len == 0);
    let Some((body, extensions)) = body_len.and_then(|len| rest.split_at_checked(len)) else {
        return Err(DecodeError::Extension("the extensions are longer than the message"));
    };
    let operation = decode_operation(opcode, body, payload_len, dialect)?;
    Ok((Extensions::parse(extensions)?, operation))
}

/// The message has no whole header. No reply is possible, because no field of it can be trusted.
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
