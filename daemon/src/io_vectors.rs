//! Moves file data directly to and from memory that is shared with a guest.
//!
//! Reason for `unsafe`: guest memory may change at any moment, so no Rust reference to it may
//! exist. The kernel gets plain addresses. Only this file makes the two system calls that take
//! them, `preadv2` and `pwritev2`. It does not use the C library's functions of these names. They
//! make another system call if the file system returns ENOSYS, and for that call the filter of a
//! queue thread ends the process.
#![expect(unsafe_code, reason = "preadv2 and pwritev2 on guest memory, to which no reference may exist")]

use crate::guest_view::GuestView;
use arrayvec::ArrayVec;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, VolatileSlice};

/// One buffer of a request by its guest address. It can be kept, and moved to another thread,
/// together with the memory that it was checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest physical address.
    pub address: GuestAddress,
    /// Length in bytes, all of them inside one memory region.
    pub len: u32,
}

/// Pieces of memory that form one sequence of bytes for a READ or WRITE. The view copies no data.
#[derive(Clone, Copy, Debug)]
pub struct IoVectors<'a> {
    backing: Backing<'a>,
    /// Number of bytes that are skipped at the start.
    skipped: usize,
    /// Number of bytes after the skipped ones.
    len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Backing<'a> {
    Nothing,
    One(VolatileSlice<'a>),
    Guest(GuestView<'a>, &'a [Piece]),
}

bitflags::bitflags! {
    /// Options of one transfer, the kernel's `RWF_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransferFlags: i32 {
        /// The data is durable when the call returns.
        const DSYNC = libc::RWF_DSYNC;
        /// Data and metadata are durable when the call returns.
        const SYNC = libc::RWF_SYNC;
        /// Do not wait for data that is not in memory.
        const NOWAIT = libc::RWF_NOWAIT;
        /// Write at the end of the file, whatever the offset.
        const APPEND = libc::RWF_APPEND;
    }
}

impl<'a> From<VolatileSlice<'a>> for IoVectors<'a> {
    fn from(slice: VolatileSlice<'a>) -> Self {
        Self { backing: Backing::One(slice), skipped: 0, len: slice.len() }
    }
}

impl<'a> IoVectors<'a> {
    /// Returns a view of no bytes.
    pub const fn empty() -> Self {
        Self { backing: Backing::Nothing, skipped: 0, len: 0 }
    }

    /// Returns a view of `pieces` of a guest's memory, in this order. A transfer ends before a
    /// piece that is not in one region of `memory`. A copy also ends before a piece in the window.
    pub fn guest(memory: impl Into<GuestView<'a>>, pieces: &'a [Piece]) -> Self {
        let lens = pieces.iter().map(|piece| usize::try_from(piece.len).unwrap_or(usize::MAX));
        let len = lens.fold(0, usize::saturating_add);
        Self { backing: Backing::Guest(memory.into(), pieces), skipped: 0, len }
    }

    /// Returns the number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the first `len` bytes, or all.
    #[must_use]
    pub fn first(self, len: usize) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// Returns the bytes after the first `len`.
    #[must_use]
    pub fn after(self, len: usize) -> Self {
        let skipped = len.min(self.len);
        Self { skipped: self.skipped.saturating_add(skipped), len: self.len.saturating_sub(skipped), ..self }
    }

    /// Copies the bytes to `room`, each once, as far as they fit. Returns the number of copied
    /// bytes.
    pub fn copy_to(&self, mut room: &mut [u8]) -> usize {
        let before = room.len();
        for slice in self.slices(|memory| memory.ram) {
            let copied = slice.copy_to(room);
            let Some(rest) = room.get_mut(copied..).filter(|rest| !rest.is_empty()) else { return before };
            room = rest;
        }
        before.saturating_sub(room.len())
    }

