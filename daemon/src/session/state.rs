//! Where a session stands between INIT and DESTROY.

use pinhole_protocol::Negotiated;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum State {
    /// No INIT yet, or DESTROY since.
    #[default]
    Waiting,
    /// The guest and the session have agreed.
    Serving(Negotiated),
}

/// The state, shared by the queues: each request holds it for reading while it is served, so that an INIT waits for
/// what is under way and nothing is served across it.
#[derive(Debug, Default)]
pub(super) struct SharedState(RwLock<State>);

impl SharedState {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
