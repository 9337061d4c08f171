//! Errors of a front-end.

use std::io;
use std::time::Duration;

/// Upper bound on every wait of a front-end.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Error at the wire.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// A vhost-user message failed.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// A call of the host failed.
    #[error("{0}")]
    Host(#[from] io::Error),
    /// The daemon did not start or end as it should.
    #[error(transparent)]
    Daemon(#[from] crate::daemon::DaemonError),
    /// The guest's memory has no such address.
    #[error("guest memory: {0}")]
    Memory(String),
    /// No reply, interrupt or message arrived in time.
    #[error("queue {queue}: no answer within {LIMIT:?}")]
    TimedOut {
        /// Queue that was waited for.
        queue: usize,
    },
    /// The device closed the connection before it returned the request.
    #[error("queue {queue}: the device is gone")]
    Gone {
        /// Queue that was waited for.
        queue: usize,
    },
    /// The test uses a queue that it has not set up.
    #[error("there is no queue {0}")]
    NoQueue(usize),
    /// The reply is invalid.
    #[error("malformed reply: {0}")]
    Reply(String),
    /// The buffers do not fit into a queue's memory.
    #[error("a request of {0} bytes does not fit")]
    TooBig(u64),
}

impl From<vm_memory::GuestMemoryError> for FrontendError {
    fn from(error: vm_memory::GuestMemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}
