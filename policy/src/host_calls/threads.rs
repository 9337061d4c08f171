//! The rows that threads need for themselves: waiting, starting, ending, and talking to the
//! front-end.

use super::row::{CallRow, Condition, Test, Threads};
use super::table::{
    ALWAYS, ANONYMOUS, BY_DESCRIPTOR, DEV_FUSE, MAP_SHARED, NOT_EXECUTABLE, flags, int, long, only_bits, row,
};
use crate::{Facilities, Need};

const CONTROL: Threads = Threads::CONTROL;
const QUEUE: Threads = Threads::QUEUE;
const OFFLOAD: Threads = Threads::OFFLOAD;
/// Threads that carry out requests.
const SERVING: Threads = QUEUE.union(OFFLOAD);
/// Threads of the serving process.
const ALL: Threads = Threads::INSIDE;

/// A daemon that serves a directory.
const OF_A_DIRECTORY: Need = Need::ALWAYS.without(Facilities::PREPARED);
/// Log messages go to a socket.
const LOG_SOCKET: Need = Need::ALWAYS.with(Facilities::LOG_SOCKET);
const CONNECTED_PEER: Condition = long(4, Test::Is(0), "only to the connected peer");
const WITHOUT_LIMIT: Condition = long(3, Test::Is(0), "without a time limit");

/// Creates a row of a call that a thread makes only to end.
const fn ending(
    call: &'static str,
    threads: Threads,
    need: Need,
    when: &'static [Condition],
    why: &'static str,
) -> CallRow {
    CallRow { ends_thread: true, ..row(call, threads, need, when, why) }
}

