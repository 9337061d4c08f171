//! The rights of the process itself: capabilities, groups, limits, and what others may learn of it.

use super::{Layers, MissingFeature, Plan, SandboxError};
use pinhole_policy::capabilities;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;
use std::str::FromStr;

/// `--modcaps`: `+name` keeps one more, `-name` one less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityChanges {
    added: CapabilitySet,
    removed: CapabilitySet,
}

impl Default for CapabilityChanges {
    fn default() -> Self {
        Self { added: CapabilitySet::empty(), removed: CapabilitySet::empty() }
    }
}

/// A word that names no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no change: give +NAME or -NAME parted by colons, such as +sys_admin:-chown")]
pub struct CapabilityError {
    /// The word.
    pub word: String,
}

impl FromStr for CapabilityChanges {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        let mut changes = Self::default();
        for word in text.split(':').filter(|word| !word.is_empty()) {
            let wrong = || CapabilityError { word: word.to_owned() };
            let (added, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (None, Some(name)) => (false, name),
                (None, None) => return Err(wrong()),
            };
            let one = named(name).ok_or_else(wrong)?;
            changes.added.set(one, added);
            changes.removed.set(one, !added);
        }
        Ok(changes)
    }
}

/// The capability of this name, in the kernel's spelling or virtiofsd's.
fn named(name: &str) -> Option<CapabilitySet> {
    let name = name.to_uppercase();
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(&name))
}

fn failed(what: &'static str) -> impl Fn(Errno) -> SandboxError {
    move |error| SandboxError::Rights { what, source: error.into() }
}

/// Gives up what the policy does not need, for good and for every thread that is to come.
pub(super) fn drop_rights(plan: &Plan, missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    let rights = |what| move |source: io::Error| SandboxError::Rights { what, source };
    drop_groups(missing)?;
    if plan.builds(Layers::CAPABILITIES) {
        keep_only(needed(plan)).map_err(rights("capabilities"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("new rights by running programs"))?;
    limit(plan)
}

fn drop_groups(missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) => {}
        // A user namespace of one user has no right to this, nor has anybody who is not root.
        Err(Errno::PERM) => {
            let groups = rustix::process::getgroups().map_err(failed("supplementary groups"))?;
            if groups.iter().any(|group| *group != rustix::process::getegid()) {
                missing.push(MissingFeature::of(
                    Layers::CAPABILITIES,
                    "supplementary groups are kept: only root may drop them",
                ));
            }
        }
        Err(error) => return Err(failed("supplementary groups")(error)),
    }
    Ok(())
}

/// What a daemon that is no longer ours could take of the host without a right to it, and ours never does. Memory,
/// stacks, time on a processor and threads have no limit: a share takes what its guest asks for, and a limit on them
/// would end it, or, on the threads of a user, count those of others.
const NEVER: [(Resource, u64, &str); 3] = [
    (Resource::Core, CORE_LEN_MAX, "core files"),
    (Resource::Memlock, 0, "memory that is not swapped"),
    (Resource::Msgqueue, 0, "message queues"),
];

/// Bytes of a core file. A limit of 0 keeps the kernel from writing a file only: a program that takes cores through a
/// pipe gets all of it whatever the limit, but nothing where the limit is 1 (`fs/coredump.c`). For a file 1 is as good
/// as 0: an ELF header does not fit.
const CORE_LEN_MAX: u64 = 1;

/// Limits, and nothing to be learnt from outside.
fn limit(plan: &Plan) -> Result<(), SandboxError> {
    for (resource, most, what) in NEVER {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, limit).map_err(failed(what))?;
    }
    if let Some(limit) = plan.file_size {
        let limit = Rlimit { current: Some(limit.get()), maximum: Some(limit.get()) };
        rustix::process::setrlimit(Resource::Fsize, limit).map_err(failed("larger files"))?;
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("being looked into"))?;
    Ok(())
}

/// Has the kernel leave all memory out of a core of this process and of those that it starts: the guest's, and what was
/// copied of it. To be called while `/proc` is there.
///
/// [`limit`] also makes the process one that is not dumped, but a thread that takes on a guest's user undoes that: the
/// kernel then sets what `fs.suid_dumpable` says. This it does not undo.
pub(super) fn leave_memory_out_of_cores() -> Result<(), SandboxError> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    match std::fs::write("/proc/self/coredump_filter", "0") {
        // A kernel that writes no cores, or a `/proc` that may not be changed: there the limit on core files stands alone.
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => Ok(()),
        outcome => outcome.map_err(|source| SandboxError::Rights { what: "memory in core files", source }),
    }
}

/// Keeps, beside what the policy needs, the right to mount. Users other than root also keep the rights that programs
/// bring: `fusermount3`, which unmounts for them, is such a program.
pub(super) fn keep_for_mounting(plan: &Plan, missing: &mut Vec<MissingFeature>) -> Result<(), SandboxError> {
    let rights = |what| move |source: io::Error| SandboxError::Rights { what, source };
    leave_memory_out_of_cores()?;
    drop_groups(missing)?;
    if plan.builds(Layers::CAPABILITIES) {
        keep_only(needed(plan).union(CapabilitySet::SYS_ADMIN)).map_err(rights("capabilities"))?;
    }
    if rustix::process::geteuid().is_root() {
        rustix::thread::set_no_new_privs(true).map_err(failed("new rights by running programs"))?;
    }
    limit(plan)
}

/// What the policy's table names, with the command line's changes.
fn needed(plan: &Plan) -> CapabilitySet {
    let rows = capabilities::rows(plan.reach, plan.facilities);
    let table = rows.filter_map(|row| named(row.name)).fold(CapabilitySet::empty(), CapabilitySet::union);
    table.union(plan.capabilities.added).difference(plan.capabilities.removed)
}

/// Keeps of the capabilities that this thread has only these, and none for programs that it might run.
pub(super) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    // Dropping from the bounding set is a right of its own; who has no capability has nothing to bound.
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
                1 << number,
            )) {
                Ok(()) => {}
                // There are no more.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    match rustix::thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there are none.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = now.permitted.intersection(kept);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_in_virtiofsds_form_and_the_last_word_wins() {
        let changes: CapabilityChanges = "+sys_admin:-chown:+CAP_MKNOD:-mknod".parse().unwrap();
        assert_eq!(changes.added, CapabilitySet::SYS_ADMIN);
        assert_eq!(changes.removed, CapabilitySet::CHOWN | CapabilitySet::MKNOD);
        for wrong in ["sys_admin", "+", "+no_such", "-"] {
            assert!(wrong.parse::<CapabilityChanges>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_capability_of_the_table_has_a_number() {
        for row in capabilities::ROWS {
            assert!(named(row.name).is_some(), "{}", row.name);
        }
    }
}
