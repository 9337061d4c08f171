//! What a process or a thread does once to stop sharing with others, and what the standard library does not know:
//! `unshare`, `fork`, `mount_setattr`, `close_range`, an environment to be forgotten, what becomes of signals, how a process
//! aborts, and what the allocator is told.
//!
//! Why `unsafe` here: none of these has a safe wrapper in the crates used here. Each function is safe to call because
//! it checks, or needs, nothing but what stands at it. But for `close`, nothing here is reachable by a guest: all of it
//! happens before its first byte, or once at a thread's start.
#![expect(unsafe_code, reason = "unshare, fork, mount_setattr, close_range and signal have no safe wrapper")]

use rustix::fs::Mode;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use vmm_sys_util::signal;

/// Which of two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The one that was there before; the number is the other's.
    Parent(Pid),
    /// The new one.
    Child,
}

/// What every mount of a tree is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountTraits {
    /// Nothing on it can be changed.
    pub(crate) read_only: bool,
}

/// Gives the calling thread its own umask, 0, and its own working directory, against which extended attributes of a
/// descriptor are reached by its number. Before Linux 6.13 no other call reaches those of a symbolic link or of a file
/// that may not be opened.
///
/// # Errors
/// Where the host, or a filter on it, refuses.
pub(crate) fn enter_thread(working_directory: impl AsFd) -> io::Result<()> {
    leave(UnshareFlags::FS)?;
    rustix::process::umask(Mode::empty());
    rustix::process::fchdir(working_directory)?;
    Ok(())
}

/// Leaves what the calling thread shares with others.
///
/// # Errors
/// EINVAL where the descriptor table is among it; what the host says.
pub(crate) fn leave(what: UnshareFlags) -> io::Result<()> {
    if what.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the danger that makes the function unsafe is CLONE_FILES, which has just been refused: every thread
    // keeps the one descriptor table. Namespaces, umask and working directory are no part of Rust's model of memory.
    unsafe { rustix::thread::unshare_unsafe(what) }?;
    Ok(())
}

