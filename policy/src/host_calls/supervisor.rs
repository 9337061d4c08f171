//! The rows of the supervisor: the process that stays outside the sandbox. No guest talks to it.

use super::table::{ALWAYS, BY_DESCRIPTOR, flags, int, long, process, row, within};
use super::{Condition, Process, Row, Test, Threads};
use crate::{Facilities, Need};

const SUPERVISOR: Threads = Threads::SUPERVISOR;
const SOCKET_NAME: Need = Need::ALWAYS.with(Facilities::SOCKET_NAME);

const SIGKILL: u64 = 9;
const SIGTERM: u64 = 15;
const SIGNAL_MAX: u64 = 64;

/// Only the process that serves.
const SERVING: Condition = process(0, Process::Serving, "the process that serves");

/// The calls from the moment at which the supervisor waits until it ends.
///
/// None of them is `restart_syscall`: the supervisor waits without a time limit, and the kernel repeats such waits by
/// their own number or ends them with EINTR.
pub(super) const ROWS: &[Row] = &[
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
        &[SERVING, within(2, 1, "WNOHANG")],
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
    row(
        "rt_sigprocmask",
        SUPERVISOR,
        ALWAYS,
        &[flags(0, 1, "SIG_UNBLOCK")],
        "end by a signal that it has waited for",
    ),
    row("write", SUPERVISOR, ALWAYS, &[], "the log, and the start signal of the serving process"),
    row(
        "sendto",
        SUPERVISOR,
        Need::ALWAYS.with(Facilities::LOG_SOCKET),
        &[long(4, Test::Is(0), "to nobody else than it is connected to")],
        "the log, where standard error is a socket",
    ),
    row("clock_gettime", SUPERVISOR, ALWAYS, &[], "the time in the log, where the kernel does not map it"),
    row(
        "statx",
        SUPERVISOR,
        SOCKET_NAME,
        &[BY_DESCRIPTOR, flags(2, 0x900, "AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT")],
        "whether the socket's name is still its own",
    ),
    row(
        "unlinkat",
        SUPERVISOR,
        SOCKET_NAME,
        &[BY_DESCRIPTOR, flags(2, 0, "no directory")],
        "remove the socket's name",
    ),
    row("exit_group", SUPERVISOR, ALWAYS, &[], "end"),
];
