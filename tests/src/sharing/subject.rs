//! Daemons that a question is asked of: pinhole in three cache modes, virtiofsd in two.

use std::fmt;
use std::path::Path;

use crate::daemon::{Daemon, DaemonError};

/// Daemon in a cache mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Pinhole in a mode where nothing is stale.
    Strict,
    /// Pinhole in `never`: as strict, without shared mappings.
    Never,
    /// Pinhole with its default mode.
    Auto,
    /// virtiofsd in a mode that caches nothing.
    PeerNever,
    /// virtiofsd with its default mode.
    PeerAuto,
}

impl Subject {
    /// All subjects, in the order of the columns of a comparison.
    pub const ALL: [Self; 5] = [Self::Strict, Self::Never, Self::Auto, Self::PeerNever, Self::PeerAuto];

    /// Subjects with the daemon pinhole.
    pub const OWN: [Self; 3] = [Self::Strict, Self::Never, Self::Auto];

    /// Returns whether guests may make shared mappings.
    pub(super) const fn maps_shared(self) -> bool {
        match self {
            Self::Strict | Self::Auto | Self::PeerAuto => true,
            Self::Never | Self::PeerNever => false,
        }
    }

    /// Describes the daemon that serves `shared`, without starting it. `pinhole` is the program of
    /// pinhole.
    ///
    /// # Errors
    /// Fails if the program of the daemon is missing.
    pub(super) fn daemon(self, pinhole: &Path, shared: &Path, tag: &str) -> Result<Daemon, DaemonError> {
        let daemon = match self {
            Self::Strict | Self::Never | Self::Auto => Daemon::pinhole_at(pinhole, shared),
            Self::PeerNever | Self::PeerAuto => Daemon::virtiofsd_sandboxed(shared)?,
        };
        let daemon = daemon.argument(format!("--tag={tag}"));
        Ok(self.arguments().iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// Returns the arguments that select the mode.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Strict => &["--cache=strict"],
            Self::Never | Self::PeerNever => &["--cache=never"],
            Self::Auto | Self::PeerAuto => &["--cache=auto"],
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Strict => "pinhole strict",
            Self::Never => "pinhole never",
            Self::Auto => "pinhole auto",
            Self::PeerNever => "virtiofsd never",
            Self::PeerAuto => "virtiofsd auto",
        })
    }
}
