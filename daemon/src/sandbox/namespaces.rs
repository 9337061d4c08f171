//! The outermost wall: namespaces, and a root directory that is the share.
//!
//! The share is cloned with all that is mounted below it, before anything is mounted over it, and becomes the root; what
//! was the root is let go. Of `/proc` nothing is mounted: a clone of the one directory `/proc/self/fd`, attached
//! nowhere, is enough, and there is no way up from it.

use super::filter::Processes;
use super::supervisor::UnconfinedSupervisor;
use super::{
    Inside, Isolation, Layers, MissingFeature, Places, Plan, SandboxError, Side, no_second, privileges,
};
use crate::sys::mounts::restrict_mounts;
use crate::sys::process::{self, Forked};
use crate::sys::thread::unshare;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::mount::{mount_change, mount_move, move_mount, open_tree, unmount};
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// Beside those of users, processes and mounts. Each is left if it can be: without it, the other walls stand between
/// the daemon and what it would have hidden.
const OTHERS: [(UnshareFlags, &str); 4] = [
    (UnshareFlags::NEWNET, "network"),
    (UnshareFlags::NEWIPC, "ipc"),
    (UnshareFlags::NEWUTS, "uts"),
    (UnshareFlags::NEWCGROUP, "cgroup"),
];

pub(super) fn isolate(plan: Plan, isolation: Isolation) -> Result<Side, SandboxError> {
    // Missing, it would be missed at each of the steps below, and said less plainly.
    drop(plain_proc_fds().map_err(|source| SandboxError::Proc { source })?);
    privileges::leave_memory_out_of_cores()?;
    let own_users = isolation == Isolation::Namespace
        && (!rustix::process::geteuid().is_root() || plan.id_maps.are_given());
    let own = rustix::process::getpid();
    let filter = plan.supervisor_filter()?;
    let supervisor = rustix::process::pidfd_open(own, PidfdFlags::empty());
    let supervisor = supervisor.map_err(|error| no_second("no descriptor of the first")(error.into()))?;
    if own_users {
        plan.id_maps.enter()?;
    } else if isolation == Isolation::Namespace {
        unshare(UnshareFlags::NEWPID).map_err(refused("no namespace of processes"))?;
    }
    // While /proc is there, which tells that this is the only thread; for both processes.
    let forgot = process::forget_environment();
    forgot.map_err(|source| SandboxError::Rights { what: "the environment", source })?;
    let (started, start) = io::pipe().map_err(no_second("no pipe between them"))?;
    match process::fork().map_err(no_second("fork"))? {
        Forked::Parent(serving) => {
            let processes = Processes { supervisor: own, serving };
            return Ok(Side::Outside(UnconfinedSupervisor::new(processes, start, filter, plan.facilities)));
        }
        Forked::Child => drop(start),
    }
    if own_users && plan.id_maps.have_root() {
        become_root().map_err(refused("cannot become the root of the namespace"))?;
    }
    follow(&supervisor).map_err(no_second("the second cannot follow the first"))?;
    drop(supervisor);
    let mut missing = Vec::new();
    let places = match isolation {
        Isolation::Namespace => {
            leave_the_rest(&mut missing)?;
            pivot(&plan, &mut missing)?
        }
        Isolation::Chroot => change_root(&plan)?,
        Isolation::None => in_place(&plan)?,
    };
    Ok(Side::Inside(Inside { plan, places, own_mount: isolation == Isolation::Namespace, missing, started }))
}

/// The two places without any isolation. Who may, takes `/proc/self/fd` out of the host's tree all the same.
pub(super) fn in_place(plan: &Plan) -> Result<Places, SandboxError> {
    let proc_fds = detached_proc_fds().or_else(|_no_right| plain_proc_fds());
    let proc_fds = proc_fds.map_err(|source| SandboxError::Proc { source })?;
    Ok(Places { root: open_share(plan)?, proc_fds })
}

/// Once more: a change of rights takes it back.
pub(super) fn die_with_supervisor() -> Result<(), SandboxError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| no_second("the second cannot follow the first")(error.into()))
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Namespace { what, source }
}

