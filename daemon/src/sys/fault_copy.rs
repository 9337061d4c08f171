//! A read-only mapping of a file, of which bytes are only ever copied out.
//!
//! Another process may truncate the file. Then the next access to the mapping raises SIGBUS. Within
//! [`ReadOnlyMapping::copy`] that is an error, and the thread goes on. Any other SIGBUS ends the
//! process as without this file.
//!
//! Why `unsafe` here: a mapping of a file that others may change is not Rust memory, so a function
//! in assembly copies from it, and a signal handler ends that function after a fault.
#![expect(unsafe_code, reason = "a mapping of a file that others may change, and a signal handler")]

use crate::sys::signals::unblock_signals;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

/// The bytes cannot be read: they are past the end of the mapping or of the file, or the host had
/// an error when it read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mapped file ends before these bytes, or cannot be read")]
pub(crate) struct CopyFault;

/// A mapping of the first bytes of a file.
#[derive(Debug)]
pub(crate) struct ReadOnlyMapping {
    /// Start of the mapping. `None`: it has no bytes.
    start: Option<NonNull<libc::c_void>>,
    /// Length in bytes.
    len: usize,
}

// SAFETY: the pages are read by `copy_bytes` only, and unmapped only when the value is dropped. So
// the thread that does either does not matter.
unsafe impl Send for ReadOnlyMapping {}
// SAFETY: as above. Several threads may read the same bytes at once.
unsafe impl Sync for ReadOnlyMapping {}

impl ReadOnlyMapping {
    /// Maps the first `len` bytes of `file`, and makes SIGBUS an error of [`Self::copy`] in this
    /// process.
    ///
    /// # Errors
    /// The host's error. [`io::ErrorKind::Unsupported`] on an architecture without a copy function.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        catch_faults()?;
        if len == 0 {
            return Ok(Self { start: None, len });
        }
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: without MAP_FIXED the kernel chooses addresses that nothing else uses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: NonNull::new(start), len })
    }

    /// Returns the length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Copies the bytes from `offset` on, as many as fit into `into`. After an error, `into` has
    /// unknown bytes.
    ///
    /// # Errors
    /// [`CopyFault`] if any of them cannot be read.
    pub(crate) fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), CopyFault> {
        let offset = usize::try_from(offset).map_err(|_large| CopyFault)?;
        let end = offset.checked_add(into.len()).ok_or(CopyFault)?;
        if end > self.len {
            return Err(CopyFault);
        }
        let Some(start) = self.start else { return Ok(()) };
        // SAFETY: `offset` is at most the length of the mapping, as checked above.
        let from = unsafe { start.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: the bytes from `from` on are mapped, as checked above, and stay mapped while
        // `self` is borrowed. Without pages behind them, the copy ends with the rest. `into` is
        // memory of this process.
        let rest = unsafe { machine::pinhole_copy_bytes(into.as_mut_ptr(), from, into.len()) };
        if rest == 0 { Ok(()) } else { Err(CopyFault) }
    }
}

impl Drop for ReadOnlyMapping {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: `new` has made the mapping, and no address of it is used after this.
            unsafe { libc::munmap(start.as_ptr(), self.len) };
        }
    }
}

