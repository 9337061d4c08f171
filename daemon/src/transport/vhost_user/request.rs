//! One request between the rings: what it says, where its answer goes, and how it is served.

use crate::host::FileSystem;
use crate::limits::{GUEST_ERROR_LOG_PERIOD, MESSAGE_BUFFER_KEPT};
use crate::session::{Pace, Scratch, Served, Session};
use crate::transport::chain::{Chain, ChainError, Table};
use crate::transport::sink::{Outcome, QueueSink, copy_out};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use vm_memory::GuestMemoryMmap;

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
    #[error("a message of {0} bytes has no header")]
    NoHeader(usize),
}

/// How serving it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is to be given back with this used length.
    Answered(u32),
    /// It is to be served again, patiently.
    WouldWait,
}

impl Taken {
    /// Follows the chain at `head` and copies the message out. One that is malformed is to be given back untouched
    /// (used length 0): where it cannot be trusted to be read, it is not written to either.
    pub(super) fn read(
        &mut self,
        memory: &GuestMemoryMmap,
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

    /// Bytes in both directions.
    pub(super) const fn len(&self) -> u32 {
        self.chain.len()
    }

    /// Bytes of our own memory that this takes.
    pub(super) const fn footprint(&self) -> usize {
        self.chain.footprint().saturating_add(self.message.capacity())
    }

    /// Serves it in the `memory` in which it was read.
    pub(super) fn serve<F: FileSystem>(
        &self,
        session: &Session<F>,
        memory: &GuestMemoryMmap,
        pace: Pace,
        scratch: &mut Scratch,
    ) -> Fate {
        let outcome = Outcome::default();
        let payload = self.chain.message(memory).after(self.message.len());
        let sink = QueueSink::new(&self.chain, memory, &outcome);
        let served = catch_unwind(AssertUnwindSafe(|| {
            match session.serve((&self.message, payload), sink, pace, scratch) {
                Served::WouldWait(_sink) => Fate::WouldWait,
                Served::Done => Fate::Answered(0),
            }
        }));
        match served {
            Ok(Fate::WouldWait) => return Fate::WouldWait,
            Ok(Fate::Answered(_)) => {}
            Err(_) => {
                // The slot has answered EIO on its way out.
                tracing::error!("a request ended by a panic; this is a bug in pinhole");
                scratch.start_over();
            }
        }
        Fate::Answered(outcome.used_len().unwrap_or(0))
    }
}

/// Lets one message through in each period.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// How many were held back since the last that passed; `None`: this one is held back.
    pub(super) fn pass(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < GUEST_ERROR_LOG_PERIOD) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
    }
}
