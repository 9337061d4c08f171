//! Errors of the load generator.

use std::io;
use std::time::Duration;

use super::ask::Expect;

/// How long anything may take beyond what is measured.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The vhost-user conversation failed.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// The device does not do what a guest needs, or gave back what was not asked for.
    #[error("the device: {0}")]
    Device(String),
    /// An address that the guest does not have.
    #[error("guest memory: {0}")]
    Memory(String),
    /// An answer is not the right one.
    #[error("errno {errno} with {len} bytes where {expected:?} is right")]
    Answer {
        /// 0 is success.
        errno: i32,
        /// Bytes behind the header.
        len: usize,
        /// What is right.
        expected: Expect,
    },
    /// A host operation failed.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A row did not work out.
    #[error("{row}, depth {depth}: {source}")]
    Row {
        /// Its name.
        row: &'static str,
        /// Requests in flight.
        depth: usize,
        /// Why.
        source: Box<LoadError>,
    },
    /// A guest that was to know many files got one refused.
    #[error("lookup number {number}: {source}")]
    Lookup {
        /// Lookups that succeeded before.
        number: usize,
        /// Why.
        source: Box<LoadError>,
    },
    /// A line of standard input asks for nothing that there is.
    #[error("`{line}`: {what}")]
    Step {
        /// The line.
        line: String,
        /// What is wrong with it.
        what: String,
    },
    /// The daemon has not answered.
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
}

impl LoadError {
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    #[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
    pub(super) fn memory(error: vm_memory::VolatileMemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}
