//! The host system calls that a policy needs, each with what has to be true of its arguments. The seccomp filters,
//! `pinhole policy explain` and the documents are made from this table.

mod supervisor;
mod table;
mod threads;

use crate::{Access, Facilities, Need};
use bitflags::bitflags;

bitflags! {
    /// Kinds of threads; each has a filter of its own.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Threads: u8 {
        /// Those that talk to the VMM, wait for signals and start others.
        const CONTROL = 1;
        /// Those that take requests from a queue.
        const WORKER = 1 << 1;
        /// Those that carry out requests that wait.
        const OFFLOAD = 1 << 2;
        /// The only thread of the process that stays outside the sandbox.
        const SUPERVISOR = 1 << 3;
    }
}

impl Threads {
    /// The name of a single kind; `None` for none and for several.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::CONTROL => Some("control"),
            Self::WORKER => Some("worker"),
            Self::OFFLOAD => Some("offload"),
            Self::SUPERVISOR => Some("supervisor"),
            _ => None,
        }
    }
}

impl Threads {
    /// Every kind in the process that serves.
    pub const INSIDE: Self = Self::CONTROL.union(Self::WORKER).union(Self::OFFLOAD);

    /// Whose calls the filter of this kind lets through. Filters are inherited: that of the control threads holds for
    /// those that they start, too, and has to let through what any of them needs.
    #[must_use]
    pub const fn within_filter(self) -> Self {
        if self.contains(Self::CONTROL) { self.union(Self::INSIDE) } else { self }
    }
}

/// How much of an argument the kernel looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The lower 32 bits: `int` and `unsigned int`.
    Bits32,
    /// All 64 bits.
    Bits64,
}

/// One of the two processes of a daemon. Its number is known only when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The process that waits outside the sandbox.
    Supervisor,
    /// The process that serves.
    Serving,
}

/// What has to be true of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is this.
    Is(u64),
    /// It is anything but this.
    Not(u64),
    /// Under the mask it is this.
    Bits {
        /// The bits looked at.
        mask: u64,
        /// What they are.
        value: u64,
    },
    /// It is this or less.
    AtMost(u64),
    /// It is the number of this process, as the supervisor knows it.
    Process(Process),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which, from 0.
    pub argument: u8,
    /// How much of it counts.
    pub width: Width,
    /// What has to be true.
    pub test: Test,
    /// The same in words: `flags are O_PATH | O_CLOEXEC`.
    pub meaning: &'static str,
}

/// One way in which a system call is made. Several rows of one call are alternatives.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kernel's name of the call.
    pub call: &'static str,
    /// All of these hold.
    pub when: &'static [Condition],
    /// The kinds of threads that make it.
    pub threads: Threads,
    /// What for.
    pub need: Need,
    /// What for, in words.
    pub why: &'static str,
}

/// Calls that are answered ENOSYS instead of ending the process: nothing is carried out, so nothing is allowed.
pub const ANSWERED: &[Row] = threads::ANSWERED;

/// Every row, in an order that does not change.
pub fn every_row() -> impl Iterator<Item = &'static Row> {
    [table::ROWS, threads::ROWS, supervisor::ROWS].into_iter().flatten()
}

/// The rows for a kind of thread under a policy that grants `granted` somewhere.
pub fn rows(threads: Threads, granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static Row> {
    every_row().filter(move |row| row.threads.intersects(threads) && row.need.applies(granted, facilities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;
    use std::collections::BTreeSet;

    /// Different calls of a worker under a profile, with what the command line switches on by itself for root.
    fn worker(profile: Profile, besides: Facilities) -> usize {
        let facilities = Facilities::HANDLES | Facilities::IDENTITY | besides;
        let calls = rows(Threads::WORKER, profile.granted(), facilities).map(|row| row.call);
        calls.collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn a_worker_may_make_few_calls() {
        let plain = Profile::ALL.map(|profile| worker(profile, Facilities::empty()));
        assert_eq!(plain, [36, 36, 18], "full, share, rootfs");
        let with_attributes = Profile::ALL.map(|profile| worker(profile, Facilities::XATTR));
        assert_eq!(with_attributes, [40, 40, 20], "full, share, rootfs with --xattr");
    }

    /// SIGCONT, a freezer and a tracer may end any wait at any moment. The supervisor has no wait with a time limit.
    #[test]
    fn every_kind_of_thread_may_continue_an_interrupted_wait() {
        for kind in Threads::INSIDE.iter() {
            let mut calls = rows(kind, Access::empty(), Facilities::empty()).map(|row| row.call);
            assert!(calls.any(|call| call == "restart_syscall"), "{kind:?}");
        }
    }

    #[test]
    fn set_group_id_is_kept_or_dropped_exactly_where_the_capability_for_it_is_kept() {
        for described in crate::ACCESSES {
            let capset = rows(Threads::WORKER, described.access, Facilities::all());
            let mut kept = crate::capabilities::rows(described.access, Facilities::all());
            let is_kept = kept.any(|row| row.name == "CAP_FSETID");
            assert_eq!(capset.filter(|row| row.call == "capset").count() > 0, is_kept, "{}", described.name);
        }
    }

    /// It has the rights of the user that started the daemon, in the host's own namespaces.
    #[test]
    fn the_supervisor_opens_starts_and_connects_nothing() {
        let calls = rows(Threads::SUPERVISOR, Access::all(), Facilities::all()).map(|row| row.call);
        let calls: BTreeSet<_> = calls.collect();
        let expected = [
            "clock_gettime",
            "exit_group",
            "kill",
            "rt_sigprocmask",
            "rt_sigtimedwait",
            "sendto",
            "statx",
            "unlinkat",
            "wait4",
            "write",
        ];
        assert_eq!(calls, BTreeSet::from(expected));
        for row in rows(Threads::SUPERVISOR, Access::all(), Facilities::all()) {
            let named = row.when.iter().any(|condition| matches!(condition.test, Test::Process(_)));
            assert_eq!(named, ["kill", "wait4"].contains(&row.call), "{}: {}", row.call, row.why);
        }
    }

    #[test]
    fn a_directory_is_always_named_by_a_descriptor() {
        for row in every_row().filter(|row| row.call.ends_with("at") || row.call.ends_with("at2")) {
            let named = row.when.iter().any(|condition| matches!(condition.test, Test::Not(0xffff_ff9c)));
            assert!(named || row.call == "fstat" || row.call == "open_by_handle_at", "{}", row.call);
        }
    }
}
