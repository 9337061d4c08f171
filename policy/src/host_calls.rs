//! The host system calls that a policy needs, with conditions on their arguments.
//!
//! The seccomp filters and `pinhole policy explain` are made from this table. A test compares
//! docs/internals/host-calls.md with it.

mod prepared;
mod row;
mod supervisor;
mod table;
mod threads;

use crate::{Access, Facilities};

pub use row::{CallRow, Condition, Process, Test, Threads, Width};

/// Calls that fail with ENOSYS instead of ending the process. The kernel does not execute them. A
/// row for serving threads does not apply to control threads, which may be permitted to make the
/// same call.
pub const ANSWERED: &[CallRow] = threads::ANSWERED;

/// Returns every row, always in the same order.
pub fn every_row() -> impl Iterator<Item = &'static CallRow> {
    [table::ROWS, prepared::ROWS, threads::ROWS, supervisor::ROWS].into_iter().flatten()
}

/// Returns the rows of these kinds of threads. `granted` are the accesses that the policy grants
/// anywhere.
pub fn rows(
    threads: Threads,
    granted: Access,
    facilities: Facilities,
) -> impl Iterator<Item = &'static CallRow> {
    let is_prepared = facilities.contains(Facilities::PREPARED);
    let of_requests = if is_prepared { prepared::ROWS } else { table::ROWS };
    let rows = [of_requests, threads::ROWS, supervisor::ROWS].into_iter().flatten();
    rows.filter(move |row| row.threads.intersects(threads) && row.need.applies(granted, facilities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;
    use std::collections::BTreeSet;

    /// Facilities of a daemon that root has started, by default.
    const ROOT: Facilities = Facilities::HANDLES.union(Facilities::IDENTITY);

    /// Counts the calls of a queue thread under a profile.
    fn calls_of_queue_thread(profile: Profile, facilities: Facilities) -> usize {
        let facilities = facilities | profile.facilities();
        let calls = rows(Threads::QUEUE, profile.granted(), facilities).map(|row| row.call);
        calls.collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn queue_thread_may_make_this_many_calls() {
        let calls = |facilities| Profile::ALL.map(|profile| calls_of_queue_thread(profile, facilities));
        assert_eq!(calls(ROOT), [31, 31, 14, 5], "full, share, rootfs, prepared");
        assert_eq!(calls(ROOT | Facilities::XATTR), [35, 35, 16, 5], "the same with --xattr");
        assert_eq!(calls(Facilities::XATTR), [30, 30, 14, 5], "the same, not started by root");
    }

    /// SIGCONT, a freezer and a tracer may interrupt any wait at any moment. The supervisor is left
    /// out, because it has no wait with a time limit.
    #[test]
    fn thread_with_timed_waits_may_continue_an_interrupted_wait() {
        for (kind, facilities) in [
            (Threads::CONTROL, Facilities::empty()),
            (Threads::OFFLOAD, Facilities::empty()),
            (Threads::QUEUE, Facilities::DEV_FUSE),
            (Threads::QUEUE, Facilities::empty()),
        ] {
            let rows = || rows(kind, Access::empty(), facilities);
            let without_limit = |row: &CallRow| row.when.iter().any(|one| one.argument == 3);
            let wakes = |row: &CallRow| row.when.iter().any(|one| one.test == Test::Is(129));
            let waits = rows().any(|row| row.call == "futex" && !without_limit(row) && !wakes(row));
            let continues = rows().any(|row| row.call == "restart_syscall");
            assert_eq!(waits, continues, "{kind:?}, {facilities:?}");
        }
    }

    #[test]
    fn capset_is_permitted_exactly_where_cap_fsetid_is_kept() {
        for access in crate::ACCESSES {
            let all = Facilities::OF_A_DIRECTORY;
            let capset = rows(Threads::QUEUE, access.access, all);
            let mut kept = crate::capabilities::rows(access.access, all);
            let is_kept = kept.any(|row| row.name == "CAP_FSETID");
            assert_eq!(capset.filter(|row| row.call == "capset").count() > 0, is_kept, "{}", access.name);
        }
    }

    #[test]
    fn queue_thread_of_an_image_may_make_exactly_these_calls() {
        let granted = Profile::Prepared.granted();
        let rows = || rows(Threads::QUEUE, granted, Facilities::PREPARED);
        let calls: BTreeSet<_> = rows().map(|row| row.call).collect();
        assert_eq!(calls, BTreeSet::from(["epoll_pwait", "futex", "preadv2", "rt_sigreturn", "write"]));
        for row in rows().filter(|row| row.call != "rt_sigreturn") {
            assert!(!row.when.is_empty(), "{} with any arguments", row.call);
        }
        assert!(rows().all(|row| !row.ends_thread));
    }

    #[test]
    fn no_thread_of_an_image_opens_a_file() {
        let all = Facilities::all() - Facilities::DEV_FUSE;
        let calls = rows(Threads::INSIDE, Access::all(), all).map(|row| row.call);
        let opening = ["open", "openat", "openat2", "open_by_handle_at", "name_to_handle_at", "unshare"];
        assert_eq!(calls.filter(|call| opening.contains(call)).collect::<Vec<_>>(), [""; 0]);
    }

    /// None of the calls opens, starts or connects anything, because the supervisor has the rights
    /// of the user that started the daemon, in the host's own namespaces.
    #[test]
    fn supervisor_may_make_exactly_these_calls() {
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
            let names_process = row.when.iter().any(|condition| matches!(condition.test, Test::Process(_)));
            assert_eq!(names_process, ["kill", "wait4"].contains(&row.call), "{}: {}", row.call, row.why);
        }
    }

    #[test]
    fn every_call_with_a_directory_takes_a_descriptor() {
        for row in every_row().filter(|row| row.call.ends_with("at") || row.call.ends_with("at2")) {
            let takes_descriptor =
                row.when.iter().any(|condition| condition.test == Test::Not(table::AT_FDCWD));
            assert!(
                takes_descriptor || row.call == "fstat" || row.call == "open_by_handle_at",
                "{}",
                row.call
            );
        }
    }
}
