//! The two processes of a daemon: the supervisor, which was started, and the serving process, which
//! is separated from the rest of the host.

use super::error::SandboxError;
use super::filter::{Processes, SupervisorFilter};
use super::landlock::Rules;
use super::missing::{Layers, MissingFeature};
use super::namespaces::{self, HostPlaces};
use super::plan::{Isolation, Plan};
use super::privileges;
use super::supervisor::UnconfinedSupervisor;
use crate::sys::process::{self, Forked};
use crate::sys::thread::unshare;
use crate::threads::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Uid};
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::UnshareFlags;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

/// The process that returns from [`Plan::isolate`].
#[derive(Debug)]
pub enum Side {
    /// The process that serves.
    Inside(Inside),
    /// The supervisor: the process that was started, and waits for the end of the other.
    Outside(UnconfinedSupervisor),
}

/// The serving process before it is confined.
#[derive(Debug)]
pub struct Inside {
    plan: Plan,
    places: HostPlaces,
    missing: Vec<MissingFeature>,
    /// Gets a byte when the supervisor is confined and ready for signals.
    started: PipeReader,
}

/// The serving process after its rights are given up, except those that its threads give up.
#[derive(Debug)]
pub struct Confined {
    /// The share, if there is one, and `/proc/self/fd`.
    pub places: HostPlaces,
    /// The setup of each thread before it serves.
    pub threads: ThreadSetup,
    /// Features that the host does not have, of layers that are not required.
    pub missing: Vec<MissingFeature>,
}

impl Confined {
    pub(super) fn new(
        places: HostPlaces,
        missing: Vec<MissingFeature>,
        confine: impl Fn(Threads) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self, SandboxError> {
        // Without a shared directory, no thread opens a file by name.
        let proc_fds = places.share.is_some().then(|| places.proc_fds.try_clone()).transpose();
        let threads = proc_fds.and_then(|proc_fds| ThreadSetup::new(proc_fds, confine));
        Ok(Self { places, threads: threads.map_err(|source| SandboxError::Proc { source })?, missing })
    }
}

impl Plan {
    /// Checks that the shared directory exists, if there is one.
    ///
    /// # Errors
    /// [`SandboxError::Share`].
    pub fn look(&self) -> Result<(), SandboxError> {
        namespaces::open_share(self).map(drop)
    }

    /// Splits the process in two, and separates the serving process from the rest of the host.
    /// Returns in both. Called while the process has one thread.
    ///
    /// # Errors
    /// The step that failed, with the option that does without it.
    pub fn isolate(mut self) -> Result<Side, SandboxError> {
        if !self.builds(Layers::NAMESPACE) {
            self.isolation = Isolation::None;
        }
        // An error here, not a warning later: the host has namespaces, and `--sandbox` leaves them
        // out.
        if self.isolation != Isolation::Namespace {
            self.check(&[MissingFeature::new(Layers::NAMESPACE, "this way of --sandbox has none")])?;
        }
        // Each step below needs `/proc`, and would report its absence less clearly.
        drop(namespaces::plain_proc_fds().map_err(|source| SandboxError::Proc { source })?);
        privileges::leave_memory_out_of_cores()?;
        let filter = SupervisorFilter::new(self.on_forbidden(), self.facilities)?;
        let own = rustix::process::getpid();
        let supervisor = rustix::process::pidfd_open(own, PidfdFlags::empty())
            .map_err(SandboxError::second_process("no descriptor of the supervisor"))?;
        let is_root = rustix::process::geteuid().is_root();
        if self.isolation == Isolation::Namespace && (!is_root || self.id_maps.are_given()) {
            self.id_maps.enter()?;
        } else if self.isolation == Isolation::Namespace {
            unshare(UnshareFlags::NEWPID).map_err(SandboxError::namespace("no PID namespace"))?;
        }
        // Done before the fork, for both processes, while `/proc` shows that there is one thread.
        process::forget_environment().map_err(SandboxError::rights("the environment"))?;
        let (started, start) = io::pipe().map_err(SandboxError::second_process("no pipe between them"))?;
        match process::fork().map_err(SandboxError::second_process("fork"))? {
            Forked::Parent(serving) => {
                let processes = Processes { supervisor: own, serving };
                Ok(Side::Outside(UnconfinedSupervisor { processes, start, filter }))
            }
            Forked::Child => {
                drop(start);
                self.leave_host(supervisor, started).map(Side::Inside)
            }
        }
    }

    /// Separates the serving process from the rest of the host.
    fn leave_host(self, supervisor: OwnedFd, started: PipeReader) -> Result<Inside, SandboxError> {
        if self.isolation == Isolation::Namespace && self.id_maps.have_root() {
            become_root().map_err(SandboxError::namespace("cannot become the root of the namespace"))?;
        }
        follow(&supervisor).map_err(SandboxError::second_process(CANNOT_FOLLOW))?;
        drop(supervisor);
        let mut missing = Vec::new();
        let places = match self.isolation {
            Isolation::Namespace => {
                namespaces::leave_the_rest(&mut missing)?;
                namespaces::pivot(&self, &mut missing)?
            }
            Isolation::Chroot => namespaces::change_root(&self)?,
            Isolation::None => namespaces::in_place(&self)?,
        };
        Ok(Inside { plan: self, places, missing, started })
    }
}

impl Inside {
    /// Gives up all rights that the policy does not need, for the process and all later threads.
    ///
    /// # Errors
    /// The step that the host refused, or the required layer that it lacks.
    pub fn confine(self) -> Result<Confined, SandboxError> {
        let Self { plan, places, mut missing, mut started } = self;
        // The supervisor must be ready for signals before this call ends.
        let not_started = SandboxError::second_process("the supervisor does not start the serving process");
        started.read_exact(&mut [0]).map_err(not_started)?;
        drop(started);
        let filters = plan.filters()?;
        privileges::drop_rights(&plan, &mut missing, false)?;
        if plan.builds(Layers::LANDLOCK) {
            // In a mount namespace, a mount begins at the share.
            let rules = Rules::new(&plan, plan.isolation == Isolation::Namespace);
            let status = rules.enforce(places.share.as_ref().map(OwnedFd::as_fd));
            let status = status.map_err(|error| SandboxError::Landlock(error.to_string()))?;
            missing.extend(rules.missing(status));
        }
        plan.check(&missing)?;
        // The change of rights has cleared this setting.
        die_with_supervisor().map_err(SandboxError::second_process(CANNOT_FOLLOW))?;
        Confined::new(places, missing, move |kind| filters.install(kind))
    }
}

const CANNOT_FOLLOW: &str = "the serving process cannot follow the supervisor";

fn die_with_supervisor() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Makes the kernel end this process with the supervisor, and detaches it from its terminal.
fn follow(supervisor: &OwnedFd) -> io::Result<()> {
    die_with_supervisor()?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let is_gone = rustix::event::poll(&mut [PollFd::new(supervisor, PollFlags::IN)], Some(&now))? > 0;
    if is_gone {
        return Err(io::Error::other("the supervisor has ended"));
    }
    rustix::process::setsid()?;
    Ok(())
}

/// Takes the ids of root in a namespace that has a root: files of the share then get the guest's
/// owners.
fn become_root() -> io::Result<()> {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}
