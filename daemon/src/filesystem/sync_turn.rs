//! The result of a request that makes data durable, shared by several requests.

use crate::limits::SYNC_WAITERS_MAX;
use crate::sync::lock::{Condvar, Mutex};
use pinhole_protocol::Errno;
use std::sync::Arc;

/// The state of data that an operation makes durable.
#[derive(Debug)]
#[must_use = "the reply says success only when the data is durable"]
pub enum Durable {
    /// The data is durable.
    Done,
    /// The data is durable when this turn is over.
    With(Arc<SyncTurn>),
}

impl Durable {
    /// Waits until the data is durable.
    ///
    /// # Errors
    /// The error of the host.
    pub fn wait(self) -> Result<(), Errno> {
        match self {
            Self::Done => Ok(()),
            Self::With(turn) => turn.wait(),
        }
    }
}

/// One call of `syncfs(2)`, or one for each mount of a share. Several requests share its outcome.
#[derive(Debug, Default)]
pub struct SyncTurn {
    /// Each change under this lock is complete before anything can panic.
    state: Mutex<TurnState>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    outcome: Option<Result<(), Errno>>,
    /// Number of requests that wait for the turn or have not read its outcome yet.
    requests: usize,
    /// A request was given up before it had the outcome. It will be served again.
    was_left: bool,
}

#[cfg(test)]
impl PartialEq for SyncTurn {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl SyncTurn {
    /// Returns the outcome, or `None` before the turn is over.
    pub fn outcome(&self) -> Option<Result<(), Errno>> {
        self.state.lock().outcome
    }

    /// Returns whether the request that was added last may be deferred. Otherwise the thread that
    /// serves the request waits for the turn.
    pub fn has_room(&self) -> bool {
        self.state.lock().requests <= SYNC_WAITERS_MAX
    }

    /// Gives up a request if the turn is not over and `gives_up` returns true. Returns whether the
    /// request was given up.
    pub fn leave(&self, gives_up: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        let left = state.outcome.is_none() && gives_up();
        if left {
            state.requests = state.requests.saturating_sub(1);
            state.was_left = true;
        }
        left
    }

    /// Waits until the turn is over.
    ///
    /// # Errors
    /// The error of the host.
    pub fn wait(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            state = self.over.wait(state);
        }
    }

    /// Adds a request.
    pub(crate) fn enter(&self) {
        let mut state = self.state.lock();
        state.requests = state.requests.saturating_add(1);
    }

    /// Ends the turn. Returns whether every request that waited for it still gets the outcome. If
    /// not, an error must be kept, because the host reports it only once.
    pub(crate) fn end(&self, outcome: Result<(), Errno>) -> bool {
        let mut state = self.state.lock();
        state.outcome.get_or_insert(outcome);
        self.over.notify_all();
        state.requests > 0 && !state.was_left
    }
}
