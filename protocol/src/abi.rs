//! The wire structs and constants of the kernel's `linux/fuse.h`, version 7.45, in its spelling.
//!
//! All numbers are little endian and unaligned. So a struct can be read at any offset of a message
//! and has no hidden padding. If a public type of this crate has the name of a struct, the struct's
//! name begins with `Raw`. The module defines only items that this crate uses.
//! `tests/kernel_header.rs` compares the items with the header. That test lists the items that are
//! left out, with the reason.

use zerocopy::little_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One field of a [`StructLayout`].
#[cfg(feature = "test-utils")]
#[derive(Clone, Copy, Debug)]
pub struct FieldLayout {
    /// Name in `fuse.h`.
    pub name: &'static str,
    /// Byte offset in the struct.
    pub offset: usize,
}

/// The layout of one wire struct, for the comparison with `fuse.h`.
#[cfg(feature = "test-utils")]
#[derive(Clone, Copy, Debug)]
pub struct StructLayout {
    /// Name in `fuse.h`.
    pub name: &'static str,
    /// Length in bytes.
    pub size: usize,
    /// All fields, in order.
    pub fields: &'static [FieldLayout],
}

/// Defines wire structs, and checks the length of each in bytes.
macro_rules! wire {
    ($(struct $name:ident = $kernel_name:literal, $size:literal { $($field:ident: $kind:ty,)* })*) => {
        $(
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
            #[repr(C)]
            pub(crate) struct $name {
                $(pub(crate) $field: $kind,)*
            }
            const _: () = assert!(size_of::<$name>() == $size);
        )*
        /// The layouts of all wire structs.
        #[cfg(feature = "test-utils")]
        pub const STRUCTS: &[StructLayout] = &[$(
            StructLayout {
                name: $kernel_name,
                size: $size,
                fields: &[$(FieldLayout {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                },)*],
            },
        )*];
    };
}

/// Defines constants.
macro_rules! constants {
    ($($name:ident: $kind:ty = $value:expr;)*) => {
        $(pub(crate) const $name: $kind = $value;)*
        /// Returns all constants except the opcodes, which are in [`crate::Opcode`].
        #[cfg(feature = "test-utils")]
        pub fn constants() -> Vec<(&'static str, u64)> {
            vec![$((stringify!($name), u64::from($name)),)*]
        }
    };
}

