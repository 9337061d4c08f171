//! Requests that wait without a thread: for the front-end, for a lock, or for a file system to be durable.

use super::dax::Then;
use super::locks::LockWait;
use super::{Scratch, Session};
use crate::filesystem::{Answer, FileSystem, SyncTurn};
use crate::sync::event::EventCounter;
use crate::window::Pending;
use pinhole_protocol::{Errno, Unique};
use std::sync::Arc;
use std::time::Instant;

/// A request that waits, without a thread. Its transport keeps it and asks [`Session::outcome`] whenever
/// [`Session::wake_event`] is notified, or when [`Session::look_again`] says so.
#[derive(Debug, PartialEq)]
pub struct Parked {
    pub(super) unique: Unique,
    pub(super) on: On,
}

/// What it waits for.
#[derive(Debug, PartialEq)]
pub(super) enum On {
    FrontEnd(Arc<Pending>, Then),
    Lock(Box<LockWait>),
    Sync(Arc<SyncTurn>),
}

impl Parked {
    pub(super) fn for_lock(unique: Unique, wait: LockWait) -> Self {
        Self { unique, on: On::Lock(Box::new(wait)) }
    }

    pub(super) const fn for_sync(unique: Unique, turn: Arc<SyncTurn>) -> Self {
        Self { unique, on: On::Sync(turn) }
    }

    pub(super) const fn unique(&self) -> Unique {
        self.unique
    }

    /// What it is answered where it cannot go on waiting, because its queue is being stopped or has too many that wait.
    /// `None`: it does not take long.
    ///
    /// A stopped queue's requests have to be answered. To a caller in the guest EAGAIN says what is true; EINTR would
    /// come out of its kernel as no errno at all where no signal has come.
    pub const fn gives_way(&self) -> Option<Errno> {
        match self.on {
            On::FrontEnd(..) | On::Sync(_) => None,
            On::Lock(_) => Some(Errno::EAGAIN),
        }
    }
}

impl Parked {
    /// Ends its wait where its queue is being stopped, if it can be served again later and `put_back` puts it back into its
    /// queue. False: it waits on, or has come to something.
    pub fn put_back(&self, put_back: impl FnOnce() -> bool) -> bool {
        match &self.on {
            On::FrontEnd(..) => false,
            On::Lock(_) => put_back(),
            // Not where there is an outcome: the host tells an error once.
            On::Sync(turn) => turn.leave(put_back),
        }
    }
}

impl<F: FileSystem> Session<F> {
    /// Rung when a parked request may have come to something.
    pub const fn wake_event(&self) -> &Arc<EventCounter> {
        &self.wake
    }

    /// What it has come to; `None`: it waits on. A panic on the way is EIO: its reply must go back whatever happens,
    /// because a queue that is stopped waits for it.
    pub fn outcome(&self, parked: &Parked, scratch: &mut Scratch) -> Option<Answer<()>> {
        self.survive(scratch, |scratch| self.look(parked, scratch)).unwrap_or(Some(Err(Errno::EIO)))
    }

    fn look(&self, parked: &Parked, scratch: &Scratch) -> Option<Answer<()>> {
        match (&parked.on, &self.window) {
            (On::FrontEnd(pending, _), Some(window)) => window.outcome(pending),
            (On::FrontEnd(..), None) => Some(Err(Errno::EIO)),
            (On::Lock(wait), _) => self.lock_outcome(wait, scratch),
            (On::Sync(turn), _) => turn.outcome(),
        }
    }

    /// When to ask again, if there is no notification before.
    pub fn look_again(&self, parked: &Parked) -> Option<Instant> {
        match &parked.on {
            On::FrontEnd(pending, _) => self.window.as_ref().map(|window| window.time_of(pending)),
            On::Lock(wait) => Some(wait.until()),
            On::Sync(_) => None,
        }
    }
}
