//! The daemons that are measured, and how each is started.

use std::path::{Path, PathBuf};

use pinhole_tests::daemon::Daemon;
use pinhole_tests::surface::{prepare, prepare_image};

use crate::step::{Failure, Outcome};

/// Daemon to measure, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// Name in column heads and in the output of the guest.
    pub(super) name: &'static str,
    pub(super) kind: DaemonKind,
    /// Arguments beside share and socket. All daemons serve extended attributes, because the load
    /// uses them. With an image that is the default.
    pub(super) arguments: &'static [&'static str],
}

/// Program of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonKind {
    /// pinhole in this profile.
    Pinhole(&'static str),
    /// pinhole with an image of the share.
    Image,
    /// virtiofsd with its defaults: its namespaces and its filter.
    Virtiofsd,
}

/// All daemons: the profiles of pinhole, the narrowest first, then virtiofsd, with which they are
/// compared.
pub(super) const ALL: [Subject; 5] = [
    Subject { name: "prepared", kind: DaemonKind::Image, arguments: &[] },
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

    /// Returns whether the daemon serves an image of the share, which must be made before.
    pub(super) fn serves_an_image(self) -> bool {
        self.kind == DaemonKind::Image
    }

    /// Returns the daemon for `share` on this host, not yet started. An image of it is made now.
    ///
    /// # Errors
    /// Fails if virtiofsd has not been fetched, or if the image cannot be made.
    pub(super) fn daemon(self, pinhole: &Path, share: &Path) -> Outcome<Daemon> {
        let daemon = match self.kind {
            DaemonKind::Pinhole(_) => Daemon::pinhole_at(pinhole, share),
            DaemonKind::Image => {
                let image = prepare(share).and_then(|()| prepare_image(pinhole, share));
                Daemon::of_image_at(pinhole, image.map_err(|error| Failure::new(error.to_string()))?)
            }
            DaemonKind::Virtiofsd => {
                Daemon::virtiofsd_sandboxed(share).map_err(|error| Failure::new(error.to_string()))?
            }
        };
        Ok(self.arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// Returns the path of the program in the guest that acts as the host.
    pub(super) const fn program_in_guest(self) -> &'static str {
        match self.kind {
            DaemonKind::Pinhole(_) | DaemonKind::Image => "/usr/bin/pinhole",
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