    /// Copies `bytes` into the memory, as far as they fit. Returns the number of copied bytes.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        for slice in self.slices(|memory| memory.ram) {
            let Some((now, later)) = rest.split_at_checked(slice.len()) else {
                slice.copy_from(rest);
                return bytes.len();
            };
            slice.copy_from(now);
            rest = later;
        }
        bytes.len().saturating_sub(rest.len())
    }

    /// Fills the memory from `file` at `offset`, in one `preadv2` for each 1,024 pieces.
    ///
    /// # Errors
    /// The host's error. If bytes were moved before it, returns their number instead.
    pub fn fill_from(&self, file: BorrowedFd<'_>, offset: u64, flags: TransferFlags) -> io::Result<usize> {
        self.transfer_by(libc::SYS_preadv2, file, offset, flags)
    }

    /// Writes the memory to `file` at `offset`, in one `pwritev2` for each 1,024 pieces.
    ///
    /// # Errors
    /// The host's error. If bytes were moved before it, returns their number instead.
    pub fn drain_to(&self, file: BorrowedFd<'_>, offset: u64, flags: TransferFlags) -> io::Result<usize> {
        self.transfer_by(libc::SYS_pwritev2, file, offset, flags)
    }

    /// Makes the transfer with one of the two calls, which take the same arguments.
    fn transfer_by(
        &self,
        call: libc::c_long,
        file: BorrowedFd<'_>,
        offset: u64,
        flags: TransferFlags,
    ) -> io::Result<usize> {
        self.transfer(offset, |vectors, at| {
            // SAFETY: `call` is `preadv2` or `pwritev2`, see the two functions above. Each vector
            // describes a `VolatileSlice` of memory that `self` borrows, so it stays mapped until
            // this returns. Any thread may read and write it at any time, so the kernel's accesses
            // race with no Rust reference. There are at most 1,024 vectors (UIO_MAXIOV), the
            // capacity of the array. The arguments are those of the calls in the kernel; the first
            // of the two halves of the offset holds all 64 bits.
            unsafe {
                libc::syscall(
                    call,
                    libc::c_long::from(file.as_raw_fd()),
                    vectors.as_ptr(),
                    libc::c_long::try_from(vectors.len()).unwrap_or(libc::c_long::MAX),
                    at,
                    HIGH_HALF,
                    libc::c_long::from(flags.bits()),
                )
            }
        })
    }

    fn slices(&self, of: impl FnOnce(GuestView<'a>) -> &'a GuestMemoryMmap) -> Slices<'a> {
        let (one, guest) = match self.backing {
            Backing::Nothing => (None, None),
            Backing::One(slice) => (Some(slice), None),
            Backing::Guest(memory, pieces) => (None, Some((of(memory), pieces.iter()))),
        };
        Slices { one, guest, skipped: self.skipped, left: self.len }
    }

    fn transfer(&self, offset: u64, call: impl Fn(&[libc::iovec], i64) -> i64) -> io::Result<usize> {
        let count = match self.backing {
            Backing::Nothing | Backing::One(_) => 1,
            Backing::Guest(_, pieces) => pieces.len(),
        };
        // Most transfers have one or two pieces. Only long transfers need a long array on the
        // stack.
        let slices = self.slices(|memory| memory.all);
        if count <= FEW {
            transfer::<FEW>(slices, offset, call)
        } else {
            transfer::<VECTORS_MAX>(slices, offset, call)
        }
    }
}

/// The memory of an [`IoVectors`], piece by piece.
struct Slices<'a> {
    one: Option<VolatileSlice<'a>>,
    guest: Option<(&'a GuestMemoryMmap, std::slice::Iter<'a, Piece>)>,
    skipped: usize,
    left: usize,
}

impl<'a> Slices<'a> {
    fn next_whole(&mut self) -> Option<VolatileSlice<'a>> {
        if let Some(slice) = self.one.take() {
            return Some(slice);
        }
        let (memory, pieces) = self.guest.as_mut()?;
        let piece = pieces.next()?;
        memory.get_slice(piece.address, usize::try_from(piece.len).ok()?).ok()
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = VolatileSlice<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let Some(whole) = self.next_whole() else {
                self.left = 0;
                return None;
            };
            let skipped = self.skipped.min(whole.len());
            self.skipped = self.skipped.saturating_sub(skipped);
            let len = whole.len().saturating_sub(skipped).min(self.left);
            if len > 0 {
                self.left = self.left.saturating_sub(len);
                return whole.subslice(skipped, len).ok();
            }
        }
        None
    }
}

