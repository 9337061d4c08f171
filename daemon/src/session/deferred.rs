//! Deferred requests: they wait for the front-end, for a lock or for a sync of a file system, and
//! hold no thread meanwhile.

use super::waiters::LockWait;
use crate::filesystem::SyncTurn;
use crate::window::{GuestGeneration, Pending};
use pinhole_protocol::{Errno, InitRequest, Unique};
use std::sync::Arc;

/// A deferred request. Its transport keeps it and asks [`Session::deferred_result`] whenever
/// [`Session::wake_event`] is notified, or when [`Session::next_look`] says so.
///
/// [`Session::deferred_result`]: super::Session::deferred_result
/// [`Session::wake_event`]: super::Session::wake_event
/// [`Session::next_look`]: super::Session::next_look
#[derive(Debug)]
pub struct Deferred {
    pub(super) unique: Unique,
    pub(super) on: WaitsFor,
}

/// The event that a deferred request waits for.
#[derive(Debug)]
pub(super) enum WaitsFor {
    FrontEnd(Arc<Pending>, Then),
    Lock(Box<LockWait>),
    Sync(Arc<SyncTurn>),
}

/// The step after the front-end has replied.
#[derive(Debug)]
pub(super) enum Then {
    /// Reply with its result.
    Answer,
    /// Carry out INIT, with the window or without it.
    Init(InitRequest, GuestGeneration),
}

impl Deferred {
    pub(super) const fn for_front_end(unique: Unique, pending: Arc<Pending>, then: Then) -> Self {
        Self { unique, on: WaitsFor::FrontEnd(pending, then) }
    }

    pub(super) fn for_lock(unique: Unique, wait: LockWait) -> Self {
        Self { unique, on: WaitsFor::Lock(Box::new(wait)) }
    }

    pub(super) const fn for_sync(unique: Unique, turn: Arc<SyncTurn>) -> Self {
        Self { unique, on: WaitsFor::Sync(turn) }
    }

    /// Returns the error for a request that must not wait any longer, because its queue is being
    /// stopped or has too many deferred requests. `None`: its wait is short.
    ///
    /// The requests of a stopped queue must be answered. The error is EAGAIN, because the guest's
    /// kernel does not pass on EINTR without a signal.
    pub const fn refusal(&self) -> Option<Errno> {
        match self.on {
            WaitsFor::FrontEnd(..) | WaitsFor::Sync(_) => None,
            WaitsFor::Lock(_) => Some(Errno::EAGAIN),
        }
    }

    /// Ends the wait of a request whose queue is being stopped, if it can be served again later and
    /// `put_back` returns it to its queue. False: it still waits, or has its result.
    pub fn put_back(&self, put_back: impl FnOnce() -> bool) -> bool {
        match &self.on {
            WaitsFor::FrontEnd(..) => false,
            WaitsFor::Lock(_) => put_back(),
            // A request with a result stays: the host reports an error only once.
            WaitsFor::Sync(turn) => turn.leave(put_back),
        }
    }
}
