//! What makes a thread fit to serve requests.
//!
//! Why `unsafe` here: a umask and a working directory belong to all threads of a process together, unless a thread
//! asks for its own with `unshare(CLONE_FS)`, which the standard library does not know.
#![expect(unsafe_code, reason = "unshare(CLONE_FS) has no safe wrapper")]

use super::resolve::ProcFds;
use rustix::fs::Mode;
use rustix::thread::UnshareFlags;

/// Gives the calling thread its own umask, 0, and its own working directory, `/proc/self/fd`, against which extended
/// attributes of a descriptor are reached by its number. Before Linux 6.13 no other call reaches those of a symbolic
/// link or of a file that may not be opened.
pub(super) fn enter(proc_fds: &ProcFds) -> std::io::Result<()> {
    // SAFETY: CLONE_FS parts only umask, root and working directory from the other threads. The danger that makes
    // the function unsafe is CLONE_FILES, which is not asked for, so every thread keeps the one descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::process::umask(Mode::empty());
    rustix::process::fchdir(proc_fds)?;
    Ok(())
}
