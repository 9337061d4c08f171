//! One request of a queue: its message copied out of the guest's memory, its reply copied in.

use crate::filesystem::FileSystem;
use crate::guest_view::GuestView;
use crate::io_vectors::IoVectors;
use crate::limits::MESSAGE_BUFFER_KEPT;
use crate::session::{Body, Deferred, Incoming, Next, Pacing, Scratch, Session, Sink};
use crate::transport::chain::{Chain, ChainError, DescriptorTable};
use pinhole_protocol::{Errno, HEADER_LEN, OUT_HEADER_LEN, Opcode, copied_len};

/// A request that was taken from a ring. It holds no reference into the guest's memory, so it can
/// wait. Its buffers serve one request after another.
#[derive(Debug, Default)]
pub(super) struct QueueRequest {
    chain: Chain,
    /// Header and arguments.
    message: Vec<u8>,
}

/// Reason why a request is given back unread.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("malformed descriptor chain: {0}")]
    Chain(#[from] ChainError),
    #[error("a message of {0} bytes has no header that can be read")]
    NoHeader(usize),
}

impl QueueRequest {
    /// Follows the chain at `head` and copies the message out.
    ///
    /// # Errors
    /// [`Unreadable`] for a malformed request. The caller gives it back with used length 0 and
    /// writes nothing to its chain.
    pub(super) fn read(
        &mut self,
        memory: GuestView<'_>,
        table: DescriptorTable,
        head: u16,
        indirect: bool,
    ) -> Result<(), Unreadable> {
        self.message.clear();
        self.message.shrink_to(MESSAGE_BUFFER_KEPT);
        self.chain.walk(memory, table, head, indirect)?;
        let readable = self.chain.message(memory);
        copy_out(readable, &mut self.message).ok_or(Unreadable::NoHeader(readable.len()))
    }

    /// Returns the opcode, if the request has a header and the opcode is known.
    pub(super) fn opcode(&self) -> Option<Opcode> {
        Opcode::of_message(&self.message)
    }

    /// Returns the number of bytes in both directions.
    pub(super) const fn len(&self) -> u32 {
        self.chain.len()
    }

    /// Returns the number of bytes of the daemon's memory that the request takes.
    pub(super) const fn footprint(&self) -> usize {
        self.chain.footprint().saturating_add(self.message.capacity())
    }

    /// Frees header and arguments, which a deferred request no longer needs.
    pub(super) fn without_message(self) -> Self {
        Self { message: Vec::new(), ..self }
    }

    /// Returns the number of bytes of the daemon's memory that the request takes without its
    /// message.
    pub(super) const fn chain_footprint(&self) -> usize {
        self.chain.footprint()
    }

    /// Serves the request in the `memory` in which it was read. The receipt is the used length.
    pub(super) fn serve<F: FileSystem>(
        &self,
        session: &Session<F>,
        memory: GuestView<'_>,
        pacing: Pacing<'_>,
        scratch: &mut Scratch,
    ) -> Next<u32> {
        let payload = self.chain.message(memory).after(self.message.len());
        session.serve(Incoming { message: &self.message, payload }, self.sink(memory), pacing, scratch)
    }

    /// Answers a request with an error after [`Next::Retry`]. Returns the used length.
    pub(super) fn refuse<F: FileSystem>(
        &self,
        session: &Session<F>,
        memory: GuestView<'_>,
        errno: Errno,
    ) -> u32 {
        session.refuse(&self.message, self.sink(memory), errno)
    }

