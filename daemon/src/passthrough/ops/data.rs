//! READ, WRITE, FSYNC, LSEEK, COPY_FILE_RANGE: the bytes of open files.

use crate::filesystem::{Answer, Caller, Durable, Pace, Paced};
use crate::io_vectors::{IoVectors, TransferFlags};
use crate::limits::COPY_LEN_MAX;
use crate::passthrough::Passthrough;
use crate::passthrough::config::Holes;
use crate::passthrough::files::FileRef;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::resolve::{self, errno, io_errno, sync_errno};
use pinhole_protocol::{
    CopyFileRange, Errno, Fsync, FsyncFlags, Lseek, OpenFlags, Read, Whence, Write, WriteFlags,
};
use rustix::fs::SeekFrom;
use rustix::io::retry_on_intr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

/// The smallest page size of Linux. Larger pages end at its multiples too.
const PAGE_LEN: u64 = 4096;

impl Passthrough {
    pub(super) fn read(&self, read: Read, into: &IoVectors<'_>, pace: Pace) -> Answer<Paced<usize>> {
        let file = self.files.file(read.handle)?;
        let (fd, is_direct) = buffered_or_direct(&file, read.flags, false);
        match pace {
            Pace::Now if is_direct => Ok(Paced::WouldBlock),
            Pace::Now if !file.traits.in_memory => read_cached(&file, read.offset, into),
            Pace::Now | Pace::Patient => {
                let filled = into.fill_from(fd, read.offset, TransferFlags::empty());
                filled.map(Paced::Ready).map_err(|error| io_errno(&error))
            }
        }
    }

    pub(super) fn write(&self, write: Write, from: &IoVectors<'_>, pace: Pace) -> Answer<Paced<usize>> {
        let file = self.files.file(write.handle)?;
        let from_cache = write.write_flags.contains(WriteFlags::CACHE);
        let (fd, is_direct) = buffered_or_direct(&file, write.flags, from_cache);
        let flags = self.write_flags(&file, &write, from_cache);
        let syncs = flags.intersects(TransferFlags::SYNC | TransferFlags::DSYNC);
        let waits = is_direct || syncs || file.traits.remote;
        if waits && pace == Pace::Now {
            return Ok(Paced::WouldBlock);
        }
        file.note_own_change();
        let room = self.size_room(&file, write.offset, flags, from.len())?;
        let from = from.first(room);
        file.note_growth(&self.inodes, write.offset.saturating_add(from.len() as u64));
        self.identity.kill_suidgid(write.write_flags.contains(WriteFlags::KILL_SUIDGID))?;
        let written = from.drain_to(fd, write.offset, flags).map_err(|error| io_errno(&error))?;
        if syncs {
            self.sync_names(&file)?.wait()?;
        }
        Ok(Paced::Ready(written))
    }

    /// Returns how many of `len` bytes fit at an offset under the policy's limit of file sizes.
    ///
    /// Two appends at once may exceed the limit by one write. `RLIMIT_FSIZE` of the process applies
    /// too.
    fn size_room(&self, file: &FileHandle, offset: u64, flags: TransferFlags, len: usize) -> Answer<usize> {
        let Some(limit) = self.config.limits.file_size else { return Ok(len) };
        let offset =
            if flags.contains(TransferFlags::APPEND) { resolve::stat(file.as_fd())?.size() } else { offset };
        let room = limit.get().saturating_sub(offset);
        let fitting = usize::try_from(room).unwrap_or(len).min(len);
        if fitting == 0 && len > 0 { Err(Errno::EFBIG) } else { Ok(fitting) }
    }

    /// Checks that a file may get this size. `None` is a size that overflows.
    ///
    /// # Errors
    /// EFBIG past the policy's limit.
    pub(super) fn check_size(&self, size: Option<u64>) -> Answer<()> {
        let Some(limit) = self.config.limits.file_size else { return Ok(()) };
        if size.is_some_and(|size| size <= limit.get()) { Ok(()) } else { Err(Errno::EFBIG) }
    }

    fn write_flags(&self, file: &FileHandle, write: &Write, from_cache: bool) -> TransferFlags {
        let mut flags = TransferFlags::empty();
        // A guest that caches the file sends FSYNC after a synchronous write. A guest that does not
        // cache it sends only these flags.
        if file.uncached && !from_cache {
            let sync = write.flags.contains(OpenFlags::SYNC);
            flags.set(TransferFlags::SYNC, sync);
            flags.set(TransferFlags::DSYNC, !sync && write.flags.contains(OpenFlags::DSYNC));
        }
        let at_end = write.flags.contains(OpenFlags::APPEND) && !from_cache;
        flags.set(TransferFlags::APPEND, at_end);
        flags
    }

    pub(super) fn fsync(&self, fsync: Fsync) -> Answer<Durable> {
        let file = self.files.file(fsync.handle)?;
        sync(file.sync_fd(), fsync.flags)?;
        self.sync_names(&file)
    }

