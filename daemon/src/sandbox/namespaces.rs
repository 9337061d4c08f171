//! Namespaces, and a root directory that is the share, or is empty.
//!
//! The share is cloned with all mounts below it, before anything is mounted over it, and becomes
//! the root directory. The old root is detached. `/proc` is not mounted: a clone of the one
//! directory `/proc/self/fd`, attached nowhere, is enough, and `..` does not lead out of it. A
//! process without a shared directory gets a new tmpfs instead, which has no file and takes none.

use super::error::SandboxError;
use super::missing::{Layers, MissingFeature};
use super::plan::Plan;
use crate::sys::mounts::restrict_mounts;
use crate::sys::thread::unshare;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags};
use rustix::mount::{OpenTreeFlags, UnmountFlags, mount_change, mount_move, move_mount, open_tree, unmount};
use rustix::mount::{fsconfig_create, fsmount, fsopen};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// The directories of the host that the process needs.
#[derive(Debug)]
pub struct HostPlaces {
    /// The shared directory, if there is one.
    pub share: Option<OwnedFd>,
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

/// Makes a clone of the share's mounts the root directory, or an empty file system.
pub(super) fn pivot(plan: &Plan, missing: &mut Vec<MissingFeature>) -> Result<HostPlaces, SandboxError> {
    let failed = SandboxError::namespace::<Errno>;
    // A later mount of the host below the share appears here too, but no mount of this namespace
    // appears on the host.
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(c"/", follow).map_err(failed("cannot separate the mounts from those of the host"))?;
    let proc_fds = detached_proc_fds().map_err(|source| SandboxError::Proc { source })?;
    let (place, root) = if let Some(place) = open_share(plan)? {
        let root = clone_mounts(&place, plan.read_only, missing);
        let root = root.map_err(failed("cannot clone the shared directory's mounts"))?;
        (place, root)
    } else {
        // Any directory will do: it and all else of the host is left behind.
        let place = rustix::fs::open(c"/proc", FOLDER, Mode::empty());
        let root = empty_mount().map_err(failed("cannot make an empty root directory"))?;
        (place.map_err(|error| SandboxError::Proc { source: error.into() })?, root)
    };
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&root, c"", &place, c"", onto).map_err(failed("cannot mount the share"))?;
    drop(place);
    fchdir(&root).map_err(failed("cannot enter the share"))?;
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
    Ok(HostPlaces { share: plan.share.is_some().then_some(root), proc_fds })
}

/// Clones the mounts of a directory and of all below it.
fn clone_mounts(
    place: &OwnedFd,
    read_only: bool,
    missing: &mut Vec<MissingFeature>,
) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let share = open_tree(place, c"", flags)?;
    if let Err(error) = restrict_mounts(share.as_fd(), read_only) {
        let why = format!("the share's mounts cannot be restricted (read-only, nosuid, nodev): {error}");
        missing.push(MissingFeature::new(Layers::NAMESPACE, why));
    }
    Ok(share)
}

/// Makes a file system without a file that is attached nowhere and cannot be written.
fn empty_mount() -> rustix::io::Result<OwnedFd> {
    let file_system = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&file_system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes the share the root directory, without a namespace.
pub(super) fn change_root(plan: &Plan) -> Result<HostPlaces, SandboxError> {
    // Any other descriptor of /proc would lead out of the new root.
    let proc_fds = detached_proc_fds().map_err(SandboxError::chroot("cannot detach /proc/self/fd"))?;
    let share = open_share(plan)?;
    let root = match share.as_ref().map(OwnedFd::try_clone) {
        Some(share) => share.map_err(SandboxError::chroot("cannot enter the share"))?,
        None => empty_mount().map_err(SandboxError::chroot("cannot make an empty root directory"))?,
    };
    fchdir(&root).map_err(SandboxError::chroot("cannot enter the share"))?;
    chroot(c".").map_err(SandboxError::chroot("cannot make the share the root"))?;
    chdir(c"/").map_err(SandboxError::chroot("cannot enter the new root"))?;
    Ok(HostPlaces { share, proc_fds })
}

/// Returns the directories without any isolation. Detaches `/proc/self/fd` from the host's tree
/// if the process has the right to.
pub(super) fn in_place(plan: &Plan) -> Result<HostPlaces, SandboxError> {
    let proc_fds = detached_proc_fds().or_else(|_no_right| plain_proc_fds());
    let proc_fds = proc_fds.map_err(|source| SandboxError::Proc { source })?;
    Ok(HostPlaces { share: open_share(plan)?, proc_fds })
}

/// Opens the shared directory, if there is one.
pub(super) fn open_share(plan: &Plan) -> Result<Option<OwnedFd>, SandboxError> {
    let Some(path) = &plan.share else { return Ok(None) };
    rustix::fs::open(path, FOLDER, Mode::empty())
        .map(Some)
        .map_err(|error| SandboxError::Share { path: path.clone(), source: error.into() })
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
