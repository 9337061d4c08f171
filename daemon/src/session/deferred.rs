//! Deferred requests: they wait for the front-end, for a lock or for a file system to be durable,
//! and hold no thread meanwhile.

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

/// What a deferred request waits for.
#[derive(Debug)]
pub(super) enum WaitsFor {
    FrontEnd(Arc<Pending>, Then),
    Lock(Box<LockWait>),
    Sync(Arc<SyncTurn>),
}

/// What is done when the front-end has done its part.
#[derive(Debug)]
pub(super) enum Then {
    /// Its result is the reply.
    Answer,
    /// INIT is carried out, with the window or without.
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

    /// Returns the error for a request that must not go on waiting, because its queue is being
    /// stopped or has too many deferred requests. `None`: it does not take long.
    ///
    /// The requests of a stopped queue must be answered. EAGAIN tells the caller in the guest the
    /// truth. The guest's kernel does not pass on EINTR if no signal has come.
    pub const fn refusal(&self) -> Option<Errno> {
        match self.on {
            WaitsFor::FrontEnd(..) | WaitsFor::Sync(_) => None,
            WaitsFor::Lock(_) => Some(Errno::EAGAIN),
        }
    }

    /// Ends the wait of a request whose queue is being stopped, if it can be served again later and
    /// `put_back` puts it back into its queue. False: it waits on, or has its result.
    pub fn put_back(&self, put_back: impl FnOnce() -> bool) -> bool {
        match &self.on {
            WaitsFor::FrontEnd(..) => false,
            WaitsFor::Lock(_) => put_back(),
            // Not if there is a result: the host reports an error once.
            WaitsFor::Sync(turn) => turn.leave(put_back),
        }
    }
}
