//! Numbers of Linux in FUSE messages. They are written out here, so that a test does not trust the
//! crate that it tests.

/// Node id of the root of a share (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// Size of the reply to LOOKUP in bytes (`struct fuse_entry_out`).
pub const ENTRY_LEN: usize = 128;
/// Size of the reply to GETATTR in bytes (`struct fuse_attr_out`).
pub const ATTR_LEN: usize = 104;

/// `FATTR_SIZE`: SETATTR changes the size.
pub const FATTR_SIZE: u32 = 8;

/// Flags of `open(2)` on x86-64.
mod open_flags {
    #![expect(missing_docs, reason = "the names in open(2)")]
    pub const O_RDONLY: u32 = 0;
    pub const O_WRONLY: u32 = 1;
    pub const O_RDWR: u32 = 2;
    pub const O_CREAT: u32 = 0o100;
    pub const O_TRUNC: u32 = 0o1000;
    pub const O_APPEND: u32 = 0o2000;
    pub const O_DSYNC: u32 = 0o10_000;
    pub const O_DIRECT: u32 = 0o40_000;
    pub const O_DIRECTORY: u32 = 0o200_000;
    /// Contains O_DSYNC and another bit. `OFlags::DSYNC` of rustix is this one.
    pub const O_SYNC: u32 = 0o4_010_000;
}

/// Error numbers.
mod errnos {
    #![expect(missing_docs, reason = "the names in errno(3)")]
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const EIO: i32 = 5;
    pub const EBADF: i32 = 9;
    pub const EAGAIN: i32 = 11;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EDEADLK: i32 = 35;
    pub const ENOLCK: i32 = 37;
    pub const ENOSYS: i32 = 38;
    pub const ESTALE: i32 = 116;
}

pub use errnos::*;
pub use open_flags::*;
