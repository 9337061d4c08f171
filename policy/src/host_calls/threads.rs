//! The rows that threads need for themselves: to wait, to start, to end and to talk to the front-end.

use super::table::{
    ALWAYS, ANONYMOUS, BY_DESCRIPTOR, DEV_FUSE, MAP_SHARED, NOT_EXECUTABLE, flags, int, long, row, within,
};
use super::{Row, Test, Threads};
use crate::{Facilities, Need};

const CONTROL: Threads = Threads::CONTROL;
const WORKER: Threads = Threads::WORKER;
const OFFLOAD: Threads = Threads::OFFLOAD;
const SERVING: Threads = WORKER.union(OFFLOAD);
const ALL: Threads = Threads::INSIDE;

/// The calls of threads for themselves.
pub(super) const ROWS: &[Row] = &[
    // Threads and memory.
    row("futex", ALL, ALWAYS, &[flags(1, 128, "FUTEX_WAIT, private")], "wait for another thread"),
    row("futex", ALL, ALWAYS, &[flags(1, 129, "FUTEX_WAKE, private")], "wake another thread"),
    row(
        "futex",
        ALL,
        ALWAYS,
        &[flags(1, 137, "FUTEX_WAIT_BITSET, private")],
        "wait for another thread, or a time",
    ),
    row(
        "futex",
        CONTROL,
        ALWAYS,
        &[flags(1, 265, "FUTEX_WAIT_BITSET, by the clock")],
        "wait for a thread's end",
    ),
    row("brk", ALL, ALWAYS, &[], "memory"),
    row("mmap", ALL, ALWAYS, &[NOT_EXECUTABLE, ANONYMOUS], "memory"),
    row("munmap", ALL, ALWAYS, &[], "give back memory"),
    row("mprotect", CONTROL, ALWAYS, &[NOT_EXECUTABLE], "the border of a thread's stack"),
    row(
        "madvise",
        OFFLOAD.union(CONTROL),
        ALWAYS,
        &[flags(2, 4, "MADV_DONTNEED")],
        "give back the stack of a thread that ends",
    ),
    row(
        "madvise",
        WORKER,
        DEV_FUSE,
        &[flags(2, 4, "MADV_DONTNEED")],
        "give back the stack of a thread that ends",
    ),
    row(
        "madvise",
        CONTROL,
        ALWAYS,
        &[flags(2, 102, "MADV_GUARD_INSTALL")],
        "the guard below a thread's stack, from glibc 2.41 on",
    ),
    row("clock_gettime", ALL, ALWAYS, &[], "the time, where the kernel does not map it"),
    // The kernel makes this call for a thread that SIGSTOP, a freezer or a tracer has interrupted in a wait with a time
    // limit (futex, poll): it puts the call's number in place of the one that was interrupted, and filters see it.
    row(
        "restart_syscall",
        CONTROL.union(OFFLOAD),
        ALWAYS,
        &[],
        "continue a timed wait after an interruption",
    ),
    row(
        "restart_syscall",
        WORKER,
        ALWAYS,
        &[],
        "continue after an interruption: the pause between FORGETs, or while a guest is slowed down",
    ),
    row("close", ALL, ALWAYS, &[], "close what a guest lets go"),
    row(
        "fcntl",
        ALL,
        Need::ALWAYS.with(Facilities::DEBUG),
        &[flags(1, 1, "F_GETFD")],
        "look whether what is closed was open",
    ),
    row("write", ALL, ALWAYS, &[], "tell a guest, another thread or the log"),
    row(
        "sendto",
        ALL,
        Need::ALWAYS.with(Facilities::LOG_SOCKET),
        &[long(4, Test::Is(0), "to nobody else than it is connected to")],
        "the log, where standard error is a socket",
    ),
    // A worker's turn.
    row("epoll_pwait", WORKER, ALWAYS, &[long(4, Test::Is(0), "no other signal mask")], "wait for a guest"),
    row("read", WORKER, DEV_FUSE, &[], "take a request from /dev/fuse"),
    row("writev", SERVING, DEV_FUSE, &[], "answer it"),
    // A thread's end. Workers of a socket wait instead.
    row("rt_sigprocmask", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    row("sigaltstack", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    row("exit", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    row("rt_sigprocmask", WORKER, DEV_FUSE, &[], "end a thread"),
    row("sigaltstack", WORKER, DEV_FUSE, &[], "end a thread"),
    row("exit", WORKER, DEV_FUSE, &[], "end a thread"),
    // A thread's start, before its own filter.
    row(
        "clone",
        CONTROL,
        ALWAYS,
        &[long(0, Test::Is(0x003d_0f00), "a thread, and nothing else")],
        "start a thread",
    ),
    row("getrandom", CONTROL, ALWAYS, &[], "the keys of a thread's tables, before its own filter"),
    row("set_robust_list", CONTROL, ALWAYS, &[], "start a thread"),
    row("rseq", CONTROL, ALWAYS, &[], "start a thread"),
    row("sched_getaffinity", CONTROL, ALWAYS, &[], "where a thread's stack is"),
    row("gettid", CONTROL, ALWAYS, &[], "start a thread"),
    row("prctl", CONTROL, ALWAYS, &[flags(0, 15, "PR_SET_NAME")], "name a thread"),
    row("prctl", CONTROL, ALWAYS, &[flags(0, 38, "PR_SET_NO_NEW_PRIVS")], "give up rights before a filter"),
    row(
        "seccomp",
        CONTROL,
        ALWAYS,
        &[
            flags(0, 1, "SECCOMP_SET_MODE_FILTER"),
            flags(1, 0, "no flags: for the calling thread alone, without a listener"),
        ],
        "install a thread's own filter",
    ),
    row(
        "unshare",
        CONTROL,
        ALWAYS,
        &[flags(0, 0x200, "CLONE_FS")],
        "a thread's own umask and working directory",
    ),
    row("umask", CONTROL, ALWAYS, &[], "a thread's own umask"),
    row("fchdir", CONTROL, ALWAYS, &[], "a thread's own working directory"),
    // The connection.
    row("ppoll", CONTROL, ALWAYS, &[], "wait for a connection"),
    row("accept4", CONTROL, ALWAYS, &[], "take a connection"),
    row("recvmsg", CONTROL, ALWAYS, &[], "hear the front-end"),
    row(
        "sendmsg",
        CONTROL,
        ALWAYS,
        &[within(2, 0x4040, "MSG_DONTWAIT, MSG_NOSIGNAL")],
        "answer the front-end",
    ),
    row("recvfrom", CONTROL, ALWAYS, &[], "hear of a signal"),
    row(
        "sendto",
        CONTROL,
        ALWAYS,
        &[
            long(2, Test::Is(1), "a byte"),
            flags(3, 0x40, "MSG_DONTWAIT"),
            long(4, Test::Is(0), "to nobody else than it is connected to"),
        ],
        "tell of a signal",
    ),
    row("getsockopt", CONTROL, ALWAYS, &[flags(1, 1, "SOL_SOCKET")], "know the back channel"),
    row("shutdown", CONTROL, ALWAYS, &[], "end a connection"),
    row("fcntl", CONTROL, ALWAYS, &[flags(1, 3, "F_GETFL")], "wait at an event, or not"),
    row("fcntl", CONTROL, ALWAYS, &[flags(1, 4, "F_SETFL")], "wait at an event, or not"),
    row("fcntl", CONTROL, ALWAYS, &[flags(1, 1030, "F_DUPFD_CLOEXEC")], "hand on what the front-end gave"),
    row("read", CONTROL, ALWAYS, &[], "empty an event"),
    row("eventfd2", CONTROL, ALWAYS, &[], "an event to stop a worker by"),
    row("epoll_create1", CONTROL, ALWAYS, &[], "what a worker waits with"),
    row("epoll_ctl", CONTROL, ALWAYS, &[], "what a worker waits for"),
    row(
        "statx",
        CONTROL,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "whether memory is the guest's or a file that can be cut",
    ),
    row("fstatfs", CONTROL, ALWAYS, &[], "likewise"),
    row(
        "mmap",
        CONTROL,
        ALWAYS,
        &[NOT_EXECUTABLE, int(3, Test::Bits { mask: MAP_SHARED, value: MAP_SHARED }, "shared")],
        "the guest's memory",
    ),
    // The end.
    row("rt_sigreturn", CONTROL, ALWAYS, &[], "go on after a signal"),
    row("exit_group", CONTROL, ALWAYS, &[], "end"),
];

/// Calls that the C library makes and can do without: the kernel answers ENOSYS and carries nothing out.
pub(super) const ANSWERED: &[Row] = &[
    row(
        "clone3",
        CONTROL,
        ALWAYS,
        &[],
        "start a thread; then comes clone, whose flags a filter can look into",
    ),
    row("mremap", ALL, ALWAYS, &[], "grow a large piece of memory in its place; then it is copied"),
];
