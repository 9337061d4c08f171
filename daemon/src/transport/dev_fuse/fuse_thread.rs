//! The loop of one thread: read a request, serve it, write the reply.

use super::device::{DeviceDeferred, DeviceDeferredRequests, DeviceReceipt, DeviceSink};
use crate::filesystem::FileSystem;
use crate::io_vectors::IoVectors;
use crate::limits::WRITE_LEN_MAX;
use crate::session::{Incoming, Next, Pacing, Scratch, Session};
use crate::sync::clock;
use crate::threads::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::{Opcode, OpcodeFacts, WRITE_LEN, copied_len};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Room for the header and the arguments before the data of the largest WRITE; the kernel wants at
/// least 8,192 bytes of buffer in all (`FUSE_MIN_READ_BUFFER`).
const MESSAGE_ROOM: usize = 4096;
/// Alignment of file data in bytes, enough for O_DIRECT on any disk.
const PAGE_LEN: usize = 4096;

/// Reason why serving ends early.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// `/dev/fuse` could not be read.
    #[error("/dev/fuse: cannot read requests: {source}; mount again")]
    Read {
        /// Error of the host.
        source: io::Error,
    },
    /// The kernel refused the reply to INIT, or its INIT was refused.
    #[error("/dev/fuse: the kernel and pinhole could not agree on INIT: use Linux 5.0 (FUSE 7.27) or later")]
    Init,
    /// A bug in pinhole. The log has the panic's message.
    #[error("host: a serving thread panicked: please report the message in the log")]
    Panicked,
    /// A thread could not be started or prepared.
    #[error(
        "--threads: cannot prepare a serving thread: {source}; raise the limit on threads (TasksMax, RLIMIT_NPROC)"
    )]
    Thread {
        /// Error of the host.
        source: io::Error,
    },
}

/// A thread that serves requests of the mount, with its buffers.
pub(super) struct FuseThread<'s, F> {
    session: &'s Session<F>,
    device: &'s Arc<OwnedFd>,
    deferred: Option<&'s DeviceDeferredRequests>,
    request: PageBuffer,
    reply: PageBuffer,
    scratch: Scratch,
}

/// Memory whose file data is where O_DIRECT on the host needs it: at the start of a page.
struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl PageBuffer {
    /// Allocates `len` bytes, with the data after the first `head_len` of them.
    fn new(len: usize, head_len: usize) -> Self {
        let memory = vec![0; len.saturating_add(PAGE_LEN)];
        let start = memory.as_ptr().wrapping_add(head_len).align_offset(PAGE_LEN);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.start;
        self.memory.get_mut(start..).unwrap_or_default()
    }
}

/// Result of one pass of the loop.
enum Turn {
    /// A request was served.
    Served {
        /// The reply was an error.
        is_error: bool,
    },
    /// No request was read. The loop reads again.
    Again,
    /// The mount is gone.
    Gone,
}

impl<'s, F: FileSystem> FuseThread<'s, F> {
    /// Prepares the calling thread and allocates its buffers.
    pub(super) fn new(
        threads: &ThreadSetup,
        session: &'s Session<F>,
        device: &'s Arc<OwnedFd>,
        deferred: Option<&'s DeviceDeferredRequests>,
    ) -> Result<Self, FuseError> {
        threads.enter(Threads::QUEUE).map_err(|source| FuseError::Thread { source })?;
        let data_room = usize::try_from(WRITE_LEN_MAX).unwrap_or(usize::MAX);
        Ok(Self {
            session,
            device,
            deferred,
            request: PageBuffer::new(data_room.saturating_add(MESSAGE_ROOM), WRITE_LEN),
            reply: PageBuffer::new(data_room, 0),
            scratch: Scratch::default(),
        })
    }

    /// Serves the kernel's first request, which is INIT.
    pub(super) fn serve_init(mut self) -> Result<(), FuseError> {
        loop {
            match self.turn()? {
                Turn::Served { is_error: false } => return Ok(()),
                Turn::Again => {}
                Turn::Served { is_error: true } | Turn::Gone => return Err(FuseError::Init),
            }
        }
    }

