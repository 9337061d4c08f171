//! The place for the reply to one request.

use crate::io_vectors::IoVectors;
use pinhole_protocol::{Errno, OUT_HEADER_LEN, Unique, out_header};
use std::sync::atomic::{AtomicU64, Ordering};

/// The body of a reply, after its header.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Bytes to be copied to the guest.
    Bytes(&'a [u8]),
    /// Number of bytes that the host has already put into [`Sink::data`].
    InPlace(usize),
}

/// The transport's end of a request: the guest's reply buffers and the way to give the request
/// back.
///
/// A sink is consumed when the request is given back, so that happens at most once. [`ReplySlot`]
/// makes sure that it happens.
pub trait Sink: Sized {
    /// Result of giving the request back, for the transport. The default stands for a request
    /// without a reply.
    type Receipt: Default;

    /// Returns the bytes that the guest left for the reply, including its header.
    fn room(&self) -> usize;

    /// Returns the memory behind the header: `len` bytes, or less if there is less.
    fn data(&self, len: usize) -> IoVectors<'_>;

    /// Gives the request back with a reply. Header and body fit into [`Sink::room`].
    fn send(self, header: &[u8; OUT_HEADER_LEN], body: Body<'_>) -> Self::Receipt;
}

/// Counts replies that went wrong.
#[derive(Debug, Default)]
pub struct SlotCounters {
    /// Requests that got EIO because a bug left them without a reply.
    pub dropped: AtomicU64,
    /// Replies for which the guest left no room.
    pub without_room: AtomicU64,
}

/// A request that must be answered exactly once.
///
/// The reply consumes the slot. A slot that is dropped replies EIO and counts that.
#[derive(Debug)]
#[must_use = "dropping a slot answers EIO"]
pub struct ReplySlot<'c, S: Sink> {
    sink: Option<S>,
    unique: Unique,
    counters: &'c SlotCounters,
}

impl<'c, S: Sink> ReplySlot<'c, S> {
    /// Makes the slot of the request `unique`.
    pub const fn new(sink: S, unique: Unique, counters: &'c SlotCounters) -> Self {
        Self { sink: Some(sink), unique, counters }
    }

    /// Returns the bytes that the guest left behind the header.
    pub fn room(&self) -> usize {
        self.sink.as_ref().map_or(0, Sink::room).saturating_sub(OUT_HEADER_LEN)
    }

    /// Returns the memory behind the header: `len` bytes, or less if there is less.
    pub fn data(&self, len: usize) -> IoVectors<'_> {
        self.sink.as_ref().map_or_else(IoVectors::empty, |sink| sink.data(len))
    }

    /// Answers with success and a body.
    pub fn answer(mut self, body: Body<'_>) -> S::Receipt {
        let len = match body {
            Body::Bytes(bytes) => bytes.len(),
            Body::InPlace(len) => len,
        };
        let needed = OUT_HEADER_LEN.saturating_add(len);
        if self.sink.as_ref().is_none_or(|sink| sink.room() < needed) {
            self.counters.without_room.fetch_add(1, Ordering::Relaxed);
            return self.refuse(Errno::EIO);
        }
        self.send(None, len, body)
    }

    /// Answers with an error.
    pub fn refuse(mut self, errno: Errno) -> S::Receipt {
        self.send(Some(errno), 0, Body::Bytes(&[]))
    }

    /// Answers EIO because of a bug, and counts that.
    pub fn fail(mut self) -> S::Receipt {
        self.fail_in_place()
    }

    /// Gives the request back without a reply, as for FORGET.
    pub fn close(self) -> S::Receipt {
        self.keep();
        S::Receipt::default()
    }

    /// Leaves the request without a reply for now: it is served again, or answered later.
    pub(super) fn keep(mut self) {
        self.sink = None;
    }

    fn fail_in_place(&mut self) -> S::Receipt {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        self.send(Some(Errno::EIO), 0, Body::Bytes(&[]))
    }

    fn send(&mut self, errno: Option<Errno>, len: usize, body: Body<'_>) -> S::Receipt {
        let sink = self.sink.take().filter(|sink| sink.room() >= OUT_HEADER_LEN);
        sink.map(|sink| sink.send(&out_header(self.unique, errno, len), body)).unwrap_or_default()
    }
}

impl<S: Sink> Drop for ReplySlot<'_, S> {
    fn drop(&mut self) {
        if self.sink.is_some() {
            drop(self.fail_in_place());
        }
    }
}