/// The ids of a namespace that has a root: files of the share then get the guest's owners.
fn become_root() -> io::Result<()> {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Lets the kernel end this process with the one that keeps it, however that ends, and takes it off its terminal.
fn follow(supervisor: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = rustix::event::poll(&mut [PollFd::new(supervisor, PollFlags::IN)], Some(&now))? > 0;
    if gone {
        return Err(io::Error::other("it has ended already"));
    }
    rustix::process::setsid()?;
    Ok(())
}

fn leave_the_rest(missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    unshare(UnshareFlags::NEWNS).map_err(refused("no namespace of mounts"))?;
    let all = OTHERS.iter().fold(UnshareFlags::empty(), |all, (flag, _)| all | *flag);
    if unshare(all).is_ok() {
        return Ok(());
    }
    for (flag, name) in OTHERS {
        if let Err(error) = unshare(flag) {
            missing.push(MissingFeature::of(
                Layers::NAMESPACE,
                format!("no namespace of its own for {name}: {error}"),
            ));
        }
    }
    Ok(())
}

fn pivot(plan: &Plan, missing: &mut Vec<MissingFeature>) -> Result<Places, SandboxError> {
    let failed = |what| move |error: Errno| SandboxError::Namespace { what, source: error.into() };
    // What the host mounts below the share later appears here too; what happens here does not appear there.
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(c"/", follow).map_err(failed("cannot part the mounts from the host's"))?;
    let proc_fds = detached_proc_fds().map_err(|source| SandboxError::Proc { source })?;
    let place = open_share(plan)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let share =
        open_tree(&place, c"", flags).map_err(failed("cannot clone the shared directory's mounts"))?;
    if let Err(error) = restrict_mounts(share.as_fd(), plan.read_only) {
        missing.push(MissingFeature::of(
            Layers::NAMESPACE,
            format!("the share's mounts keep what they allow (read-only, nosuid, nodev): {error}"),
        ));
    }
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&share, c"", &place, c"", onto).map_err(failed("cannot mount the share"))?;
    drop(place);
    rustix::process::fchdir(&share).map_err(failed("cannot enter the share"))?;
    match rustix::process::pivot_root(c".", c".") {
        Ok(()) => {
            unmount(c".", UnmountFlags::DETACH).map_err(failed("cannot let go of the host's root"))?;
        }
        // An initramfs cannot be exchanged; it is covered instead.
        Err(Errno::INVAL) => {
            mount_move(c".", c"/").map_err(failed("cannot cover the host's root"))?;
            rustix::process::chroot(c".").map_err(failed("cannot make the share the root"))?;
            missing.push(MissingFeature::of(
                Layers::NAMESPACE,
                "the host's root is covered, not gone: it is an initramfs",
            ));
        }
        Err(error) => return Err(failed("cannot make the share the root")(error)),
    }
    rustix::process::chdir(c"/").map_err(failed("cannot enter the new root"))?;
    Ok(Places { root: share, proc_fds })
}

fn change_root(plan: &Plan) -> Result<Places, SandboxError> {
    let failed = |what| move |source: io::Error| SandboxError::Chroot { what, source };
    // Any other descriptor of /proc would be a way out.
    let proc_fds = detached_proc_fds().map_err(failed("cannot detach /proc/self/fd"))?;
    let root = open_share(plan)?;
    let enter = |what| move |error: Errno| SandboxError::Chroot { what, source: error.into() };
    rustix::process::fchdir(&root).map_err(enter("cannot enter the share"))?;
    rustix::process::chroot(c".").map_err(enter("cannot make the share the root"))?;
    rustix::process::chdir(c"/").map_err(enter("cannot enter the new root"))?;
    Ok(Places { root, proc_fds })
}

pub(super) fn open_share(plan: &Plan) -> Result<OwnedFd, SandboxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&plan.share, flags, Mode::empty())
        .map_err(|error| SandboxError::Share { path: plan.share.clone(), source: error.into() })
}

/// `/proc/self/fd` as a mount of its own that is attached nowhere: ".." leads nowhere.
fn detached_proc_fds() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, c"/proc/self/fd", flags)?)
}

fn plain_proc_fds() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?)
}
