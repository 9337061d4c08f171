//! Daemons that a question is asked of: pinhole and virtiofsd, each in two cache modes.

use std::fmt;
use std::path::Path;

use crate::daemon::{Daemon, DaemonError};

/// A daemon in a cache mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Pinhole where nothing is stale.
    Strict,
    /// The same, and shared mappings are refused.
    Never,
    /// Pinhole as it comes.
    Auto,
    /// virtiofsd where nothing is cached.
    PeerNever,
    /// virtiofsd as it comes.
    PeerAuto,
}

impl Subject {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 5] = [Self::Strict, Self::Never, Self::Auto, Self::PeerNever, Self::PeerAuto];

    /// Those of our daemon.
    pub const OWN: [Self; 3] = [Self::Strict, Self::Never, Self::Auto];

    /// Whether guests may map files shared.
    pub(super) const fn maps_shared(self) -> bool {
        match self {
            Self::Strict | Self::Auto | Self::PeerAuto => true,
            Self::Never | Self::PeerNever => false,
        }
    }

    /// The daemon for `shared`, yet to be started; `pinhole` is ours.
    ///
    /// # Errors
    /// Where its program is missing.
    pub(super) fn daemon(self, pinhole: &Path, shared: &Path, tag: &str) -> Result<Daemon, DaemonError> {
        let daemon = match self {
            Self::Strict | Self::Never | Self::Auto => Daemon::pinhole_at(pinhole, shared),
            Self::PeerNever | Self::PeerAuto => Daemon::virtiofsd_sandboxed(shared)?,
        };
        let daemon = daemon.argument(format!("--tag={tag}"));
        Ok(self.arguments().iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// What asks the daemon for the mode.
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
