//! The result of a request that makes data durable, shared by several requests.

use crate::limits::SYNC_WAITERS_MAX;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use pinhole_protocol::Errno;
use std::sync::Arc;

/// What an operation that makes something durable has come to.
#[derive(Debug)]
#[must_use = "a request is answered with success only when this is over"]
pub enum Durable {
    /// It is durable.
    Done,
    /// It is when this turn is over.
    With(Arc<SyncTurn>),
}

impl Durable {
    /// Waits until it is.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(self) -> Result<(), Errno> {
        match self {
            Self::Done => Ok(()),
            Self::With(turn) => turn.wait(),
        }
    }
}

/// One call of `syncfs(2)`, or one for each mount of a share, and its outcome.
#[derive(Debug, Default)]
pub struct SyncTurn {
    state: Mutex<TurnState>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    outcome: Option<Result<(), Errno>>,
    /// Requests that wait for it, or have not asked for its outcome yet.
    requests: usize,
    /// One of them was given up: it comes again, and has not heard of an error.
    was_left: bool,
}

impl PartialEq for SyncTurn {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl SyncTurn {
    /// Its outcome, once it is over.
    pub fn outcome(&self) -> Option<Result<(), Errno>> {
        self.lock().outcome
    }

    /// Whether its requests may wait without a thread.
    pub fn has_room(&self) -> bool {
        self.lock().requests <= SYNC_WAITERS_MAX
    }

    /// Gives up a request, if it is not over and `gives_up` succeeds.
    pub fn leave(&self, gives_up: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let left = state.outcome.is_none() && gives_up();
        if left {
            state.requests = state.requests.saturating_sub(1);
            state.was_left = true;
        }
        left
    }

    /// Waits until it is over.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(&self) -> Result<(), Errno> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            state = self.over.wait(state);
        }
    }

    pub(crate) fn enter(&self) {
        let mut state = self.lock();
        state.requests = state.requests.saturating_add(1);
    }

    /// Ends it. False: not every request that waited is there to hear of it, and the host tells an error once.
    pub(crate) fn end(&self, outcome: Result<(), Errno>) -> bool {
        let mut state = self.lock();
        state.outcome.get_or_insert(outcome);
        self.over.notify_all();
        state.requests > 0 && !state.was_left
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        // Nothing is left half done under this lock.
        self.state.lock()
    }
}
