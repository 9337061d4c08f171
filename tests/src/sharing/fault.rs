//! Reasons why the answer to a question is not yes.

use std::io;
use std::time::Duration;

use crate::daemon::DaemonError;
use crate::guest::GuestError;

/// Reason why the answer to a question is not yes.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The share did something wrong.
    #[error("{0}")]
    Wrong(String),
    /// A guest or the host process gave no more replies. The participants cannot be used any more.
    #[error("{who} did not answer `{ask}` within {limit:?}")]
    Silent {
        /// Name of the guest or the host process.
        who: String,
        /// Request without a reply.
        ask: String,
        /// Time limit that passed.
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

    /// Returns whether the reason concerns the share, and not the harness.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Wrong(_) | Self::Silent { .. } => true,
            Self::Guest(_) | Self::Daemon(_) | Self::Host { .. } => false,
        }
    }
}