    /// Answers a deferred request that has this result. `memory` may be newer than that in which
    /// the request was read. Returns the used length.
    pub(super) fn answer_deferred<F: FileSystem>(
        &self,
        (session, memory): (&Session<F>, GuestView<'_>),
        deferred: &Deferred,
        result: Result<(), Errno>,
        scratch: &mut Scratch,
    ) -> u32 {
        session.answer_deferred(deferred, result, self.sink(memory), scratch)
    }

    fn sink<'c>(&'c self, memory: GuestView<'c>) -> QueueSink<'c> {
        QueueSink { room: self.chain.room(memory) }
    }
}

/// Copies header and arguments of a request into `message`, each byte once. The rest is still in
/// the guest's memory: `readable.after(message.len())`. Returns `None` if there is no header, or if
/// it is in memory that the daemon must not read.
fn copy_out(readable: IoVectors<'_>, message: &mut Vec<u8>) -> Option<()> {
    message.clear();
    if readable.len() < HEADER_LEN {
        return None;
    }
    append(readable, message, HEADER_LEN)?;
    let copied = copied_len(Opcode::of_message(message), readable.len());
    append(readable.after(HEADER_LEN), message, copied.saturating_sub(HEADER_LEN))
}

fn append(from: IoVectors<'_>, message: &mut Vec<u8>, len: usize) -> Option<()> {
    let at = message.len();
    message.resize(at.saturating_add(len), 0);
    let copied = message.get_mut(at..).map(|room| from.copy_to(room));
    (copied == Some(len)).then_some(())
}

/// The reply buffers of one chain.
#[derive(Debug)]
struct QueueSink<'c> {
    room: IoVectors<'c>,
}

