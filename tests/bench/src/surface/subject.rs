//! The daemons that are measured, and how each is started.

use std::path::{Path, PathBuf};

use pinhole_tests::daemon::Daemon;

use crate::step::{Failure, Outcome};

/// Daemon to measure, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// Name in column heads and in the output of the guest.
    pub(super) name: &'static str,
    pub(super) kind: DaemonKind,
    /// Arguments beside share and socket. All daemons serve extended attributes, because the load
    /// uses them.
    pub(super) arguments: &'static [&'static str],
}

/// Program of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonKind {
    /// pinhole in this profile.
    Pinhole(&'static str),
    /// virtiofsd with its defaults: its namespaces and its filter.
    Virtiofsd,
}

/// All daemons: the profiles of pinhole, the narrowest first, then virtiofsd, with which they are
/// compared.
pub(super) const ALL: [Subject; 4] = [
    pinhole("rootfs", &["--profile=rootfs", "--xattr"]),
    pinhole("share", &["--profile=share", "--xattr"]),
    pinhole("full", &["--profile=full", "--xattr"]),
    Subject { name: "virtiofsd", kind: DaemonKind::Virtiofsd, arguments: &["--xattr"] },
];

/// Returns pinhole in this profile.
const fn pinhole(profile: &'static str, arguments: &'static [&'static str]) -> Subject {
    Subject { name: profile, kind: DaemonKind::Pinhole(profile), arguments }
}

impl Subject {
    /// Returns whether the daemon survives requests that do not decode. virtiofsd ends at the
    /// first.
    pub(super) fn outlives_malformed(self) -> bool {
        self.kind != DaemonKind::Virtiofsd
    }

    /// Returns the daemon for `share` on this host, not yet started.
    ///
    /// # Errors
    /// Fails if virtiofsd has not been fetched.
    pub(super) fn daemon(self, pinhole: &Path, share: &Path) -> Outcome<Daemon> {
        let daemon = match self.kind {
            DaemonKind::Pinhole(_) => Daemon::pinhole_at(pinhole, share),
            DaemonKind::Virtiofsd => {
                Daemon::virtiofsd_sandboxed(share).map_err(|error| Failure::new(error.to_string()))?
            }
        };
        Ok(self.arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// Returns the path of the program in the guest that acts as the host.
    pub(super) const fn program_in_guest(self) -> &'static str {
        match self.kind {
            DaemonKind::Pinhole(_) => "/usr/bin/pinhole",
            DaemonKind::Virtiofsd => "/usr/libexec/virtiofsd",
        }
    }
}

/// Programs of this workspace, built with the same cargo profile.
#[derive(Clone, Debug)]
pub(super) struct SurfacePrograms {
    pub(super) pinhole: PathBuf,
    /// This program, which generates the load.
    pub(super) bench: PathBuf,
}
