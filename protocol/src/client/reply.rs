//! Decodes replies as a guest does, but stricter than Linux: extra bytes are an error.

use crate::{
    Attr, Created, Dirent, DirentKind, Entry, Errno, FileLock, Handle, InitFlags, InitReply, LockKind,
    NodeId, OpenReply, OpenReplyFlags, Statfs, Statx, Timeouts, Timestamp, Unique, abi,
};
use std::time::Duration;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Why bytes are not a valid reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The length does not match the layout.
    #[error("{what} has {have} bytes, not {need}")]
    Length {
        /// Name of the layout.
        what: &'static str,
        /// Length of the layout in bytes.
        need: usize,
        /// Length of the data in bytes.
        have: usize,
    },
    /// The error field is neither 0 nor -1 to -4,095.
    #[error("the error field is {0}, not 0 or -1 to -4095")]
    Error(i32),
    /// The lock type is not `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    #[error("lock type {0} is unknown")]
    LockKind(u32),
    /// A directory record is cut off, has no name or a '/' in it, or is not padded with zeros.
    #[error("the directory record at byte {offset} is malformed")]
    Dirent {
        /// Byte offset of the record in the body.
        offset: usize,
    },
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutHeader {
    /// Length of the reply in bytes, including this header.
    pub len: u32,
    /// The error, if the request failed.
    pub error: Option<Errno>,
    /// Number of the request.
    pub unique: Unique,
}

/// Splits a reply into header and body.
///
/// # Errors
/// [`ReplyError::Length`] if the header is cut off or its length is not the length of the reply.
/// [`ReplyError::Error`] if the error field is out of range.
pub fn decode_out_header(reply: &[u8]) -> Result<(OutHeader, &[u8]), ReplyError> {
    let need = size_of::<abi::RawOutHeader>();
    let length = |need| ReplyError::Length { what: "fuse_out_header", need, have: reply.len() };
    let (wire, body) = abi::RawOutHeader::ref_from_prefix(reply).map_err(|_short| length(need))?;
    let len = wire.len.get();
    if usize::try_from(len) != Ok(reply.len()) {
        return Err(length(usize::try_from(len).unwrap_or(usize::MAX)));
    }
    let error = match wire.error.get() {
        0 => None,
        raw @ -4095..=-1 => Some(Errno::from_raw(raw.saturating_neg())),
        raw => return Err(ReplyError::Error(raw)),
    };
    Ok((OutHeader { len, error, unique: Unique(wire.unique.get()) }, body))
}

/// Reads `body` as one wire struct without further bytes. `what` is its name in an error.
fn whole<'a, T>(what: &'static str, body: &'a [u8]) -> Result<&'a T, ReplyError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    T::ref_from_bytes(body).map_err(|_size| ReplyError::Length {
        what,
        need: size_of::<T>(),
        have: body.len(),
    })
}

fn time(seconds: U64, nanoseconds: U32) -> Timestamp {
    Timestamp { seconds: seconds.get().cast_signed(), nanoseconds: nanoseconds.get() }
}

/// Converts a timeout. A hostile server may send any numbers: nanoseconds carry over into seconds,
/// and the sum saturates.
fn timeout(seconds: U64, nanoseconds: U32) -> Duration {
    Duration::from_secs(seconds.get()).saturating_add(Duration::from_nanos(u64::from(nanoseconds.get())))
}

fn attr(wire: &abi::RawAttr) -> Attr {
    Attr {
        ino: wire.ino.get(),
        size: wire.size.get(),
        blocks: wire.blocks.get(),
        atime: time(wire.atime, wire.atimensec),
        mtime: time(wire.mtime, wire.mtimensec),
        ctime: time(wire.ctime, wire.ctimensec),
        mode: wire.mode.get(),
        nlink: wire.nlink.get(),
        uid: wire.uid.get(),
        gid: wire.gid.get(),
        rdev: wire.rdev.get(),
        blksize: wire.blksize.get(),
        submount: wire.flags.get() & abi::FUSE_ATTR_SUBMOUNT != 0,
        dax: wire.flags.get() & abi::FUSE_ATTR_DAX != 0,
    }
}

