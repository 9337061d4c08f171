//! One request between the rings: what it says, where its answer goes, and how it is served.

use crate::filesystem::FileSystem;
use crate::guest_view::GuestView;
use crate::limits::MESSAGE_BUFFER_KEPT;
use crate::session::{Effort, Pace, Parked, Scratch, Served, Session, StopCheck};
use crate::transport::chain::{Chain, ChainError, Table};
use crate::transport::sink::{Outcome, QueueSink, copy_out};
use pinhole_protocol::Errno;

/// A request that was taken from a ring. It holds no reference into the guest's memory, so it can wait elsewhere
/// beside that memory; and it is a place for one request after the other.
#[derive(Debug, Default)]
pub(super) struct Taken {
    chain: Chain,
    message: Vec<u8>,
}

/// Why a request is given back unread.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("malformed descriptor chain: {0}")]
    Chain(#[from] ChainError),
    #[error("a message of {0} bytes has no header that can be read")]
    NoHeader(usize),
}

/// How serving it went.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It is to be given back with this used length.
    Answered(u32),
    /// It is to be served again, patiently.
    WouldWait,
    /// It waits for another process to give up its lease, and is to be served again a little later.
    Leased,
    /// It waits for the front-end, and is answered by [`Taken::settle`].
    Parked(Parked),
    /// It has ended between two of its steps, as its [`StopCheck`] said, and has not been answered.
    Stopped,
}

impl Taken {
    /// Follows the chain at `head` and copies the message out. One that is malformed is to be given back untouched
    /// (used length 0): where it cannot be trusted to be read, it is not written to either.
    pub(super) fn read(
        &mut self,
        memory: GuestView<'_>,
        table: Table,
        head: u16,
        indirect: bool,
    ) -> Result<(), Refused> {
        self.message.clear();
        self.message.shrink_to(MESSAGE_BUFFER_KEPT);
        self.chain.walk(memory, table, head, indirect)?;
        let readable = self.chain.message(memory);
        copy_out(readable, &mut self.message).ok_or(Refused::NoHeader(readable.len()))
    }

    /// Header and arguments.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Bytes in both directions.
    pub(super) const fn len(&self) -> u32 {
        self.chain.len()
    }

    /// Bytes of our own memory that this takes.
    pub(super) const fn footprint(&self) -> usize {
        self.chain.footprint().saturating_add(self.message.capacity())
    }

    /// The same without header and arguments, which one that is answered by [`Taken::settle`] needs no more.
    pub(super) fn without_message(self) -> Self {
        Self { message: Vec::new(), ..self }
    }

    /// Bytes of our own memory that are left then.
    pub(super) const fn chain_footprint(&self) -> usize {
        self.chain.footprint()
    }

    /// How long the host may take for it.
    pub(super) fn effort<F: FileSystem>(&self, session: &Session<F>, memory: GuestView<'_>) -> Effort {
        session.effort(&self.message, self.chain.message(memory).after(self.message.len()).len())
    }

