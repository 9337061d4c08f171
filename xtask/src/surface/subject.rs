//! Who is looked at, and how each is started.

use std::path::{Path, PathBuf};

use pinhole_tests::daemon::Daemon;

use crate::step::{Failure, Outcome};

/// A daemon with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// In the head of a column, and in the guest's output.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Beside share and socket. Attributes are served by all: the load asks for them.
    pub(super) arguments: &'static [&'static str],
}

/// Whose daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ours, in this profile.
    Pinhole(&'static str),
    /// The peer, as it comes: in its namespaces, with its filter.
    Virtiofsd,
}

/// From the narrowest on; the last one is what the others are compared with.
pub(super) const ALL: [Subject; 4] = [
    pinhole("rootfs", &["--profile=rootfs", "--xattr"]),
    pinhole("share", &["--profile=share", "--xattr"]),
    pinhole("full", &["--profile=full", "--xattr"]),
    Subject { name: "virtiofsd", kind: Kind::Virtiofsd, arguments: &["--xattr"] },
];

const fn pinhole(profile: &'static str, arguments: &'static [&'static str]) -> Subject {
    Subject { name: profile, kind: Kind::Pinhole(profile), arguments }
}

impl Subject {
    /// Whether it outlives requests that do not decode. virtiofsd ends at the first.
    pub(super) fn outlives_malformed(self) -> bool {
        self.kind != Kind::Virtiofsd
    }

    /// Its process for `share` on this machine, yet to be started.
    ///
    /// # Errors
    /// Where the peer has not been fetched.
    pub(super) fn daemon(self, pinhole: &Path, share: &Path) -> Outcome<Daemon> {
        let daemon = match self.kind {
            Kind::Pinhole(_) => Daemon::pinhole_at(pinhole, share),
            Kind::Virtiofsd => {
                Daemon::virtiofsd_sandboxed(share).map_err(|error| Failure::new(error.to_string()))?
            }
        };
        Ok(self.arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// Where its program lies in the guest that plays the host.
    pub(super) const fn program_in_guest(self) -> &'static str {
        match self.kind {
            Kind::Pinhole(_) => "/usr/bin/pinhole",
            Kind::Virtiofsd => "/usr/libexec/virtiofsd",
        }
    }
}

/// The programs of ours that take part, built alike.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) pinhole: PathBuf,
    /// The load.
    pub(super) surface: PathBuf,
}