/// Runs `call` over groups of pieces, one system call for each, until a short count.
///
/// Makes one call even if there are no bytes, because the host checks whether the file is open for
/// the transfer.
#[inline(never)]
fn transfer<const COUNT: usize>(
    mut slices: Slices<'_>,
    offset: u64,
    call: impl Fn(&[libc::iovec], i64) -> i64,
) -> io::Result<usize> {
    let mut done: usize = 0;
    loop {
        let mut vectors = ArrayVec::<libc::iovec, COUNT>::new();
        let mut wanted: usize = 0;
        for slice in slices.by_ref().take(COUNT) {
            // The memory that the slice borrows stays mapped without the guard.
            let guard = slice.ptr_guard_mut();
            vectors.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            wanted = wanted.saturating_add(guard.len());
        }
        if vectors.is_empty() && done > 0 {
            return Ok(done);
        }
        let at = i64::try_from(offset.saturating_add(done as u64)).map_err(io::Error::other)?;
        let moved = loop {
            if let Ok(moved) = usize::try_from(call(&vectors, at)) {
                break moved;
            }
            let error = io::Error::last_os_error();
            // Repeat the call after EINTR, which a network file system may return if SIGSTOP, a
            // freezer or a tracer interrupts the wait.
            if error.kind() != io::ErrorKind::Interrupted {
                return if done == 0 { Err(error) } else { Ok(done) };
            }
        };
        done = done.saturating_add(moved);
        if moved < wanted || wanted == 0 {
            return Ok(done);
        }
    }
}

/// The other half of an offset, which is unused if a `long` has 64 bits.
const HIGH_HALF: libc::c_long = 0;

/// Largest number of pieces of one `preadv2` or `pwritev2` (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

