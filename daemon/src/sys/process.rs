//! Start and end of a process, and its environment.
//!
//! Why `unsafe` here: `fork`, `_exit`, `raise` and `clearenv` have no safe wrapper, and `abort` is
//! an instruction.
#![expect(unsafe_code, reason = "fork, _exit, raise, clearenv and abort have no safe wrapper")]

use rustix::process::Pid;
use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The process that returns from [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The old process, with the id of the new one.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a second process.
///
/// # Errors
/// Fails if this process has a second thread, and with errors of the host.
pub(crate) fn fork() -> io::Result<Forked> {
    check_one_thread()?;
    // SAFETY: this process has one thread, the calling one, and only that could start another. So
    // in the child no lock is held by a thread that is gone, and no data is half changed. The child
    // may do anything (POSIX restricts only children of processes with several threads).
    let pid = unsafe { libc::fork() };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        _ => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Ends this process at once, without dropping any value: at a second signal, and in a forked
/// process, whose values are copies of its parent's.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: `_exit` takes any number and touches no memory of this process.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// Whether a thread of this process has a filter of system calls.
static IS_FILTERED: AtomicBool = AtomicBool::new(false);

/// Notes that a thread has a filter: from now on this process cannot send itself a signal.
pub(crate) fn note_filter() {
    IS_FILTERED.store(true, Ordering::Release);
}

/// Ends the process. Replaces the C library's function of this name, which is called if memory runs
/// out, and if a panic cannot be caught.
///
/// The C library sends SIGABRT. That takes four system calls that no filter allows, and the first
/// process of a PID namespace ignores that signal. So behind filters this function executes an
/// instruction that raises SIGTRAP, which has no other cause here. The supervisor reports it as
/// SIGABRT.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn abort() -> ! {
    if !IS_FILTERED.load(Ordering::Acquire) {
        // SAFETY: `raise` takes any number and touches no memory of this process.
        unsafe { libc::raise(libc::SIGABRT) };
    }
    loop {
        // SAFETY: the instruction changes neither memory nor registers. A debugger may let the
        // process continue after it.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("int3", options(nomem, nostack));
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("brk #0", options(nomem, nostack));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        end(134);
    }
}

/// Removes all environment variables, and overwrites their bytes, which `/proc/PID/environ` shows.
///
/// # Errors
/// Fails if this process has a second thread.
pub(crate) fn forget_environment() -> io::Result<()> {
    check_one_thread()?;
    // SAFETY: a variable of the C library, read by the only thread.
    let table = unsafe { environ };
    let mut index = 0;
    while !table.is_null() {
        // SAFETY: the table ends with a null pointer, where this loop ends too.
        let place = unsafe { table.add(index) };
        // SAFETY: as above; it is an element of the table.
        let entry = unsafe { place.read() };
        if entry.is_null() {
            break;
        }
        // SAFETY: each entry is a C string, environ(7).
        let len = unsafe { CStr::from_ptr(entry) }.count_bytes();
        // SAFETY: these `len` bytes belong to the string and are writable (environ(7)). There is no
        // reference to them, because the standard library returns only copies, and no other thread.
        unsafe { entry.write_bytes(0, len) };
        index = index.saturating_add(1);
    }
    // SAFETY: as for the variable itself: there is no other thread.
    if unsafe { libc::clearenv() } == 0 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
}

// The C library defines it; it points to a table of C strings, environ(7).
unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Checks that this process has one thread.
pub(super) fn check_one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("{threads} threads instead of one"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_thread_is_an_error() {
        let check = std::thread::scope(|scope| scope.spawn(check_one_thread).join().unwrap());
        assert!(check.is_err());
    }
}
