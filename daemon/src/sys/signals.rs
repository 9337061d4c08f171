//! Actions and masks of signals.
//!
//! Why `unsafe` here: `signal`, `sigwaitinfo` and `signalfd` have no safe wrapper.
#![expect(unsafe_code, reason = "signal, sigwaitinfo and signalfd have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use vmm_sys_util::signal;

/// Sets the actions that the process needs, in place of those that it inherited.
///
/// - SIGXFSZ is ignored, so that a write past `RLIMIT_FSIZE` fails with EFBIG and nothing else
///   happens: the guest gets that error, and a line of the log is lost.
/// - The signals of a crash have their default action. The standard library's handlers would report
///   a stack overflow by calls that no filter allows, so the process would end by SIGSYS and hide
///   its fault.
/// - SIGCHLD has its default action, so that the kernel keeps the exit status of a child until it
///   is waited for.
///
/// # Errors
/// The host's error.
pub(crate) fn set_process_actions() -> io::Result<()> {
    set_action(libc::SIGXFSZ, libc::SIG_IGN)?;
    restore_default_actions(&[libc::SIGSEGV, libc::SIGBUS, libc::SIGCHLD])
}

/// Restores the default action of these signals.
///
/// # Errors
/// The host's error.
pub(crate) fn restore_default_actions(signals: &[libc::c_int]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| set_action(*signal, libc::SIG_DFL))
}

/// Sets the action of a signal to `SIG_IGN` or `SIG_DFL`.
fn set_action(signal: libc::c_int, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: both actions call no function when the signal comes, so nothing has to be safe in a
    // signal handler. The action before was chosen by the starter of this process or by a library,
    // and no memory safety depends on it.
    let before = unsafe { libc::signal(signal, action) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Blocks these signals for the calling thread and for all threads that it starts from now on.
///
/// # Errors
/// The host's error.
pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| match signal::block_signal(*signal) {
        // The starter of this process may have blocked it.
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    })
}

/// Unblocks these signals for the calling thread.
///
/// # Errors
/// The host's error.
pub(crate) fn unblock_signals(signals: &[libc::c_int]) -> io::Result<()> {
    let unblock = |signal: &libc::c_int| signal::unblock_signal(*signal);
    signals.iter().try_for_each(unblock).map_err(|error| io::Error::other(error.to_string()))
}

/// A descriptor that is readable when one of its signals has come.
#[derive(Debug)]
pub(crate) struct SignalDescriptor(OwnedFd);

impl SignalDescriptor {
    /// Makes a descriptor for these signals, which all threads must block.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub(crate) fn new(signals: &[libc::c_int]) -> io::Result<Self> {
        let set = signal::create_sigset(signals)?;
        // SAFETY: `set` is a set of signals that outlives the call. -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made `fd`, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes a signal that has come, and returns its number. `None`: none has come.
    ///
    /// # Errors
    /// The host's error.
    pub(crate) fn take(&self) -> io::Result<Option<libc::c_int>> {
        // `struct signalfd_siginfo` begins with the number.
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info) {
            Ok(_) => Ok(info.first_chunk().map(|number| libc::c_int::from_le_bytes(*number))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for SignalDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for one of these signals, which the calling thread must block, and returns its number.
///
/// # Errors
/// The host's error.
pub(crate) fn take_signal(signals: &[libc::c_int]) -> io::Result<libc::c_int> {
    let set = signal::create_sigset(signals)?;
    loop {
        // SAFETY: `set` is a set of signals that outlives the call. A null pointer asks for the
        // number alone.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if signal > 0 {
            return Ok(signal);
        }
        let error = io::Error::last_os_error();
        // A stop, a freezer or a tracer may interrupt the call.
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