/// Makes a second process.
///
/// # Errors
/// Where this process has a second thread, and what the host says.
pub(crate) fn fork() -> io::Result<Forked> {
    check_alone()?;
    // SAFETY: this process has one thread, the one that runs this, as has just been counted; only that thread could
    // start another. So no lock is held that the child would wait for, and nothing is half done in it: the child may
    // do whatever the parent might have done (POSIX restricts only children of processes with several threads).
    let pid = unsafe { libc::fork() };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        _ => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Ends this process at once and says nothing to anyone: for one that was forked to do a single thing, whose copies
/// of the parent's values must not be dropped.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: `_exit` takes any number and touches no memory of this process.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// Takes set-user-id and device nodes, and if wanted writing, from every mount of a tree that is not mounted yet, or
/// mounted nowhere else. Flags that are set stay set.
///
/// # Errors
/// ENOSYS before Linux 5.12; what the host says.
pub(crate) fn restrict_mounts(tree: BorrowedFd<'_>, traits: MountTraits) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if traits.read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a C string, `attributes` is a `mount_attr` whose size is given with it; the kernel reads
    // both and writes neither.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor but the standard three and `kept`: whatever the caller of this program has left open.
/// To be called before anything else is opened.
///
/// # Errors
/// ENOSYS before Linux 5.9; what the host says.
pub(crate) fn close_strays(kept: Option<u16>) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let last = libc::c_uint::MAX;
    let kept = kept.map(libc::c_uint::from).filter(|kept| *kept >= FIRST);
    let (below, above) = match kept {
        None => ((FIRST, last), None),
        Some(kept) => ((FIRST, kept.saturating_sub(1)), Some((kept.saturating_add(1), last))),
    };
    for (from, to) in std::iter::once(below).chain(above).filter(|(from, to)| from <= to) {
        // SAFETY: what is closed was opened by nobody in this process: this is called first of all. So there is no
        // value here that owns one of them.
        if unsafe { libc::close_range(from, to, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has the kernel answer EFBIG, and no more, where a file would become larger than `RLIMIT_FSIZE`: a guest that writes
/// past a limit gets that error, a line of the log is lost, and nobody is ended by SIGXFSZ.
///
/// # Errors
/// What the host says.
pub(crate) fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: with SIG_IGN no function is ever called by the signal, so nothing has to be safe in a signal handler.
    // What was there before was the default, or the same: nobody here handles this signal.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the signals of a crash back to the kernel, which ends the process by them. The standard library's handlers would
/// say that a stack has overflowed, by calls that no filter allows: the process would end by SIGSYS and hide its fault.
///
/// # Errors
/// What the host says.
pub(crate) fn end_by_crash_signals() -> io::Result<()> {
    restore_default_actions(&[libc::SIGSEGV, libc::SIGBUS])
}

/// Has the kernel keep the end of each child until it is asked for, which it does not where the starter of this process
/// ignored SIGCHLD.
///
/// # Errors
/// What the host says.
pub(crate) fn wait_for_children() -> io::Result<()> {
    restore_default_actions(&[libc::SIGCHLD])
}

/// Gives these signals the action that a process has by default.
///
/// # Errors
/// What the host says.
pub(crate) fn restore_default_actions(signals: &[libc::c_int]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| {
        // SAFETY: with SIG_DFL no function is ever called by the signal. What was there before is the choice of the process
        // that started this one, or a handler of a library's, on which no memory safety rests.
        let before = unsafe { libc::signal(*signal, libc::SIG_DFL) };
        if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
    })
}

/// Keeps these signals from the calling thread and from all that it starts from now on.
///
/// # Errors
/// What the host says.
pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| match signal::block_signal(*signal) {
        // Whoever started this process did it.
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    })
}

/// Lets these signals come to the calling thread again.
///
/// # Errors
/// What the host says.
pub(crate) fn unblock_signals(signals: &[libc::c_int]) -> io::Result<()> {
    let unblock = |signal: &libc::c_int| signal::unblock_signal(*signal);
    signals.iter().try_for_each(unblock).map_err(|error| io::Error::other(error.to_string()))
}

/// Waits for one of these signals, which the calling thread must block, and takes it.
///
/// # Errors
/// What the host says.
pub(crate) fn take_signal(signals: &[libc::c_int]) -> io::Result<libc::c_int> {
    let set = signal::create_sigset(signals)?;
    loop {
        // SAFETY: `set` is a set of signals that lives through the call; a null pointer says that nothing but the number is
        // asked for.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if signal > 0 {
            return Ok(signal);
        }
        let error = io::Error::last_os_error();
        // After a stop, a freeze or a tracer.
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Some thread of this process has a filter of system calls.
static FILTERED: AtomicBool = AtomicBool::new(false);

/// From now on this process can send itself no signal.
pub(crate) fn filtered() {
    FILTERED.store(true, Ordering::Release);
}

/// Ends the process as the C library's function of this name does, in whose place it is linked: it is called where memory
/// cannot be had, and where a panic cannot be caught.
///
/// The C library sends SIGABRT, which takes four system calls that no filter allows. And the first process of a namespace
/// of processes ignores that signal. So behind filters this ends in an instruction that raises SIGTRAP, for which there
/// is no other cause; the supervisor calls it SIGABRT again.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn abort() -> ! {
    if !FILTERED.load(Ordering::Acquire) {
        // SAFETY: `raise` takes any number and touches no memory of this process.
        unsafe { libc::raise(libc::SIGABRT) };
    }
    loop {
        // SAFETY: the instruction changes neither memory nor registers; a debugger may let the process go on behind it.
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

/// Forgets the environment: the variables, and the bytes that they were in, which `/proc/PID/environ` shows.
///
/// # Errors
/// Where this process has a second thread.
pub(crate) fn forget_environment() -> io::Result<()> {
    check_alone()?;
    // SAFETY: the C library's own variable, read by the only thread.
    let table = unsafe { environ };
    let mut index = 0;
    while !table.is_null() {
        // SAFETY: the table ends in a null pointer, and the loop at it.
        let place = unsafe { table.add(index) };
        // SAFETY: as above; it is an element of the table.
        let entry = unsafe { place.read() };
        if entry.is_null() {
            break;
        }
        // SAFETY: each entry is a C string, environ(7).
        let len = unsafe { CStr::from_ptr(entry) }.count_bytes();
        // SAFETY: so many bytes are the string's own. They are writable (environ(7)); nobody holds a reference to them,
        // since the standard library only ever gives out copies, and no other thread reads them.
        unsafe { entry.write_bytes(0, len) };
        index = index.saturating_add(1);
    }
    // SAFETY: as for the variable itself: nobody else looks.
    if unsafe { libc::clearenv() } == 0 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
}

// As environ(7) says: the C library defines it, and it points to a table of C strings.
unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Has the C library's allocator keep one heap for all threads. What hits memory allocates nothing, so nobody waits for
/// another's turn in it; and heaps of threads would be grown and shrunk by calls that a worker does not need otherwise.
///
/// # Errors
/// Where this process has a second thread.
pub(crate) fn one_heap() -> io::Result<()> {
    check_alone()?;
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt is unsafe where another thread allocates meanwhile; there is none.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(not(target_env = "gnu"))]
    let set = 1;
    if set == 0 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// Gives the host back what the allocator keeps of memory that is free. Reading a command line and a policy, and making
/// filters, takes several times what an idle daemon needs; so does a guest that knew many files. Needs `brk` and
/// `madvise(MADV_DONTNEED)`, which a thread that serves queues may not call.
pub(crate) fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and changes no memory that is in use. It says whether there was
    // anything to give back, which is of no interest.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Closes a descriptor and returns what the host says to that: an NFS, SMB or FUSE file system writes back at `close`, and
/// tells of errors only there.
///
/// # Errors
/// What `close` returns. The descriptor is closed all the same (Linux, close(2)).
pub(crate) fn close(descriptor: OwnedFd) -> rustix::io::Result<()> {
    // SAFETY: `into_raw_fd` has given up the ownership, so nothing else closes this number.
    if unsafe { libc::close(descriptor.into_raw_fd()) } == 0 {
        return Ok(());
    }
    Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO))
}

/// Has the allocator keep so many bytes at hand that need no system call.
pub(crate) fn keep_free_memory(len: usize) {
    // Freed memory stays with the allocator, below the length at which it gives memory back.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(len)));
}

fn check_alone() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("{threads} threads where one was to be"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_table_is_never_left() {
        let refused = leave(UnshareFlags::FILES | UnshareFlags::FS).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::InvalidInput));
    }

    #[test]
    fn a_second_thread_is_seen() {
        let seen = std::thread::scope(|scope| scope.spawn(check_alone).join().unwrap());
        assert!(seen.is_err());
    }
}
