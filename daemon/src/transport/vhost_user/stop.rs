//! Ends [`super::serve`] from another thread, such as the control thread.

use super::ServeError;
use crate::sync::lock::{Mutex, MutexGuard};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vhost_user_backend::ShutdownHandle;

/// Stops a daemon: it accepts no more connections, closes the present one and ends its current
/// requests. Then [`super::serve`] returns. A stop may be requested at any time and more than once.
#[derive(Clone, Debug)]
pub struct Stop {
    inner: Arc<Inner>,
}

struct Inner {
    event: OwnedFd,
    state: Mutex<StopState>,
}

#[derive(Default)]
struct StopState {
    requested: bool,
    connection: Option<ShutdownHandle>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stop").field("requested", &self.state().requested).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, StopState> {
        self.state.lock()
    }
}

impl Stop {
    /// Makes a stop that is not requested yet.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new() -> Result<Self, ServeError> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags).map_err(|error| ServeError::Event(error.into()))?;
        Ok(Self { inner: Arc::new(Inner { event, state: Mutex::default() }) })
    }

    /// Stops the daemon.
    pub fn request(&self) {
        let mut state = self.inner.state();
        state.requested = true;
        if let Err(error) = rustix::io::write(&self.inner.event, &1u64.to_le_bytes()) {
            tracing::error!(%error, "cannot raise the stop event");
        }
        if let Some(connection) = state.connection.take() {
            connection.shutdown();
        }
    }

    pub(super) fn requested(&self) -> bool {
        self.inner.state().requested
    }

    /// Returns an event that is readable once the stop is requested.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.inner.event
    }

    /// Makes a stop shut this connection from now on.
    pub(super) fn watch(&self, connection: ShutdownHandle) {
        let mut state = self.inner.state();
        if state.requested {
            connection.shutdown();
        } else {
            state.connection = Some(connection);
        }
    }

    pub(super) fn unwatch(&self) {
        self.inner.state().connection = None;
    }
}
