//! The virtqueue's end of a request: the message copied out, the answer copied in.

use super::chain::Chain;
use crate::guest_view::GuestView;
use crate::io_vectors::IoVectors;
use crate::session::{Body, Sink};
use pinhole_protocol::{HEADER_LEN, OUT_HEADER_LEN, Opcode, copied_len};
use std::cell::Cell;

/// Copies the header and the arguments of a request into `message`, each byte once. What stands behind them is still
/// in the guest's memory: `readable.after(message.len())`. `None`: there is not even a header, or it is not in memory of
/// which a copy may be made.
pub(super) fn copy_out(readable: IoVectors<'_>, message: &mut Vec<u8>) -> Option<()> {
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

/// How a request was given back: the used length. `None` until it was.
#[derive(Debug, Default)]
pub(super) struct Outcome(Cell<Option<u32>>);

impl Outcome {
    pub(super) const fn used_len(&self) -> Option<u32> {
        self.0.get()
    }
}

/// The reply buffers of one chain.
#[derive(Debug)]
pub(super) struct QueueSink<'c> {
    room: IoVectors<'c>,
    outcome: &'c Outcome,
}

impl<'c> QueueSink<'c> {
    /// `memory` is the one that `chain` was checked against.
    pub(super) fn new(chain: &'c Chain, memory: GuestView<'c>, outcome: &'c Outcome) -> Self {
        Self { room: chain.room(memory), outcome }
    }
}

impl Sink for QueueSink<'_> {
    fn room(&self) -> usize {
        self.room.len()
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        self.room.after(OUT_HEADER_LEN).first(len)
    }

    fn send(&mut self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) {
        let (len, whole) = match body {
            Body::Bytes(bytes) => {
                let copied = self.room.after(OUT_HEADER_LEN).copy_from(bytes);
                (bytes.len(), copied == bytes.len())
            }
            Body::InPlace(len) => (len, true),
        };
        let whole = self.room.copy_from(header) == OUT_HEADER_LEN && whole;
        let used = OUT_HEADER_LEN.saturating_add(len).min(self.room());
        // Where the answer cannot be written, nothing has been.
        let used = if whole { used } else { 0 };
        self.outcome.0.set(Some(u32::try_from(used).unwrap_or(u32::MAX)));
    }

    fn close(&mut self) {
        self.outcome.0.set(Some(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::transport::chain::Table;
    use virtio_queue::desc::split::Descriptor;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

    /// `bytes` in the guest's memory in pieces of `piece` bytes, which are all readable or all writable.
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
        let table = Table { address: GuestAddress(0), count: 128 };
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
    fn a_message_is_copied_whole_however_it_is_cut() {
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
    fn an_answer_is_split_over_the_guests_buffers() {
        for piece in 1..40 {
            let (memory, chain) = chain_of(&[0; 36], piece, true);
            let outcome = Outcome::default();
            let mut sink = QueueSink::new(&chain, (&memory).into(), &outcome);
            assert_eq!(sink.data(15).len(), 15);
            assert_eq!(sink.data(1000).len(), 20);
            sink.send(&[7; OUT_HEADER_LEN], Body::Bytes(b"0123456789"));
            assert_eq!(outcome.used_len(), Some(26), "in pieces of {piece}");
            let mut whole = vec![0xff; 36];
            chain.room(&memory).copy_to(&mut whole);
            assert_eq!(whole[..16], [7; 16], "in pieces of {piece}");
            assert_eq!(&whole[16..26], b"0123456789", "in pieces of {piece}");
            assert_eq!(whole[26..], [0; 10], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_request_given_back_without_an_answer_has_no_used_length() {
        let (memory, chain) = (GuestMemoryMmap::new(), Chain::default());
        let outcome = Outcome::default();
        QueueSink::new(&chain, (&memory).into(), &outcome).close();
        assert_eq!(outcome.used_len(), Some(0));
    }

    /// A message of 57 bytes and a room of 100, of which one half is RAM and the other memory of the window.
    fn halves() -> (GuestMemoryMmap, GuestMemoryMmap) {
        let places = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let all = GuestMemoryMmap::from_ranges(&places).unwrap();
        let (ram, _) = all.remove_region(GuestAddress(0x1000), 0x1000).unwrap();
        (all, ram)
    }

    fn chain_at(view: GuestView<'_>, message: u64, room: u64) -> Chain {
        view.all.write_slice(&bytes_of(1, 57), GuestAddress(message)).unwrap();
        let table = Table { address: GuestAddress(0), count: 2 };
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
    fn no_answer_is_copied_into_the_window_and_none_is_claimed() {
        let (all, ram) = halves();
        let view = GuestView { ram: &ram, all: &all };
        for (room, used) in [(0x200, 26), (0x1200, 0)] {
            let chain = chain_at(view, 0x100, room);
            let outcome = Outcome::default();
            let mut sink = QueueSink::new(&chain, view, &outcome);
            sink.send(&[7; OUT_HEADER_LEN], Body::Bytes(&[9; 10]));
            assert_eq!(outcome.used_len(), Some(used), "{room:#x}");
            let written: u8 = all.read_obj(GuestAddress(room)).unwrap();
            assert_eq!(written, if used > 0 { 7 } else { 0 }, "{room:#x}");
        }
    }

    #[test]
    fn no_table_of_descriptors_lies_in_the_window() {
        let (all, ram) = halves();
        let view = GuestView { ram: &ram, all: &all };
        all.write_obj(Descriptor::new(0x100, 57, 0, 0), GuestAddress(0x1800)).unwrap();
        let table = Table { address: GuestAddress(0x1800), count: 1 };
        Chain::default().walk(&all, table, 0, false).unwrap();
        let walked = Chain::default().walk(view, table, 0, false);
        assert!(matches!(walked, Err(crate::transport::chain::ChainError::TableOutsideMemory { .. })));
    }
}
