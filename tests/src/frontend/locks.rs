//! Lock requests encoded by hand, and the locks in the host's kernel.

use super::FrontendError;
use super::client::{Client, Opened, PendingRequest};
use super::frame::opcode::{FLUSH, GETLK, RELEASE, SETLK, SETLKW};
use super::frame::{Frame, u32_at, u64_at};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// `F_RDLCK`.
pub const READ: u32 = 0;
/// `F_WRLCK`.
pub const WRITE: u32 = 1;
/// `F_UNLCK`.
pub const UNLOCK: u32 = 2;

/// The last byte of a lock that reaches to the end of the file (`OFFSET_MAX` of Linux).
pub const TO_THE_END: u64 = i64::MAX.cast_unsigned();

/// `FUSE_LK_FLOCK`.
pub const FLOCK: u32 = 1;
/// `FUSE_RELEASE_FLOCK_UNLOCK`.
const RELEASE_FLOCK_UNLOCK: u32 = 2;

/// Largest number of bytes that one `read` of `/proc/locks` returns.
const LOCKS_PAGE_LEN: usize = 4096;
/// Length of the longest line of `/proc/locks` in bytes, rounded up.
const LOCKS_LINE_LEN: usize = 256;

/// Length of `fuse_lk_out` in bytes.
const LK_OUT: usize = 24;

/// Lock of GETLK, SETLK and SETLKW (`fuse_lk_in` without its file handle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Number that the guest uses for the owner.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// [`READ`], [`WRITE`], [`UNLOCK`].
    pub kind: u32,
    /// Process id in the guest.
    pub pid: u32,
    /// [`FLOCK`] or 0.
    pub lk_flags: u32,
}

impl Lock {
    /// Returns a POSIX lock, of an owner whose process id follows from its number.
    pub const fn posix(kind: u32, owner: u64, start: u64, end: u64) -> Self {
        Self { owner, start, end, kind, pid: pid_of(owner), lk_flags: 0 }
    }

    /// Returns a lock of flock(2): the whole file.
    pub const fn flock(kind: u32, owner: u64) -> Self {
        Self { lk_flags: FLOCK, ..Self::posix(kind, owner, 0, TO_THE_END) }
    }

    /// Returns the same lock of another kind.
    #[must_use]
    pub const fn to(self, kind: u32) -> Self {
        Self { kind, ..self }
    }

    /// Returns the GETLK, SETLK or SETLKW for this lock on an open file.
    pub fn frame(self, opcode: u32, (node, handle): Opened) -> Frame {
        let frame = Frame::new(opcode, node).u64(handle).u64(self.owner).u64(self.start).u64(self.end);
        frame.u32(self.kind).u32(self.pid).u32(self.lk_flags).u32(0)
    }
}

/// Returns the process id of an owner that [`Lock::posix`] uses.
pub const fn pid_of(owner: u64) -> u32 {
    // Owners of tests are small.
    1000 + owner.to_le_bytes()[0] as u32
}

/// Lock that GETLK returns (`fuse_lk_out`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConflictingLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Kind of the lock. [`UNLOCK`] if there is no conflict.
    pub kind: u32,
    /// Process id of the owner.
    pub pid: u32,
}

impl Client {
    /// Sends SETLK and returns its errno; 0 is success.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn set(&mut self, file: Opened, lock: Lock) -> Result<i32, FrontendError> {
        self.errno(lock.frame(SETLK, file), 0)
    }

    /// Sends SETLKW without waiting for its reply.
    ///
    /// # Errors
    /// [`FrontendError::TooBig`].
    pub fn submit_setlkw(&mut self, file: Opened, lock: Lock) -> Result<PendingRequest, FrontendError> {
        self.submit(lock.frame(SETLKW, file), 0)
    }

    /// Sends GETLK. Returns `None` if there is no conflicting lock.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the request is refused.
    pub fn get(&mut self, file: Opened, lock: Lock) -> Result<Option<ConflictingLock>, FrontendError> {
        let body = self.body(lock.frame(GETLK, file), LK_OUT)?;
        let (start, end) = (u64_at(&body, 0)?, u64_at(&body, 8)?);
        let found = ConflictingLock { start, end, kind: u32_at(&body, 16)?, pid: u32_at(&body, 20)? };
        Ok((found.kind != UNLOCK).then_some(found))
    }

    /// Sends FLUSH, as a close by `owner` does, and returns its errno; 0 is success.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn flush(&mut self, (node, handle): Opened, owner: u64) -> Result<i32, FrontendError> {
        self.errno(Frame::new(FLUSH, node).u64(handle).u32(0).u32(0).u64(owner), 0)
    }

    /// Sends RELEASE and returns its errno; 0 is success. With an `owner`, the request also ends
    /// that owner's locks of flock(2).
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn release(&mut self, (node, handle): Opened, owner: Option<u64>) -> Result<i32, FrontendError> {
        let flags = owner.map_or(0, |_| RELEASE_FLOCK_UNLOCK);
        let frame = Frame::new(RELEASE, node).u64(handle).u32(2).u32(flags);
        self.errno(frame.u64(owner.unwrap_or_default()), 0)
    }
}

/// Lock in the form of `/proc/locks`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostLock {
    /// `OFDLCK`, `POSIX` or `FLOCK`.
    pub family: String,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Whether the lock is for writing; otherwise for reading.
    pub write: bool,
}

/// Returns the locks that the host's kernel keeps on a file, in order, without waiting ones.
///
/// One `read` of `/proc/locks` is exact but returns at most a page. Two reads are not one list: the
/// second one starts at a position, and a lock that is taken or ended between them makes another
/// lock appear twice or not at all. If the list is longer than a page, this function collects the
/// locks of each descriptor on the host instead.
///
/// # Errors
/// Fails if the file or the lists cannot be read.
pub fn host_locks(file: &Path) -> io::Result<Vec<HostLock>> {
    let inode = fs::metadata(file)?.ino().to_string();
    let mut list = vec![0; LOCKS_PAGE_LEN];
    let len = File::open("/proc/locks")?.read(&mut list)?;
    list.truncate(len);
    let lines = if len + LOCKS_LINE_LEN <= LOCKS_PAGE_LEN {
        String::from_utf8_lossy(&list).into_owned()
    } else {
        locks_of_descriptors()?
    };
    let mut found: Vec<HostLock> = lines.lines().filter_map(|line| host_lock(line, &inode)).collect();
    found.sort();
    Ok(found)
}

/// Returns the locks of the descriptors of all processes, in the form of `/proc/locks`.
fn locks_of_descriptors() -> io::Result<String> {
    let mut lines = String::new();
    for process in fs::read_dir("/proc")?.filter_map(Result::ok) {
        // An entry that cannot be read is a process that has ended, or no process.
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
            for line in info.lines().filter_map(|line| line.strip_prefix("lock:\t")) {
                lines.extend([line, "\n"]);
            }
        }
    }
    Ok(lines)
}

/// Parses a line such as `1: OFDLCK ADVISORY  WRITE -1 08:02:1234 0 EOF`. Returns `None` for a lock
/// of another file, and for a waiting lock, whose line has an arrow as an additional word.
fn host_lock(line: &str, inode: &str) -> Option<HostLock> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, family, _, kind, _, file, start, end] = words.as_slice() else { return None };
    let end = if *end == "EOF" { TO_THE_END } else { end.parse().ok()? };
    let found =
        HostLock { family: (*family).to_owned(), start: start.parse().ok()?, end, write: *kind == "WRITE" };
    (file.rsplit(':').next()? == inode).then_some(found)
}
