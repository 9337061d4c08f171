//! The flag words of requests and replies.
//!
//! The decoder rejects unknown bits where they would change the meaning of the request. It keeps
//! unknown bits in words that belong to the caller, such as `open(2)` flags.
#![expect(missing_docs, reason = "each flag has its name and meaning in fuse.h, open(2) or fallocate(2)")]

use crate::{AccessMode, abi};
use bitflags::bitflags;

bitflags! {
    /// The features of a session (`fuse_init_in.flags`, with `flags2` in the upper half).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct InitFlags: u64 {
        const ASYNC_READ = abi::FUSE_ASYNC_READ;
        const POSIX_LOCKS = abi::FUSE_POSIX_LOCKS;
        const FILE_OPS = abi::FUSE_FILE_OPS;
        const ATOMIC_O_TRUNC = abi::FUSE_ATOMIC_O_TRUNC;
        const EXPORT_SUPPORT = abi::FUSE_EXPORT_SUPPORT;
        const BIG_WRITES = abi::FUSE_BIG_WRITES;
        const DONT_MASK = abi::FUSE_DONT_MASK;
        const SPLICE_WRITE = abi::FUSE_SPLICE_WRITE;
        const SPLICE_MOVE = abi::FUSE_SPLICE_MOVE;
        const SPLICE_READ = abi::FUSE_SPLICE_READ;
        const FLOCK_LOCKS = abi::FUSE_FLOCK_LOCKS;
        const HAS_IOCTL_DIR = abi::FUSE_HAS_IOCTL_DIR;
        const AUTO_INVAL_DATA = abi::FUSE_AUTO_INVAL_DATA;
        const DO_READDIRPLUS = abi::FUSE_DO_READDIRPLUS;
        const READDIRPLUS_AUTO = abi::FUSE_READDIRPLUS_AUTO;
        const ASYNC_DIO = abi::FUSE_ASYNC_DIO;
        const WRITEBACK_CACHE = abi::FUSE_WRITEBACK_CACHE;
        const NO_OPEN_SUPPORT = abi::FUSE_NO_OPEN_SUPPORT;
        const PARALLEL_DIROPS = abi::FUSE_PARALLEL_DIROPS;
        const HANDLE_KILLPRIV = abi::FUSE_HANDLE_KILLPRIV;
        const POSIX_ACL = abi::FUSE_POSIX_ACL;
        const ABORT_ERROR = abi::FUSE_ABORT_ERROR;
        const MAX_PAGES = abi::FUSE_MAX_PAGES;
        const CACHE_SYMLINKS = abi::FUSE_CACHE_SYMLINKS;
        const NO_OPENDIR_SUPPORT = abi::FUSE_NO_OPENDIR_SUPPORT;
        const EXPLICIT_INVAL_DATA = abi::FUSE_EXPLICIT_INVAL_DATA;
        const MAP_ALIGNMENT = abi::FUSE_MAP_ALIGNMENT;
        const SUBMOUNTS = abi::FUSE_SUBMOUNTS;
        const HANDLE_KILLPRIV_V2 = abi::FUSE_HANDLE_KILLPRIV_V2;
        const SETXATTR_EXT = abi::FUSE_SETXATTR_EXT;
        const INIT_EXT = abi::FUSE_INIT_EXT;
        const INIT_RESERVED = abi::FUSE_INIT_RESERVED;
        const SECURITY_CTX = abi::FUSE_SECURITY_CTX;
        const HAS_INODE_DAX = abi::FUSE_HAS_INODE_DAX;
        const CREATE_SUPP_GROUP = abi::FUSE_CREATE_SUPP_GROUP;
        const HAS_EXPIRE_ONLY = abi::FUSE_HAS_EXPIRE_ONLY;
        const DIRECT_IO_ALLOW_MMAP = abi::FUSE_DIRECT_IO_ALLOW_MMAP;
        const PASSTHROUGH = abi::FUSE_PASSTHROUGH;
        const NO_EXPORT_SUPPORT = abi::FUSE_NO_EXPORT_SUPPORT;
        const HAS_RESEND = abi::FUSE_HAS_RESEND;
        const ALLOW_IDMAP = abi::FUSE_ALLOW_IDMAP;
        const OVER_IO_URING = abi::FUSE_OVER_IO_URING;
        const REQUEST_TIMEOUT = abi::FUSE_REQUEST_TIMEOUT;
    }

    /// `open(2)` flags as an x86-64 guest sends them (`asm-generic/fcntl.h`). Unknown bits are
    /// kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u32 {
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100_000;
        const DIRECTORY = 0o200_000;
        const NOFOLLOW = 0o400_000;
        const NOATIME = 0o1_000_000;
        const CLOEXEC = 0o2_000_000;
        /// Data and metadata. Contains `DSYNC`.
        const SYNC = 0o4_010_000;
        const PATH = 0o10_000_000;
        /// Contains `DIRECTORY`.
        const TMPFILE = 0o20_200_000;
    }

    /// How the guest may cache an open file (`fuse_open_out.open_flags`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct OpenReplyFlags: u32 {
        /// Bypass the guest's page cache.
        const DIRECT_IO = abi::FOPEN_DIRECT_IO;
        /// Keep the pages of the file that are in the guest's page cache.
        const KEEP_CACHE = abi::FOPEN_KEEP_CACHE;
        /// The file is not seekable.
        const NONSEEKABLE = abi::FOPEN_NONSEEKABLE;
        /// The guest may cache the listing of this directory.
        const CACHE_DIR = abi::FOPEN_CACHE_DIR;
        /// The file has no position.
        const STREAM = abi::FOPEN_STREAM;
        /// Send no FLUSH on close.
        const NOFLUSH = abi::FOPEN_NOFLUSH;
        /// Direct writes to one file may run in parallel.
        const PARALLEL_DIRECT_WRITES = abi::FOPEN_PARALLEL_DIRECT_WRITES;
        /// Reads and writes bypass the server. Not possible over virtio.
        const PASSTHROUGH = abi::FOPEN_PASSTHROUGH;
    }

    /// The properties of a WRITE.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct WriteFlags: u32 {
        /// The data comes from the guest's page cache. The guest has guessed the handle.
        const CACHE = abi::FUSE_WRITE_CACHE;
        /// The lock owner is valid. [`crate::Write`] has an `Option` for it and never sets this
        /// bit.
        const LOCKOWNER = abi::FUSE_WRITE_LOCKOWNER;
        /// Drop the suid and sgid bits.
        const KILL_SUIDGID = abi::FUSE_WRITE_KILL_SUIDGID;
    }

    /// The access that an ACCESS asks for (`access(2)`). An empty mask only asks whether the node
    /// exists. The bits are also those of one class in a mode.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct AccessMask: u32 {
        const EXECUTE = 1 << 0;
        const WRITE = 1 << 1;
        const READ = 1 << 2;
    }

    /// The extent of FSYNC and FSYNCDIR.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FsyncFlags: u32 {
        /// Make only the data durable, and the metadata that is needed to find it.
        const DATASYNC = abi::FUSE_FSYNC_FDATASYNC;
    }

    /// `renameat2(2)` flags.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RenameFlags: u32 {
        /// Fail with EEXIST instead of replacing a file.
        const NOREPLACE = 1 << 0;
        /// Swap the two names.
        const EXCHANGE = 1 << 1;
        /// Leave a whiteout device at the old name.
        const WHITEOUT = 1 << 2;
    }

    /// `fallocate(2)` modes. An empty mode means plain allocation.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FallocateMode: u32 {
        const KEEP_SIZE = 0x01;
        const PUNCH_HOLE = 0x02;
        const NO_HIDE_STALE = 0x04;
        const COLLAPSE_RANGE = 0x08;
        const ZERO_RANGE = 0x10;
        const INSERT_RANGE = 0x20;
        const UNSHARE_RANGE = 0x40;
        const WRITE_ZEROES = 0x80;
    }

    /// The properties of an IOCTL and its caller. Unknown bits are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct IoctlFlags: u32 {
        /// The caller is a 32-bit program.
        const COMPAT = abi::FUSE_IOCTL_COMPAT;
        /// The ioctl number does not restrict the data that is transferred. CUSE only.
        const UNRESTRICTED = abi::FUSE_IOCTL_UNRESTRICTED;
        /// In replies only: the guest must ask again with these buffers.
        const RETRY = abi::FUSE_IOCTL_RETRY;
        /// The guest is 32-bit.
        const IS_32BIT = abi::FUSE_IOCTL_32BIT;
        /// The handle is a directory.
        const DIR = abi::FUSE_IOCTL_DIR;
        /// The caller is an x32 program.
        const COMPAT_X32 = abi::FUSE_IOCTL_COMPAT_X32;
    }
}

impl OpenFlags {
    /// The bits of `O_ACCMODE`.
    pub(crate) const ACCESS_BITS: u32 = 0o3;

    /// Returns the access that the file is opened for.
    ///
    /// The value 3 counts as reading and writing here. The decoder rejects it in requests that open
    /// a file.
    pub const fn access_mode(self) -> AccessMode {
        match self.bits() & Self::ACCESS_BITS {
            0 => AccessMode::Read,
            1 => AccessMode::Write,
            _ => AccessMode::ReadWrite,
        }
    }
}
