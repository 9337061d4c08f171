//! The rows themselves. What a flag is called stands behind its number; the numbers are the same on x86-64 and AArch64
//! but for four flags of open(2), which are therefore left free.

use super::{Condition, Row, Test, Threads, Width};
use crate::{Access, Facilities, Need};

const CONTROL: Threads = Threads::CONTROL;
const WORKER: Threads = Threads::WORKER;
const OFFLOAD: Threads = Threads::OFFLOAD;
const SERVING: Threads = WORKER.union(OFFLOAD);
const ALL: Threads = Threads::all();

const WRITES: Access = Access::OPENS_TO_WRITE;
/// What asks for a file's data on the disk: with a request of its own, or with a write.
const SYNCS: Access = Access::FSYNC.union(Access::WRITE).union(Access::APPEND);
/// That, and what has to be written back where a policy limits what is not.
const WRITES_BACK: Access = SYNCS.union(Access::COPY_RANGE);
const MAKES: Access = Access::MAKES_OWNED;
const KEEPS_BITS: Access = Access::KEEPS_BITS;
const XATTR_READS: Access = Access::XATTR_READS.union(Access::ACL_READ);
const XATTR_WRITES: Access = Access::XATTR_WRITES.union(Access::ACL_WRITE);

const ALWAYS: Need = Need::ALWAYS;
const HANDLES: Need = Need::ALWAYS.with(Facilities::HANDLES);
const DEV_FUSE: Need = Need::ALWAYS.with(Facilities::DEV_FUSE);

const fn any(access: Access) -> Need {
    Need::any_of(access)
}

const fn int(argument: u8, test: Test, meaning: &'static str) -> Condition {
    Condition { argument, width: Width::Bits32, test, meaning }
}

const fn long(argument: u8, test: Test, meaning: &'static str) -> Condition {
    Condition { argument, width: Width::Bits64, test, meaning }
}

/// These bits are the only ones that may be set.
const fn within(argument: u8, bits: u64, meaning: &'static str) -> Condition {
    int(argument, Test::Bits { mask: !bits & 0xffff_ffff, value: 0 }, meaning)
}

const AT_FDCWD: u64 = 0xffff_ff9c;
const BY_DESCRIPTOR: Condition = int(0, Test::Not(AT_FDCWD), "the directory is a descriptor");
const TO_DESCRIPTOR: Condition = int(2, Test::Not(AT_FDCWD), "the other directory is a descriptor");

// open(2). O_DIRECTORY, O_NOFOLLOW, O_DIRECT and O_LARGEFILE are four bits on both architectures, in another order.
const O_WRITING: u64 = 0o3;
const O_TRUNC: u64 = 0o1000;
const O_NOCTTY: u64 = 0o400;
const O_NONBLOCK: u64 = 0o4000;
const O_ORDERED: u64 = 0x3_c000;
const O_NOATIME: u64 = 0o1_000_000;
const O_CLOEXEC: u64 = 0o2_000_000;
const O_PATH: u64 = 0o10_000_000;
const READING: u64 = O_NOCTTY | O_NONBLOCK | O_ORDERED | O_NOATIME | O_CLOEXEC | O_PATH;
const WRITING: u64 = READING | O_WRITING | O_TRUNC;

const PROT_EXEC: u64 = 4;
const LOCK_NB: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_SHARED: u64 = 1;
const S_IFMT: u64 = 0o170_000;

const NOT_EXECUTABLE: Condition = int(2, Test::Bits { mask: PROT_EXEC, value: 0 }, "nothing executable");
const ANONYMOUS: Condition =
    int(3, Test::Bits { mask: MAP_ANONYMOUS, value: MAP_ANONYMOUS }, "memory that is no file's");

const LOCK_NOT_WAITING: Condition =
    int(1, Test::Bits { mask: LOCK_NB, value: LOCK_NB }, "LOCK_NB: nobody waits on the host");

const fn row(
    call: &'static str,
    threads: Threads,
    need: Need,
    when: &'static [Condition],
    why: &'static str,
) -> Row {
    Row { call, when, threads, need, why }
}

