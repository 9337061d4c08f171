//! Settings of the C library's allocator.
//!
//! Why `unsafe` here: `mallopt` and `malloc_trim` have no safe wrapper.
#![expect(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

use super::process::check_one_thread;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Free bytes at the end of the heap that the allocator keeps: two of the largest buffers that a
/// request needs for a moment. So such a request does not make the heap grow and shrink again.
#[cfg(target_env = "gnu")]
const FREE_KEPT: libc::c_int = 2 << 20;

/// When the heap becomes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shrinks {
    /// When enough bytes at its end are free.
    ByItself,
    /// Only in [`give_back_free_memory`]: no other call of a thread makes a system call to free
    /// memory.
    OnDemand,
}

/// Bytes that [`give_back_free_memory`] leaves free at the end of the heap; see [`reserve`].
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// Makes the allocator keep one heap for all threads, which only `brk` makes larger.
///
/// The path of a READ or WRITE allocates nothing, so threads seldom wait for each other in the
/// allocator. Heaps of threads, and large allocations outside of the heap, would need `mmap` and
/// `munmap`, which a queue thread needs for nothing else.
///
/// # Errors
/// Fails if this process has a second thread.
pub(crate) fn use_one_heap(shrinks: Shrinks) -> io::Result<()> {
    check_one_thread()?;
    // The filters permit the calls of this allocator and of no other.
    #[cfg(not(target_env = "gnu"))]
    return Err(io::ErrorKind::Unsupported.into());
    #[cfg(target_env = "gnu")]
    let kept = match shrinks {
        Shrinks::ByItself => FREE_KEPT,
        Shrinks::OnDemand => libc::c_int::MAX,
    };
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, kept)]
    {
        // SAFETY: mallopt is unsafe only while another thread allocates; there is none.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
    }
    Ok(())
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
        libc::malloc_trim(RESERVED.load(Ordering::Relaxed));
    }
    // What was used meanwhile is replaced. Ignore a failure: the daemon has served with as much.
    extend_to(RESERVED.load(Ordering::Relaxed)).unwrap_or_default();
}

/// Reserves `len` free bytes at the end of the heap, for threads that may not make it larger. The
/// host gives memory for them when they are used.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`] if the host refuses so many.
pub(crate) fn reserve(len: usize) -> io::Result<()> {
    RESERVED.store(len, Ordering::Relaxed);
    extend_to(len)
}

/// Makes the allocator have at least `len` free bytes in one piece.
fn extend_to(len: usize) -> io::Result<()> {
    let mut bytes = Vec::<u8>::new();
    bytes.try_reserve_exact(len).map_err(|_refused| io::ErrorKind::OutOfMemory)?;
    // The allocator keeps what is freed, below the length at which it returns memory to the host.
    drop(std::hint::black_box(bytes));
    Ok(())
}

/// Makes the allocator hold `len` bytes that a later allocation gets without a system call.
pub(crate) fn keep_free_memory(len: usize) {
    extend_to(len).unwrap_or_default();
}
