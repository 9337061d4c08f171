//! The rights of the process: capabilities, groups, resource limits, and protection against
//! inspection.

use super::capabilities::named;
use super::error::SandboxError;
use super::missing::{Layers, MissingFeature};
use super::plan::Plan;
use pinhole_policy::capabilities;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;

/// Gives up the rights that the policy does not need, permanently and for all later threads. With
/// `keeps_mounts`, keeps the rights that unmounting needs. For users other than root that is the
/// right to run set-user-ID programs with their privileges, because `fusermount3` unmounts for
/// them.
pub(super) fn drop_rights(
    plan: &Plan,
    missing: &mut Vec<MissingFeature>,
    keeps_mounts: bool,
) -> Result<(), SandboxError> {
    drop_groups(missing)?;
    if plan.builds(Layers::CAPABILITIES) {
        let mut kept = needed(plan);
        kept.set(CapabilitySet::SYS_ADMIN, keeps_mounts || kept.contains(CapabilitySet::SYS_ADMIN));
        keep_only(kept).map_err(SandboxError::rights("capabilities"))?;
    }
    if !keeps_mounts || rustix::process::geteuid().is_root() {
        let refused = SandboxError::rights("privileges of programs that it runs");
        rustix::thread::set_no_new_privs(true).map_err(refused)?;
    }
    limit(plan)
}

fn drop_groups(missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    match rustix::thread::set_thread_groups(&[]) {
        // Only root may drop groups, and not in a user namespace with one user.
        Err(Errno::PERM) => {}
        outcome => return outcome.map_err(SandboxError::rights("supplementary groups")),
    }
    let groups = rustix::process::getgroups().map_err(SandboxError::rights("supplementary groups"))?;
    if groups.iter().any(|group| *group != rustix::process::getegid()) {
        let why = "supplementary groups are kept: only root may drop them";
        missing.push(MissingFeature::new(Layers::CAPABILITIES, why));
    }
    Ok(())
}

/// Limits of resources that the daemon never uses, so that an attacker in it cannot use them
/// either.
///
/// Memory, stacks, processor time and threads have no limit: a share takes what its guest asks for,
/// and a limit would end it, or count the threads of other daemons of the same user.
const NEVER: [(Resource, u64, &str); 3] = [
    (Resource::Core, CORE_LEN_MAX, "core files"),
    (Resource::Memlock, 0, "memory that is not swapped"),
    (Resource::Msgqueue, 0, "message queues"),
];

/// Largest length of a core file in bytes. A limit of 0 still lets a program that takes cores
/// through a pipe get all of it, but 1 does not (`fs/coredump.c`). A core file of 1 byte cannot
/// hold an ELF header, so none is written.
const CORE_LEN_MAX: u64 = 1;

/// Sets resource limits, and forbids other processes to inspect this process.
fn limit(plan: &Plan) -> Result<(), SandboxError> {
    for (resource, most, what) in NEVER {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, limit).map_err(SandboxError::rights(what))?;
    }
    if let Some(limit) = plan.file_size {
        let limit = Rlimit { current: Some(limit.get()), maximum: Some(limit.get()) };
        rustix::process::setrlimit(Resource::Fsize, limit)
            .map_err(SandboxError::rights("the length of files"))?;
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(SandboxError::rights("inspection by other processes"))?;
    Ok(())
}

/// Leaves all memory out of the core files of this process and of those that it starts: the guest's
/// memory, and copies of it. Called while the process can reach `/proc`.
///
/// [`limit`] also makes the process not dumpable, but a thread that takes the ids of a guest's user
/// undoes that: the kernel then sets the value of `fs.suid_dumpable`. It does not undo this
/// setting.
pub(super) fn leave_memory_out_of_cores() -> Result<(), SandboxError> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    match std::fs::write("/proc/self/coredump_filter", "0") {
        // The kernel writes no core files, or `/proc` is read-only: the limit of core files
        // remains.
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => Ok(()),
        outcome => outcome.map_err(|source| SandboxError::Rights { what: "memory in core files", source }),
    }
}

/// Returns the capabilities of the policy's table, with the changes of the command line.
fn needed(plan: &Plan) -> CapabilitySet {
    let rows = capabilities::rows(plan.reach, plan.facilities);
    let table = rows.filter_map(|row| named(row.name)).fold(CapabilitySet::empty(), CapabilitySet::union);
    table.union(plan.capabilities.added).difference(plan.capabilities.removed)
}

/// Drops all capabilities of the calling thread except these. Programs that it runs get none.
pub(super) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    // Only CAP_SETPCAP allows changes of the bounding set. A process without capabilities needs no
    // bound.
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
                1 << number,
            )) {
                Ok(()) => {}
                // The number is past the last capability.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    match rustix::thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there is no ambient set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = now.permitted.intersection(kept);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}
