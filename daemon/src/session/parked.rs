//! Requests that wait for somebody else than the host: for the front-end, or for a lock.

use super::dax::Then;
use super::locks::LockWait;
use super::window::Pending;
use super::{Scratch, Session};
use crate::bell::Bell;
use crate::host::{Answer, FileSystem};
use pinhole_protocol::{Errno, Unique};
use std::sync::Arc;
use std::time::Instant;

/// A request that waits, without a thread. Its transport keeps it and asks [`Session::outcome`] whenever
/// [`Session::bell`] is rung, or when [`Session::look_again`] says so.
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
}

impl Parked {
    pub(super) fn for_lock(unique: Unique, wait: LockWait) -> Self {
        Self { unique, on: On::Lock(Box::new(wait)) }
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
            On::FrontEnd(..) => None,
            On::Lock(_) => Some(Errno::EAGAIN),
        }
    }
}

impl<F: FileSystem> Session<F> {
    /// Rung when a parked request may have come to something.
    pub fn bell(&self) -> &Arc<Bell> {
        self.filesystem.bell()
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
        }
    }

    /// When to ask again, if the bell is not rung before.
    pub fn look_again(&self, parked: &Parked) -> Option<Instant> {
        match &parked.on {
            On::FrontEnd(pending, _) => self.window.as_ref().map(|window| window.time_of(pending)),
            On::Lock(wait) => Some(wait.until()),
        }
    }
}
