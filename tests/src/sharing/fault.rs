//! Reasons why a question has no good answer.

use std::io;
use std::time::Duration;

use crate::daemon::DaemonError;
use crate::guest::GuestError;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The share did what it should not.
    #[error("{0}")]
    Wrong(String),
    /// One of those at the table said nothing more; the table is of no further use.
    #[error("{who} did not answer `{ask}` within {limit:?}")]
    Silent {
        /// Who.
        who: String,
        /// What it was asked.
        ask: String,
        /// How long it had.
        limit: Duration,
    },
    /// A guest could not be started.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A daemon could not be started.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A host operation of the harness itself failed.
    #[error("{what}: {source}")]
    Host {
        /// What the harness was doing.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Fault {
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// Whether it says something about the share, and not about the harness.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Wrong(_) | Self::Silent { .. } => true,
            Self::Guest(_) | Self::Daemon(_) | Self::Host { .. } => false,
        }
    }
}
