//! What holds when the daemon itself does not: the walls around the process, from the outside in.
//!
//! The order is fixed. First [`Plan::isolate`], which needs every right there is and a process of one thread: namespaces
//! and a root directory that is the share. Then [`Inside::confine`]: capabilities, limits, Landlock. Both before the
//! first descriptor of the share is opened and before there is a second thread. [`filter`](Filters) comes last, for each
//! kind of thread its own, and only then is the first byte of a guest read. The supervisor, which stays outside, has given
//! up its rights by then too ([`UnconfinedSupervisor::confine`]). Which of all that a share needs is said by
//! the tables in `policy`; nothing here knows an operation.

mod filter;
mod id_maps;
mod landlock;
mod missing;
mod namespaces;
mod privileges;
mod supervisor;

use pinhole_policy::host_calls::Threads;
use pinhole_policy::{Access, Facilities};
use std::io::{self, PipeReader, Read as _};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use filter::SupervisorFilter;
pub use filter::{Filters, OnForbidden};
pub use id_maps::{IdMap, IdMapError, IdMaps};
pub use missing::MissingFeature;
pub use privileges::{CapabilityChanges, CapabilityError};
pub use supervisor::{Ended, Supervisor, UnconfinedSupervisor};

/// How the process is parted from the rest of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces of its own, with the share as its root directory; in a second process.
    #[default]
    Namespace,
    /// The share as its root directory.
    Chroot,
    /// Not at all: the other walls hold alone.
    None,
}

bitflags::bitflags! {
    /// The walls that are built, or that must not be missing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Layers: u8 {
        /// Namespaces, or the root directory of [`Isolation::Chroot`].
        const NAMESPACE = 1;
        /// Only the capabilities of the policy's table.
        const CAPABILITIES = 1 << 1;
        /// Landlock.
        const LANDLOCK = 1 << 2;
        /// Filters of system calls.
        const SECCOMP = 1 << 3;
    }
}

/// What is to be shared how, as far as the walls must know it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How far away from the rest of the host.
    pub isolation: Isolation,
    /// Which ids a user namespace has.
    pub id_maps: IdMaps,
    /// The shared directory.
    pub share: PathBuf,
    /// What the policy grants anywhere.
    pub reach: Access,
    /// Whether nothing may be changed anywhere in the share.
    pub read_only: bool,
    /// What the command line switches on.
    pub facilities: Facilities,
    /// What is kept besides, or dropped besides, what the policy's table says.
    pub capabilities: CapabilityChanges,
    /// What happens at a system call that is not in the policy's table.
    pub forbidden: OnForbidden,
    /// Bytes of the largest file that may be written.
    pub file_size: Option<NonZero<u64>>,
    /// The walls to build; all of them, outside of tests.
    pub layers: Layers,
    /// The walls without which nothing is served.
    pub required: Layers,
}

impl Plan {
    /// Whether this wall is to be built.
    const fn builds(&self, layer: Layers) -> bool {
        self.layers.contains(layer)
    }

    /// Whether the shared directory is there.
    ///
    /// # Errors
    /// [`SandboxError::Share`].
    pub fn look(&self) -> Result<(), SandboxError> {
        namespaces::open_share(self).map(drop)
    }

    /// Leaves the rest of the host, as far as [`Plan::isolation`] says, in a second process: this returns twice. What
    /// the process that was started had to do with the host's names, it can still do when the other has ended. To be
    /// called while the process has one thread.
    ///
    /// # Errors
    /// What could not be had, with the option that does without it.
    pub fn isolate(self) -> Result<Side, SandboxError> {
        let isolation = if self.builds(Layers::NAMESPACE) { self.isolation } else { Isolation::None };
        // Here, because the ways without namespaces are no lack of the host's, and are not told of as one.
        match isolation {
            Isolation::Namespace => {}
            Isolation::Chroot | Isolation::None => {
                self.judge(&[MissingFeature::of(Layers::NAMESPACE, "this way of --sandbox has none")])?;
            }
        }
        namespaces::isolate(self, isolation)
    }
}

/// One of the two sides of the outermost wall.
#[derive(Debug)]
pub enum Side {
    /// The process that serves.
    Inside(Inside),
    /// The supervisor: the process that was started, and waits for the other's end.
    Outside(UnconfinedSupervisor),
}

/// The process that serves, on its way to be confined.
#[derive(Debug)]
pub struct Inside {
    plan: Plan,
    places: Places,
    /// The share's mount begins at the share itself.
    own_mount: bool,
    missing: Vec<MissingFeature>,
    /// Has a byte when the supervisor is ready for signals and confined.
    started: PipeReader,
}

/// The only two places of the host that the process needs.
#[derive(Debug)]
pub struct Places {
    /// The shared directory.
    pub root: OwnedFd,
    /// `/proc/self/fd`.
    pub proc_fds: OwnedFd,
}

/// What is left to do for each thread.
#[derive(Debug)]
pub struct Confined {
    /// What the share is reached by.
    pub places: Places,
    /// What each thread installs before it serves, by its kind.
    pub filters: Filters,
    /// What could not be had, and may be missing.
    pub missing: Vec<MissingFeature>,
}

