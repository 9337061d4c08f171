//! The replies of the server: one value for each reply body, and its encoding.

use crate::{DirentKind, Errno, Handle, InitReply, LockKind, NodeId, OpenReplyFlags, Unique, abi};
use std::time::Duration;
use zerocopy::little_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

/// Length of a reply header (`fuse_out_header`) in bytes.
pub const OUT_HEADER_LEN: usize = size_of::<abi::RawOutHeader>();

/// Returns the header of a reply whose body has `body_len` bytes. An error has no body.
///
/// A length above 32 bits saturates; no reply buffer is that large.
pub fn out_header(unique: Unique, error: Option<Errno>, body_len: usize) -> [u8; OUT_HEADER_LEN] {
    let len = u32::try_from(OUT_HEADER_LEN.saturating_add(body_len)).unwrap_or(u32::MAX);
    let header = abi::RawOutHeader {
        len: U32::new(len),
        error: I32::new(error.map_or(0, |errno| errno.raw().saturating_neg())),
        unique: U64::new(unique.0),
    };
    zerocopy::transmute!(header)
}

/// A point in time, relative to the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after the whole second, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// How long the guest may cache the contents of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Time for the node of a name.
    pub entry: Duration,
    /// Time for the attributes; see [`attr_timeout`].
    pub attr: Duration,
}

/// Returns how long the guest may cache attributes with this mode: `timeout`, or zero for a
/// set-user-ID or set-group-ID file.
///
/// With `HANDLE_KILLPRIV_V2` the server drops these bits when the file is changed. No reply to that
/// change (WRITE, OPEN with `O_TRUNC`, FALLOCATE, `COPY_FILE_RANGE`) carries the new mode. The
/// guest's kernel would honor the old bits in `exec` until its copy of the attributes expires. So
/// no reply gives this file a timeout. Directories are an exception: their set-group-ID bit
/// grants nothing, and these changes do not drop it.
pub const fn attr_timeout(mode: u32, timeout: Duration) -> Duration {
    const SET_IDS: u32 = 0o6000;
    let is_directory = matches!(DirentKind::from_mode(mode), DirentKind::DIRECTORY);
    if mode & SET_IDS != 0 && !is_directory { Duration::ZERO } else { timeout }
}

/// Attributes of a node (`fuse_attr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of stat(2)")]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    /// Number of 512-byte blocks.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Packed as by the kernel's `new_encode_dev`.
    pub rdev: u32,
    pub blksize: u32,
    /// Whether the node is the root of a mount other than its parent's (`FUSE_ATTR_SUBMOUNT`).
    pub submount: bool,
    /// Whether the guest may map this file through the DAX window (`FUSE_ATTR_DAX`).
    pub dax: bool,
}

/// A node that a lookup found or an operation created (`fuse_entry_out`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node, with one lookup reference. Node 0 makes a negative entry: the guest may cache that
    /// the name does not exist.
    pub node: NodeId,
    /// Distinguishes two uses of one node id, if the id itself does not.
    pub generation: u64,
    /// Attributes of the node.
    pub attr: Attr,
}

/// The reply to OPEN and OPENDIR, and a part of the reply to CREATE and TMPFILE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReply {
    /// The new handle.
    pub handle: Handle,
    /// How the guest may cache this open file.
    pub flags: OpenReplyFlags,
}

/// The reply to CREATE and TMPFILE: the new file, opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The node, with one lookup reference.
    pub entry: Entry,
    /// The new handle, and how the guest may cache the file.
    pub open: OpenReply,
}

/// Statistics of a file system (`fuse_kstatfs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of statvfs(3)")]
pub struct Statfs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

/// Attributes as `statx(2)` returns them (`fuse_statx`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of statx(2)")]
pub struct Statx {
    /// `STATX_*` mask of the fields that are set.
    pub mask: u32,
    pub blksize: u32,
    pub attributes: u64,
    pub attributes_mask: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: Timestamp,
    pub btime: Timestamp,
    pub ctime: Timestamp,
    pub mtime: Timestamp,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
}

/// A lock as GETLK reports it (`fuse_file_lock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of fuse_file_lock")]
pub struct FileLock {
    pub start: u64,
    pub end: u64,
    pub kind: Option<LockKind>,
    pub pid: u32,
}

