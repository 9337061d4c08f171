//! The rows that requests need, and the parts that every row is made of.
//!
//! In a row, the names of flags follow their number. The numbers are the same on x86-64 and
//! AArch64, except for four flags of open(2), which are therefore always permitted.

use super::row::{CallRow, Condition, Process, Test, Threads, Width};
use crate::{Access, Facilities, Need};

const QUEUE: Threads = Threads::QUEUE;
const OFFLOAD: Threads = Threads::OFFLOAD;
/// Threads that carry out requests.
const SERVING: Threads = QUEUE.union(OFFLOAD);
/// Threads of the serving process.
const ALL: Threads = Threads::INSIDE;

/// Operations that open a file for writing.
const WRITES: Access = Access::OPENS_TO_WRITE;
/// Operations that can make data durable: by a request of their own, or as part of a write.
const SYNCS: Access = Access::FSYNC.union(Access::WRITE).union(Access::APPEND);
/// Operations for which the offload pool opens a file again.
const REOPENS: Access = Access::LOCK.union(Access::TRUNCATE);
const MAKES: Access = Access::MAKES_OWNED;
const KEEPS_BITS: Access = Access::KEEPS_BITS;
/// Operations that read attributes, POSIX ACLs included.
const XATTR_READS: Access = Access::XATTR_READS.union(Access::ACL_READ);
/// Operations that change attributes, POSIX ACLs included.
const XATTR_WRITES: Access = Access::XATTR_WRITES.union(Access::ACL_WRITE);

pub(super) const ALWAYS: Need = Need::ALWAYS;
/// A daemon that uses inode handles.
const HANDLES: Need = Need::ALWAYS.with(Facilities::HANDLES);
/// A daemon that serves /dev/fuse (`pinhole mount`).
pub(super) const DEV_FUSE: Need = Need::ALWAYS.with(Facilities::DEV_FUSE);

/// Creates the condition that at least one of these accesses is granted.
pub(super) const fn any(access: Access) -> Need {
    Need::any_of(access)
}

/// Creates a condition on an argument of 32 bits.
pub(super) const fn int(argument: u8, test: Test, meaning: &'static str) -> Condition {
    Condition { argument, width: Width::Bits32, test, meaning }
}

/// Creates a condition on an argument of 64 bits.
pub(super) const fn long(argument: u8, test: Test, meaning: &'static str) -> Condition {
    Condition { argument, width: Width::Bits64, test, meaning }
}

/// Creates a condition on a process id, of which the kernel reads 32 bits.
pub(super) const fn process(argument: u8, which: Process, meaning: &'static str) -> Condition {
    int(argument, Test::Process(which), meaning)
}

/// Creates the condition that no bits except these are set in an argument of 32 bits.
pub(super) const fn only_bits(argument: u8, bits: u64, meaning: &'static str) -> Condition {
    int(argument, Test::Bits { mask: !bits & 0xffff_ffff, value: 0 }, meaning)
}

pub(super) const AT_FDCWD: u64 = 0xffff_ff9c;
pub(super) const BY_DESCRIPTOR: Condition = int(0, Test::Not(AT_FDCWD), "the directory is a descriptor");
const OPEN_HOW: Condition = long(3, Test::Is(24), "the size of struct open_how");
const TO_DESCRIPTOR: Condition = int(2, Test::Not(AT_FDCWD), "the other directory is a descriptor");

// open(2). O_DIRECTORY, O_NOFOLLOW, O_DIRECT and O_LARGEFILE are the same four bits on both
// architectures, in a different order.
/// Bits of `O_WRONLY` and `O_RDWR`.
const O_WRITING: u64 = 0o3;
const O_TRUNC: u64 = 0o1000;
const O_NOCTTY: u64 = 0o400;
const O_NONBLOCK: u64 = 0o4000;
/// The four bits that the architectures assign in a different order.
const O_ORDERED: u64 = 0x3_c000;
const O_NOATIME: u64 = 0o1_000_000;
const O_CLOEXEC: u64 = 0o2_000_000;
const O_PATH: u64 = 0o10_000_000;
/// Flags for opening an existing file without writing to it.
const READING: u64 = O_NOCTTY | O_NONBLOCK | O_ORDERED | O_NOATIME | O_CLOEXEC | O_PATH;
/// Flags for opening an existing file for reading or writing.
const WRITING: u64 = READING | O_WRITING | O_TRUNC;

const PROT_EXEC: u64 = 4;
const LOCK_NB: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
pub(super) const MAP_SHARED: u64 = 1;
const S_IFMT: u64 = 0o170_000;