impl Inside {
    /// Gives up every right that the policy does not need, for the process and all threads that are to come.
    ///
    /// # Errors
    /// What the host refused, or does not have and must.
    pub fn confine(self) -> Result<Confined, SandboxError> {
        let Self { plan, places, own_mount, mut missing, mut started } = self;
        // Whoever hears that this serves may send a signal to the supervisor at once.
        started.read_exact(&mut [0]).map_err(no_second("the first does not start the second"))?;
        drop(started);
        let filters = plan.filters()?;
        privileges::drop_rights(&plan, &mut missing)?;
        if plan.builds(Layers::LANDLOCK) {
            let rules = landlock::Rules::of(&plan, own_mount);
            let status = rules.enforce(places.root.as_fd());
            missing.extend(rules.missing(status.map_err(|error| SandboxError::Landlock(error.to_string()))?));
        }
        plan.judge(&missing)?;
        namespaces::die_with_supervisor()?;
        Ok(Confined { places, filters, missing })
    }
}

impl Plan {
    /// The filters, by the kind of thread.
    ///
    /// # Errors
    /// Where there are none for this architecture.
    pub fn filters(&self) -> Result<Filters, SandboxError> {
        Filters::new(self.on_forbidden(), self.reach, self.facilities)
    }

    fn supervisor_filter(&self) -> Result<SupervisorFilter, SandboxError> {
        SupervisorFilter::new(self.on_forbidden(), self.facilities)
    }

    /// The effect of a forbidden call. `Allow` where no filter is asked for.
    const fn on_forbidden(&self) -> OnForbidden {
        if self.builds(Layers::SECCOMP) { self.forbidden } else { OnForbidden::Allow }
    }

    /// For a process that has to keep its rights, because the mount that it serves is its own to take away: what its
    /// serving threads give up, each for itself.
    ///
    /// # Errors
    /// As for [`Inside::confine`].
    pub fn for_threads(&self) -> Result<(ThreadSandbox, Vec<MissingFeature>), SandboxError> {
        let mut missing = Vec::new();
        privileges::keep_for_mounting(self, &mut missing)?;
        let places = namespaces::in_place(self)?;
        let rules = self.builds(Layers::LANDLOCK).then(|| landlock::Rules::of(self, false));
        let lost = |source| SandboxError::Share { path: self.share.clone(), source };
        let share = places.root.try_clone().map_err(lost)?;
        if let Some(rules) = &rules {
            missing.extend(rules.missing(rules.tried(share.as_fd()).map_err(SandboxError::Landlock)?));
        }
        self.judge(&missing)?;
        Ok((ThreadSandbox { places, share, rules, filters: self.filters()? }, missing))
    }

    /// Whether what the host does not have may be missing.
    fn judge(&self, missing: &[MissingFeature]) -> Result<(), SandboxError> {
        missing.iter().try_for_each(|lack| lack.judge(self.required))
    }
}

/// What a thread gives up by itself.
#[derive(Debug)]
pub struct ThreadSandbox {
    /// What the share is reached by.
    pub places: Places,
    share: OwnedFd,
    rules: Option<landlock::Rules>,
    filters: Filters,
}

impl ThreadSandbox {
    /// The two places, and what each thread does first.
    pub fn into_parts(self) -> (Places, impl Fn(Threads) -> io::Result<()> + Send + Sync + 'static) {
        let Self { places, share, rules, filters } = self;
        let close = move |kind| {
            if let Some(rules) = &rules {
                rules.enforce(share.as_fd()).map_err(io::Error::other)?;
            }
            filters.install(kind)
        };
        (places, close)
    }
}

/// For what is needed to have a second process.
fn no_second(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::SecondProcess { what, source }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The shared directory cannot be opened.
    #[error("cannot open shared directory {}: {source}", path.display())]
    Share {
        /// As it was given.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// `/proc/self/fd` cannot be had.
    #[error("cannot open /proc/self/fd ({source}): mount proc, a share cannot be served without it")]
    Proc {
        /// What the host says.
        source: io::Error,
    },
    /// A second process cannot be had.
    #[error("cannot part into two processes: {what}: {source}")]
    SecondProcess {
        /// What was tried.
        what: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// A namespace cannot be had.
    #[error(
        "--sandbox namespace: {what}: {source}; where namespaces are not to be had, use --sandbox chroot (as root) or \
         --sandbox none, in a container that holds only the share"
    )]
    Namespace {
        /// What was tried.
        what: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// The root directory cannot be changed.
    #[error("--sandbox chroot: {what}: {source}; it needs root, use --sandbox namespace")]
    Chroot {
        /// What was tried.
        what: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// Ids cannot be mapped.
    #[error("--uid-map, --gid-map: {0}")]
    Maps(String),
    /// A right cannot be given up.
    #[error("cannot give up rights: {what}: {source}")]
    Rights {
        /// Which.
        what: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// Landlock is there and refuses.
    #[error("cannot enforce Landlock rules: {0}")]
    Landlock(String),
    /// There can be no filter.
    #[error("--seccomp: {0}")]
    Filter(String),
    /// A wall was asked for and cannot be had.
    #[error("--require {wall}: {why}")]
    Required {
        /// Its name, as `--require` has it.
        wall: String,
        /// What keeps it.
        why: String,
    },
}