/// One reply body. [`out_header`] makes the header before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reply<'a> {
    /// No body.
    Empty,
    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK. Here and below, the encoder applies [`attr_timeout`] to
    /// the timeout of the attributes.
    Entry(Entry, Timeouts),
    /// CREATE, TMPFILE.
    Created(Created, Timeouts),
    /// GETATTR, SETATTR.
    Attr(Attr, Duration),
    /// STATX.
    Statx(Statx, Duration),
    /// OPEN, OPENDIR.
    Open(OpenReply),
    /// Raw bytes: READLINK, GETXATTR and LISTXATTR with a size, READDIR, READDIRPLUS.
    Bytes(&'a [u8]),
    /// IOCTL: the result and the data that the ioctl wrote.
    Ioctl(i32, &'a [u8]),
    /// WRITE, `COPY_FILE_RANGE`: number of bytes written.
    Written(u32),
    /// `COPY_FILE_RANGE_64`: number of bytes copied.
    Copied(u64),
    /// STATFS.
    Statfs(Statfs),
    /// GETXATTR and LISTXATTR with size 0: the length in bytes.
    XattrLen(u32),
    /// GETLK.
    Lock(FileLock),
    /// LSEEK: the offset that was found.
    Offset(u64),
    /// BMAP: the device block.
    Block(u64),
    /// POLL: the pending events.
    Poll(u32),
    /// INIT.
    Init(InitReply),
}

impl Reply<'_> {
    /// Clears `out` and writes the body into it. Allocates only if `out` has too little capacity.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.clear();
        match *self {
            Self::Empty => {}
            Self::Entry(entry, timeouts) => put(out, &entry_out(&entry, timeouts)),
            Self::Created(created, timeouts) => {
                put(out, &entry_out(&created.entry, timeouts));
                put(out, &open_out(created.open));
            }
            Self::Attr(attr, timeout) => put(out, &attr_out(&attr, timeout)),
            Self::Statx(statx, timeout) => put(out, &statx_out(&statx, timeout)),
            Self::Open(open) => put(out, &open_out(open)),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Ioctl(result, output) => {
                put(out, &abi::IoctlOut { result: I32::new(result), ..Default::default() });
                out.extend_from_slice(output);
            }
            Self::Written(size) => put(out, &abi::WriteOut { size: U32::new(size), ..Default::default() }),
            Self::Copied(len) => put(out, &abi::CopyFileRangeOut { bytes_copied: U64::new(len) }),
            Self::Statfs(figures) => put(out, &abi::StatfsOut { st: kstatfs(&figures) }),
            Self::XattrLen(size) => {
                put(out, &abi::GetxattrOut { size: U32::new(size), ..Default::default() });
            }
            Self::Lock(lock) => put(out, &lk_out(lock)),
            Self::Offset(offset) => put(out, &abi::LseekOut { offset: U64::new(offset) }),
            Self::Block(block) => put(out, &abi::BmapOut { block: U64::new(block) }),
            Self::Poll(revents) => {
                put(out, &abi::PollOut { revents: U32::new(revents), ..Default::default() });
            }
            Self::Init(init) => put(out, &init_out(&init)),
        }
    }

    /// Returns the number of bytes that [`Reply::encode_into`] writes.
    pub const fn body_len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Entry(..) => size_of::<abi::EntryOut>(),
            Self::Created(..) => size_of::<(abi::EntryOut, abi::OpenOut)>(),
            Self::Attr(..) => size_of::<abi::AttrOut>(),
            Self::Statx(..) => size_of::<abi::StatxOut>(),
            Self::Open(_) => size_of::<abi::OpenOut>(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Ioctl(_, output) => size_of::<abi::IoctlOut>().saturating_add(output.len()),
            Self::Written(_) => size_of::<abi::WriteOut>(),
            Self::Copied(_) => size_of::<abi::CopyFileRangeOut>(),
            Self::Statfs(_) => size_of::<abi::StatfsOut>(),
            Self::XattrLen(_) => size_of::<abi::GetxattrOut>(),
            Self::Lock(_) => size_of::<abi::LkOut>(),
            Self::Offset(_) => size_of::<abi::LseekOut>(),
            Self::Block(_) => size_of::<abi::BmapOut>(),
            Self::Poll(_) => size_of::<abi::PollOut>(),
            Self::Init(_) => size_of::<abi::InitOut>(),
        }
    }
}

/// Appends one wire struct.
fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, wire: &T) {
    out.extend_from_slice(wire.as_bytes());
}

/// Converts seconds to the unsigned wire type. The guest reads them as signed.
fn seconds(time: Timestamp) -> U64 {
    U64::new(time.seconds.cast_unsigned())
}

// The functions below convert one public value each to its wire struct.

fn attr(attr: &Attr) -> abi::RawAttr {
    let submount = if attr.submount { abi::FUSE_ATTR_SUBMOUNT } else { 0 };
    let dax = if attr.dax { abi::FUSE_ATTR_DAX } else { 0 };
    abi::RawAttr {
        ino: U64::new(attr.ino),
        size: U64::new(attr.size),
        blocks: U64::new(attr.blocks),
        atime: seconds(attr.atime),
        mtime: seconds(attr.mtime),
        ctime: seconds(attr.ctime),
        atimensec: U32::new(attr.atime.nanoseconds),
        mtimensec: U32::new(attr.mtime.nanoseconds),
        ctimensec: U32::new(attr.ctime.nanoseconds),
        mode: U32::new(attr.mode),
        nlink: U32::new(attr.nlink),
        uid: U32::new(attr.uid),
        gid: U32::new(attr.gid),
        rdev: U32::new(attr.rdev),
        blksize: U32::new(attr.blksize),
        flags: U32::new(submount | dax),
    }
}

