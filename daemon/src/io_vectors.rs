//! File data straight to and from memory that is shared with a guest.
//!
//! Why `unsafe` here: guest memory may change at any moment, so no Rust reference to it may exist; the kernel is
//! handed bare addresses. This file owns the two system calls that take them, `preadv2` and `pwritev2`, and nothing
//! else touches an address.
#![expect(unsafe_code, reason = "preadv2 and pwritev2 on guest memory, to which no reference may exist")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::VolatileSlice;
use vm_memory::volatile_memory::PtrGuardMut;

/// Pieces of memory that are one run of bytes for a READ or WRITE.
#[derive(Debug, Default)]
pub struct IoVectors<'a> {
    slices: Vec<VolatileSlice<'a>>,
    len: usize,
}

bitflags::bitflags! {
    /// How one transfer is done; the kernel's `RWF_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransferFlags: i32 {
        /// Durable data when the call returns.
        const DSYNC = libc::RWF_DSYNC;
        /// Durable data and metadata when the call returns.
        const SYNC = libc::RWF_SYNC;
        /// Do not wait for what is not in memory.
        const NOWAIT = libc::RWF_NOWAIT;
        /// Write at the end of the file, whatever the offset.
        const APPEND = libc::RWF_APPEND;
    }
}

impl<'a> IoVectors<'a> {
    /// No bytes.
    pub const fn empty() -> Self {
        Self { slices: Vec::new(), len: 0 }
    }

    /// Adds a piece of memory at the end.
    pub fn push(&mut self, slice: VolatileSlice<'a>) {
        self.len = self.len.saturating_add(slice.len());
        self.slices.push(slice);
    }

    /// Bytes in all.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len;
        self.slices.retain_mut(|slice| {
            let kept = slice.len().min(left);
            left = left.saturating_sub(kept);
            match slice.subslice(0, kept) {
                Ok(head) if kept > 0 => {
                    *slice = head;
                    true
                }
                Ok(_) | Err(_) => false,
            }
        });
        self.len = self.slices.iter().map(VolatileSlice::len).sum();
    }

    /// Fills the memory from `file` at `offset`, in one `preadv2` for each 1,024 pieces.
    ///
    /// # Errors
    /// What the host says; bytes moved before an error are reported as a short count instead.
    pub fn fill_from(&self, file: BorrowedFd<'_>, offset: u64, flags: TransferFlags) -> io::Result<usize> {
        self.transfer(offset, |vectors, at| {
            // SAFETY: each vector describes a live `VolatileSlice` (its guard is held by `transfer` until this
            // returns) that may be written by anyone at any time, so the kernel writing to it races with no Rust
            // reference. The count is at most 1,024 (UIO_MAXIOV) by chunking.
            unsafe {
                libc::preadv2(
                    file.as_raw_fd(),
                    vectors.as_ptr(),
                    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX),
                    at,
                    flags.bits(),
                )
            }
        })
    }

    /// Writes the memory to `file` at `offset`, in one `pwritev2` for each 1,024 pieces.
    ///
    /// # Errors
    /// What the host says; bytes moved before an error are reported as a short count instead.
    pub fn drain_to(&self, file: BorrowedFd<'_>, offset: u64, flags: TransferFlags) -> io::Result<usize> {
        self.transfer(offset, |vectors, at| {
            // SAFETY: as in `fill_from`, but the kernel only reads; a guest that changes the bytes meanwhile changes
            // what it itself has written.
            unsafe {
                libc::pwritev2(
                    file.as_raw_fd(),
                    vectors.as_ptr(),
                    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX),
                    at,
                    flags.bits(),
                )
            }
        })
    }

    /// Runs `call` over the pieces in groups that one system call takes, until a short count.
    fn transfer(&self, offset: u64, call: impl Fn(&[libc::iovec], i64) -> isize) -> io::Result<usize> {
        let mut done: usize = 0;
        for group in self.slices.chunks(VECTORS_MAX) {
            let guards: Vec<PtrGuardMut> = group.iter().map(VolatileSlice::ptr_guard_mut).collect();
            let vectors: Vec<libc::iovec> = guards
                .iter()
                .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
                .collect();
            let at = i64::try_from(offset.saturating_add(done as u64)).map_err(io::Error::other)?;
            let Ok(moved) = usize::try_from(call(&vectors, at)) else {
                let error = io::Error::last_os_error();
                return if done == 0 { Err(error) } else { Ok(done) };
            };
            done = done.saturating_add(moved);
            if moved < guards.iter().map(PtrGuardMut::len).sum() {
                break;
            }
        }
        Ok(done)
    }
}

/// Pieces that one `preadv2` or `pwritev2` takes (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn over(pieces: &mut [Vec<u8>]) -> IoVectors<'_> {
        let mut vectors = IoVectors::empty();
        for piece in pieces {
            vectors.push(VolatileSlice::from(piece.as_mut_slice()));
        }
        vectors
    }

    #[test]
    fn more_pieces_than_one_call_takes_arrive_whole() {
        let file = tempfile::tempfile().unwrap();
        let mut out: Vec<Vec<u8>> = (0..2500u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let expected = out.concat();
        assert_eq!(over(&mut out).drain_to(file.as_fd(), 7, TransferFlags::empty()).unwrap(), 10_000);
        let mut back: Vec<Vec<u8>> = (0..1250).map(|_| vec![0; 8]).collect();
        assert_eq!(over(&mut back).fill_from(file.as_fd(), 7, TransferFlags::empty()).unwrap(), 10_000);
        assert_eq!(back.concat(), expected);
    }

    #[test]
    fn truncation_keeps_the_first_bytes() {
        let mut pieces = vec![vec![1; 4], vec![2; 4], vec![3; 4]];
        let mut vectors = over(&mut pieces);
        vectors.truncate(6);
        assert_eq!(vectors.len(), 6);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(vectors.drain_to(file.as_fd(), 0, TransferFlags::empty()).unwrap(), 6);
    }

    #[test]
    fn an_offset_past_what_the_host_knows_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut pieces = vec![vec![1; 4]];
        over(&mut pieces).drain_to(file.as_fd(), u64::MAX, TransferFlags::empty()).unwrap_err();
    }
}
