//! Decodes one message: its header, and its body or the error in it.

use crate::decode::decode_operation;
use crate::{DecodeError, Dialect, Extensions, HeaderError, NodeId, Opcode, Operation, Unique, abi};
use zerocopy::FromBytes as _;

/// Length of a request header (`fuse_in_header`) in bytes.
pub const HEADER_LEN: usize = size_of::<abi::InHeader>();
/// Length of a WRITE without its data in bytes: the header and `fuse_write_in`.
pub const WRITE_LEN: usize = 80;
/// Maximum number of bytes of one message that are copied out of guest memory.
///
/// The longest messages for a file server are CREATE with a security context and SETXATTR. Both
/// have about 64 KiB (a value of 65,536 bytes, a name of 256, headers). IOCTL input is at most 16
/// KiB, and a `BATCH_FORGET` at most fills the buffer into which the server reads. The limit is
/// twice the longest message. A longer message fails with E2BIG.
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
    /// of bytes that follow in guest memory: the data of a WRITE. For any other request it is 0,
    /// unless the message is longer than [`MESSAGE_LEN_MAX`]: such a request is
    /// [`DecodeError::TooLong`].
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

/// Decodes the body and the extensions, which are `rest`. `wire` is the header before them.
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
    // Extensions come last in a message. If the payload stays in guest memory, the extensions after
    // it stay there too and cannot be decoded.
    let body_len = rest.len().checked_sub(extensions_len).filter(|_| extensions_len == 0 || payload_len == 0);
    let Some((body, extensions)) = body_len.and_then(|len| rest.split_at_checked(len)) else {
        return Err(DecodeError::Extension("the extensions are longer than the message"));
    };
    let operation = decode_operation(opcode, body, payload_len, dialect)?;
    Ok((Extensions::parse(extensions)?, operation))
}