    /// Makes the name of a file durable, if the host's fsync of the file may have left the name
    /// out.
    ///
    /// btrfs logs an inode with the name by which it was opened. Here that is the first name by
    /// which the guest reached it. If that name was removed in the transaction in which the
    /// directory was made, a loss of power removes the file, even if it has other names. The path
    /// of the descriptor shows whether the name was removed. If so, the whole mount is made
    /// durable, because an fsync by another name does nothing: the inode is in the log already. A
    /// file without any name cannot lose one.
    ///
    /// The check comes after the fsync, so that it also finds a name that was removed during the
    /// fsync.
    fn sync_names(&self, file: &FileRef) -> Answer<Durable> {
        if file.traits.fsync_keeps_names
            || !self.inodes.proc_fds().may_have_lost_its_name(file.as_fd())
            || resolve::stat(file.as_fd())?.is_deleted()
        {
            return Ok(Durable::Done);
        }
        Ok(Durable::With(self.sync_thread.sync_mount_of(file)))
    }

    pub(super) fn lseek(&self, lseek: Lseek) -> Answer<u64> {
        let file = self.files.file(lseek.handle)?;
        // The offset is past the end, because no file is that long.
        if i64::try_from(lseek.offset).is_err() {
            return Err(Errno::ENXIO);
        }
        let to = match lseek.whence {
            Whence::End => {
                let size = resolve::stat(file.as_fd())?.size();
                return size.checked_add(lseek.offset).ok_or(Errno::EOVERFLOW);
            }
            Whence::Data => SeekFrom::Data(lseek.offset),
            Whence::Hole => SeekFrom::Hole(lseek.offset),
        };
        match self.config.holes {
            Holes::None => Err(Errno::ENOSYS),
            Holes::ToReaders if file.readable && file.writable => seek_in_data(&file, lseek),
            Holes::ToReaders | Holes::All => rustix::fs::seek(file.as_fd(), to).map_err(errno),
        }
    }

    /// Copies at most [`COPY_LEN_MAX`] bytes. The guest's caller asks for the rest, as after any
    /// short copy. As with [`Self::fallocate`], the request does not carry whether to remove
    /// set-user-id.
    pub(super) fn copy_file_range(&self, caller: &Caller<'_>, copy: CopyFileRange) -> Answer<u64> {
        if copy.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (self.files.file(copy.from)?, self.files.file(copy.to)?);
        let (mut from_offset, mut to_offset) = (copy.from_offset, copy.to_offset);
        let len = usize::try_from(copy.length).unwrap_or(usize::MAX).min(COPY_LEN_MAX);
        let len = self.size_room(&to, copy.to_offset, TransferFlags::empty(), len)?;
        self.identity.kill_suidgid(!caller.may_have_fsetid())?;
        to.note_own_change();
        to.note_growth(&self.inodes, copy.to_offset.saturating_add(len as u64));
        let (from_at, to_at) = (Some(&mut from_offset), Some(&mut to_offset));
        rustix::fs::copy_file_range(from.as_fd(), from_at, to.as_fd(), to_at, len)
            .map(|copied| copied as u64)
            .map_err(errno)
    }
}

/// Answers SEEK_DATA and SEEK_HOLE for a file that is treated as having no hole before its end.
fn seek_in_data(file: &FileHandle, lseek: Lseek) -> Answer<u64> {
    let size = resolve::stat(file.as_fd())?.size();
    match lseek.offset {
        offset if offset >= size => Err(Errno::ENXIO),
        offset if lseek.whence == Whence::Data => Ok(offset),
        _ => Ok(size),
    }
}

/// Calls the host's fsync or fdatasync, for FSYNC and FSYNCDIR.
pub(super) fn sync(fd: BorrowedFd<'_>, flags: FsyncFlags) -> Answer<()> {
    let only_data = flags.contains(FsyncFlags::DATASYNC);
    retry_on_intr(|| if only_data { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) })
        .map_err(sync_errno)
}

/// Reads from the host's page cache, unless any of the data is missing there.
fn read_cached(file: &FileHandle, offset: u64, into: &IoVectors<'_>) -> Answer<Paced<usize>> {
    if file.always_blocks.load(Ordering::Relaxed) {
        return Ok(Paced::WouldBlock);
    }
    let filled = into.fill_from(file.as_fd(), offset, TransferFlags::NOWAIT);
    let len = match filled.map_err(|error| io_errno(&error)) {
        Err(Errno::EAGAIN) => return Ok(Paced::WouldBlock),
        Err(Errno::EOPNOTSUPP) => {
            file.always_blocks.store(true, Ordering::Relaxed);
            return Ok(Paced::WouldBlock);
        }
        filled => filled?,
    };
    // To the guest, a short read means the end of the file. The host also reads short where its
    // cache ends, which is at the end of a page, or reads nothing (Linux 5.9 and 5.10).
    let end = offset.saturating_add(len as u64);
    let is_whole = len == into.len() || (len > 0 && !end.is_multiple_of(PAGE_LEN));
    let is_complete = is_whole || end >= resolve::stat(file.as_fd())?.size();
    Ok(if is_complete { Paced::Ready(len) } else { Paced::WouldBlock })
}

/// Returns the descriptor for one transfer, and whether the transfer bypasses the host's page
/// cache. A transfer bypasses it only while the guest's file has O_DIRECT. Data from the guest's
/// page cache never does.
fn buffered_or_direct(file: &FileHandle, flags: OpenFlags, from_cache: bool) -> (BorrowedFd<'_>, bool) {
    match &file.direct {
        Some(direct) if flags.contains(OpenFlags::DIRECT) && !from_cache => (direct.as_fd(), true),
        Some(_) | None => (file.as_fd(), false),
    }
}
