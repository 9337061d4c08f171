//! The virtqueue's end of a request: the message copied out, the answer copied in.

use super::chain::Chain;
use crate::io_vectors::IoVectors;
use crate::session::{Body, Sink};
use pinhole_protocol::{HEADER_LEN, OUT_HEADER_LEN, copied_len};
use std::cell::Cell;
use vm_memory::VolatileSlice;

/// The place of `opcode` in a request's header (`fuse_in_header`).
const OPCODE_AT: std::ops::Range<usize> = 4..8;

/// Copies the header and the arguments of a request into `message`, each byte once; returns what stands behind them,
/// still in the guest's memory. `None`: there is not even a header.
pub(super) fn copy_out<'m>(readable: &[VolatileSlice<'m>], message: &mut Vec<u8>) -> Option<IoVectors<'m>> {
    let readable_len = readable.iter().map(VolatileSlice::len).fold(0, usize::saturating_add);
    message.clear();
    if readable_len < HEADER_LEN {
        return None;
    }
    let mut rest = Rest { slices: readable, used: 0 };
    rest.append_to(message, HEADER_LEN);
    let opcode = message.get(OPCODE_AT).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())?;
    let copied = copied_len(u32::from_le_bytes(opcode), readable_len);
    rest.append_to(message, copied.saturating_sub(HEADER_LEN));
    Some(rest.vectors())
}

/// What has not been copied yet.
struct Rest<'s, 'm> {
    slices: &'s [VolatileSlice<'m>],
    /// Bytes of the first slice that are already copied.
    used: usize,
}

impl<'m> Rest<'_, 'm> {
    fn append_to(&mut self, message: &mut Vec<u8>, len: usize) {
        let mut at = message.len();
        message.resize(at.saturating_add(len), 0);
        while let (Some(first), Some(room)) = (self.slices.first(), message.get_mut(at..)) {
            if room.is_empty() {
                return;
            }
            let Ok(left) = first.offset(self.used) else { return };
            let copied = left.copy_to(room);
            at = at.saturating_add(copied);
            self.used = self.used.saturating_add(copied);
            if self.used >= first.len() {
                self.slices = self.slices.get(1..).unwrap_or_default();
                self.used = 0;
            }
        }
    }

    fn vectors(&self) -> IoVectors<'m> {
        skip(self.slices, self.used)
    }
}

/// The memory of `slices` behind their first `skipped` bytes.
fn skip<'m>(slices: &[VolatileSlice<'m>], skipped: usize) -> IoVectors<'m> {
    let mut vectors = IoVectors::empty();
    let mut skipped = skipped;
    for slice in slices {
        if skipped < slice.len()
            && let Ok(rest) = slice.offset(skipped)
        {
            vectors.push(rest);
        }
        skipped = skipped.saturating_sub(slice.len());
    }
    vectors
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
pub(super) struct QueueSink<'c, 'm> {
    chain: &'c Chain<'m>,
    outcome: &'c Outcome,
}

impl<'c, 'm> QueueSink<'c, 'm> {
    pub(super) const fn new(chain: &'c Chain<'m>, outcome: &'c Outcome) -> Self {
        Self { chain, outcome }
    }

    fn copy_in(&self, header: &[u8], body: &[u8]) {
        let mut parts = [header, body].into_iter();
        let mut part = parts.next().unwrap_or_default();
        for slice in &self.chain.writable {
            let mut used = 0;
            while let Ok(room) = slice.offset(used) {
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let len = room.len().min(part.len());
                if len == 0 {
                    break;
                }
                room.copy_from(part);
                part = part.get(len..).unwrap_or_default();
                used = used.saturating_add(len);
            }
        }
    }
}

impl Sink for QueueSink<'_, '_> {
    fn room(&self) -> usize {
        self.chain.writable_len()
    }

    fn data(&self, len: usize) -> IoVectors<'_> {
        let mut vectors = skip(&self.chain.writable, OUT_HEADER_LEN);
        vectors.truncate(len);
        vectors
    }

    fn send(&mut self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) {
        let len = match body {
            Body::Bytes(bytes) => {
                self.copy_in(header, bytes);
                bytes.len()
            }
            Body::InPlace(len) => {
                self.copy_in(header, &[]);
                len
            }
        };
        let used = OUT_HEADER_LEN.saturating_add(len).min(self.room());
        self.outcome.0.set(Some(u32::try_from(used).unwrap_or(u32::MAX)));
    }

    fn close(&mut self) {
        self.outcome.0.set(Some(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(pieces: &mut [Vec<u8>]) -> Vec<VolatileSlice<'_>> {
        pieces.iter_mut().map(|piece| VolatileSlice::from(piece.as_mut_slice())).collect()
    }

    /// A message with this opcode, cut into pieces of `piece` bytes.
    fn cut(opcode: u32, len: usize, piece: usize) -> Vec<Vec<u8>> {
        let mut bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes.chunks(piece).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn a_message_is_copied_whole_however_it_is_cut() {
        for piece in 1..60 {
            let mut pieces = cut(1, 57, piece);
            let whole = pieces.concat();
            let mut message = Vec::new();
            let payload = copy_out(&slices(&mut pieces), &mut message).unwrap();
            assert_eq!((message, payload.len()), (whole, 0), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_data_of_a_write_stays_in_guest_memory() {
        for piece in [1, 7, 80, 100] {
            let mut pieces = cut(16, 100, piece);
            let whole = pieces.concat();
            let mut message = Vec::new();
            let payload = copy_out(&slices(&mut pieces), &mut message).unwrap();
            assert_eq!(message, whole[..80], "in pieces of {piece}");
            assert_eq!(payload.len(), 20, "in pieces of {piece}");
        }
    }

    #[test]
    fn less_than_a_header_is_no_message() {
        let mut pieces = cut(1, 39, 10);
        assert!(copy_out(&slices(&mut pieces), &mut Vec::new()).is_none());
    }

    #[test]
    fn an_answer_is_split_over_the_guests_buffers() {
        for piece in 1..40 {
            let mut pieces: Vec<Vec<u8>> = [0; 36].chunks(piece).map(<[u8]>::to_vec).collect();
            let chain = Chain { readable: Vec::new(), writable: slices(&mut pieces) };
            let outcome = Outcome::default();
            let mut sink = QueueSink::new(&chain, &outcome);
            assert_eq!(sink.data(15).len(), 15);
            assert_eq!(sink.data(1000).len(), 20);
            sink.send(&[7; OUT_HEADER_LEN], Body::Bytes(b"0123456789"));
            assert_eq!(outcome.used_len(), Some(26), "in pieces of {piece}");
            let whole = pieces.concat();
            assert_eq!(whole[..16], [7; 16], "in pieces of {piece}");
            assert_eq!(&whole[16..26], b"0123456789", "in pieces of {piece}");
            assert_eq!(whole[26..], [0; 10], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_request_given_back_without_an_answer_has_no_used_length() {
        let chain = Chain::default();
        let outcome = Outcome::default();
        QueueSink::new(&chain, &outcome).close();
        assert_eq!(outcome.used_len(), Some(0));
    }
}