wire! {
    struct InHeader = "fuse_in_header", 40 {
        len: U32,
        opcode: U32,
        unique: U64,
        nodeid: U64,
        uid: U32,
        gid: U32,
        pid: U32,
        total_extlen: U16,
        padding: U16,
    }
    struct RawOutHeader = "fuse_out_header", 16 {
        len: U32,
        error: I32,
        unique: U64,
    }
    struct RawAttr = "fuse_attr", 88 {
        ino: U64,
        size: U64,
        blocks: U64,
        atime: U64,
        mtime: U64,
        ctime: U64,
        atimensec: U32,
        mtimensec: U32,
        ctimensec: U32,
        mode: U32,
        nlink: U32,
        uid: U32,
        gid: U32,
        rdev: U32,
        blksize: U32,
        flags: U32,
    }
    struct SxTime = "fuse_sx_time", 16 {
        tv_sec: I64,
        tv_nsec: U32,
        __reserved: I32,
    }
    struct RawStatx = "fuse_statx", 256 {
        mask: U32,
        blksize: U32,
        attributes: U64,
        nlink: U32,
        uid: U32,
        gid: U32,
        mode: U16,
        __spare0: [U16; 1],
        ino: U64,
        size: U64,
        blocks: U64,
        attributes_mask: U64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: U32,
        rdev_minor: U32,
        dev_major: U32,
        dev_minor: U32,
        __spare2: [U64; 14],
    }
    struct Kstatfs = "fuse_kstatfs", 80 {
        blocks: U64,
        bfree: U64,
        bavail: U64,
        files: U64,
        ffree: U64,
        bsize: U32,
        namelen: U32,
        frsize: U32,
        padding: U32,
        spare: [U32; 6],
    }
    struct RawFileLock = "fuse_file_lock", 24 {
        start: U64,
        end: U64,
        r#type: U32,
        pid: U32,
    }
    struct EntryOut = "fuse_entry_out", 128 {
        nodeid: U64,
        generation: U64,
        entry_valid: U64,
        attr_valid: U64,
        entry_valid_nsec: U32,
        attr_valid_nsec: U32,
        attr: RawAttr,
    }
    struct ForgetIn = "fuse_forget_in", 8 {
        nlookup: U64,
    }
    struct ForgetOne = "fuse_forget_one", 16 {
        nodeid: U64,
        nlookup: U64,
    }
    struct BatchForgetIn = "fuse_batch_forget_in", 8 {
        count: U32,
        dummy: U32,
    }
    struct GetattrIn = "fuse_getattr_in", 16 {
        getattr_flags: U32,
        dummy: U32,
        fh: U64,
    }
    struct AttrOut = "fuse_attr_out", 104 {
        attr_valid: U64,
        attr_valid_nsec: U32,
        dummy: U32,
        attr: RawAttr,
    }
    struct StatxIn = "fuse_statx_in", 24 {
        getattr_flags: U32,
        reserved: U32,
        fh: U64,
        sx_flags: U32,
        sx_mask: U32,
    }
    struct StatxOut = "fuse_statx_out", 288 {
        attr_valid: U64,
        attr_valid_nsec: U32,
        flags: U32,
        spare: [U64; 2],
        stat: RawStatx,
    }
    struct MknodIn = "fuse_mknod_in", 16 {
        mode: U32,
        rdev: U32,
        umask: U32,
        padding: U32,
    }
    struct MkdirIn = "fuse_mkdir_in", 8 {
        mode: U32,
        umask: U32,
    }
    struct RenameIn = "fuse_rename_in", 8 {
        newdir: U64,
    }
    struct Rename2In = "fuse_rename2_in", 16 {
        newdir: U64,
        flags: U32,
        padding: U32,
    }
    struct LinkIn = "fuse_link_in", 8 {
        oldnodeid: U64,
    }
    struct SetattrIn = "fuse_setattr_in", 88 {
        valid: U32,
        padding: U32,
        fh: U64,
        size: U64,
        lock_owner: U64,
        atime: U64,
        mtime: U64,
        ctime: U64,
        atimensec: U32,
        mtimensec: U32,
        ctimensec: U32,
        mode: U32,
        unused4: U32,
        uid: U32,
        gid: U32,
        unused5: U32,
    }
    struct OpenIn = "fuse_open_in", 8 {
        flags: U32,
        open_flags: U32,
    }
    struct CreateIn = "fuse_create_in", 16 {
        flags: U32,
        mode: U32,
        umask: U32,
        open_flags: U32,
    }
    struct OpenOut = "fuse_open_out", 16 {
        fh: U64,
        open_flags: U32,
        backing_id: I32,
    }
    struct ReleaseIn = "fuse_release_in", 24 {
        fh: U64,
        flags: U32,
        release_flags: U32,
        lock_owner: U64,
    }
    struct FlushIn = "fuse_flush_in", 24 {
        fh: U64,
        unused: U32,
        padding: U32,
        lock_owner: U64,
    }
    struct ReadIn = "fuse_read_in", 40 {
        fh: U64,
        offset: U64,
        size: U32,
        read_flags: U32,
        lock_owner: U64,
        flags: U32,
        padding: U32,
    }
    struct WriteIn = "fuse_write_in", 40 {
        fh: U64,
        offset: U64,
        size: U32,
        write_flags: U32,
        lock_owner: U64,
        flags: U32,
        padding: U32,
    }
    struct WriteOut = "fuse_write_out", 8 {
        size: U32,
        padding: U32,
    }
    struct StatfsOut = "fuse_statfs_out", 80 {
        st: Kstatfs,
    }
    struct FsyncIn = "fuse_fsync_in", 16 {
        fh: U64,
        fsync_flags: U32,
        padding: U32,
    }
    struct SetxattrIn = "fuse_setxattr_in", 16 {
        size: U32,
        flags: U32,
        setxattr_flags: U32,
        padding: U32,
    }
    struct GetxattrIn = "fuse_getxattr_in", 8 {
        size: U32,
        padding: U32,
    }
    struct GetxattrOut = "fuse_getxattr_out", 8 {
        size: U32,
        padding: U32,
    }
    struct LkIn = "fuse_lk_in", 48 {
        fh: U64,
        owner: U64,
        lk: RawFileLock,
        lk_flags: U32,
        padding: U32,
    }
    struct LkOut = "fuse_lk_out", 24 {
        lk: RawFileLock,
    }
    struct AccessIn = "fuse_access_in", 8 {
        mask: U32,
        padding: U32,
    }
    struct InitIn = "fuse_init_in", 64 {
        major: U32,
        minor: U32,
        max_readahead: U32,
        flags: U32,
        flags2: U32,
        unused: [U32; 11],
    }
    struct InitOut = "fuse_init_out", 64 {
        major: U32,
        minor: U32,
        max_readahead: U32,
        flags: U32,
        max_background: U16,
        congestion_threshold: U16,
        max_write: U32,
        time_gran: U32,
        max_pages: U16,
        map_alignment: U16,
        flags2: U32,
        max_stack_depth: U32,
        request_timeout: U16,
        unused: [U16; 11],
    }
    struct InterruptIn = "fuse_interrupt_in", 8 {
        unique: U64,
    }
    struct BmapIn = "fuse_bmap_in", 16 {
        block: U64,
        blocksize: U32,
        padding: U32,
    }
    struct BmapOut = "fuse_bmap_out", 8 {
        block: U64,
    }
    struct IoctlIn = "fuse_ioctl_in", 32 {
        fh: U64,
        flags: U32,
        cmd: U32,
        arg: U64,
        in_size: U32,
        out_size: U32,
    }
    struct IoctlOut = "fuse_ioctl_out", 16 {
        result: I32,
        flags: U32,
        in_iovs: U32,
        out_iovs: U32,
    }
    struct PollIn = "fuse_poll_in", 24 {
        fh: U64,
        kh: U64,
        flags: U32,
        events: U32,
    }
    struct PollOut = "fuse_poll_out", 8 {
        revents: U32,
        padding: U32,
    }
    struct FallocateIn = "fuse_fallocate_in", 32 {
        fh: U64,
        offset: U64,
        length: U64,
        mode: U32,
        padding: U32,
    }
    struct RawDirent = "fuse_dirent", 24 {
        ino: U64,
        off: U64,
        namelen: U32,
        r#type: U32,
    }
    struct Direntplus = "fuse_direntplus", 152 {
        entry_out: EntryOut,
        dirent: RawDirent,
    }
    struct LseekIn = "fuse_lseek_in", 24 {
        fh: U64,
        offset: U64,
        whence: U32,
        padding: U32,
    }
    struct LseekOut = "fuse_lseek_out", 8 {
        offset: U64,
    }
    struct CopyFileRangeIn = "fuse_copy_file_range_in", 56 {
        fh_in: U64,
        off_in: U64,
        nodeid_out: U64,
        fh_out: U64,
        off_out: U64,
        len: U64,
        flags: U64,
    }
    struct CopyFileRangeOut = "fuse_copy_file_range_out", 8 {
        bytes_copied: U64,
    }
    struct SetupmappingIn = "fuse_setupmapping_in", 40 {
        fh: U64,
        foffset: U64,
        len: U64,
        flags: U64,
        moffset: U64,
    }
    struct RemovemappingIn = "fuse_removemapping_in", 4 {
        count: U32,
    }
    struct RemovemappingOne = "fuse_removemapping_one", 16 {
        moffset: U64,
        len: U64,
    }
    struct SyncfsIn = "fuse_syncfs_in", 8 {
        padding: U64,
    }
    struct Secctx = "fuse_secctx", 8 {
        size: U32,
        padding: U32,
    }
    struct SecctxHeader = "fuse_secctx_header", 8 {
        size: U32,
        nr_secctx: U32,
    }
    struct ExtHeader = "fuse_ext_header", 8 {
        size: U32,
        r#type: U32,
    }
    struct SuppGroups = "fuse_supp_groups", 4 {
        nr_groups: U32,
    }
}

