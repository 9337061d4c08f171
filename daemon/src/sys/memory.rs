//! Settings of the C library's allocator.
//!
//! Why `unsafe` here: `mallopt` and `malloc_trim` have no safe wrapper.
#![expect(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

use super::process::check_one_thread;
use std::io;

/// Makes the allocator keep one heap for all threads.
///
/// The path of a READ or WRITE allocates nothing, so threads seldom wait for each other in the
/// allocator. Heaps of threads would grow and shrink by calls that a queue thread needs for nothing
/// else.
///
/// # Errors
/// Fails if this process has a second thread.
pub(crate) fn use_one_heap() -> io::Result<()> {
    check_one_thread()?;
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt is unsafe only while another thread allocates; there is none.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(not(target_env = "gnu"))]
    let set = 1;
    if set == 0 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// Returns the allocator's free memory to the host.
///
/// Reading the command line and the policy, and making filters, takes several times the memory of
/// an idle daemon. So does a guest that knew many files. This needs `brk` and
/// `madvise(MADV_DONTNEED)`, which a queue thread may not call.
pub(crate) fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and changes no memory that is in use. Its
    // result says whether it returned any memory, which does not matter here.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the allocator hold `len` bytes that a later allocation gets without a system call.
pub(crate) fn keep_free_memory(len: usize) {
    // The allocator keeps freed memory below the length at which it returns memory to the host.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(len)));
}