pub(crate) fn entry_out(entry: &Entry, timeouts: Timeouts) -> abi::EntryOut {
    let attr_valid = attr_timeout(entry.attr.mode, timeouts.attr);
    abi::EntryOut {
        nodeid: U64::new(entry.node.0),
        generation: U64::new(entry.generation),
        entry_valid: U64::new(timeouts.entry.as_secs()),
        attr_valid: U64::new(attr_valid.as_secs()),
        entry_valid_nsec: U32::new(timeouts.entry.subsec_nanos()),
        attr_valid_nsec: U32::new(attr_valid.subsec_nanos()),
        attr: attr(&entry.attr),
    }
}

fn attr_out(attributes: &Attr, timeout: Duration) -> abi::AttrOut {
    let attr_valid = attr_timeout(attributes.mode, timeout);
    abi::AttrOut {
        attr_valid: U64::new(attr_valid.as_secs()),
        attr_valid_nsec: U32::new(attr_valid.subsec_nanos()),
        dummy: U32::ZERO,
        attr: attr(attributes),
    }
}

fn sx_time(time: Timestamp) -> abi::SxTime {
    abi::SxTime { tv_sec: I64::new(time.seconds), tv_nsec: U32::new(time.nanoseconds), __reserved: I32::ZERO }
}

fn statx_out(statx: &Statx, timeout: Duration) -> abi::StatxOut {
    let stat = abi::RawStatx {
        mask: U32::new(statx.mask),
        blksize: U32::new(statx.blksize),
        attributes: U64::new(statx.attributes),
        nlink: U32::new(statx.nlink),
        uid: U32::new(statx.uid),
        gid: U32::new(statx.gid),
        mode: U16::new(statx.mode),
        ino: U64::new(statx.ino),
        size: U64::new(statx.size),
        blocks: U64::new(statx.blocks),
        attributes_mask: U64::new(statx.attributes_mask),
        atime: sx_time(statx.atime),
        btime: sx_time(statx.btime),
        ctime: sx_time(statx.ctime),
        mtime: sx_time(statx.mtime),
        rdev_major: U32::new(statx.rdev_major),
        rdev_minor: U32::new(statx.rdev_minor),
        dev_major: U32::new(statx.dev_major),
        dev_minor: U32::new(statx.dev_minor),
        ..abi::RawStatx::new_zeroed()
    };
    let attr_valid = attr_timeout(statx.mode.into(), timeout);
    abi::StatxOut {
        attr_valid: U64::new(attr_valid.as_secs()),
        attr_valid_nsec: U32::new(attr_valid.subsec_nanos()),
        stat,
        ..abi::StatxOut::new_zeroed()
    }
}

fn open_out(open: OpenReply) -> abi::OpenOut {
    abi::OpenOut {
        fh: U64::new(open.handle.0),
        open_flags: U32::new(open.flags.bits()),
        backing_id: I32::ZERO,
    }
}

fn kstatfs(figures: &Statfs) -> abi::Kstatfs {
    abi::Kstatfs {
        blocks: U64::new(figures.blocks),
        bfree: U64::new(figures.bfree),
        bavail: U64::new(figures.bavail),
        files: U64::new(figures.files),
        ffree: U64::new(figures.ffree),
        bsize: U32::new(figures.bsize),
        namelen: U32::new(figures.namelen),
        frsize: U32::new(figures.frsize),
        ..abi::Kstatfs::new_zeroed()
    }
}

fn lk_out(lock: FileLock) -> abi::LkOut {
    let lk = abi::RawFileLock {
        start: U64::new(lock.start),
        end: U64::new(lock.end),
        r#type: U32::new(LockKind::raw(lock.kind)),
        pid: U32::new(lock.pid),
    };
    abi::LkOut { lk }
}

fn init_out(init: &InitReply) -> abi::InitOut {
    let [low, high]: [U32; 2] = zerocopy::transmute!(U64::new(init.flags.bits()));
    abi::InitOut {
        major: U32::new(init.major),
        minor: U32::new(init.minor),
        max_readahead: U32::new(init.max_readahead),
        flags: low,
        max_background: U16::new(init.max_background),
        congestion_threshold: U16::new(init.congestion_threshold),
        max_write: U32::new(init.max_write),
        time_gran: U32::new(init.time_gran),
        max_pages: U16::new(init.max_pages),
        map_alignment: U16::new(init.map_alignment),
        flags2: high,
        max_stack_depth: U32::new(init.max_stack_depth),
        request_timeout: U16::new(init.request_timeout),
        unused: [U16::ZERO; 11],
    }
}