constants! {
    FUSE_KERNEL_VERSION: u32 = 7;
    FUSE_KERNEL_MINOR_VERSION: u32 = 45;
    FUSE_ROOT_ID: u64 = 1;

    FATTR_MODE: u32 = 1 << 0;
    FATTR_UID: u32 = 1 << 1;
    FATTR_GID: u32 = 1 << 2;
    FATTR_SIZE: u32 = 1 << 3;
    FATTR_ATIME: u32 = 1 << 4;
    FATTR_MTIME: u32 = 1 << 5;
    FATTR_FH: u32 = 1 << 6;
    FATTR_ATIME_NOW: u32 = 1 << 7;
    FATTR_MTIME_NOW: u32 = 1 << 8;
    FATTR_LOCKOWNER: u32 = 1 << 9;
    FATTR_CTIME: u32 = 1 << 10;
    FATTR_KILL_SUIDGID: u32 = 1 << 11;

    FOPEN_DIRECT_IO: u32 = 1 << 0;
    FOPEN_KEEP_CACHE: u32 = 1 << 1;
    FOPEN_NONSEEKABLE: u32 = 1 << 2;
    FOPEN_CACHE_DIR: u32 = 1 << 3;
    FOPEN_STREAM: u32 = 1 << 4;
    FOPEN_NOFLUSH: u32 = 1 << 5;
    FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    FOPEN_PASSTHROUGH: u32 = 1 << 7;

    FUSE_ASYNC_READ: u64 = 1 << 0;
    FUSE_POSIX_LOCKS: u64 = 1 << 1;
    FUSE_FILE_OPS: u64 = 1 << 2;
    FUSE_ATOMIC_O_TRUNC: u64 = 1 << 3;
    FUSE_EXPORT_SUPPORT: u64 = 1 << 4;
    FUSE_BIG_WRITES: u64 = 1 << 5;
    FUSE_DONT_MASK: u64 = 1 << 6;
    FUSE_SPLICE_WRITE: u64 = 1 << 7;
    FUSE_SPLICE_MOVE: u64 = 1 << 8;
    FUSE_SPLICE_READ: u64 = 1 << 9;
    FUSE_FLOCK_LOCKS: u64 = 1 << 10;
    FUSE_HAS_IOCTL_DIR: u64 = 1 << 11;
    FUSE_AUTO_INVAL_DATA: u64 = 1 << 12;
    FUSE_DO_READDIRPLUS: u64 = 1 << 13;
    FUSE_READDIRPLUS_AUTO: u64 = 1 << 14;
    FUSE_ASYNC_DIO: u64 = 1 << 15;
    FUSE_WRITEBACK_CACHE: u64 = 1 << 16;
    FUSE_NO_OPEN_SUPPORT: u64 = 1 << 17;
    FUSE_PARALLEL_DIROPS: u64 = 1 << 18;
    FUSE_HANDLE_KILLPRIV: u64 = 1 << 19;
    FUSE_POSIX_ACL: u64 = 1 << 20;
    FUSE_ABORT_ERROR: u64 = 1 << 21;
    FUSE_MAX_PAGES: u64 = 1 << 22;
    FUSE_CACHE_SYMLINKS: u64 = 1 << 23;
    FUSE_NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    FUSE_EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    FUSE_MAP_ALIGNMENT: u64 = 1 << 26;
    FUSE_SUBMOUNTS: u64 = 1 << 27;
    FUSE_HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    FUSE_SETXATTR_EXT: u64 = 1 << 29;
    FUSE_INIT_EXT: u64 = 1 << 30;
    FUSE_INIT_RESERVED: u64 = 1 << 31;
    FUSE_SECURITY_CTX: u64 = 1 << 32;
    FUSE_HAS_INODE_DAX: u64 = 1 << 33;
    FUSE_CREATE_SUPP_GROUP: u64 = 1 << 34;
    FUSE_HAS_EXPIRE_ONLY: u64 = 1 << 35;
    FUSE_DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    FUSE_PASSTHROUGH: u64 = 1 << 37;
    FUSE_NO_EXPORT_SUPPORT: u64 = 1 << 38;
    FUSE_HAS_RESEND: u64 = 1 << 39;
    FUSE_ALLOW_IDMAP: u64 = 1 << 40;
    FUSE_OVER_IO_URING: u64 = 1 << 41;
    FUSE_REQUEST_TIMEOUT: u64 = 1 << 42;

    FUSE_RELEASE_FLUSH: u32 = 1 << 0;
    FUSE_RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
    FUSE_GETATTR_FH: u32 = 1 << 0;
    FUSE_LK_FLOCK: u32 = 1 << 0;
    FUSE_WRITE_CACHE: u32 = 1 << 0;
    FUSE_WRITE_LOCKOWNER: u32 = 1 << 1;
    FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;
    FUSE_READ_LOCKOWNER: u32 = 1 << 1;
    FUSE_IOCTL_COMPAT: u32 = 1 << 0;
    FUSE_IOCTL_UNRESTRICTED: u32 = 1 << 1;
    FUSE_IOCTL_RETRY: u32 = 1 << 2;
    FUSE_IOCTL_32BIT: u32 = 1 << 3;
    FUSE_IOCTL_DIR: u32 = 1 << 4;
    FUSE_IOCTL_COMPAT_X32: u32 = 1 << 5;
    FUSE_FSYNC_FDATASYNC: u32 = 1 << 0;
    FUSE_ATTR_SUBMOUNT: u32 = 1 << 0;
    FUSE_ATTR_DAX: u32 = 1 << 1;
    FUSE_OPEN_KILL_SUIDGID: u32 = 1 << 0;
    FUSE_SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    FUSE_MAX_NR_SECCTX: u32 = 31;
    FUSE_EXT_GROUPS: u32 = 32;
    FUSE_SETUPMAPPING_FLAG_WRITE: u64 = 1 << 0;
    FUSE_SETUPMAPPING_FLAG_READ: u64 = 1 << 1;
}
