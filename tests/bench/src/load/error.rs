//! Errors of the load generator.

use std::io;
use std::time::Duration;

use super::ask::Expect;

/// Time limit for each step outside the measured time.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// Error of the load generator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A vhost-user message failed.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// The device lacks a feature, or broke a rule of the ring.
    #[error("the device: {0}")]
    Device(String),
    /// An address outside the memory of the guest.
    #[error("guest memory: {0}")]
    Memory(String),
    /// A reply has the wrong errno or length.
    #[error("the reply has errno {errno} and {len} bytes, expected {expected:?}")]
    Reply {
        /// Errno of the reply; 0 is success.
        errno: i32,
        /// Length after the header, in bytes.
        len: usize,
        /// Expected reply.
        expected: Expect,
    },
    /// A host operation failed.
    #[error("{what}: {source}")]
    Host {
        /// The operation, as the start of the message.
        what: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A row failed.
    #[error("{row}, depth {depth}: {source}")]
    Row {
        /// Name of the row.
        row: &'static str,
        /// Requests in flight on each queue.
        depth: usize,
        /// Cause.
        source: Box<LoadError>,
    },
    /// The daemon refused a LOOKUP of `--hold`.
    #[error("lookup number {number}: {source}")]
    Lookup {
        /// Number of LOOKUPs that succeeded before.
        number: usize,
        /// Cause.
        source: Box<LoadError>,
    },
    /// A line of standard input is not a row with a depth.
    #[error("`{line}`: {what}")]
    Step {
        /// Line of standard input.
        line: String,
        /// Fault of the line.
        what: String,
    },
    /// The daemon did not reply in time.
    #[error("no reply within {LIMIT:?}")]
    TimedOut,
}

impl LoadError {
    /// Returns a function for `map_err` that puts `what` in front of an I/O error.
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// Converts an error of guest memory.
    #[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
    pub(super) fn memory(error: vm_memory::VolatileMemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}