pub(super) const NOT_EXECUTABLE: Condition =
    int(2, Test::Bits { mask: PROT_EXEC, value: 0 }, "not executable");
pub(super) const ANONYMOUS: Condition =
    int(3, Test::Bits { mask: MAP_ANONYMOUS, value: MAP_ANONYMOUS }, "anonymous memory");

const LOCK_NOT_WAITING: Condition =
    int(1, Test::Bits { mask: LOCK_NB, value: LOCK_NB }, "LOCK_NB: never waits on the host");

/// Creates a row.
pub(super) const fn row(
    call: &'static str,
    threads: Threads,
    need: Need,
    when: &'static [Condition],
    why: &'static str,
) -> CallRow {
    CallRow { call, when, threads, need, why, ends_thread: false }
}

/// Creates the condition of mknodat(2) that the new node has this file type.
const fn file_type(value: u64, meaning: &'static str) -> Condition {
    int(2, Test::Bits { mask: S_IFMT, value }, meaning)
}

/// Creates the condition that an argument of 32 bits is exactly this value.
pub(super) const fn flags(argument: u8, value: u64, meaning: &'static str) -> Condition {
    int(argument, Test::Is(value), meaning)
}

/// The calls that carry out requests.
pub(super) const ROWS: &[CallRow] = &[
    // Finding files and reading attributes.
    row(
        "statx",
        QUEUE,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x900, "AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT")],
        "read the attributes of a name",
    ),
    row(
        "statx",
        SERVING,
        ALWAYS,
        &[BY_DESCRIPTOR, flags(2, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "read the attributes of a descriptor",
    ),
    row(
        "openat2",
        QUEUE,
        ALWAYS,
        &[BY_DESCRIPTOR, OPEN_HOW],
        "open a name beneath a directory, following no links",
    ),
    row(
        "openat2",
        OFFLOAD,
        any(REOPENS),
        &[BY_DESCRIPTOR, OPEN_HOW],
        "open a file again to lock or truncate it",
    ),
    row(
        "name_to_handle_at",
        QUEUE,
        HANDLES,
        &[BY_DESCRIPTOR, flags(4, 0, "no flags: a name, following no links")],
        "get the inode handle of a file, to find it again",
    ),
    row(
        "name_to_handle_at",
        QUEUE,
        HANDLES,
        &[BY_DESCRIPTOR, flags(4, 0x1000, "AT_EMPTY_PATH")],
        "get the inode handle of an open file, to find it again",
    ),
    row(
        "open_by_handle_at",
        QUEUE,
        HANDLES,
        &[only_bits(2, READING, "not for writing")],
        "open a file by its inode handle",
    ),
    row(
        "open_by_handle_at",
        QUEUE,
        any(WRITES).with(Facilities::HANDLES),
        &[only_bits(2, WRITING, "an existing file")],
        "open a file by its inode handle for writing",
    ),
    row(
        "open_by_handle_at",
        OFFLOAD,
        any(Access::TRUNCATE).with(Facilities::HANDLES),
        &[only_bits(2, WRITING, "an existing file")],
        "open a large file to truncate it",
    ),
    row("fstatfs", QUEUE, ALWAYS, &[], "read the type and the statistics of a file system"),
    row("readlinkat", QUEUE, any(Access::READLINK), &[BY_DESCRIPTOR], "read a symbolic link"),
    row("readlinkat", SERVING, any(Access::LOCK), &[BY_DESCRIPTOR], "find the name of a file to lock"),
    row("readlinkat", QUEUE, any(Access::LOOKUP), &[BY_DESCRIPTOR], "find the place of a removed directory"),
    row("getdents64", QUEUE, any(Access::LIST), &[], "list a directory"),
    row("lseek", QUEUE, any(Access::LIST), &[flags(2, 0, "SEEK_SET")], "continue a listing elsewhere"),
    // Data.
    row("preadv2", SERVING, any(Access::READ), &[only_bits(5, 0x8, "RWF_NOWAIT")], "read a file"),
    row("lseek", QUEUE, any(Access::READ), &[flags(2, 3, "SEEK_DATA")], "find data"),
    row("lseek", QUEUE, any(Access::READ), &[flags(2, 4, "SEEK_HOLE")], "find holes"),
    row(
        "pwritev2",
        SERVING,
        any(Access::WRITE.union(Access::APPEND)),
        &[only_bits(5, 0x16, "RWF_DSYNC, RWF_SYNC, RWF_APPEND")],
        "write a file",
    ),
    row("fsync", OFFLOAD, any(Access::FSYNC), &[], "make a file durable"),
    row("fsync", QUEUE, any(Access::FSYNC).with(Facilities::NO_POOL), &[], "make a file durable"),
    row("fdatasync", OFFLOAD, any(Access::FSYNC), &[], "make the data of a file durable"),
    row(
        "fdatasync",
        QUEUE,
        any(Access::FSYNC).with(Facilities::NO_POOL),
        &[],
        "make the data of a file durable",
    ),
    row("syncfs", OFFLOAD, any(SYNCS), &[], "make a whole mount durable, or the names of a file"),
    row("readlinkat", OFFLOAD, any(SYNCS), &[BY_DESCRIPTOR], "check whether a synced file has lost its name"),
    row(
        "readlinkat",
        QUEUE,
        any(SYNCS).with(Facilities::NO_POOL),
        &[BY_DESCRIPTOR],
        "check whether a synced file has lost its name",
    ),
    row("fcntl", SERVING, any(Access::LOCK), &[flags(1, 37, "F_OFD_SETLK")], "lock or unlock a range"),
    row("fcntl", SERVING, any(Access::LOCK), &[flags(1, 36, "F_OFD_GETLK")], "find the lock on a range"),
    row("flock", ALL, any(Access::LOCK), &[LOCK_NOT_WAITING], "lock or unlock a file"),
    row("dup", OFFLOAD, any(WRITES), &[], "close a duplicate, so that a network file system writes back"),
    row(
        "dup",
        QUEUE,
        any(WRITES).with(Facilities::NO_POOL),
        &[],
        "close a duplicate, so that a network file system writes back",
    ),
    row("ftruncate", SERVING, any(Access::TRUNCATE), &[], "change the length of a file"),
    row(
        "fstatfs",
        OFFLOAD,
        any(Access::FALLOCATE),
        &[],
        "check that there is space for all of a long reservation",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE),
        &[only_bits(1, 1, "FALLOC_FL_KEEP_SIZE")],
        "reserve space",
    ),
    row(
        "fallocate",
        QUEUE,
        any(Access::FALLOCATE).with(Facilities::NO_POOL),
        &[only_bits(1, 1, "FALLOC_FL_KEEP_SIZE")],
        "reserve space",
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
        QUEUE,
        any(Access::FALLOCATE_PUNCH).with(Facilities::NO_POOL),
        &[flags(1, 3, "FALLOC_FL_PUNCH_HOLE")],
        "punch a hole",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE_ZERO),
        &[only_bits(1, 0x11, "FALLOC_FL_ZERO_RANGE")],
        "zero a range",
    ),
    row(
        "fallocate",
        QUEUE,
        any(Access::FALLOCATE_ZERO).with(Facilities::NO_POOL),
        &[only_bits(1, 0x11, "FALLOC_FL_ZERO_RANGE")],
        "zero a range",
    ),
    row(
        "fallocate",
        OFFLOAD,
        any(Access::FALLOCATE_SHIFT),
        &[only_bits(1, 0x28, "FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE")],
        "cut out or insert a range",
    ),
    row(
        "fallocate",
        QUEUE,
        any(Access::FALLOCATE_SHIFT).with(Facilities::NO_POOL),
        &[only_bits(1, 0x28, "FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE")],
        "cut out or insert a range",
    ),
    row(
        "copy_file_range",
        OFFLOAD,
        any(Access::COPY_RANGE),
        &[flags(5, 0, "no flags")],
        "copy between files inside the host",
    ),
    row(
        "copy_file_range",
        QUEUE,
        any(Access::COPY_RANGE).with(Facilities::NO_POOL),
        &[flags(5, 0, "no flags")],
        "copy between files inside the host",
    ),
    row(
        "ioctl",
        QUEUE,
        any(Access::IOCTL_INODE_FLAGS),
        &[flags(1, 0x8008_6601, "FS_IOC_GETFLAGS")],
        "read inode flags",
    ),
    row(
        "ioctl",
        QUEUE,
        any(Access::IOCTL_INODE_FLAGS),
        &[flags(1, 0x4008_6602, "FS_IOC_SETFLAGS")],
        "change inode flags",
    ),
    // Names.
    row("mkdirat", QUEUE, any(Access::MKDIR), &[BY_DESCRIPTOR], "make a directory"),
    row(
        "symlinkat",
        QUEUE,
        any(Access::SYMLINK),
        &[int(1, Test::Not(AT_FDCWD), "the directory is a descriptor")],
        "make a symbolic link",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::CREATE),
        &[BY_DESCRIPTOR, file_type(0o100_000, "S_IFREG")],
        "make a file",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::MKNOD_FIFO),
        &[BY_DESCRIPTOR, file_type(0o010_000, "S_IFIFO")],
        "make a FIFO",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::MKNOD_SOCKET),
        &[BY_DESCRIPTOR, file_type(0o140_000, "S_IFSOCK")],
        "make a socket node",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::MKNOD_CHAR),
        &[BY_DESCRIPTOR, file_type(0o020_000, "S_IFCHR")],
        "make a character device node",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::WHITEOUT),
        &[BY_DESCRIPTOR, file_type(0o020_000, "S_IFCHR"), int(3, Test::Is(0), "device 0:0")],
        "make a whiteout",
    ),
    row(
        "mknodat",
        QUEUE,
        any(Access::MKNOD_BLOCK),
        &[BY_DESCRIPTOR, file_type(0o060_000, "S_IFBLK")],
        "make a block device node",
    ),
    row(
        "linkat",
        QUEUE,
        any(Access::LINK),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, flags(4, 0x400, "AT_SYMLINK_FOLLOW, by descriptor number")],
        "give a file another name",
    ),
    row(
        "unlinkat",
        QUEUE,
        any(Access::UNLINK),
        &[BY_DESCRIPTOR, flags(2, 0, "no flags: not a directory")],
        "remove a name",
    ),
    row(
        "unlinkat",
        QUEUE,
        any(Access::RMDIR),
        &[BY_DESCRIPTOR, flags(2, 0x200, "AT_REMOVEDIR")],
        "remove a directory",
    ),
    row(
        "renameat2",
        QUEUE,
        any(Access::RENAME),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, only_bits(4, 1, "RENAME_NOREPLACE")],
        "move a name",
    ),
    row(
        "renameat2",
        QUEUE,
        any(Access::EXCHANGE),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, flags(4, 2, "RENAME_EXCHANGE")],
        "swap two names",
    ),
    row(
        "renameat2",
        QUEUE,
        any(Access::WHITEOUT),
        &[BY_DESCRIPTOR, TO_DESCRIPTOR, only_bits(4, 5, "RENAME_WHITEOUT, RENAME_NOREPLACE")],
        "move a name and leave a whiteout",
    ),
    // Attributes.
    row("fchmodat", QUEUE, any(Access::CHMOD), &[BY_DESCRIPTOR], "change permission bits"),
    row(
        "fchownat",
        QUEUE,
        any(Access::CHOWN),
        &[BY_DESCRIPTOR, flags(4, 0x1100, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW")],
        "change the owner",
    ),
    row("utimensat", SERVING, any(Access::UTIMENS), &[BY_DESCRIPTOR], "change timestamps"),
    row(
        "getxattr",
        QUEUE,
        any(XATTR_READS).with(Facilities::XATTR),
        &[],
        "read an attribute, by descriptor number in the working directory",
    ),
    row(
        "listxattr",
        QUEUE,
        any(XATTR_READS).with(Facilities::XATTR),
        &[],
        "list attributes, by descriptor number in the working directory",
    ),
    row(
        "setxattr",
        QUEUE,
        any(XATTR_WRITES).with(Facilities::XATTR),
        &[int(4, Test::AtMost(2), "XATTR_CREATE or XATTR_REPLACE")],
        "write an attribute, by descriptor number in the working directory",
    ),
    row(
        "removexattr",
        QUEUE,
        any(XATTR_WRITES).with(Facilities::XATTR),
        &[],
        "remove an attribute, by descriptor number in the working directory",
    ),
    // Users, groups and privileges.
    row(
        "umask",
        QUEUE,
        any(MAKES).with(Facilities::ACL),
        &[],
        "apply the guest's umask, unless a default ACL replaces it",
    ),
    row("capset", QUEUE, any(KEEPS_BITS), &[], "choose whether set-group-id stays"),
    row("capset", OFFLOAD, any(WRITES), &[], "choose whether set-group-id stays"),
    row(
        "setgroups",
        QUEUE,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make a file as the guest's user, for this thread only",
    ),
    row(
        "setresgid",
        QUEUE,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make a file as the guest's user, for this thread only",
    ),
    row(
        "setresuid",
        QUEUE,
        any(MAKES).with(Facilities::IDENTITY),
        &[],
        "make a file as the guest's user, for this thread only",
    ),
];