/// Installs the handler of SIGBUS for this process.
fn catch_faults() -> io::Result<()> {
    if !machine::IS_SUPPORTED {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: all bytes of a `sigaction` may be zero: no flags, and no signal blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *const libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `on_bus_error` changes nothing but the context of the interrupted thread, so it may
    // run at any moment. No memory safety depends on the action before.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // The starter of this process may have blocked it. A fault would end the process then.
    unblock_signals(&[libc::SIGBUS])
}

/// Ends a copy after a fault. Ends the process after any other SIGBUS.
///
/// A thread needs only `rt_sigreturn` for both, which the kernel makes it call.
extern "C" fn on_bus_error(_: libc::c_int, info: *const libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO, the kernel passes a `siginfo_t` that is valid until the handler
    // returns.
    let code = unsafe { (*info).si_code };
    if code <= 0 {
        // Another process has sent the signal, so no instruction would raise it again.
        // SAFETY: the default action calls no function of this process.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        // SAFETY: `raise` may be called in a handler (POSIX). The signal waits until the handler
        // has returned.
        unsafe { libc::raise(libc::SIGBUS) };
        return;
    }
    // SAFETY: with SA_SIGINFO, the kernel passes the context of the interrupted thread, and nothing
    // else uses it until the handler returns.
    let context = unsafe { &mut *context };
    if !machine::end_copy(context) {
        // The instruction faults again. The kernel ends a process for a fault that is blocked.
        // SAFETY: `uc_sigmask` is a set of signals.
        unsafe { libc::sigaddset(&raw mut context.uc_sigmask, libc::SIGBUS) };
    }
}

/// The copy function of an x86-64 processor.
#[cfg(target_arch = "x86_64")]
mod machine {
    pub(super) const IS_SUPPORTED: bool = true;

    // RDX has the number of bytes to copy. At each instruction that reads, RCX has the number of
    // bytes that are still missing, or more. So after a fault it suffices to go to the last two
    // instructions.
    std::arch::global_asm!(
        ".globl pinhole_copy_bytes",
        ".globl pinhole_copy_bytes_end",
        ".hidden pinhole_copy_bytes",
        ".hidden pinhole_copy_bytes_end",
        ".p2align 4",
        "pinhole_copy_bytes:",
        "mov rcx, rdx",
        // Long copies: one instruction, which takes some time to start.
        "cmp rcx, 512",
        "jb 2f",
        "rep movsb",
        "jmp 4f",
        // Words of eight bytes.
        "2:",
        "cmp rcx, 8",
        "jb 3f",
        "mov rax, [rsi]",
        "mov [rdi], rax",
        "add rsi, 8",
        "add rdi, 8",
        "sub rcx, 8",
        "jmp 2b",
        // The last bytes.
        "3:",
        "test rcx, rcx",
        "jz 4f",
        "mov al, [rsi]",
        "mov [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rcx",
        "jmp 3b",
        "4:",
        "pinhole_copy_bytes_end:",
        "mov rax, rcx",
        "ret",
    );

    unsafe extern "C" {
        /// Copies `len` bytes. Returns zero, or after a fault the number of missing bytes or more.
        pub(super) fn pinhole_copy_bytes(to: *mut u8, from: *const u8, len: usize) -> usize;
        /// The first instruction after the last one that can fault.
        fn pinhole_copy_bytes_end();
    }

    /// Makes a thread that was interrupted within a copy go on at its end. False: it was not.
    pub(super) fn end_copy(context: &mut libc::ucontext_t) -> bool {
        let begin = pinhole_copy_bytes as *const () as usize;
        let end = pinhole_copy_bytes_end as *const () as usize;
        let index = usize::try_from(libc::REG_RIP).unwrap_or(usize::MAX);
        let Some(register) = context.uc_mcontext.gregs.get_mut(index) else { return false };
        let is_copy = usize::try_from(*register).is_ok_and(|at| (begin..end).contains(&at));
        if is_copy {
            *register = end.cast_signed() as libc::greg_t;
        }
        is_copy
    }
}

/// The copy function of a 64-bit ARM processor.
#[cfg(target_arch = "aarch64")]
mod machine {
    pub(super) const IS_SUPPORTED: bool = true;

    // X2 has the number of bytes that are still missing, or more, at each instruction that reads.
    // So after a fault it suffices to go to the last two instructions.
    std::arch::global_asm!(
        ".globl pinhole_copy_bytes",
        ".globl pinhole_copy_bytes_end",
        ".hidden pinhole_copy_bytes",
        ".hidden pinhole_copy_bytes_end",
        ".p2align 4",
        "pinhole_copy_bytes:",
        // Pairs of words of eight bytes.
        "2:",
        "cmp x2, #16",
        "b.lo 3f",
        "ldp x3, x4, [x1], #16",
        "stp x3, x4, [x0], #16",
        "sub x2, x2, #16",
        "b 2b",
        // The last bytes.
        "3:",
        "cbz x2, 4f",
        "ldrb w3, [x1], #1",
        "strb w3, [x0], #1",
        "sub x2, x2, #1",
        "b 3b",
        "4:",
        "pinhole_copy_bytes_end:",
        "mov x0, x2",
        "ret",
    );

    unsafe extern "C" {
        /// Copies `len` bytes. Returns zero, or after a fault the number of missing bytes or more.
        pub(super) fn pinhole_copy_bytes(to: *mut u8, from: *const u8, len: usize) -> usize;
        /// The first instruction after the last one that can fault.
        fn pinhole_copy_bytes_end();
    }

    /// Makes a thread that was interrupted within a copy go on at its end. False: it was not.
    pub(super) fn end_copy(context: &mut libc::ucontext_t) -> bool {
        let begin = pinhole_copy_bytes as *const () as u64;
        let end = pinhole_copy_bytes_end as *const () as u64;
        let is_copy = (begin..end).contains(&context.uc_mcontext.pc);
        if is_copy {
            context.uc_mcontext.pc = end;
        }
        is_copy
    }
}

/// No copy function: [`ReadOnlyMapping::new`] fails.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    pub(super) const IS_SUPPORTED: bool = false;

    /// Copies nothing. Returns the number of missing bytes.
    pub(super) const unsafe fn pinhole_copy_bytes(_: *mut u8, _: *const u8, len: usize) -> usize {
        len
    }

    pub(super) const fn end_copy(_: &mut libc::ucontext_t) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    const PAGE: usize = 4096;

    /// Returns a file of some pages and its bytes, no two of which are in the same order twice.
    fn pages(count: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> =
            (0..u32::try_from(count * PAGE / 4).unwrap()).flat_map(u32::to_le_bytes).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    fn mapped(file: &File, count: usize) -> ReadOnlyMapping {
        ReadOnlyMapping::new(file.as_fd(), count * PAGE).unwrap()
    }

    #[test]
    fn any_range_of_a_file_is_copied() {
        let (file, bytes) = pages(3);
        let mapping = mapped(&file, 3);
        for len in (0..70).chain([511, 512, 513, 4096, 5000, 3 * PAGE]) {
            for offset in (0..20).chain([PAGE - 3, 3 * PAGE - len.min(PAGE)]) {
                let mut into = vec![0xaa; len];
                let copied = mapping.copy(offset as u64, &mut into);
                match bytes.get(offset..offset + len) {
                    Some(expected) => assert!(copied.is_ok() && into == expected, "{offset} {len}"),
                    None => assert_eq!(copied, Err(CopyFault), "{offset} {len}"),
                }
            }
        }
    }

    #[test]
    fn a_range_past_the_mapping_is_refused() {
        let (file, _) = pages(1);
        let mapping = mapped(&file, 1);
        for (offset, len) in
            [(1, PAGE), (PAGE as u64 + 1, 0), (u64::MAX, 1), (u64::MAX, 0), (u64::MAX - 1, 4)]
        {
            assert_eq!(mapping.copy(offset, &mut vec![0; len]), Err(CopyFault), "{offset} {len}");
        }
        assert_eq!(mapping.copy(PAGE as u64, &mut []), Ok(()));
        let empty = ReadOnlyMapping::new(file.as_fd(), 0).unwrap();
        assert_eq!((mapping.len(), empty.len()), (PAGE, 0));
        assert_eq!((empty.copy(0, &mut []), empty.copy(0, &mut [0])), (Ok(()), Err(CopyFault)));
    }

    #[test]
    fn truncated_file_is_an_error_and_the_process_goes_on() {
        let (file, bytes) = pages(4);
        let mapping = mapped(&file, 4);
        file.set_len(PAGE as u64 + 100).unwrap();
        for len in [1, 7, 8, 9, 100, 511, 512, PAGE, 2 * PAGE] {
            let edge = 2 * PAGE - len.min(PAGE) / 2;
            let crosses = edge + len > 2 * PAGE;
            let mut into = vec![0; len];
            assert_eq!(mapping.copy(edge as u64, &mut into).is_err(), crosses, "{len}");
            assert_eq!(
                mapping.copy(3 * PAGE as u64 - len.min(PAGE) as u64, &mut into),
                Err(CopyFault),
                "{len}"
            );
        }
        let mut into = [0; PAGE];
        mapping.copy(0, &mut into).unwrap();
        assert!(into[..] == bytes[..PAGE]);
        // A file that grows again has zeros there.
        file.set_len(4 * PAGE as u64).unwrap();
        mapping.copy(2 * PAGE as u64, &mut into).unwrap();
        assert_eq!(into, [0; PAGE]);
    }

    #[test]
    fn threads_fault_at_the_same_time() {
        let (file, _) = pages(8);
        let mapping = mapped(&file, 8);
        file.set_len(4 * PAGE as u64).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mapping = &mapping;
                scope.spawn(move || {
                    let mut into = [0; 600];
                    for turn in 0..2000_u64 {
                        let offset = (turn * 37 + thread * 4099) % (7 * PAGE as u64);
                        let is_there = offset + 600 <= 4 * PAGE as u64;
                        assert_eq!(mapping.copy(offset, &mut into).is_ok(), is_there, "{offset}");
                    }
                });
            }
        });
    }

    /// Names the test that runs in a process of its own, which is to end by SIGBUS.
    const CRASHES: &str = "sys::fault_copy::tests::a_process_that_ends";

    /// Does nothing as a test of the suite. In a process of its own, raises SIGBUS in one way.
    #[test]
    fn a_process_that_ends() {
        let Ok(way) = std::env::var("PINHOLE_TEST_CRASH") else { return };
        let (file, _) = pages(1);
        let mapping = mapped(&file, 1);
        file.set_len(0).unwrap();
        assert_eq!(mapping.copy(0, &mut [0]), Err(CopyFault));
        if way == "sent" {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::BUS).unwrap();
        }
        let first = mapping.start.unwrap().cast::<u8>();
        // SAFETY: the address is mapped. That the file has no such byte is the purpose of the test.
        let byte = unsafe { first.as_ptr().read_volatile() };
        panic!("read {byte}");
    }

    #[test]
    fn a_fault_elsewhere_ends_the_process() {
        for way in ["fault", "sent"] {
            let own = std::env::current_exe().unwrap();
            let mut test = Command::new(own);
            test.args([CRASHES, "--exact"]).env("PINHOLE_TEST_CRASH", way);
            let ended = test.output().unwrap();
            assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{way}: {ended:?}");
        }
    }
}