fn entry(wire: &abi::EntryOut) -> (Entry, Timeouts) {
    let entry =
        Entry { node: NodeId(wire.nodeid.get()), generation: wire.generation.get(), attr: attr(&wire.attr) };
    let timeouts = Timeouts {
        entry: timeout(wire.entry_valid, wire.entry_valid_nsec),
        attr: timeout(wire.attr_valid, wire.attr_valid_nsec),
    };
    (entry, timeouts)
}

fn open(wire: &abi::OpenOut) -> OpenReply {
    OpenReply {
        handle: Handle(wire.fh.get()),
        flags: OpenReplyFlags::from_bits_retain(wire.open_flags.get()),
    }
}

/// Decodes the reply to LOOKUP, MKNOD, MKDIR, SYMLINK or LINK.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_entry(body: &[u8]) -> Result<(Entry, Timeouts), ReplyError> {
    whole("fuse_entry_out", body).map(entry)
}

/// Decodes the reply to CREATE or TMPFILE.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_created(body: &[u8]) -> Result<(Created, Timeouts), ReplyError> {
    let (head, tail) = body.split_at_checked(size_of::<abi::EntryOut>()).unwrap_or((body, &[]));
    let (entry, timeouts) = decode_entry(head)?;
    Ok((Created { entry, open: decode_open(tail)? }, timeouts))
}

/// Decodes the reply to GETATTR or SETATTR.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_attr(body: &[u8]) -> Result<(Attr, Duration), ReplyError> {
    let wire: &abi::AttrOut = whole("fuse_attr_out", body)?;
    Ok((attr(&wire.attr), timeout(wire.attr_valid, wire.attr_valid_nsec)))
}

/// Decodes the reply to STATX.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_statx(body: &[u8]) -> Result<(Statx, Duration), ReplyError> {
    let out: &abi::StatxOut = whole("fuse_statx_out", body)?;
    let wire = &out.stat;
    let time = |time: abi::SxTime| Timestamp { seconds: time.tv_sec.get(), nanoseconds: time.tv_nsec.get() };
    let statx = Statx {
        mask: wire.mask.get(),
        blksize: wire.blksize.get(),
        attributes: wire.attributes.get(),
        attributes_mask: wire.attributes_mask.get(),
        nlink: wire.nlink.get(),
        uid: wire.uid.get(),
        gid: wire.gid.get(),
        mode: wire.mode.get(),
        ino: wire.ino.get(),
        size: wire.size.get(),
        blocks: wire.blocks.get(),
        atime: time(wire.atime),
        btime: time(wire.btime),
        ctime: time(wire.ctime),
        mtime: time(wire.mtime),
        rdev_major: wire.rdev_major.get(),
        rdev_minor: wire.rdev_minor.get(),
        dev_major: wire.dev_major.get(),
        dev_minor: wire.dev_minor.get(),
    };
    Ok((statx, timeout(out.attr_valid, out.attr_valid_nsec)))
}

/// Decodes the reply to OPEN or OPENDIR.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_open(body: &[u8]) -> Result<OpenReply, ReplyError> {
    whole("fuse_open_out", body).map(open)
}

/// Decodes the reply to STATFS.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_statfs(body: &[u8]) -> Result<Statfs, ReplyError> {
    let wire: &abi::Kstatfs = whole("fuse_statfs_out", body)?;
    Ok(Statfs {
        blocks: wire.blocks.get(),
        bfree: wire.bfree.get(),
        bavail: wire.bavail.get(),
        files: wire.files.get(),
        ffree: wire.ffree.get(),
        bsize: wire.bsize.get(),
        namelen: wire.namelen.get(),
        frsize: wire.frsize.get(),
    })
}

/// Decodes the 32-bit number in the reply to WRITE, `COPY_FILE_RANGE` or POLL, or to GETXATTR or
/// LISTXATTR with size 0.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_u32(body: &[u8]) -> Result<u32, ReplyError> {
    let [number, _padding]: &[U32; 2] = whole("a 32-bit number with its padding", body)?;
    Ok(number.get())
}

/// Decodes the 64-bit number in the reply to `COPY_FILE_RANGE_64`, LSEEK or BMAP.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_u64(body: &[u8]) -> Result<u64, ReplyError> {
    whole("a 64-bit number", body).map(|number: &U64| number.get())
}

