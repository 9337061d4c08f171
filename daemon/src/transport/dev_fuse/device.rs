//! The way of one answer to `/dev/fuse`: header and body in one write.

use crate::io_vectors::IoVectors;
use crate::log_budget::Source;
use crate::session::{Body, Sink};
use pinhole_protocol::OUT_HEADER_LEN;
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use vm_memory::VolatileSlice;

/// Replies that the kernel refuses, for the log.
static REFUSED: Source = Source::new();

/// What became of a request.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// An answer whose body lies in the reply buffer, to be written once nobody else holds that.
    in_place: Option<([u8; OUT_HEADER_LEN], usize)>,
    refused: bool,
}

impl Outcome {
    /// Writes the answer that still waits in `reply`.
    pub(super) fn finish(&mut self, device: BorrowedFd<'_>, reply: &[u8]) {
        if let Some((header, len)) = self.in_place.take() {
            write(device, &header, reply.get(..len).unwrap_or(reply));
        }
    }

    /// Whether the answer is an error.
    pub(super) const fn refused(&self) -> bool {
        self.refused
    }
}

/// One request's way back.
#[derive(Debug)]
pub(super) struct DeviceSink<'a> {
    device: BorrowedFd<'a>,
    reply: VolatileSlice<'a>,
    outcome: &'a mut Outcome,
}

impl<'a> DeviceSink<'a> {
    pub(super) const fn new(
        device: BorrowedFd<'a>,
        reply: VolatileSlice<'a>,
        outcome: &'a mut Outcome,
    ) -> Self {
        Self { device, reply, outcome }
    }
}

impl Sink for DeviceSink<'_> {
    fn room(&self) -> usize {
        self.reply.len().saturating_add(OUT_HEADER_LEN)
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        IoVectors::from(self.reply).first(len)
    }

    fn send(&mut self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) {
        let [_, _, _, _, error @ .., _, _, _, _, _, _, _, _] = header;
        self.outcome.refused = *error != [0; 4];
        match body {
            Body::Bytes(bytes) => write(self.device, header, bytes),
            Body::InPlace(len) => self.outcome.in_place = Some((*header, len)),
        }
    }

    fn close(&mut self) {}
}

fn write(device: BorrowedFd<'_>, header: &[u8], body: &[u8]) {
    match rustix::io::writev(device, &[IoSlice::new(header), IoSlice::new(body)]) {
        // ENOENT: the caller has given up; ENODEV: the mount is gone. Nobody waits for the answer.
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
        Err(error) => {
            if let Some(suppressed) = REFUSED.pass() {
                tracing::warn!(suppressed, "the kernel refuses an answer of {} bytes: {error}", body.len());
            }
        }
    }
}
