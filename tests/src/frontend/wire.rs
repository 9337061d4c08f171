//! vhost-user messages byte by byte, for a front-end that dies in the middle of a message.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Message as its bytes on the wire.
#[derive(Debug)]
pub struct Message<'f> {
    /// Header and body.
    pub bytes: Vec<u8>,
    /// Descriptor that is sent with the first byte.
    pub descriptor: Option<BorrowedFd<'f>>,
}

impl<'f> Message<'f> {
    /// Makes the request `code` with a body of 64-bit words, of which only the first `len` bytes
    /// are sent.
    pub fn new(code: u32, words: &[u64], len: usize) -> Self {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take(len).collect();
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        // Version 1, a request.
        let mut bytes: Vec<u8> = [code, 1, size].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(body);
        Self { bytes, descriptor: None }
    }

    /// Adds a descriptor.
    #[must_use]
    pub fn with(mut self, descriptor: &'f impl AsFd) -> Self {
        self.descriptor = Some(descriptor.as_fd());
        self
    }

    /// Sends its first `len` bytes, with the descriptor if `len` is not 0.
    ///
    /// # Errors
    /// Fails if the daemon has closed the connection.
    pub fn send_part(&self, stream: &UnixStream, len: usize) -> io::Result<()> {
        let part = self.bytes.get(..len).unwrap_or(&self.bytes);
        if part.is_empty() {
            return Ok(());
        }
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = rustix::net::sendmsg(stream, &[IoSlice::new(part)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == part.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Sends the whole message.
    ///
    /// # Errors
    /// Fails if the daemon has closed the connection.
    pub fn send(&self, stream: &UnixStream) -> io::Result<()> {
        self.send_part(stream, self.bytes.len())
    }
}
