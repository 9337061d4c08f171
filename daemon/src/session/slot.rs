//! The place where one answer goes.

use crate::io_vectors::IoVectors;
use pinhole_protocol::{Errno, OUT_HEADER_LEN, Unique, out_header};
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands behind the out header of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// These bytes, to be copied to the guest.
    Bytes(&'a [u8]),
    /// So many bytes that the host has already put into [`Sink::data`].
    InPlace(usize),
}

/// The transport's end of a request: the guest's reply buffers and the way to give the request back.
///
/// Exactly one of [`Sink::send`] and [`Sink::close`] is called, once; [`ReplySlot`] sees to it.
pub trait Sink {
    /// Bytes that the guest left for the answer, out header included.
    fn room(&self) -> usize;

    /// The memory behind the out header, `len` bytes of it or all that there is.
    fn data(&self, len: usize) -> IoVectors<'_>;

    /// Gives the request back with an answer. Header and body fit into [`Sink::room`]; the used length is the sum.
    fn send(&mut self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>);

    /// Gives the request back without an answer (used length 0): FORGET, or no room for a header.
    fn close(&mut self);
}

/// Answers that did not go as they should; for logs and `pinhole top`.
#[derive(Debug, Default)]
pub struct SlotCounters {
    /// Slots dropped unanswered: a bug of ours that the guest saw as EIO.
    pub dropped: AtomicU64,
    /// Answers for which the guest had left no room.
    pub without_room: AtomicU64,
}

/// A request that must be answered exactly once. Consumed by its answer; dropped unanswered, it answers EIO and
/// counts.
#[derive(Debug)]
#[must_use = "dropping a slot answers EIO"]
pub struct ReplySlot<'c, S: Sink> {
    sink: Option<S>,
    unique: Unique,
    counters: &'c SlotCounters,
}

impl<'c, S: Sink> ReplySlot<'c, S> {
    /// The slot of the request `unique`.
    pub const fn new(sink: S, unique: Unique, counters: &'c SlotCounters) -> Self {
        Self { sink: Some(sink), unique, counters }
    }

    /// Bytes that the guest left behind the out header.
    pub fn room(&self) -> usize {
        self.sink.as_ref().map_or(0, Sink::room).saturating_sub(OUT_HEADER_LEN)
    }

    /// The memory behind the out header, `len` bytes of it or all that there is.
    pub fn data(&self, len: usize) -> IoVectors<'_> {
        self.sink.as_ref().map_or_else(IoVectors::empty, |sink| sink.data(len))
    }

    /// Answers with success and a body.
    pub fn answer(mut self, body: Body<'_>) {
        let len = match body {
            Body::Bytes(bytes) => bytes.len(),
            Body::InPlace(len) => len,
        };
        if len > self.room() || !self.has_header_room() {
            self.counters.without_room.fetch_add(1, Ordering::Relaxed);
            return self.refuse(Errno::EIO);
        }
        let unique = self.unique;
        self.give_back(|sink| sink.send(&out_header(unique, None, len), body));
    }

    /// Answers with an error.
    pub fn refuse(mut self, errno: Errno) {
        self.refuse_in_place(errno);
    }

    /// Gives the request back unanswered, as FORGET wants it.
    pub fn close(mut self) {
        self.give_back(S::close);
    }

    /// Hands the sink back unanswered, for the request to be served again.
    pub(super) fn hand_back(mut self) -> Option<S> {
        self.sink.take()
    }

    fn refuse_in_place(&mut self, errno: Errno) {
        if !self.has_header_room() {
            return self.give_back(S::close);
        }
        let unique = self.unique;
        self.give_back(|sink| sink.send(&out_header(unique, Some(errno), 0), Body::Bytes(&[])));
    }

    fn has_header_room(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.room() >= OUT_HEADER_LEN)
    }

    fn give_back(&mut self, how: impl FnOnce(&mut S)) {
        if let Some(mut sink) = self.sink.take() {
            how(&mut sink);
        }
    }
}

impl<S: Sink> Drop for ReplySlot<'_, S> {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.refuse_in_place(Errno::EIO);
        }
    }
}
