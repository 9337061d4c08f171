//! Replies to `/dev/fuse`: header and body in one write.

use crate::filesystem::FileSystem;
use crate::io_vectors::IoVectors;
use crate::log_budget::Source;
use crate::session::{Body, Deferred, Scratch, Session, Sink};
use crate::transport::deferred::{self, DeferredRequest};
use pinhole_protocol::{Errno, OUT_HEADER_LEN};
use std::io::IoSlice;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Limits log lines about replies that the kernel refuses.
static REFUSED: Source = Source::new();

/// The work that remains after the session has served a request.
#[derive(Debug, Default)]
pub(super) struct DeviceReceipt {
    /// A reply whose body is in the reply buffer. It is written when the session no longer uses the
    /// buffer.
    in_place: Option<([u8; OUT_HEADER_LEN], usize)>,
    /// The reply is an error.
    pub(super) is_error: bool,
}

impl DeviceReceipt {
    /// Writes the reply that is still in the buffer `reply`.
    pub(super) fn finish(&self, device: BorrowedFd<'_>, reply: &[u8]) {
        if let Some((header, len)) = &self.in_place {
            write(device, header, reply.get(..*len).unwrap_or(reply));
        }
    }
}

/// The reply to one request.
#[derive(Debug)]
pub(super) struct DeviceSink<'a> {
    pub(super) device: BorrowedFd<'a>,
    /// The buffer for a body that the host produces.
    pub(super) reply: VolatileSlice<'a>,
}

impl Sink for DeviceSink<'_> {
    type Receipt = DeviceReceipt;

    fn room(&self) -> usize {
        self.reply.len().saturating_add(OUT_HEADER_LEN)
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        IoVectors::from(self.reply).first(len)
    }

    fn send(self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) -> DeviceReceipt {
        let [_, _, _, _, error @ .., _, _, _, _, _, _, _, _] = header;
        let in_place = match body {
            Body::Bytes(bytes) => {
                write(self.device, header, bytes);
                None
            }
            Body::InPlace(len) => Some((*header, len)),
        };
        DeviceReceipt { in_place, is_error: *error != [0; 4] }
    }
}

fn write(device: BorrowedFd<'_>, header: &[u8], body: &[u8]) {
    use rustix::io::Errno as HostErrno;
    match rustix::io::writev(device, &[IoSlice::new(header), IoSlice::new(body)]) {
        // ENOENT: the caller has given up; ENODEV: the mount is gone. No caller waits for the
        // reply.
        Ok(_) | Err(HostErrno::NOENT | HostErrno::NODEV) => {}
        Err(error) => {
            if let Some(suppressed) = REFUSED.pass() {
                tracing::warn!(suppressed, "the kernel refuses a reply of {} bytes: {error}", body.len());
            }
        }
    }
}

/// All deferred requests of one mount.
pub(super) type DeviceDeferredRequests = deferred::DeferredRequests<DeviceDeferred>;

/// A deferred request of a mount. Mounts have no queues, so it is never put back.
#[derive(Debug)]
pub(super) struct DeviceDeferred {
    pub(super) deferred: Deferred,
    pub(super) device: Arc<OwnedFd>,
}

impl DeferredRequest for DeviceDeferred {
    fn deferred(&self) -> &Deferred {
        &self.deferred
    }

    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch) {
        // The reply to a deferred request has no body in place.
        let sink = DeviceSink { device: self.device.as_fd(), reply: VolatileSlice::from(&mut [][..]) };
        let _receipt = session.answer_deferred(&self.deferred, result, sink, scratch);
    }
}
