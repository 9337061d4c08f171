//! Stops sharing attributes of the calling thread with other threads and processes.
//!
//! Why `unsafe` here: `rustix` declares `unshare` unsafe, because it may separate the descriptor
//! tables of threads.
#![expect(unsafe_code, reason = "unshare has no safe wrapper")]

use rustix::fs::Mode;
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::AsFd;

/// Gives the calling thread its own umask, 0, and its own working directory.
///
/// An extended attribute of a descriptor is reached by the descriptor's number, relative to
/// `working_directory` (`/proc/self/fd`). Before Linux 6.13 there is no other call for a symbolic
/// link, or for a file that may not be opened.
///
/// # Errors
/// The host's error, also if a filter of the host refuses.
pub(crate) fn enter_thread(working_directory: impl AsFd) -> io::Result<()> {
    unshare(UnshareFlags::FS)?;
    rustix::process::umask(Mode::empty());
    rustix::process::fchdir(working_directory)?;
    Ok(())
}

/// Stops sharing the attributes `shared` with other threads and processes.
///
/// # Errors
/// EINVAL if `shared` contains the descriptor table. Otherwise errors of the host.
pub(crate) fn unshare(shared: UnshareFlags) -> io::Result<()> {
    if shared.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the call is unsafe because of CLONE_FILES, which was refused above: every thread
    // keeps the one descriptor table. Namespaces, umask and working directory are not part of
    // Rust's model of memory.
    unsafe { rustix::thread::unshare_unsafe(shared) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_table_stays_shared() {
        let refused = unshare(UnshareFlags::FILES | UnshareFlags::FS).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::InvalidInput));
    }
}