impl Sink for QueueSink<'_> {
    /// The used length.
    type Receipt = u32;

    fn room(&self) -> usize {
        self.room.len()
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        self.room.after(OUT_HEADER_LEN).first(len)
    }

    fn send(self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) -> u32 {
        let (len, is_whole) = match body {
            Body::Bytes(bytes) => {
                let copied = self.room.after(OUT_HEADER_LEN).copy_from(bytes);
                (bytes.len(), copied == bytes.len())
            }
            Body::InPlace(len) => (len, true),
        };
        // If the reply cannot be written, the guest gets none.
        if self.room.copy_from(header) != OUT_HEADER_LEN || !is_whole {
            return 0;
        }
        let used = OUT_HEADER_LEN.saturating_add(len).min(self.room());
        u32::try_from(used).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::failing::Broken;
    use crate::session::{Options, Pace, ReplySlot, SlotCounters};
    use pinhole_policy::Policy;
    use pinhole_protocol::Unique;
    use std::sync::Arc;
    use virtio_queue::desc::split::Descriptor;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

    const TABLE: DescriptorTable = DescriptorTable { address: GuestAddress(0), count: 8 };
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

    /// Returns the error in the reply, and the body.
    fn answer(memory: &GuestMemoryMmap, len: u32) -> (i32, Vec<u8>) {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(ROOM)).unwrap();
        (i32::from_le_bytes(*bytes[4..].first_chunk().unwrap()), bytes[16..].to_vec())
    }

    fn serving() -> (Session<Broken>, QueueRequest, Scratch) {
        let session = Session::new(Arc::new(Broken), Arc::default(), Policy::full(), Options::default());
        let mut init = [7u32.to_le_bytes(), 45u32.to_le_bytes(), [0; 4], [0; 4]].concat();
        init.extend([0; 48]);
        let (mut queue_request, mut scratch, memory) =
            (QueueRequest::default(), Scratch::default(), request(26, &init));
        queue_request.read((&memory).into(), TABLE, 0, false).unwrap();
        let next = queue_request.serve(&session, (&memory).into(), Pacing::PATIENT, &mut scratch);
        assert!(session.is_serving(), "{next:?}");
        (session, queue_request, scratch)
    }

    #[test]
    fn a_panic_is_an_eio_and_the_thread_goes_on() {
        let (session, mut queue_request, mut scratch) = serving();
        for _ in 0..3 {
            let getattr = request(3, &[0; 16]);
            queue_request.read((&getattr).into(), TABLE, 0, false).unwrap();
            let next = queue_request.serve(&session, (&getattr).into(), Pacing::PATIENT, &mut scratch);
            assert!(matches!(next, Next::Done(16)), "{next:?}");
            assert_eq!(answer(&getattr, 16), (-Errno::EIO.raw(), Vec::new()));
        }
        // The panic has left no lock held, so a new INIT does not wait.
        session.end();
        assert!(!session.is_serving());
    }

    #[test]
    fn a_request_that_would_block_leaves_its_reply_buffers_untouched() {
        let (session, mut queue_request, mut scratch) = serving();
        let mut read = [0; 40];
        read[16] = 100;
        for (opcode, arguments) in [(15, &read[..]), (20, &[0; 16][..]), (30, &[0; 16][..])] {
            let memory = request(opcode, arguments);
            queue_request.read((&memory).into(), TABLE, 0, false).unwrap();
            let next = queue_request.serve(
                &session,
                (&memory).into(),
                Pacing { pace: Pace::Now, ..Pacing::PATIENT },
                &mut scratch,
            );
            assert!(matches!(next, Next::Offload(_)), "opcode {opcode}: {next:?}");
            let room = answer(&memory, ROOM_LEN).1;
            assert!(room.iter().all(|byte| *byte == UNTOUCHED), "opcode {opcode}");
            let Next::Done(len) =
                queue_request.serve(&session, (&memory).into(), Pacing::PATIENT, &mut scratch)
            else {
                panic!("opcode {opcode} is not answered");
            };
            let expected = if opcode == 15 { (0, b"late".to_vec()) } else { (-Errno::EIO.raw(), Vec::new()) };
            assert_eq!(answer(&memory, len), expected, "opcode {opcode}");
        }
    }

    #[test]
    fn the_memory_of_a_request_serves_the_next_one() {
        let (_, mut queue_request, _) = serving();
        let memory = request(3, &[0; 16]);
        queue_request.read((&memory).into(), TABLE, 0, false).unwrap();
        let before = queue_request.footprint();
        for _ in 0..100 {
            queue_request.read((&memory).into(), TABLE, 0, false).unwrap();
            assert_eq!(queue_request.footprint(), before);
        }
        assert!(before <= 1024, "{before}");
    }

    /// Puts `bytes` into guest memory in pieces of `piece` bytes, all readable or all writable.
    fn chain_of(bytes: &[u8], piece: usize, writable: bool) -> (GuestMemoryMmap, Chain) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let (count, write) = (bytes.chunks(piece).count(), if writable { 2 } else { 0 });
        for (index, part) in (0u16..).zip(bytes.chunks(piece)) {
            let address = 0x8000 + u64::from(index) * 0x80;
            memory.write_slice(part, GuestAddress(address)).unwrap();
            let next = u16::from(usize::from(index) + 1 < count);
            let len = u32::try_from(part.len()).unwrap();
            let descriptor = Descriptor::new(address, len, write | next, index + 1);
            memory.write_obj(descriptor, GuestAddress(u64::from(index) * 16)).unwrap();
        }
        let table = DescriptorTable { address: GuestAddress(0), count: 128 };
        let mut chain = Chain::default();
        chain.walk(&memory, table, 0, false).unwrap();
        (memory, chain)
    }

    /// A message with this opcode.
    fn bytes_of(opcode: u32, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes
    }

    #[test]
    fn a_message_in_pieces_is_copied_whole() {
        for piece in 1..60 {
            let whole = bytes_of(1, 57);
            let (memory, chain) = chain_of(&whole, piece, false);
            let mut message = Vec::new();
            copy_out(chain.message(&memory), &mut message).unwrap();
            assert_eq!(message, whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn the_data_of_a_write_stays_in_guest_memory() {
        for piece in [1, 7, 80, 100] {
            let whole = bytes_of(16, 100);
            let (memory, chain) = chain_of(&whole, piece, false);
            let mut message = Vec::new();
            copy_out(chain.message(&memory), &mut message).unwrap();
            assert_eq!(message, whole[..80], "in pieces of {piece}");
            assert_eq!(chain.message(&memory).after(message.len()).len(), 20, "in pieces of {piece}");
        }
    }

    #[test]
    fn less_than_a_header_is_no_message() {
        let (memory, chain) = chain_of(&bytes_of(16, 39), 10, false);
        assert!(copy_out(chain.message(&memory), &mut Vec::new()).is_none());
    }

    #[test]
    fn a_reply_is_split_over_the_guests_buffers() {
        for piece in 1..40 {
            let (memory, chain) = chain_of(&[0; 36], piece, true);
            let sink = QueueSink { room: chain.room(&memory) };
            assert_eq!(sink.data(15).len(), 15);
            assert_eq!(sink.data(1000).len(), 20);
            let used = sink.send(&[7; OUT_HEADER_LEN], Body::Bytes(b"0123456789"));
            assert_eq!(used, 26, "in pieces of {piece}");
            let mut whole = vec![0xff; 36];
            chain.room(&memory).copy_to(&mut whole);
            assert_eq!(whole[..16], [7; 16], "in pieces of {piece}");
            assert_eq!(&whole[16..26], b"0123456789", "in pieces of {piece}");
            assert_eq!(whole[26..], [0; 10], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_request_without_a_reply_has_used_length_zero() {
        let (memory, chain) = (GuestMemoryMmap::new(), Chain::default());
        let (sink, counters) = (QueueSink { room: chain.room(&memory) }, SlotCounters::default());
        assert_eq!(ReplySlot::new(sink, Unique(1), &counters).close(), 0);
    }

    /// Makes two regions of memory: RAM, and memory of the window. Returns both, and the RAM alone.
    fn halves() -> (GuestMemoryMmap, GuestMemoryMmap) {
        let places = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let all = GuestMemoryMmap::from_ranges(&places).unwrap();
        let (ram, _) = all.remove_region(GuestAddress(0x1000), 0x1000).unwrap();
        (all, ram)
    }

    fn chain_at(view: GuestView<'_>, message: u64, room: u64) -> Chain {
        view.all.write_slice(&bytes_of(1, 57), GuestAddress(message)).unwrap();
        let table = DescriptorTable { address: GuestAddress(0), count: 2 };
        view.all.write_obj(Descriptor::new(message, 57, 1, 1), GuestAddress(0)).unwrap();
        view.all.write_obj(Descriptor::new(room, 100, 2, 0), GuestAddress(16)).unwrap();
        let mut chain = Chain::default();
        chain.walk(view, table, 0, false).unwrap();
        chain
    }

    #[test]
    fn no_message_is_copied_out_of_the_window() {
        let (all, ram) = halves();
        let view = GuestView { ram: &ram, all: &all };
        for (message, readable) in [(0x100, true), (0x1100, false)] {
            let chain = chain_at(view, message, 0x200);
            let copied = copy_out(chain.message(view), &mut Vec::new());
            assert_eq!(copied.is_some(), readable, "{message:#x}");
        }
    }

    #[test]
    fn no_reply_is_copied_into_the_window() {
        let (all, ram) = halves();
        let view = GuestView { ram: &ram, all: &all };
        for (room, used) in [(0x200, 26), (0x1200, 0)] {
            let chain = chain_at(view, 0x100, room);
            let sink = QueueSink { room: chain.room(view) };
            assert_eq!(sink.send(&[7; OUT_HEADER_LEN], Body::Bytes(&[9; 10])), used, "{room:#x}");
            let written: u8 = all.read_obj(GuestAddress(room)).unwrap();
            assert_eq!(written, if used > 0 { 7 } else { 0 }, "{room:#x}");
        }
    }

    #[test]
    fn no_table_of_descriptors_lies_in_the_window() {
        let (all, ram) = halves();
        let view = GuestView { ram: &ram, all: &all };
        all.write_obj(Descriptor::new(0x100, 57, 0, 0), GuestAddress(0x1800)).unwrap();
        let table = DescriptorTable { address: GuestAddress(0x1800), count: 1 };
        Chain::default().walk(&all, table, 0, false).unwrap();
        let walked = Chain::default().walk(view, table, 0, false);
        assert!(matches!(walked, Err(ChainError::TableOutsideMemory { .. })));
    }
}
