//! The loop of one queue: take a request, serve it, give it back, and sleep when there is none.

use super::ring::{Job, Ring, RingError, StopSignal};
use crate::host::FileSystem;
use crate::limits::{GUEST_ERROR_LOG_PERIOD, MESSAGE_BUFFER_KEPT, SIGNAL_BATCH_MAX};
use crate::session::{Scratch, Session};
use crate::transport::chain::{Chain, ChainError, Table};
use crate::transport::sink::{Outcome, QueueSink, copy_out};
use rustix::event::{PollFd, PollFlags};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::GuestMemoryMmap;

/// What one queue's worker needs.
#[derive(Debug)]
pub(super) struct Worker<F> {
    /// 0 is hiprio.
    pub(super) index: usize,
    pub(super) session: Arc<Session<F>>,
    /// The virtio features that the guest has acknowledged.
    pub(super) acked_features: Arc<AtomicU64>,
}

impl<F: FileSystem + 'static> Job for Worker<F> {
    fn name(&self) -> String {
        if self.index == 0 { "hiprio".to_owned() } else { format!("request-{}", self.index) }
    }

    fn run(&self, ring: &Ring, kick: &File, stop: &StopSignal) -> Result<(), RingError> {
        self.session.enter_thread().map_err(RingError::Thread)?;
        ring.check()?;
        let mut desk = Desk {
            queue: self.name(),
            message: Vec::new(),
            scratch: Scratch::default(),
            log: RateLimit::default(),
        };
        loop {
            // What came before the first kick, or while there was no worker, is served at once.
            self.serve_available(ring, stop, &mut desk)?;
            if !wait(kick, stop)? {
                return Ok(());
            }
        }
    }
}

/// What a worker keeps from request to request.
struct Desk {
    queue: String,
    message: Vec<u8>,
    scratch: Scratch,
    log: RateLimit,
}

impl<F: FileSystem + 'static> Worker<F> {
    /// Serves until the ring is empty and the guest has been asked to kick for what comes next.
    fn serve_available(&self, ring: &Ring, stop: &StopSignal, desk: &mut Desk) -> Result<(), RingError> {
        loop {
            ring.disable_notification()?;
            let drained = self.serve_burst(ring, stop, desk)?;
            if !drained || !ring.enable_notification()? {
                return Ok(());
            }
        }
    }

    /// Serves until the ring is empty (true) or the worker is to stop (false).
    fn serve_burst(&self, ring: &Ring, stop: &StopSignal, desk: &mut Desk) -> Result<bool, RingError> {
        let mut unsignalled: usize = 0;
        let outcome = loop {
            if stop.requested() {
                break Ok(false);
            }
            match self.serve_one(ring, desk) {
                Ok(true) => unsignalled = unsignalled.saturating_add(1),
                Ok(false) => break Ok(true),
                Err(error) => break Err(error),
            }
            if unsignalled >= SIGNAL_BATCH_MAX {
                ring.signal()?;
                unsignalled = 0;
            }
        };
        // Also where the ring broke: what was answered before, was answered.
        if unsignalled > 0 {
            ring.signal()?;
        }
        outcome
    }

    /// Serves one request; false: there was none.
    fn serve_one(&self, ring: &Ring, desk: &mut Desk) -> Result<bool, RingError> {
        let (_busy, memory) = ring.begin();
        let Some((head, table)) = ring.next_head(&memory)? else {
            return Ok(false);
        };
        let used_len = self.serve_chain(&memory, head, table, desk);
        ring.add_used(&memory, head, used_len)?;
        Ok(true)
    }

    /// Serves the request at `head`; returns its used length in bytes. A chain that is malformed is given back
    /// untouched (used length 0): where it cannot be trusted to be read, it is not written to either.
    fn serve_chain(&self, memory: &GuestMemoryMmap, head: u16, table: Table, desk: &mut Desk) -> u32 {
        let indirect = self.acked_features.load(Ordering::Acquire) & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0;
        let chain = match Chain::walk(memory, table, head, indirect) {
            Ok(chain) => chain,
            Err(error) => {
                desk.refused(head, &Refused::Chain(error));
                return 0;
            }
        };
        let Some(payload) = copy_out(&chain.readable, &mut desk.message) else {
            desk.refused(head, &Refused::NoHeader(chain.readable_len()));
            return 0;
        };
        let outcome = Outcome::default();
        let sink = QueueSink::new(&chain, &outcome);
        let served = catch_unwind(AssertUnwindSafe(|| {
            self.session.serve(&desk.message, &payload, sink, &mut desk.scratch);
        }));
        if served.is_err() {
            // The slot has answered EIO on its way out.
            tracing::error!(queue = desk.queue, "a request ended by a panic; this is a bug in pinhole");
            desk.scratch = Scratch::default();
        }
        desk.message.clear();
        desk.message.shrink_to(MESSAGE_BUFFER_KEPT);
        outcome.used_len().unwrap_or(0)
    }
}

/// Why a request was given back unread.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("malformed descriptor chain: {0}")]
    Chain(ChainError),
    #[error("a message of {0} bytes has no header")]
    NoHeader(usize),
}

impl Desk {
    fn refused(&mut self, head: u16, why: &Refused) {
        if let Some(suppressed) = self.log.pass() {
            tracing::warn!(queue = self.queue, head, suppressed, "request refused: {why}");
        }
    }
}

/// Lets one message through in each period.
#[derive(Debug, Default)]
struct RateLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// How many were held back since the last that passed; `None`: this one is held back.
    fn pass(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < GUEST_ERROR_LOG_PERIOD) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Sleeps until the guest kicks (true) or the worker is to stop (false).
fn wait(kick: &File, stop: &StopSignal) -> Result<bool, RingError> {
    loop {
        let mut polled = [PollFd::new(kick, PollFlags::IN), PollFd::new(stop.event(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(RingError::Kick(error.into())),
        }
        if stop.requested() {
            return Ok(false);
        }
        let [kicked, _] = polled;
        if kicked.revents().is_empty() {
            continue;
        }
        let mut count = [0; 8];
        return match rustix::io::read(kick, &mut count) {
            // Where someone else took it, the ring is looked at all the same.
            Ok(8) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(true),
            Ok(_) => Err(RingError::Kick(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(RingError::Kick(error.into())),
        };
    }
}
