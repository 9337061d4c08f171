//! The rows of the supervisor, the process outside the sandbox. No guest talks to it.

use super::row::{CallRow, Condition, Process, Test, Threads};
use super::table::{ALWAYS, BY_DESCRIPTOR, flags, int, long, only_bits, process, row};
use crate::{Facilities, Need};

const SUPERVISOR: Threads = Threads::SUPERVISOR;
/// A daemon that has created its socket at a path.
const SOCKET_NAME: Need = Need::ALWAYS.with(Facilities::SOCKET_NAME);

const SIGKILL: u64 = 9;
const SIGTERM: u64 = 15;
/// Highest signal number of Linux.
const SIGNAL_MAX: u64 = 64;

/// The condition that the call is about the serving process.
const SERVING: Condition = process(0, Process::Serving, "the serving process");

/// The calls from the moment when the supervisor starts to wait until it ends.
///
/// `restart_syscall` is not among them, because the supervisor waits without a time limit. After an
/// interruption, the kernel repeats the call of such a wait, or ends the wait with EINTR.
pub(super) const ROWS: &[CallRow] = &[
    row(
        "rt_sigtimedwait",
        SUPERVISOR,
        ALWAYS,
        &[long(2, Test::Is(0), "without a time limit")],
        "wait for a signal",
    ),
    row(
        "wait4",
        SUPERVISOR,
        ALWAYS,
        &[SERVING, only_bits(2, 1, "WNOHANG")],
        "learn how the serving process ended",
    ),
    row("kill", SUPERVISOR, ALWAYS, &[SERVING, flags(1, SIGTERM, "SIGTERM")], "pass a signal on"),
    row("kill", SUPERVISOR, ALWAYS, &[SERVING, flags(1, SIGKILL, "SIGKILL")], "end the serving process"),
    row(
        "kill",
        SUPERVISOR,
        ALWAYS,
        &[process(0, Process::Supervisor, "itself"), int(1, Test::AtMost(SIGNAL_MAX), "a signal")],
        "end by the signal that ended the serving process",
    ),
    row("rt_sigprocmask", SUPERVISOR, ALWAYS, &[flags(0, 1, "SIG_UNBLOCK")], "unblock a signal to end by it"),
    row("write", SUPERVISOR, ALWAYS, &[], "write the log, and let the serving process continue"),
    row(
        "sendto",
        SUPERVISOR,
        Need::ALWAYS.with(Facilities::LOG_SOCKET),
        &[long(4, Test::Is(0), "only to the connected peer")],
        "write the log, if standard error is a socket",
    ),
    row("clock_gettime", SUPERVISOR, ALWAYS, &[], "read the time for the log, where the vDSO cannot"),
    row(
        "statx",
        SUPERVISOR,
        SOCKET_NAME,
        &[BY_DESCRIPTOR, flags(2, 0x900, "AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT")],
        "check that the name is still that of its own socket",
    ),
    row(
        "unlinkat",
        SUPERVISOR,
        SOCKET_NAME,
        &[BY_DESCRIPTOR, flags(2, 0, "no flags: not a directory")],
        "remove the name of the socket",
    ),
    row("exit_group", SUPERVISOR, ALWAYS, &[], "end the process"),
];
