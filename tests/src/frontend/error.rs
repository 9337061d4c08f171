//! The errors of a front-end.

use std::io;
use std::time::Duration;

/// How long anything that a front-end waits for may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What may go wrong at the wire.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The vhost-user conversation failed.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// The host refused something.
    #[error("{0}")]
    Host(#[from] io::Error),
    /// The daemon did not start or end as it should.
    #[error(transparent)]
    Daemon(#[from] crate::daemon::DaemonError),
    /// An address that the test guest does not have.
    #[error("guest memory: {0}")]
    Memory(String),
    /// Nothing came in time.
    #[error("queue {queue}: no answer within {LIMIT:?}")]
    TimedOut {
        /// The queue waited for.
        queue: usize,
    },
    /// The device has closed the connection before it gave the request back.
    #[error("queue {queue}: the device is gone")]
    Gone {
        /// The queue waited for.
        queue: usize,
    },
    /// The test asks for a queue that it has not set up.
    #[error("there is no queue {0}")]
    NoQueue(usize),
    /// A reply that is none.
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