    /// Serves until the mount is gone.
    pub(super) fn serve(mut self) -> Result<(), FuseError> {
        loop {
            match self.turn()? {
                Turn::Served { .. } | Turn::Again => {}
                Turn::Gone => return Ok(()),
            }
        }
    }

    fn turn(&mut self) -> Result<Turn, FuseError> {
        let len = match rustix::io::read(&**self.device, self.request.bytes()) {
            Ok(len) => len,
            Err(Errno::NODEV) => return Ok(Turn::Gone),
            // ENOENT: the caller gave up between waking this thread and the copy.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => return Ok(Turn::Again),
            Err(error) => return Err(FuseError::Read { source: error.into() }),
        };
        throttle(self.session, self.request.bytes().get(..len).unwrap_or_default());
        let (message, payload) = split(self.request.bytes().get_mut(..len).unwrap_or_default());
        let incoming = Incoming { message, payload };
        let sink = DeviceSink { device: self.device.as_fd(), reply: VolatileSlice::from(self.reply.bytes()) };
        // A thread that waits holds up no request: the device has several threads.
        let next = self.session.serve(incoming, sink, Pacing::PATIENT, &mut self.scratch);
        let receipt = match (next, self.deferred) {
            (Next::Done(receipt), _) => receipt,
            (Next::Deferred(deferred), Some(requests)) => {
                requests.add(DeviceDeferred { deferred, device: Arc::clone(self.device) });
                DeviceReceipt::default()
            }
            // Unreachable: requests are deferred only if `Session::may_defer`, and a patient
            // request neither blocks nor stops.
            (Next::Deferred(_) | Next::Offload(_) | Next::Retry | Next::Stopped, _) => {
                DeviceReceipt::default()
            }
        };
        receipt.finish(self.device.as_fd(), self.reply.bytes());
        Ok(Turn::Served { is_error: receipt.is_error })
    }
}

/// Waits as long as the policy's speed limits say. A FORGET does not wait: any thread may get one
/// from the kernel, and a thread that waited with it would serve no request meanwhile.
fn throttle<F: FileSystem>(session: &Session<F>, message: &[u8]) {
    let opcode = Opcode::of_message(message);
    let owed = session.owed(opcode);
    if owed.is_zero() || opcode.is_some_and(|opcode| opcode.facts().contains(OpcodeFacts::URGENT)) {
        return;
    }
    let until = clock::now().checked_add(owed);
    while let Some(left) = until.map(|until| until.saturating_duration_since(clock::now()))
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// Splits a message into the part that is decoded and the data of a WRITE.
fn split(bytes: &mut [u8]) -> (&[u8], IoVectors<'_>) {
    let copied = copied_len(Opcode::of_message(bytes), bytes.len());
    let (message, data) = bytes.split_at_mut(copied.min(bytes.len()));
    (message, IoVectors::from(VolatileSlice::from(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[4] = opcode;
        bytes
    }

    #[test]
    fn data_of_a_write_starts_on_a_page() {
        for head_len in [0, WRITE_LEN] {
            let mut buffer = PageBuffer::new(8192, head_len);
            assert!(buffer.bytes().len() >= 8192);
            assert_eq!(buffer.bytes()[head_len..].as_ptr().align_offset(PAGE_LEN), 0);
        }
    }

    #[test]
    fn only_the_data_of_a_write_is_split_off() {
        let (message_len, payload_len) = {
            let mut bytes = message(16, 100);
            let (message, payload) = split(&mut bytes);
            (message.len(), payload.len())
        };
        assert_eq!((message_len, payload_len), (80, 20));
        let mut lookup = message(1, 100);
        let (message, payload) = split(&mut lookup);
        assert_eq!((message.len(), payload.len()), (100, 0));
    }

    #[test]
    fn a_message_cut_short_is_left_to_the_decoder() {
        for len in [0, 3, 50] {
            let mut bytes = vec![16; len];
            let (message, payload) = split(&mut bytes);
            assert_eq!((message.len(), payload.len()), (len, 0));
        }
    }
}
