//! Closes descriptors: those that the starter of the process has left open, and a single one with
//! the result of `close`.
//!
//! Why `unsafe` here: `rustix` has no `close_range`, and its `close` ignores the result.
#![expect(unsafe_code, reason = "close_range and close with its result have no safe wrapper")]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

/// Closes every descriptor except the standard three and `kept`. Called before anything is opened.
///
/// # Errors
/// ENOSYS before Linux 5.9, and other errors of the host.
pub(crate) fn close_strays(kept: Option<u16>) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let last = libc::c_uint::MAX;
    let kept = kept.map(libc::c_uint::from).filter(|kept| *kept >= FIRST);
    let (below, above) = match kept {
        None => ((FIRST, last), None),
        Some(kept) => ((FIRST, kept.saturating_sub(1)), Some((kept.saturating_add(1), last))),
    };
    for (from, to) in std::iter::once(below).chain(above).filter(|(from, to)| from <= to) {
        // SAFETY: this process has opened no descriptor yet, so no value owns one of these.
        if unsafe { libc::close_range(from, to, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes a descriptor and returns the result: an NFS, SMB or FUSE file system writes back at
/// `close`, and reports errors only there.
///
/// # Errors
/// The error of `close`. The descriptor is closed in any case (Linux, close(2)).
pub(crate) fn close(descriptor: OwnedFd) -> rustix::io::Result<()> {
    // SAFETY: `into_raw_fd` has given up the ownership, so nothing else closes this number.
    if unsafe { libc::close(descriptor.into_raw_fd()) } == 0 {
        return Ok(());
    }
    Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO))
}
