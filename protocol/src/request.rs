//! One message: its header, and what is wrong with it if something is.

use crate::decode::decode_operation;
use crate::{Errno, Extensions, NameError, NodeId, Opcode, Operation, Unique, abi};
use zerocopy::FromBytes as _;

/// Bytes of a request's header (`fuse_in_header`).
pub const HEADER_LEN: usize = size_of::<abi::InHeader>();
/// Bytes of a WRITE without its data: the header and `fuse_write_in`.
pub const WRITE_LEN: usize = 80;
/// The most bytes of one message that are ever copied out of the guest.
///
/// The longest that a file server serves is CREATE with a security context or SETXATTR, both about 64 KiB (a value
/// of 65,536 bytes, a name of 256, headers). IOCTL input is at most 16 KiB, and `BATCH_FORGET` as long as the server's
/// own read buffer. Twice the longest leaves room; anything beyond is answered E2BIG.
pub const MESSAGE_LEN_MAX: usize = 128 * 1024;

const _: () = assert!(WRITE_LEN == HEADER_LEN + size_of::<abi::WriteIn>());

/// How many bytes of a message with this opcode must be copied before [`Request::decode`], when `readable_len` are
/// there: all but the data of a WRITE, and never more than [`MESSAGE_LEN_MAX`].
pub const fn copied_len(opcode: u32, readable_len: usize) -> usize {
    let most = if opcode == Opcode::Write.raw() { WRITE_LEN } else { MESSAGE_LEN_MAX };
    if readable_len < most { readable_len } else { most }
}

/// What INIT negotiated that changes how messages are laid out. The default holds before INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR has its 16-byte layout (`FUSE_SETXATTR_EXT`).
    pub setxattr_ext: bool,
}

/// Who asks, and about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// What is asked for, as it came; [`Header::known_opcode`] names it.
    pub opcode: u32,
    /// The guest's number for this request.
    pub unique: Unique,
    /// The node that the operation acts on.
    pub node: NodeId,
    /// The caller's user id, in the guest.
    pub uid: u32,
    /// The caller's group id, in the guest.
    pub gid: u32,
    /// The caller's process id, in the guest; 0 for the guest's kernel.
    pub pid: u32,
    /// Groups and labels. Empty where they are malformed; the operation is an error then.
    pub extensions: Extensions<'a>,
}

impl Header<'_> {
    /// The opcode, if it is one of `fuse.h`.
    pub const fn known_opcode(&self) -> Option<Opcode> {
        Opcode::from_raw(self.opcode)
    }
}

/// One decoded message. A body that does not decode still has a header to answer to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'a> {
    /// The header.
    pub header: Header<'a>,
    /// The body, or what is wrong with it.
    pub operation: Result<Operation<'a>, DecodeError>,
}

impl<'a> Request<'a> {
    /// Decodes one message.
    ///
    /// `message` is the copy of what [`copied_len`] says; `payload_len` is how many readable bytes follow it in the
    /// guest: the data of a WRITE, for any other request 0.
    ///
    /// # Errors
    /// Only where there is no whole header, so that nobody is there to answer.
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
    // Extensions lie behind everything else, so a message with a payload outside cannot have any.
    let body_len = rest.len().checked_sub(extensions_len).filter(|_| extensions_len == 0 || payload_len == 0);
    let Some((body, extensions)) = body_len.and_then(|len| rest.split_at_checked(len)) else {
        return Err(DecodeError::Extension("they are longer than the message"));
    };
    let operation = decode_operation(opcode, body, payload_len, dialect)?;
    Ok((Extensions::parse(extensions)?, operation))
}

/// The message has no whole header: nothing in it can be trusted, and nobody can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of {len} bytes has no header of 40")]
pub struct HeaderError {
    /// Bytes that there are.
    pub len: usize,
}

/// Why a message with a header is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what each message prints")]
pub enum DecodeError {
    /// A number that `fuse.h` does not know.
    #[error("opcode {0} is unknown")]
    UnknownOpcode(u32),
    /// An opcode that no file server over virtio gets: CUSE, notification replies, the other byte order.
    #[error("{0} is not for a file server")]
    NotServed(Opcode),
    /// The header's length is not the message's.
    #[error("header says {declared} bytes, the message has {have}")]
    Length { declared: u32, have: usize },
    /// Longer than anything that this opcode can mean.
    #[error("message of {have} bytes is too long")]
    TooLong { have: usize },
    /// The body ends early.
    #[error("{what} needs {need} bytes, {have} are left")]
    Short { what: &'static str, need: usize, have: usize },
    /// The body goes on after its end.
    #[error("{len} bytes follow {opcode}")]
    Trailing { opcode: Opcode, len: usize },
    /// A string without its NUL.
    #[error("{what} is not terminated")]
    Unterminated { what: &'static str },
    /// A name that is not one component.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name of an extended attribute has not 1 to 255 bytes.
    #[error("attribute name has {len} bytes, not 1 to 255")]
    XattrName { len: usize },
    /// The value of an extended attribute is longer than Linux allows.
    #[error("attribute value has {len} bytes, more than 65536")]
    XattrValue { len: usize },
    /// A link must say something.
    #[error("link target is empty")]
    TargetEmpty,
    /// A link's target is longer than a path can be.
    #[error("link target has {len} bytes, more than 4095")]
    TargetLen { len: usize },
    /// Bits that would change the meaning in a way that nobody knows.
    #[error("{field} has the unknown bits {bits:#x}")]
    UnknownFlags { field: &'static str, bits: u64 },
    /// A way to fallocate that nobody knows.
    #[error("fallocate mode has the unknown bits {0:#x}")]
    UnknownFallocateMode(u32),
    /// Neither for reading nor for writing.
    #[error("open flags {0:#o} ask for no access")]
    AccessMode(u32),
    /// Not a part of a second.
    #[error("{field} has {nanoseconds} nanoseconds")]
    Nanoseconds { field: &'static str, nanoseconds: u32 },
    /// Not `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    #[error("lock type {0} is unknown")]
    LockKind(u32),
    /// A count that does not fit the bytes.
    #[error("{what} counts {declared}, the message holds {have}")]
    Count { what: &'static str, declared: u32, have: usize },
    /// The extensions are malformed.
    #[error("extensions: {0}")]
    Extension(&'static str),
    /// An extension that was not negotiated.
    #[error("extension type {0} is unknown")]
    ExtensionKind(u32),
}

impl DecodeError {
    /// What the guest is told.
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
            | Self::Count { .. }
            | Self::Extension(_)
            | Self::ExtensionKind(_) => Errno::EINVAL,
        }
    }
}
