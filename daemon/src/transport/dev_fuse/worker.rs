//! One thread's loop: read a request, have it served, write the answer.

use super::ServeError;
use super::device::{DeviceSink, Outcome};
use super::parking::{Parking, Stay};
use crate::filesystem::FileSystem;
use crate::io_vectors::IoVectors;
use crate::limits::WRITE_LEN_MAX;
use crate::session::{Pace, Scratch, Served, Session, is_forget};
use crate::sync::clock;
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::{Opcode, WRITE_LEN, copied_len};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Room for the header and the arguments before the data of the largest WRITE; the kernel wants at least 8,192 bytes
/// of buffer in all (`FUSE_MIN_READ_BUFFER`).
const MESSAGE_ROOM: usize = 4096;
/// More than any disk asks for.
const PAGE_LEN: usize = 4096;

/// One thread's buffers around the session.
pub(super) struct Worker<'s, F> {
    session: &'s Session<F>,
    device: &'s Arc<OwnedFd>,
    parking: Option<&'s Parking>,
    request: Buffer,
    reply: Buffer,
    scratch: Scratch,
}

/// Memory whose file data lies where O_DIRECT on the host wants it: on a page's border.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// `len` bytes, with the data behind the first `head_len` of them.
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

/// What one turn of the loop did.
enum Turn {
    /// A request was served.
    Served {
        /// It was answered with an error.
        refused: bool,
    },
    /// There was nothing to serve this time.
    Again,
    /// The mount is gone.
    Gone,
}

impl<'s, F: FileSystem> Worker<'s, F> {
    /// Makes the calling thread a worker.
    pub(super) fn new(
        threads: &ThreadSetup,
        session: &'s Session<F>,
        device: &'s Arc<OwnedFd>,
        parking: Option<&'s Parking>,
    ) -> Result<Self, ServeError> {
        threads.enter(Threads::WORKER).map_err(|source| ServeError::Thread { source })?;
        let data_room = usize::try_from(WRITE_LEN_MAX).unwrap_or(usize::MAX);
        Ok(Self {
            session,
            device,
            parking,
            request: Buffer::new(data_room.saturating_add(MESSAGE_ROOM), WRITE_LEN),
            reply: Buffer::new(data_room, 0),
            scratch: Scratch::default(),
        })
    }

    /// Serves the kernel's first request, which is INIT.
    pub(super) fn serve_init(mut self) -> Result<(), ServeError> {
        loop {
            match self.turn()? {
                Turn::Served { refused: false } => return Ok(()),
                Turn::Again => {}
                Turn::Served { refused: true } | Turn::Gone => return Err(ServeError::Init),
            }
        }
    }

    /// Serves until the mount is gone.
    pub(super) fn serve(mut self) -> Result<(), ServeError> {
        loop {
            match self.turn()? {
                Turn::Served { .. } | Turn::Again => {}
                Turn::Gone => return Ok(()),
            }
        }
    }

    fn turn(&mut self) -> Result<Turn, ServeError> {
        let len = match rustix::io::read(&**self.device, self.request.bytes()) {
            Ok(len) => len,
            Err(Errno::NODEV) => return Ok(Turn::Gone),
            // ENOENT: the caller gave up between waking this thread and the copy.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => return Ok(Turn::Again),
            Err(error) => return Err(ServeError::Read { source: error.into() }),
        };
        sit_out(self.session, self.request.bytes().get(..len).unwrap_or_default());
        let mut outcome = Outcome::default();
        let (message, payload) = split(self.request.bytes().get_mut(..len).unwrap_or_default());
        let sink =
            DeviceSink::new(self.device.as_fd(), VolatileSlice::from(self.reply.bytes()), &mut outcome);
        // Each thread is one of several on the device: one that waits holds up nobody.
        let served = self.session.serve((message, payload), sink, Pace::Patient, &mut self.scratch);
        if let (Served::Parked(parked), Some(parking)) = (served, self.parking) {
            parking.park(Stay { parked, device: Arc::clone(self.device) });
        }
        outcome.finish(self.device.as_fd(), self.reply.bytes());
        Ok(Turn::Served { refused: outcome.refused() })
    }
}

/// Waits for what the guest owes, as the policy's limits say. A FORGET does not wait: here any thread may take one from
/// the kernel, and a thread that waited with it would serve no request meanwhile.
fn sit_out<F: FileSystem>(session: &Session<F>, message: &[u8]) {
    let owed = session.owed(message);
    if owed.is_zero() || is_forget(message) {
        return;
    }
    let until = clock::now().checked_add(owed);
    while let Some(left) = until.map(|until| until.saturating_duration_since(clock::now()))
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// Parts the data of a WRITE from what is to be decoded.
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
    fn the_data_of_a_write_lies_on_a_pages_border() {
        for head_len in [0, WRITE_LEN] {
            let mut buffer = Buffer::new(8192, head_len);
            assert!(buffer.bytes().len() >= 8192);
            assert_eq!(buffer.bytes()[head_len..].as_ptr().align_offset(PAGE_LEN), 0);
        }
    }

    #[test]
    fn only_the_data_of_a_write_stays_behind() {
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
