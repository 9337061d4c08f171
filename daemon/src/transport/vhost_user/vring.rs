//! Adapter between the rings of the crate vhost-user-backend and those of the daemon.
//!
//! The crate's rings do not know queue threads. [`QueueVring`] wraps one and adjusts the daemon's
//! ring after every change that the front-end makes: a thread serves the ring exactly while the
//! ring has addresses and a kick event and is ready and enabled. A stop waits for the thread, which
//! ends its current request first. That is the drain which GET_VRING_BASE, a reset and a lost
//! connection need (`docs/decisions/0003-one-thread-per-queue.md`). Each workaround for the crate
//! has a comment.

use super::ring::{Memory, Ring};
use rustix::fs::OFlags;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::Arc;
use vhost_user_backend::{VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT as _};

/// Bytes of flags and index at the start of a used ring.
const USED_HEADER_LEN: usize = 4;

thread_local! {
    /// Rings made on this thread since [`made_by`] began. Workaround: the crate makes them itself
    /// and does not return them.
    static MADE: RefCell<Vec<QueueVring>> = const { RefCell::new(Vec::new()) };
}

/// Runs `make`. Returns its result and the rings that the crate made meanwhile, in the order of
/// their index.
pub(super) fn made_by<T>(make: impl FnOnce() -> T) -> (T, Vec<QueueVring>) {
    MADE.with_borrow_mut(Vec::clear);
    let result = make();
    (result, MADE.with_borrow_mut(std::mem::take))
}

/// Makes an event of the front-end non-blocking: a queue thread that waits in a write to a full
/// call event, or in a read of a kick event that is empty, could not be stopped.
fn unblock(ring: &Ring, event: Option<&File>) {
    let Some(event) = event else { return };
    let outcome = rustix::fs::fcntl_getfl(event)
        .and_then(|flags| rustix::fs::fcntl_setfl(event, flags | OFlags::NONBLOCK));
    if let Err(error) = outcome {
        ring.complain(|suppressed| {
            tracing::warn!(%error, suppressed, "an event of the front-end may block");
        });
    }
}

/// A ring as the crate sees it.
#[derive(Clone, Debug)]
pub(super) struct QueueVring {
    ring: Arc<Ring>,
}

impl QueueVring {
    pub(super) const fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
}

impl<'a> VringStateGuard<'a, Memory> for QueueVring {
    type G = std::sync::MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for QueueVring {
    type G = std::sync::MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for QueueVring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let ring = Self { ring: Arc::new(Ring::new(memory, max_queue_size)?) };
        MADE.with_borrow_mut(|made| made.push(ring.clone()));
        Ok(ring)
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.ring.vring().get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.ring.vring().get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.ring.vring().add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.ring.vring().signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.ring.vring().enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.ring.vring().disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.ring.vring().needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.ring.reconfigure(|vring, state| {
            vring.set_enabled(enabled);
            state.enabled = enabled;
        });
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        // The crate reads the used index from the ring next and sets it. Until then no thread may
        // move it.
        self.ring.reconfigure(|vring, state| {
            state.addressed = false;
            vring.set_queue_info(desc_table, avail_ring, used_ring)
        })
    }

    fn queue_next_avail(&self) -> u16 {
        self.ring.vring().queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.ring.reconfigure(|vring, _| vring.set_queue_next_avail(base));
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_next_used(idx);
            state.addressed = true;
        });
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        let used_ring = self.ring.vring().get_ref().get_queue().used_ring();
        // Workaround: the crate itself reads the index, also from memory that only data may use.
        if !self.ring.is_ram(used_ring, USED_HEADER_LEN) {
            return Err(QueueError::FindMemoryRegion);
        }
        self.ring.vring().queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_size(num);
            // Workaround: the crate keeps its old size if it refuses the new one. A ring of two
            // sizes must not be served.
            state.sized = num.is_power_of_two();
        });
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.ring.reconfigure(|vring, _| vring.set_queue_event_idx(enabled));
    }

    fn set_queue_ready(&self, ready: bool) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_ready(ready);
            state.ready = ready;
        });
    }

    fn set_kick(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.reconfigure(|vring, state| {
            // The crate needs to know that there is an event. The queue thread waits for this copy.
            state.kick = file.as_ref().and_then(|file| {
                let kept = file.try_clone();
                kept.inspect_err(|error| {
                    self.ring.complain(|suppressed| {
                        tracing::error!(%error, suppressed, "cannot keep a kick event");
                    });
                })
                .ok()
            });
            vring.set_kick(file);
        });
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.ring.vring().read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.set_error_event(file);
    }
}
