//! Messages of the back channel, byte by byte (vhost-user, "Back-end communication"): the daemon's
//! requests to the VMM.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// `VHOST_USER_BACKEND_SHMEM_MAP`.
pub(super) const SHMEM_MAP: u32 = 9;
/// `VHOST_USER_BACKEND_SHMEM_UNMAP`.
pub(super) const SHMEM_UNMAP: u32 = 10;
/// Version 1 of the protocol.
const VERSION: u32 = 1;
/// Flag of a reply.
const REPLY: u32 = 1 << 2;
/// Flag of a message that needs a reply.
const NEED_REPLY: u32 = 1 << 3;
/// Length of a header in bytes: request, flags, length.
const HEADER_LEN: usize = 12;
/// Largest length of a body in bytes. `VhostUserMMap` has 40.
const BODY_LEN_MAX: usize = 4096;

/// `VhostUserMMap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Number of the window.
    pub window: u8,
    /// Offset in the file in bytes.
    pub file_offset: u64,
    /// Offset in the window in bytes.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// 1 if the mapping is writable.
    pub flags: u64,
}

/// A message of the daemon.
#[derive(Debug)]
pub(super) struct ChannelMessage {
    pub(super) code: u32,
    pub(super) wants_reply: bool,
    /// Range of the message. `None` if the body has another length than a range.
    pub(super) range: Option<Range>,
    pub(super) descriptor: Option<OwnedFd>,
}

impl ChannelMessage {
    /// Receives the next message. Returns `None` if the daemon has closed the channel.
    pub(super) fn receive(mut stream: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        let mut descriptor = None;
        let first = receive_with_descriptor(stream, &mut header, &mut descriptor)?;
        if first == 0 {
            return Ok(None);
        }
        stream.read_exact(header.get_mut(first..).unwrap_or_default())?;
        let word = |index: usize| header.as_chunks().0.get(index).map_or(0, |word| u32::from_le_bytes(*word));
        let (code, flags, len) = (word(0), word(1), usize::try_from(word(2)).unwrap_or(usize::MAX));
        if flags & 3 != VERSION || flags & REPLY != 0 || len > BODY_LEN_MAX {
            let what = format!("message {code}: flags {flags:#x}, {len} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body)?;
        let wants_reply = flags & NEED_REPLY != 0;
        Ok(Some(Self { code, wants_reply, range: range(&body), descriptor }))
    }

    /// Replies to the message. The value 0 is success.
    pub(super) fn answer(&self, mut stream: &UnixStream, value: u64) -> io::Result<()> {
        let header = [self.code, VERSION | REPLY, 8];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(value.to_le_bytes());
        stream.write_all(&bytes)
    }

    /// Sends bytes that are not a valid reply to the message.
    pub(super) fn send_invalid(&self, mut stream: &UnixStream) -> io::Result<()> {
        let header = [self.code ^ 3, VERSION | REPLY, 4000];
        let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).chain([0xff; 5]).collect();
        stream.write_all(&bytes)
    }
}

/// Receives the first bytes of a message, at most a header, and its descriptor. Returns the number
/// of bytes; 0 is the end of the channel.
fn receive_with_descriptor(
    stream: &UnixStream,
    header: &mut [u8; HEADER_LEN],
    descriptor: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(header)];
    let received = rustix::net::recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            *descriptor = descriptors.last();
        }
    }
    Ok(received.bytes)
}

/// Decodes the body of a message. Returns `None` if it has another length than a range.
fn range(body: &[u8]) -> Option<Range> {
    let words: Vec<u64> = body.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match (words.as_slice(), body.first()) {
        ([_, file_offset, at, len, flags], Some(window)) if body.len() == 40 => {
            Some(Range { window: *window, file_offset: *file_offset, at: *at, len: *len, flags: *flags })
        }
        _ => None,
    }
}