    /// Serves it in the `memory` in which it was read.
    pub(super) fn serve<F: FileSystem>(
        &self,
        session: &Session<F>,
        memory: GuestView<'_>,
        pace: (Pace, StopCheck<'_>),
        scratch: &mut Scratch,
    ) -> Fate {
        let outcome = Outcome::default();
        let payload = self.chain.message(memory).after(self.message.len());
        let sink = QueueSink::new(&self.chain, memory, &outcome);
        match session.serve_in_steps((&self.message, payload), sink, pace, scratch) {
            Served::WouldWait(_sink) => Fate::WouldWait,
            Served::Leased(_sink) => Fate::Leased,
            Served::Parked(parked) => Fate::Parked(parked),
            Served::Stopped(_sink) => Fate::Stopped,
            Served::Done => Fate::Answered(outcome.used_len().unwrap_or(0)),
        }
    }

    /// Answers it with an error where it came to [`Fate::Leased`]; returns the used length.
    pub(super) fn refuse<F: FileSystem>(
        &self,
        (session, memory): (&Session<F>, GuestView<'_>),
        errno: Errno,
    ) -> u32 {
        let outcome = Outcome::default();
        session.refuse(&self.message, QueueSink::new(&self.chain, memory, &outcome), errno);
        outcome.used_len().unwrap_or(0)
    }

    /// Answers it in `memory`, which may be another than that in which it was read, where it was parked and this has come
    /// of what it waited for; returns the used length.
    pub(super) fn settle<F: FileSystem>(
        &self,
        (session, memory): (&Session<F>, GuestView<'_>),
        parked: &Parked,
        result: Result<(), Errno>,
        scratch: &mut Scratch,
    ) -> u32 {
        let outcome = Outcome::default();
        let sink = QueueSink::new(&self.chain, memory, &outcome);
        session.settle(parked, result, sink, scratch);
        outcome.used_len().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::failing::Broken;
    use crate::session::Options;
    use pinhole_policy::Policy;
    use std::sync::Arc;
    use virtio_queue::desc::split::Descriptor;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

    const TABLE: Table = Table { address: GuestAddress(0), count: 8 };
    const MESSAGE: u64 = 0x1000;
    const ROOM: u64 = 0x2000;
    const ROOM_LEN: u32 = 256;
    const UNTOUCHED: u8 = 0xa5;

    /// A guest's request in its memory.
    fn request(opcode: u32, arguments: &[u8]) -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let len = 40 + u32::try_from(arguments.len()).unwrap();
        // len, opcode, unique, nodeid; then uid, gid, pid, total_extlen and padding.
        let mut message = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
        message.extend([7u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        message.extend([0; 16]);
        message.extend(arguments);
        memory.write_slice(&message, GuestAddress(MESSAGE)).unwrap();
        memory.write_slice(&[UNTOUCHED; 256], GuestAddress(ROOM)).unwrap();
        memory.write_obj(Descriptor::new(MESSAGE, len, 1, 1), GuestAddress(0)).unwrap();
        memory.write_obj(Descriptor::new(ROOM, ROOM_LEN, 2, 0), GuestAddress(16)).unwrap();
        memory
    }

    /// The error in the answer, and its body.
    fn answer(memory: &GuestMemoryMmap, len: u32) -> (i32, Vec<u8>) {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(ROOM)).unwrap();
        (i32::from_le_bytes(*bytes[4..].first_chunk().unwrap()), bytes[16..].to_vec())
    }

    fn serving() -> (Session<Broken>, Taken, Scratch) {
        let session = Session::new(Arc::new(Broken), Arc::default(), Policy::full(), Options::default());
        let mut init = [7u32.to_le_bytes(), 45u32.to_le_bytes(), [0; 4], [0; 4]].concat();
        init.extend([0; 48]);
        let (mut taken, mut scratch, memory) = (Taken::default(), Scratch::default(), request(26, &init));
        taken.read((&memory).into(), TABLE, 0, false).unwrap();
        let fate = taken.serve(&session, (&memory).into(), (Pace::Patient, StopCheck::NEVER), &mut scratch);
        assert!(session.is_serving(), "{fate:?}");
        (session, taken, scratch)
    }

    #[test]
    fn a_panic_is_an_eio_and_the_thread_goes_on() {
        let (session, mut taken, mut scratch) = serving();
        for _ in 0..3 {
            let getattr = request(3, &[0; 16]);
            taken.read((&getattr).into(), TABLE, 0, false).unwrap();
            let fate =
                taken.serve(&session, (&getattr).into(), (Pace::Patient, StopCheck::NEVER), &mut scratch);
            assert_eq!(fate, Fate::Answered(16));
            assert_eq!(answer(&getattr, 16), (-Errno::EIO.raw(), Vec::new()));
        }
        // Nothing is held by what has panicked: a new INIT waits for nobody.
        session.end();
        assert!(!session.is_serving());
    }

    #[test]
    fn what_would_wait_is_left_untouched_and_can_be_served_again() {
        let (session, mut taken, mut scratch) = serving();
        let mut read = [0; 40];
        read[16] = 100;
        for (opcode, arguments) in [(15, &read[..]), (20, &[0; 16][..]), (30, &[0; 16][..])] {
            let memory = request(opcode, arguments);
            taken.read((&memory).into(), TABLE, 0, false).unwrap();
            let fate = taken.serve(&session, (&memory).into(), (Pace::Now, StopCheck::NEVER), &mut scratch);
            assert_eq!(fate, Fate::WouldWait, "opcode {opcode}");
            let room = answer(&memory, ROOM_LEN).1;
            assert!(room.iter().all(|byte| *byte == UNTOUCHED), "opcode {opcode}");
            let Fate::Answered(len) =
                taken.serve(&session, (&memory).into(), (Pace::Patient, StopCheck::NEVER), &mut scratch)
            else {
                panic!("opcode {opcode} is not answered");
            };
            let expected = if opcode == 15 { (0, b"late".to_vec()) } else { (-Errno::EIO.raw(), Vec::new()) };
            assert_eq!(answer(&memory, len), expected, "opcode {opcode}");
        }
    }

    #[test]
    fn the_memory_of_a_request_serves_the_next_one() {
        let (_, mut taken, _) = serving();
        let memory = request(3, &[0; 16]);
        taken.read((&memory).into(), TABLE, 0, false).unwrap();
        let before = taken.footprint();
        for _ in 0..100 {
            taken.read((&memory).into(), TABLE, 0, false).unwrap();
            assert_eq!(taken.footprint(), before);
        }
        assert!(before <= 1024, "{before}");
    }
}