/// The calls that threads need for themselves.
///
/// Queue threads of a VM read no clock: the thread `relay` tells them the time and writes their log
/// lines. They need no `restart_syscall`: their only wait with a time limit is `epoll_pwait`, which
/// the kernel does not continue by that call. Control threads unmap guest memory for them.
pub(super) const ROWS: &[CallRow] = &[
    // Threads and memory.
    row(
        "futex",
        ALL,
        ALWAYS,
        &[flags(1, 128, "FUTEX_WAIT, private"), WITHOUT_LIMIT],
        "wait for another thread, in the C library",
    ),
    row("futex", ALL, ALWAYS, &[flags(1, 129, "FUTEX_WAKE, private")], "wake another thread"),
    row(
        "futex",
        ALL,
        ALWAYS,
        &[flags(1, 137, "FUTEX_WAIT_BITSET, private"), WITHOUT_LIMIT],
        "wait for another thread",
    ),
    row(
        "futex",
        OFFLOAD.union(CONTROL),
        ALWAYS,
        &[flags(1, 137, "FUTEX_WAIT_BITSET, private")],
        "wait for another thread, with a time limit",
    ),
    row(
        "futex",
        QUEUE,
        DEV_FUSE,
        &[flags(1, 137, "FUTEX_WAIT_BITSET, private")],
        "pause while limits slow the guest down",
    ),
    row(
        "futex",
        CONTROL,
        ALWAYS,
        &[flags(1, 265, "FUTEX_WAIT_BITSET with FUTEX_CLOCK_REALTIME")],
        "wait for the end of a thread",
    ),
    row("brk", OFFLOAD.union(CONTROL), ALWAYS, &[], "allocate memory"),
    row("brk", QUEUE, OF_A_DIRECTORY, &[], "allocate memory"),
    row("brk", QUEUE, DEV_FUSE, &[], "allocate memory"),
    row("mmap", CONTROL, ALWAYS, &[NOT_EXECUTABLE, ANONYMOUS], "make the stack of a thread"),
    row("munmap", CONTROL, ALWAYS, &[], "unmap guest memory"),
    ending("munmap", OFFLOAD.union(CONTROL), ALWAYS, &[], "free the stack of a thread that ends"),
    ending("munmap", QUEUE, DEV_FUSE, &[], "free the stack of a thread that ends"),
    row("mprotect", CONTROL, ALWAYS, &[NOT_EXECUTABLE], "set the limit of a thread's stack"),
    ending(
        "madvise",
        OFFLOAD.union(CONTROL),
        ALWAYS,
        &[flags(2, 4, "MADV_DONTNEED")],
        "free the stack of a thread that ends",
    ),
    ending(
        "madvise",
        QUEUE,
        DEV_FUSE,
        &[flags(2, 4, "MADV_DONTNEED")],
        "free the stack of a thread that ends",
    ),
    row(
        "madvise",
        CONTROL,
        ALWAYS,
        &[flags(2, 102, "MADV_GUARD_INSTALL")],
        "install the guard below a thread's stack, from glibc 2.41 on",
    ),
    row("clock_gettime", OFFLOAD.union(CONTROL), ALWAYS, &[], "read the time, where the vDSO cannot"),
    row("clock_gettime", QUEUE, DEV_FUSE, &[], "read the time, where the vDSO cannot"),
    // The kernel makes this call for a thread that SIGSTOP, a freezer or a tracer has interrupted
    // in a wait with a time limit (futex, poll). The kernel replaces the number of the interrupted
    // call, and filters see the new number.
    row(
        "restart_syscall",
        CONTROL.union(OFFLOAD),
        ALWAYS,
        &[],
        "continue a timed wait after an interruption",
    ),
    row(
        "restart_syscall",
        QUEUE,
        DEV_FUSE,
        &[],
        "continue an interrupted pause while limits slow the guest down",
    ),
    row("close", OFFLOAD.union(CONTROL), ALWAYS, &[], "close what is no longer used"),
    row("close", QUEUE, OF_A_DIRECTORY, &[], "close what the guest no longer uses"),
    row(
        "fcntl",
        OFFLOAD.union(CONTROL),
        Need::ALWAYS.with(Facilities::DEBUG),
        &[flags(1, 1, "F_GETFD")],
        "check that a descriptor is open before it is closed",
    ),
    row(
        "fcntl",
        QUEUE,
        OF_A_DIRECTORY.with(Facilities::DEBUG),
        &[flags(1, 1, "F_GETFD")],
        "check that a descriptor is open before it is closed",
    ),
    row("write", OFFLOAD.union(CONTROL), ALWAYS, &[], "notify the guest or another thread, or write the log"),
    row("write", QUEUE, OF_A_DIRECTORY, &[], "notify the guest or another thread"),
    row("write", QUEUE, DEV_FUSE, &[], "write the log"),
    row(
        "sendto",
        OFFLOAD.union(CONTROL),
        LOG_SOCKET,
        &[CONNECTED_PEER],
        "write the log, if standard error is a socket",
    ),
    row(
        "sendto",
        QUEUE,
        LOG_SOCKET.with(Facilities::DEV_FUSE),
        &[CONNECTED_PEER],
        "write the log, if standard error is a socket",
    ),
    // Requests and replies.
    row(
        "epoll_pwait",
        QUEUE,
        ALWAYS,
        &[long(4, Test::Is(0), "no other signal mask")],
        "wait for a request of the guest",
    ),
    row("read", QUEUE, DEV_FUSE, &[], "take a request from /dev/fuse"),
    row("writev", SERVING, DEV_FUSE, &[], "reply on /dev/fuse"),
    // The end of a thread. Queue threads of a VM never end: they wait for the next connection.
    ending("rt_sigprocmask", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    ending("sigaltstack", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    ending("exit", OFFLOAD.union(CONTROL), ALWAYS, &[], "end a thread"),
    ending("rt_sigprocmask", QUEUE, DEV_FUSE, &[], "end a thread"),
    ending("sigaltstack", QUEUE, DEV_FUSE, &[], "end a thread"),
    ending("exit", QUEUE, DEV_FUSE, &[], "end a thread"),
    // The start of a thread, before its own filter.
    row(
        "clone",
        CONTROL,
        ALWAYS,
        &[long(0, Test::Is(0x003d_0f00), "the flags of a new thread")],
        "start a thread",
    ),
    row("getrandom", CONTROL, ALWAYS, &[], "get the keys of a thread's hash tables, before its own filter"),
    row("set_robust_list", CONTROL, ALWAYS, &[], "start a thread"),
    row("rseq", CONTROL, ALWAYS, &[], "start a thread"),
    row("sched_getaffinity", CONTROL, ALWAYS, &[], "find the stack of a thread"),
    row("gettid", CONTROL, ALWAYS, &[], "start a thread"),
    row("prctl", CONTROL, ALWAYS, &[flags(0, 15, "PR_SET_NAME")], "name a thread"),
    row(
        "prctl",
        CONTROL,
        ALWAYS,
        &[flags(0, 38, "PR_SET_NO_NEW_PRIVS")],
        "give up rights before installing a filter",
    ),
    row(
        "seccomp",
        CONTROL,
        ALWAYS,
        &[
            flags(0, 1, "SECCOMP_SET_MODE_FILTER"),
            flags(1, 0, "no flags: only the calling thread, without a listener"),
        ],
        "install the filter of a thread",
    ),
    row(
        "unshare",
        CONTROL,
        OF_A_DIRECTORY,
        &[flags(0, 0x200, "CLONE_FS")],
        "give a thread its own umask and working directory",
    ),
    row("umask", CONTROL, OF_A_DIRECTORY, &[], "set the umask of a thread"),
    row("fchdir", CONTROL, OF_A_DIRECTORY, &[], "set the working directory of a thread"),
    // The connection.
    row("ppoll", CONTROL, ALWAYS, &[], "wait for a connection, a signal or a request to start a thread"),
    row("accept4", CONTROL, ALWAYS, &[], "accept a connection"),
    row("recvmsg", CONTROL, ALWAYS, &[], "receive messages of the front-end"),
    row(
        "sendmsg",
        CONTROL,
        ALWAYS,
        &[only_bits(2, 0x4040, "MSG_DONTWAIT, MSG_NOSIGNAL")],
        "send messages to the front-end",
    ),
    row("getsockopt", CONTROL, ALWAYS, &[flags(1, 1, "SOL_SOCKET")], "check the type of the back channel"),
    row("shutdown", CONTROL, ALWAYS, &[], "end a connection"),
    row("fcntl", CONTROL, ALWAYS, &[flags(1, 3, "F_GETFL")], "make an event non-blocking"),
    row("fcntl", CONTROL, ALWAYS, &[flags(1, 4, "F_SETFL")], "make an event non-blocking"),
    row(
        "fcntl",
        CONTROL,
        ALWAYS,
        &[flags(1, 1030, "F_DUPFD_CLOEXEC")],
        "duplicate a descriptor of the front-end",
    ),
    row("read", CONTROL, ALWAYS, &[], "reset an event"),
    row("eventfd2", CONTROL, ALWAYS, &[], "create the event that stops a queue thread"),
    row("epoll_create1", CONTROL, ALWAYS, &[], "create the epoll instance of a queue thread"),
    row("epoll_ctl", CONTROL, ALWAYS, &[], "choose the events that a queue thread waits for"),
    row(
        "statx",
        CONTROL,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "tell guest memory from a file that can be truncated",
    ),
    row("fstatfs", CONTROL, ALWAYS, &[], "tell guest memory from a file that can be truncated"),
    row(
        "mmap",
        CONTROL,
        ALWAYS,
        &[NOT_EXECUTABLE, int(3, Test::Bits { mask: MAP_SHARED, value: MAP_SHARED }, "shared")],
        "map guest memory",
    ),
    // The end of the process.
    row("exit_group", CONTROL, ALWAYS, &[], "end the process"),
];

/// Calls that the C library makes and can do without. They fail with ENOSYS, and the kernel does
/// not execute them.
pub(super) const ANSWERED: &[CallRow] = &[
    row(
        "clone3",
        CONTROL,
        ALWAYS,
        &[],
        "start a thread; the C library falls back to clone, whose flags a filter can check",
    ),
    row(
        "mmap",
        SERVING,
        ALWAYS,
        &[],
        "allocate memory that brk cannot; the allocator reports that there is no memory",
    ),
];
