//! Locks of an open file description (`F_OFD_SETLK` and `F_OFD_GETLK` of fcntl(2), Linux 3.15).
//!
//! They exclude the locks of every other description, also of other daemons, and the record locks
//! of host processes.

use super::ranges::{RangeLock, Span};
use crate::filesystem::{Answer, Locking};
use nix::errno::Errno as HostErrno;
use nix::fcntl::{FcntlArg, fcntl};
use pinhole_protocol::{Errno, LockKind};
use std::os::fd::BorrowedFd;

/// Locks, or with `None` unlocks, without waiting. The owner of a conflicting lock is not known.
///
/// # Errors
/// The host's error: ENOLCK, or EBADF if the description is not open for the access that such a
/// lock needs.
pub(super) fn set(fd: BorrowedFd<'_>, span: Span, kind: Option<LockKind>) -> Answer<Locking> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&flock(span, kind))) {
        Ok(_) => Ok(Locking::Done),
        Err(HostErrno::EAGAIN | HostErrno::EACCES) => Ok(Locking::Held(None)),
        Err(error) => Err(errno(error)),
    }
}

/// Returns a lock that prevents the description from having this one.
///
/// # Errors
/// The host's error.
pub(super) fn conflict(fd: BorrowedFd<'_>, wanted: RangeLock) -> Answer<Option<RangeLock>> {
    let mut lock = flock(wanted.span, Some(wanted.kind));
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(errno)?;
    let kind = match libc::c_int::from(lock.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(None),
    };
    let span = Span::from_host((lock.l_start, lock.l_len));
    Ok(Some(RangeLock { span, kind }))
}

fn flock(span: Span, kind: Option<LockKind>) -> libc::flock {
    let (l_start, l_len) = span.for_host();
    let kind = match kind {
        Some(LockKind::Read) => libc::F_RDLCK,
        Some(LockKind::Write) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    };
    let short = |value| libc::c_short::try_from(value).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start, l_len, l_pid: 0 }
}

/// Returns the guest's errno for an error of the host. It is never ENOSYS: after that, a guest
/// would never send a lock request again. A file system without locks returns ENOLCK.
fn errno(error: HostErrno) -> Errno {
    if matches!(error, HostErrno::ENOSYS | HostErrno::EOPNOTSUPP) {
        return Errno::ENOLCK;
    }
    Errno::from_raw(error as i32)
}