const fn kind(value: u64, meaning: &'static str) -> Condition {
    int(2, Test::Bits { mask: S_IFMT, value }, meaning)
}

const fn flags(argument: u8, value: u64, meaning: &'static str) -> Condition {
    int(argument, Test::Is(value), meaning)
}

/// Every call.
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
    row("mremap", ALL, ALWAYS, &[flags(3, 1, "MREMAP_MAYMOVE")], "grow memory"),
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
    row("restart_syscall", CONTROL.union(OFFLOAD), ALWAYS, &[], "go on waiting after having been stopped"),
    row(
        "restart_syscall",
        WORKER,
        Need::ALWAYS.with(Facilities::THROTTLE),
        &[],
        "go on holding back after having been stopped",
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
    // Finding and looking.
    row(
        "statx",
        WORKER,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x900, "AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT")],
        "look at a name",
    ),
    row(
        "statx",
        SERVING,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "look at a descriptor",
    ),
    row(
        "openat2",
        WORKER,
        ALWAYS,
        &[BY_DESCRIPTOR, long(3, Test::Is(24), "the structure that is meant")],
        "open a name beneath a directory, no links",
    ),
    row(
        "openat2",
        OFFLOAD,
        any(Access::LOCK),
        &[BY_DESCRIPTOR, long(3, Test::Is(24), "the structure that is meant")],
        "open a file once more, for the locks of one owner",
    ),
    row(
        "name_to_handle_at",
        WORKER,
        HANDLES,
        &[BY_DESCRIPTOR, flags(4, 0, "a name, no link")],
        "know a file again",
    ),
    row(
        "name_to_handle_at",
        WORKER,
        HANDLES,
        &[BY_DESCRIPTOR, flags(4, 0x1000, "AT_EMPTY_PATH")],
        "know what was opened again",
    ),
    row(
        "open_by_handle_at",
        WORKER,
        HANDLES,
        &[within(2, READING, "no right to write")],
        "open what is known",
    ),
    row(
        "open_by_handle_at",
        WORKER,
        any(WRITES).with(Facilities::HANDLES),
        &[within(2, WRITING, "what is there")],
        "open what is known, to write it",
    ),
    row("fstatfs", WORKER, ALWAYS, &[], "which kind of file system, and its figures"),
    row("readlinkat", WORKER, any(Access::READLINK), &[BY_DESCRIPTOR], "read a symbolic link"),
    row("readlinkat", SERVING, any(Access::LOCK), &[BY_DESCRIPTOR], "the name of a file that is locked"),
    row("getdents64", WORKER, any(Access::LIST), &[], "list a directory"),
    row("lseek", WORKER, any(Access::LIST), &[flags(2, 0, "SEEK_SET")], "go on in a listing"),
    // Data.
    row("preadv2", SERVING, any(Access::READ), &[within(5, 0x8, "RWF_NOWAIT")], "read"),
    row("lseek", WORKER, any(Access::READ), &[flags(2, 3, "SEEK_DATA")], "find data"),
    row("lseek", WORKER, any(Access::READ), &[flags(2, 4, "SEEK_HOLE")], "find holes"),
    row(
        "pwritev2",
        SERVING,
        any(Access::WRITE.union(Access::APPEND)),
        &[within(5, 0x16, "RWF_DSYNC, RWF_SYNC, RWF_APPEND")],
        "write",
    ),
    row("fsync", OFFLOAD, any(Access::FSYNC), &[], "make a file durable"),
    row("fsync", WORKER, any(Access::FSYNC).with(Facilities::ALONE), &[], "make a file durable"),
    row(
        "fdatasync",
        OFFLOAD,
        any(WRITES_BACK),
        &[],
        "make a file's data durable, also to make room for more",
    ),
    row(
        "fdatasync",
        WORKER,
        any(WRITES_BACK).with(Facilities::ALONE),
        &[],
        "make a file's data durable, also to make room for more",
    ),
    row("syncfs", OFFLOAD, any(SYNCS), &[], "make a mount durable, or the names of a file"),
    row(
        "syncfs",
        WORKER,
        any(SYNCS).with(Facilities::ALONE),
        &[],
        "make a mount durable, or the names of a file",
    ),
    row("readlinkat", OFFLOAD, any(SYNCS), &[BY_DESCRIPTOR], "whether a durable file has lost its name"),
    row(
        "readlinkat",
        WORKER,
        any(SYNCS).with(Facilities::ALONE),
        &[BY_DESCRIPTOR],
        "whether a durable file has lost its name",
    ),
    row("fcntl", SERVING, any(Access::LOCK), &[flags(1, 37, "F_OFD_SETLK")], "lock a range, or give it back"),
    row("fcntl", SERVING, any(Access::LOCK), &[flags(1, 36, "F_OFD_GETLK")], "who has a range"),
    row("flock", ALL, any(Access::LOCK), &[LOCK_NOT_WAITING], "lock a file, or give it back"),
    row("dup", SERVING, any(WRITES), &[], "let a network file system write back"),
    row("ftruncate", WORKER, any(Access::TRUNCATE), &[], "change a length"),
    row("fallocate", OFFLOAD, any(Access::FALLOCATE), &[within(1, 1, "FALLOC_FL_KEEP_SIZE")], "reserve"),
    row(
        "fallocate",
        WORKER,
        any(Access::FALLOCATE).with(Facilities::ALONE),
        &[within(1, 1, "FALLOC_FL_KEEP_SIZE")],
        "reserve",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE_PUNCH),
        &[flags(1, 3, "FALLOC_FL_PUNCH_HOLE")],
        "punch a hole",
    ),
    row(
        "fallocate",
        WORKER,
        any(Access::FALLOCATE_PUNCH).with(Facilities::ALONE),
        &[flags(1, 3, "FALLOC_FL_PUNCH_HOLE")],
        "punch a hole",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE_ZERO),
        &[within(1, 0x11, "FALLOC_FL_ZERO_RANGE")],
        "zero a range",
    ),
    row(
        "fallocate",
        WORKER,
        any(Access::FALLOCATE_ZERO).with(Facilities::ALONE),
        &[within(1, 0x11, "FALLOC_FL_ZERO_RANGE")],
        "zero a range",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE_SHIFT),
        &[within(1, 0x28, "FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE")],
        "cut a range out or in",
    ),
    row(
        "fallocate",
        WORKER,
        any(Access::FALLOCATE_SHIFT).with(Facilities::ALONE),
        &[within(1, 0x28, "FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE")],
        "cut a range out or in",
    ),
    row(
        "copy_file_range",
        OFFLOAD,
        any(Access::COPY_RANGE),
        &[flags(5, 0, "no flags")],
        "copy inside the host",
    ),
    row(
        "copy_file_range",
        WORKER,
        any(Access::COPY_RANGE).with(Facilities::ALONE),
        &[flags(5, 0, "no flags")],
        "copy inside the host",
    ),
    row(
        "ioctl",
        WORKER,
        any(Access::IOCTL_INODE_FLAGS),
        &[flags(1, 0x8008_6601, "FS_IOC_GETFLAGS")],
        "read inode flags",
    ),
    row(
        "ioctl",
        WORKER,
        any(Access::IOCTL_INODE_FLAGS),
        &[flags(1, 0x4008_6602, "FS_IOC_SETFLAGS")],
        "change inode flags",
    ),
    // Names.
    row("mkdirat", WORKER, any(Access::MKDIR), &[BY_DESCRIPTOR], "make a directory"),
    row(
        "symlinkat",
        WORKER,
        any(Access::SYMLINK),
        &[int(1, Test::Not(AT_FDCWD), "the directory is a descriptor")],
        "make a symbolic link",
    ),
    row("mknodat", WORKER, any(Access::CREATE), &[BY_DESCRIPTOR, kind(0o100_000, "S_IFREG")], "make a file"),
    row(
        "mknodat",
        WORKER,
        any(Access::MKNOD_FIFO),
        &[BY_DESCRIPTOR, kind(0o010_000, "S_IFIFO")],
        "make a FIFO",
    ),
    row(
        "mknodat",
        WORKER,
        any(Access::MKNOD_SOCKET),
        &[BY_DESCRIPTOR, kind(0o140_000, "S_IFSOCK")],
        "make a socket node",
    ),
    row(
        "mknodat",
        WORKER,
        any(Access::MKNOD_CHAR),
        &[BY_DESCRIPTOR, kind(0o020_000, "S_IFCHR")],
        "make a character device node",
    ),
    row(
        "mknodat",
        WORKER,
        any(Access::WHITEOUT),
        &[BY_DESCRIPTOR, kind(0o020_000, "S_IFCHR"), int(3, Test::Is(0), "device 0:0")],
        "make a whiteout",
    ),
    row(
        "mknodat",
        WORKER,
        any(Access::MKNOD_BLOCK),
        &[BY_DESCRIPTOR, kind(0o060_000, "S_IFBLK")],
        "make a block device node",
    ),
    row(
        "linkat",
        WORKER,
        any(Access::LINK),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, flags(4, 0x400, "AT_SYMLINK_FOLLOW, by descriptor number")],
        "give a file another name",
    ),
    row(
        "unlinkat",
        WORKER,
        any(Access::UNLINK),
        &[BY_DESCRIPTOR, flags(2, 0, "no directory")],
        "remove a name",
    ),
    row(
        "unlinkat",
        WORKER,
        any(Access::RMDIR),
        &[BY_DESCRIPTOR, flags(2, 0x200, "AT_REMOVEDIR")],
        "remove a directory",
    ),
    row(
        "renameat2",
        WORKER,
        any(Access::RENAME),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, within(4, 1, "RENAME_NOREPLACE")],
        "move a name",
    ),
    row(
        "renameat2",
        WORKER,
        any(Access::EXCHANGE),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, flags(4, 2, "RENAME_EXCHANGE")],
        "swap two names",
    ),
    row(
        "renameat2",
        WORKER,
        any(Access::WHITEOUT),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, within(4, 5, "RENAME_WHITEOUT, RENAME_NOREPLACE")],
        "move a name and leave a whiteout",
    ),
    // Attributes.
    row("fchmodat", WORKER, any(Access::CHMOD), &[BY_DESCRIPTOR], "change permission bits"),
    row(
        "fchownat",
        WORKER,
        any(Access::CHOWN),
        &[BY_DESCRIPTOR, flags(4, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "change the owner",
    ),
    row("utimensat", WORKER, any(Access::UTIMENS), &[BY_DESCRIPTOR], "change times"),
    row(
        "getxattr",
        WORKER,
        any(XATTR_READS).with(Facilities::XATTR),
        &[],
        "read an attribute, by descriptor number in the working directory",
    ),
    row("listxattr", WORKER, any(XATTR_READS).with(Facilities::XATTR), &[], "list attributes, likewise"),
    row(
        "setxattr",
        WORKER,
        any(XATTR_WRITES).with(Facilities::XATTR),
        &[int(4, Test::AtMost(2), "XATTR_CREATE or XATTR_REPLACE")],
        "write an attribute, likewise",
    ),
    row(
        "removexattr",
        WORKER,
        any(XATTR_WRITES).with(Facilities::XATTR),
        &[],
        "remove an attribute, likewise",
    ),
    // In whose name.
    row(
        "umask",
        WORKER,
        any(MAKES).with(Facilities::ACL),
        &[],
        "make what the guest's umask allows, where a default list may take its place",
    ),
    row("capset", WORKER, any(KEEPS_BITS), &[], "say whether set-group-id stays"),
    row("capset", OFFLOAD, any(WRITES), &[], "say whether set-group-id stays"),
    row(
        "setgroups",
        WORKER,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make as the guest's user, on the thread alone",
    ),
    row(
        "setresgid",
        WORKER,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make as the guest's user, on the thread alone",
    ),
    row(
        "setresuid",
        WORKER,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make as the guest's user, on the thread alone",
    ),
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
        &[flags(0, 1, "SECCOMP_SET_MODE_FILTER")],
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
pub(super) const ANSWERED: &[Row] = &[row(
    "clone3",
    CONTROL,
    ALWAYS,
    &[],
    "start a thread; then comes clone, whose flags a filter can look into",
)];
