//! Namespaces, and a root directory that is the share.
//!
//! The share is cloned with all mounts below it, before anything is mounted over it, and becomes
//! the root directory. The old root is detached. `/proc` is not mounted: a clone of the one
//! directory `/proc/self/fd`, attached nowhere, is enough, and `..` does not lead out of it.

use super::error::SandboxError;
use super::missing::{Layers, MissingFeature};
use super::plan::Plan;
use crate::sys::mounts::restrict_mounts;
use crate::sys::thread::unshare;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::mount::{mount_change, mount_move, move_mount, open_tree, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// The two directories of the host that the process needs.
#[derive(Debug)]
pub struct HostPlaces {
    /// The shared directory.
    pub root: OwnedFd,
    /// `/proc/self/fd`.
    pub proc_fds: OwnedFd,
}

/// Namespaces besides those of users, processes and mounts. The host may refuse each: the other
/// layers still restrict the same access.
const OTHERS: [(UnshareFlags, &str); 4] = [
    (UnshareFlags::NEWNET, "network"),
    (UnshareFlags::NEWIPC, "ipc"),
    (UnshareFlags::NEWUTS, "uts"),
    (UnshareFlags::NEWCGROUP, "cgroup"),
];

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Leaves the host's namespaces, except those of users and processes.
pub(super) fn leave_the_rest(missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    unshare(UnshareFlags::NEWNS).map_err(SandboxError::namespace("no mount namespace"))?;
    let all = OTHERS.iter().fold(UnshareFlags::empty(), |all, (flag, _)| all | *flag);
    if unshare(all).is_ok() {
        return Ok(());
    }
    for (flag, name) in OTHERS {
        if let Err(error) = unshare(flag) {
            let why = format!("no namespace of its own for {name}: {error}");
            missing.push(MissingFeature::new(Layers::NAMESPACE, why));
        }
    }
    Ok(())
}

/// Makes a clone of the share's mounts the root directory.
pub(super) fn pivot(plan: &Plan, missing: &mut Vec<MissingFeature>) -> Result<HostPlaces, SandboxError> {
    let failed = SandboxError::namespace::<Errno>;
    // A later mount of the host below the share appears here too, but no mount of this namespace
    // appears on the host.
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(c"/", follow).map_err(failed("cannot separate the mounts from those of the host"))?;
    let proc_fds = detached_proc_fds().map_err(|source| SandboxError::Proc { source })?;
    let place = open_share(plan)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let share =
        open_tree(&place, c"", flags).map_err(failed("cannot clone the shared directory's mounts"))?;
    if let Err(error) = restrict_mounts(share.as_fd(), plan.read_only) {
        let why = format!("the share's mounts cannot be restricted (read-only, nosuid, nodev): {error}");
        missing.push(MissingFeature::new(Layers::NAMESPACE, why));
    }
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&share, c"", &place, c"", onto).map_err(failed("cannot mount the share"))?;
    drop(place);
    fchdir(&share).map_err(failed("cannot enter the share"))?;
    match pivot_root(c".", c".") {
        Ok(()) => {
            unmount(c".", UnmountFlags::DETACH).map_err(failed("cannot unmount the host's root"))?;
        }
        // An initramfs cannot be exchanged, so the share covers it.
        Err(Errno::INVAL) => {
            mount_move(c".", c"/").map_err(failed("cannot cover the host's root"))?;
            chroot(c".").map_err(failed("cannot make the share the root"))?;
            let why = "the host's root is an initramfs: it is covered, not unmounted";
            missing.push(MissingFeature::new(Layers::NAMESPACE, why));
        }
        Err(error) => return Err(failed("cannot make the share the root")(error)),
    }
    chdir(c"/").map_err(failed("cannot enter the new root"))?;
    Ok(HostPlaces { root: share, proc_fds })
}

/// Makes the share the root directory, without a namespace.
pub(super) fn change_root(plan: &Plan) -> Result<HostPlaces, SandboxError> {
    // Any other descriptor of /proc would lead out of the new root.
    let proc_fds = detached_proc_fds().map_err(SandboxError::chroot("cannot detach /proc/self/fd"))?;
    let root = open_share(plan)?;
    fchdir(&root).map_err(SandboxError::chroot("cannot enter the share"))?;
    chroot(c".").map_err(SandboxError::chroot("cannot make the share the root"))?;
    chdir(c"/").map_err(SandboxError::chroot("cannot enter the new root"))?;
    Ok(HostPlaces { root, proc_fds })
}

/// Returns the two directories without any isolation. Detaches `/proc/self/fd` from the host's tree
/// if the process has the right to.
pub(super) fn in_place(plan: &Plan) -> Result<HostPlaces, SandboxError> {
    let proc_fds = detached_proc_fds().or_else(|_no_right| plain_proc_fds());
    let proc_fds = proc_fds.map_err(|source| SandboxError::Proc { source })?;
    Ok(HostPlaces { root: open_share(plan)?, proc_fds })
}

/// Opens the shared directory.
pub(super) fn open_share(plan: &Plan) -> Result<OwnedFd, SandboxError> {
    rustix::fs::open(&plan.share, FOLDER, Mode::empty())
        .map_err(|error| SandboxError::Share { path: plan.share.clone(), source: error.into() })
}

/// Returns `/proc/self/fd` as a mount that is attached nowhere, so that ".." does not leave it.
fn detached_proc_fds() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, c"/proc/self/fd", flags)?)
}

/// Opens `/proc/self/fd`.
pub(super) fn plain_proc_fds() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(c"/proc/self/fd", FOLDER, Mode::empty())?)
}
