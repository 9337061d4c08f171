//! The way to end [`super::serve`] from another thread: a signal handler's, a test's.

use super::ServeError;
use crate::sync::lock::{Mutex, MutexGuard};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vhost_user_backend::ShutdownHandle;

/// Asks a daemon to stop: no more connections; the present one is shut, its current requests end, and
/// [`super::serve`] returns. May be asked for more than once, before or after.
#[derive(Clone, Debug)]
pub struct Stop {
    inner: Arc<Inner>,
}

struct Inner {
    event: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requested: bool,
    connection: Option<ShutdownHandle>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stop").field("requested", &self.state().requested).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Stop {
    /// One that nobody has asked for yet.
    ///
    /// # Errors
    /// Where the host has no more descriptors.
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

    /// Readable once the stop is requested.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.inner.event
    }

    /// From now on a stop shuts this connection.
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
