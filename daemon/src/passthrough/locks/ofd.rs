//! Locks of an open file description (`F_OFD_SETLK` and `F_OFD_GETLK` of fcntl(2), Linux 3.15): they exclude those of
//! every other description, so those of other daemons, and the record locks of host processes.

use super::ranges::{Locked, Span};
use nix::errno::Errno as HostErrno;
use nix::fcntl::{FcntlArg, fcntl};
use pinhole_protocol::{Errno, LockKind};
use std::os::fd::BorrowedFd;

/// What the host says to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::passthrough) enum Said {
    Done,
    /// Somebody else has it.
    Held,
}

/// Locks, or with `None` unlocks, without waiting.
///
/// # Errors
/// What the host says but that it is held: ENOLCK, EBADF where the description is not open for that.
pub(in crate::passthrough) fn set(
    fd: BorrowedFd<'_>,
    span: Span,
    kind: Option<LockKind>,
) -> Result<Said, Errno> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&wanted(span, kind))) {
        Ok(_) => Ok(Said::Done),
        Err(HostErrno::EAGAIN | HostErrno::EACCES) => Ok(Said::Held),
        Err(error) => Err(refused(error)),
    }
}

/// A lock that keeps the description from having this one.
///
/// # Errors
/// What the host says.
pub(in crate::passthrough) fn in_the_way(
    fd: BorrowedFd<'_>,
    span: Span,
    kind: LockKind,
) -> Result<Option<Locked>, Errno> {
    let mut lock = wanted(span, Some(kind));
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(refused)?;
    let kind = match libc::c_int::from(lock.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(None),
    };
    let span = Span::from_host((lock.l_start, lock.l_len));
    Ok(Some(Locked { span, kind }))
}

fn wanted(span: Span, kind: Option<LockKind>) -> libc::flock {
    let (l_start, l_len) = span.for_host();
    let kind = match kind {
        Some(LockKind::Read) => libc::F_RDLCK,
        Some(LockKind::Write) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    };
    let short = |value| libc::c_short::try_from(value).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start, l_len, l_pid: 0 }
}

/// Never ENOSYS, which a guest takes for "locks are yours alone from now on"; a file system without locks has none left.
fn refused(error: HostErrno) -> Errno {
    if matches!(error, HostErrno::ENOSYS | HostErrno::EOPNOTSUPP) {
        return Errno::ENOLCK;
    }
    Errno::from_raw(error as i32)
}