/// Decodes the reply to GETLK.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length, [`ReplyError::LockKind`] if the lock
/// type is unknown.
pub fn decode_lock(body: &[u8]) -> Result<FileLock, ReplyError> {
    let abi::LkOut { lk } = whole("fuse_lk_out", body)?;
    let kind = LockKind::from_raw(lk.r#type.get()).map_err(ReplyError::LockKind)?;
    Ok(FileLock { start: lk.start.get(), end: lk.end.get(), kind, pid: lk.pid.get() })
}

/// Decodes the reply to IOCTL: the result and the data that the ioctl wrote.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_ioctl(body: &[u8]) -> Result<(i32, &[u8]), ReplyError> {
    let need = size_of::<abi::IoctlOut>();
    let (wire, output) = abi::IoctlOut::ref_from_prefix(body).map_err(|_short| ReplyError::Length {
        what: "fuse_ioctl_out",
        need,
        have: body.len(),
    })?;
    Ok((wire.result.get(), output))
}

/// Decodes the reply to INIT.
///
/// # Errors
/// [`ReplyError::Length`] if the body has the wrong length.
pub fn decode_init(body: &[u8]) -> Result<InitReply, ReplyError> {
    let wire: &abi::InitOut = whole("fuse_init_out", body)?;
    let flags: U64 = zerocopy::transmute!([wire.flags, wire.flags2]);
    Ok(InitReply {
        major: wire.major.get(),
        minor: wire.minor.get(),
        max_readahead: wire.max_readahead.get(),
        flags: InitFlags::from_bits_retain(flags.get()),
        max_background: wire.max_background.get(),
        congestion_threshold: wire.congestion_threshold.get(),
        max_write: wire.max_write.get(),
        time_gran: wire.time_gran.get(),
        max_pages: wire.max_pages.get(),
        map_alignment: wire.map_alignment.get(),
        max_stack_depth: wire.max_stack_depth.get(),
        request_timeout: wire.request_timeout.get(),
    })
}

/// An iterator over the records of a READDIR or READDIRPLUS reply. The iteration ends after the
/// first malformed record.
#[derive(Clone, Debug)]
pub struct Dirents<'a> {
    body: &'a [u8],
    /// Byte offset of the next record.
    offset: usize,
    /// Whether each record begins with an entry (READDIRPLUS).
    plus: bool,
}

/// Returns the records of a READDIR reply, each without an [`Entry`].
pub const fn dirents(body: &[u8]) -> Dirents<'_> {
    Dirents { body, offset: 0, plus: false }
}

/// Returns the records of a READDIRPLUS reply.
pub const fn dirents_plus(body: &[u8]) -> Dirents<'_> {
    Dirents { body, offset: 0, plus: true }
}

/// A directory record, with its entry in a READDIRPLUS reply.
type Record<'a> = (Option<(Entry, Timeouts)>, Dirent<'a>);

impl<'a> Dirents<'a> {
    /// Splits the first record off `rest`. Returns the record and its padded length in bytes, or
    /// `None` if the record is malformed.
    fn record(&self, rest: &'a [u8]) -> Option<(Record<'a>, usize)> {
        let (entry_out, after) = if self.plus {
            let (wire, after) = abi::EntryOut::ref_from_prefix(rest).ok()?;
            (Some(entry(wire)), after)
        } else {
            (None, rest)
        };
        let (head, after) = abi::RawDirent::ref_from_prefix(after).ok()?;
        let (name, after) = after.split_at_checked(usize::try_from(head.namelen.get()).ok()?)?;
        let used = rest.len().checked_sub(after.len())?;
        let padding = after.get(..used.checked_next_multiple_of(8)?.checked_sub(used)?)?;
        if name.is_empty() || name.contains(&b'/') || padding.iter().any(|&byte| byte != 0) {
            return None;
        }
        let kind = DirentKind::from_raw(head.r#type.get());
        let dirent = Dirent { ino: head.ino.get(), offset: head.off.get(), kind, name };
        Some(((entry_out, dirent), used.checked_add(padding.len())?))
    }
}

impl<'a> Iterator for Dirents<'a> {
    type Item = Result<Record<'a>, ReplyError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.body.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let Some((record, len)) = self.record(rest) else {
            let offset = std::mem::replace(&mut self.offset, self.body.len());
            return Some(Err(ReplyError::Dirent { offset }));
        };
        self.offset = self.offset.saturating_add(len);
        Some(Ok(record))
    }
}