/// Largest number of pieces of a short transfer: 64 KiB in single pages, and some more pieces if
/// the guest's allocator has split the buffer.
const FEW: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use vm_memory::Bytes as _;

    const START: u64 = 0x1000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(START), 0x10000)]).unwrap()
    }

    /// Returns `count` pieces of `len` bytes with a gap of one byte after each.
    fn pieces(count: u32, len: u32) -> Vec<Piece> {
        (0..count)
            .map(|n| Piece { address: GuestAddress(START + u64::from(n) * u64::from(len + 1)), len })
            .collect()
    }

    fn filled(pieces: &[Piece]) -> (GuestMemoryMmap, Vec<u8>) {
        let (memory, mut whole) = (memory(), Vec::new());
        for (n, piece) in (0..).zip(pieces) {
            let bytes: Vec<u8> = (0..piece.len).map(|at| u8::try_from((n * 7 + at) % 251).unwrap()).collect();
            memory.write_slice(&bytes, piece.address).unwrap();
            whole.extend(bytes);
        }
        (memory, whole)
    }

    #[test]
    fn an_interrupted_call_is_repeated() {
        let (memory, pieces) = (memory(), pieces(1, 8));
        let calls = std::cell::Cell::new(0);
        let moved = IoVectors::guest(&memory, &pieces).transfer(0, |_, _| {
            calls.set(calls.get() + 1);
            if calls.get() > 2 {
                return 8;
            }
            // SAFETY: the function has no preconditions.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: the C library gives each thread an `errno` of its own, which may be written
            // at any time.
            unsafe { errno.write(libc::EINTR) };
            -1
        });
        assert_eq!((moved.unwrap(), calls.get()), (8, 3));
    }

    #[test]
    fn more_pieces_than_one_call_takes_arrive_whole() {
        let file = tempfile::tempfile().unwrap();
        let out = pieces(2500, 4);
        let (source, expected) = filled(&out);
        let vectors = IoVectors::guest(&source, &out);
        assert_eq!(vectors.drain_to(file.as_fd(), 7, TransferFlags::empty()).unwrap(), 10_000);
        let (other, back) = (memory(), pieces(1250, 8));
        let vectors = IoVectors::guest(&other, &back);
        assert_eq!(vectors.fill_from(file.as_fd(), 7, TransferFlags::empty()).unwrap(), 10_000);
        let mut bytes = vec![0; 10_000];
        assert_eq!(vectors.copy_to(&mut bytes), 10_000);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn any_part_of_the_memory_can_be_named() {
        let all = pieces(5, 4);
        let (memory, whole) = filled(&all);
        let vectors = IoVectors::guest(&memory, &all);
        for start in 0..=20 {
            for len in 0..=25 {
                let part = vectors.after(start).first(len);
                let expected = &whole[start..(start + len).min(20)];
                assert_eq!(part.len(), expected.len());
                let mut bytes = vec![0; 30];
                assert_eq!(part.copy_to(&mut bytes), expected.len());
                assert_eq!(&bytes[..expected.len()], expected);
                let file = tempfile::tempfile().unwrap();
                let drained = part.drain_to(file.as_fd(), 0, TransferFlags::empty()).unwrap();
                assert_eq!(drained, expected.len());
            }
        }
    }

    #[test]
    fn a_copy_ends_with_the_smaller_side() {
        let all = pieces(3, 4);
        let (memory, whole) = filled(&all);
        let vectors = IoVectors::guest(&memory, &all);
        for room in 0..=12 {
            let mut bytes = vec![0; room];
            assert_eq!(vectors.copy_to(&mut bytes), room);
            assert_eq!(bytes, whole[..room]);
        }
        for len in 0..20 {
            let (memory, whole) = filled(&all);
            let vectors = IoVectors::guest(&memory, &all);
            assert_eq!(vectors.copy_from(&vec![255; len]), len.min(12));
            let mut bytes = vec![0; 12];
            vectors.copy_to(&mut bytes);
            assert!(bytes.iter().take(len).all(|byte| *byte == 255));
            assert_eq!(bytes.get(len..).unwrap_or_default(), whole.get(len..).unwrap_or_default());
        }
    }

    #[test]
    fn one_slice_is_a_whole_transfer() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![5; 100];
        let vectors = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice())).first(60);
        assert_eq!(vectors.drain_to(file.as_fd(), 0, TransferFlags::empty()).unwrap(), 60);
        assert_eq!(IoVectors::empty().drain_to(file.as_fd(), 0, TransferFlags::empty()).unwrap(), 0);
    }

    #[test]
    fn an_empty_transfer_needs_an_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let to_write = std::fs::File::create(&path).unwrap();
        let to_read = std::fs::File::open(&path).unwrap();
        let nothing = IoVectors::empty();
        let fill = |file: &std::fs::File| nothing.fill_from(file.as_fd(), 0, TransferFlags::empty());
        let drain = |file: &std::fs::File| nothing.drain_to(file.as_fd(), 0, TransferFlags::empty());
        assert_eq!((fill(&to_read).unwrap(), drain(&to_write).unwrap()), (0, 0));
        assert_eq!(fill(&to_write).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(drain(&to_read).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_transfer_ends_before_a_piece_outside_memory() {
        let file = tempfile::tempfile().unwrap();
        let wrong = [
            Piece { address: GuestAddress(START), len: 8 },
            Piece { address: GuestAddress(0), len: 8 },
            Piece { address: GuestAddress(START), len: 8 },
        ];
        let memory = memory();
        let vectors = IoVectors::guest(&memory, &wrong);
        assert_eq!(vectors.drain_to(file.as_fd(), 0, TransferFlags::empty()).unwrap(), 8);
    }

    #[test]
    fn an_offset_past_the_hosts_limit_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![1; 4];
        let vectors = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice()));
        vectors.drain_to(file.as_fd(), u64::MAX, TransferFlags::empty()).unwrap_err();
    }

    #[test]
    fn a_missing_call_is_an_error_without_another_call() {
        use seccompiler::{SeccompAction, SeccompFilter, TargetArch, apply_filter};
        let without = [libc::SYS_preadv2, libc::SYS_pwritev2].map(|call| (call, vec![]));
        let (refused, arch) = (SeccompAction::Errno(libc::ENOSYS.unsigned_abs()), std::env::consts::ARCH);
        let arch = TargetArch::try_from(arch).unwrap();
        let filter =
            SeccompFilter::new(without.into_iter().collect(), SeccompAction::Allow, refused, arch).unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        // On a thread of its own, because a filter stays until the thread ends.
        let tried = std::thread::spawn(move || {
            let file = tempfile::tempfile().unwrap();
            let mut bytes = vec![1; 4];
            let vectors = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice()));
            apply_filter(&program).unwrap();
            [
                vectors.drain_to(file.as_fd(), 0, TransferFlags::empty()),
                vectors.fill_from(file.as_fd(), 0, TransferFlags::empty()),
            ]
        });
        for tried in tried.join().unwrap() {
            assert_eq!(tried.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
        }
    }
}
