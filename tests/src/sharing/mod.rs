//! Several real guests and a host process on one directory: questions about what each sees of the others' work.
//!
//! A [`Question`] is defined once and asked of each [`Subject`]: by the suites `guest_sharing*`, where pinhole has to pass
//! what its mode promises, and by `cargo xtask coherence`, which puts the peer beside it. A [`Table`] is what sits
//! together: User-mode Linux guests, each with a daemon of its own, and a process of the host, all of which run the same
//! program (`guest_program/`). They are told what to do by files that are not on the share, one step after another or all at once.

mod guest_program;
mod program;
mod questions;
mod subject;
mod table;

use std::io;
use std::time::Duration;

pub use program::program;
pub use questions::{QUESTIONS, steady_turns};
pub use subject::Subject;
pub use table::Table;

use crate::daemon::DaemonError;
use crate::guest::GuestError;

/// What a question is about; each group is a test of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// What one sees of the other's change, and when.
    Seen,
    /// Names that are made, moved and removed by all at once.
    Names,
    /// Programs that people run, and that keep their own order by names.
    Programs,
    /// Databases, which keep it by locks.
    Databases,
    /// Record locks and flock.
    Locks,
}

/// In which of pinhole's cache modes the answer has to be yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promised {
    /// Where nothing is ever stale.
    Strict,
    /// There, and where close-to-open is enough.
    StrictAndAuto,
    /// Where shared mappings work, each guest with a copy of its own.
    Mapped,
}

impl Promised {
    /// Whether this is promised by a subject; the peer promises nothing here.
    pub fn by(self, subject: Subject) -> bool {
        match subject {
            Subject::Strict => true,
            Subject::Never => self != Self::Mapped,
            Subject::Auto => matches!(self, Self::StrictAndAuto | Self::Mapped),
            Subject::PeerNever | Subject::PeerAuto => false,
        }
    }
}

/// One question about sharing.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// In a word or three, without spaces: the folder that it works in.
    pub name: &'static str,
    /// In a sentence.
    pub asks: &'static str,
    /// What it is about.
    pub group: Group,
    /// Where pinhole promises it.
    pub promised: Promised,
    /// Asks it. What was counted, or why the answer is no.
    pub answer: fn(&mut Table) -> Result<String, Fault>,
}

impl Question {
    /// The same, promised elsewhere.
    pub(crate) const fn promised(mut self, promised: Promised) -> Self {
        self.promised = promised;
        self
    }

    /// The same, promised where attributes and names may be a second old too.
    pub(crate) const fn and_auto(self) -> Self {
        self.promised(Promised::StrictAndAuto)
    }
}

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
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
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

/// `count` of something, as often as `PINHOLE_SHARING_TURNS` says; once where it says nothing.
pub(crate) fn turns(count: u32) -> u32 {
    let times = std::env::var("PINHOLE_SHARING_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count.saturating_mul(times)
}

/// For how many seconds databases are written, where `PINHOLE_SHARING_SECONDS` says so.
pub(crate) fn seconds() -> Option<u32> {
    std::env::var("PINHOLE_SHARING_SECONDS").ok()?.parse().ok()
}

/// The seed of what is random: `PINHOLE_SHARING_SEED`, or a fixed one.
pub(crate) fn seed() -> u64 {
    std::env::var("PINHOLE_SHARING_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}
