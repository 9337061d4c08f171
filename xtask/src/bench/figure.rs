//! Who is measured and what a measurement is: what all parts of the benchmark share.

use std::fmt;
use std::path::{Path, PathBuf};

use pinhole_tests::daemon::Daemon;

use crate::step::{Failure, Outcome};

/// Who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Our daemon.
    Pinhole {
        /// Its release build.
        program: PathBuf,
    },
    /// The peer.
    Virtiofsd(VirtiofsdSetting),
    /// The same host calls in a loop in one process: the limit.
    Native,
}

/// How the peer is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtiofsdSetting {
    /// `--thread-pool-size`.
    pub(crate) pool: u32,
    /// `--cache`.
    pub(crate) cache: &'static str,
}

impl Contestant {
    /// The daemon's process for `share`, yet to be started, as it comes: each in its own sandbox and under its own filter.
    /// `extra`: arguments that both daemons know.
    ///
    /// # Errors
    /// Where the peer has not been fetched, and for [`Contestant::Native`], which has no daemon.
    pub(crate) fn daemon(&self, share: &Path, extra: &[&str]) -> Outcome<Daemon> {
        let daemon = match self {
            Self::Pinhole { program } => Daemon::pinhole_at(program, share),
            Self::Virtiofsd(setting) => Daemon::virtiofsd_sandboxed(share)
                .map_err(|error| Failure::new(error.to_string()))?
                .argument(format!("--thread-pool-size={}", setting.pool))
                .argument(format!("--cache={}", setting.cache)),
            Self::Native => return Err(Failure::new("native host calls need no daemon")),
        };
        Ok(extra.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinhole { .. } => out.write_str("pinhole"),
            Self::Virtiofsd(setting) => setting.fmt(out),
            Self::Native => out.write_str("native"),
        }
    }
}

impl fmt::Display for VirtiofsdSetting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "virtiofsd --thread-pool-size={} --cache={}", self.pool, self.cache)
    }
}

impl VirtiofsdSetting {
    /// For a narrow column.
    pub(crate) fn short(&self) -> String {
        format!("pool {}, {}", self.pool, self.cache)
    }
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Operations a second.
    Higher,
    /// Latency, processor time, memory.
    Lower,
}

/// One figure of one contestant in one turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// What was measured, the same words for each contestant: `getattr, depth 1, p50`.
    pub(crate) row: String,
    /// Of the value: `us`, `op/s`, `KiB`.
    pub(crate) unit: &'static str,
    /// Which way is good.
    pub(crate) better: Better,
    /// The figure.
    pub(crate) value: f64,
}
