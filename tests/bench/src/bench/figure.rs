//! Contestants and figures, which all parts of the benchmark use.

use std::fmt;
use std::path::{Path, PathBuf};

use pinhole_tests::daemon::Daemon;

use crate::step::{Failure, Outcome};

/// Program that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// pinhole.
    Pinhole {
        /// Its release build.
        program: PathBuf,
    },
    /// Another build of pinhole, from before a change (`--against`).
    Before {
        /// Its program.
        program: PathBuf,
    },
    /// virtiofsd.
    Virtiofsd(VirtiofsdSetting),
    /// The same host calls in a loop in one process, without a daemon: the upper limit.
    Native,
}

/// Options of virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtiofsdSetting {
    /// `--thread-pool-size`.
    pub(crate) pool: u32,
    /// `--cache`.
    pub(crate) cache: &'static str,
}

/// virtiofsd without a thread pool, in its default cache mode.
pub(crate) const CACHE_AUTO: VirtiofsdSetting = VirtiofsdSetting { pool: 0, cache: "auto" };

/// virtiofsd without a thread pool, in the mode that lets a guest cache the most.
pub(crate) const CACHE_ALWAYS: VirtiofsdSetting = VirtiofsdSetting { pool: 0, cache: "always" };

impl Contestant {
    /// Returns the daemon for `share`, not yet started, with its default sandbox and filter. Both
    /// daemons must accept the arguments `extra`.
    ///
    /// # Errors
    /// Fails if virtiofsd has not been fetched, and for [`Contestant::Native`], which has no
    /// daemon.
    pub(crate) fn daemon(&self, share: &Path, extra: &[&str]) -> Outcome<Daemon> {
        let daemon = match self {
            Self::Pinhole { program } | Self::Before { program } => Daemon::pinhole_at(program, share),
            Self::Virtiofsd(setting) => Daemon::virtiofsd_sandboxed(share)
                .map_err(|error| Failure::new(error.to_string()))?
                .argument(format!("--thread-pool-size={}", setting.pool))
                .argument(format!("--cache={}", setting.cache)),
            Self::Native => return Err(Failure::new("bare host calls need no daemon")),
        };
        Ok(extra.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinhole { .. } => out.write_str("pinhole"),
            Self::Before { .. } => out.write_str("before"),
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
    /// Returns a short form for a narrow column.
    pub(crate) fn short(&self) -> String {
        format!("pool {}, {}", self.pool, self.cache)
    }
}

/// Direction in which a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// For example, operations per second.
    Higher,
    /// For example, latency, processor time or memory.
    Lower,
}

/// Figure of one contestant in one turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Name of the row, the same for each contestant: `getattr, depth 1: p50`.
    pub(crate) row: String,
    /// Unit of the value: `us`, `op/s`, `KiB`.
    pub(crate) unit: &'static str,
    /// Direction in which the value is better.
    pub(crate) better: Better,
    /// Value in `unit`.
    pub(crate) value: f64,
}
