//! Bytes that the guest has written and the host may not have put to its disk yet, under a policy that limits them.
//!
//! A write takes room before it is done. Where there is none, the files with the most are written back first, by a
//! thread that may wait. A file with any is written back before it is closed, so that the sum is always one over open
//! files. What the host writes back by itself is not seen, and a byte written twice counts twice: the figure is never
//! too small.

use super::handles::FileHandle;
use super::passthrough::Passthrough;
use super::resolve::sync_errno;
use super::{Answer, Pace};
use crate::limits::DIRTY_NAP;
use pinhole_protocol::Errno;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Room for such bytes.
#[derive(Debug)]
pub(crate) struct DirtyRoom {
    limit: NonZero<u64>,
    taken: AtomicU64,
}

/// What of it one open file has taken.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    bytes: AtomicU64,
    /// The error of a write-back that nobody asked for; the next FSYNC's. Zero: none.
    failed: AtomicI32,
}

impl DirtyRoom {
    pub(crate) const fn new(limit: NonZero<u64>) -> Self {
        Self { limit, taken: AtomicU64::new(0) }
    }

    /// Takes room for so many bytes. However many there are, they have it while nobody has any.
    fn take(&self, len: u64) -> bool {
        let take = |taken: u64| {
            let then = taken.saturating_add(len);
            (taken == 0 || then <= self.limit.get()).then_some(then)
        };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, len: u64) {
        self.taken.fetch_sub(len, Ordering::Relaxed);
    }
}

impl Passthrough {
    /// Does a write of `len` bytes to a file once there is room for them; `write` says how many it was. EAGAIN: there
    /// is none and the pace forbids to make it.
    pub(super) fn write_dirty(
        &self,
        file: &FileHandle,
        (len, pace): (usize, Pace),
        write: impl FnOnce() -> Answer<usize>,
    ) -> Answer<usize> {
        let Some(room) = &self.dirty else { return write() };
        let len = len as u64;
        while !room.take(len) {
            match pace {
                Pace::Now => return Err(Errno::EAGAIN),
                Pace::Patient => self.make_room(room),
            }
        }
        let written = write();
        let dirtied = written.as_ref().map_or(0, |written| *written as u64).min(len);
        room.give_back(len.saturating_sub(dirtied));
        file.dirty.bytes.fetch_add(dirtied, Ordering::Release);
        written
    }

    /// Makes a file durable with `sync`, which also ends what it has of the room.
    pub(super) fn sync_dirty(&self, file: &FileHandle, sync: impl FnOnce() -> Answer<()>) -> Answer<()> {
        let Some(room) = &self.dirty else { return sync() };
        let dirty = file.dirty.bytes.swap(0, Ordering::Acquire);
        let synced = sync();
        room.give_back(dirty);
        match file.dirty.failed.swap(0, Ordering::Relaxed) {
            0 => synced,
            failed => synced.and(Err(Errno::from_raw(failed))),
        }
    }

    /// Before a file is closed. EAGAIN: it has to be written back and the pace forbids it.
    pub(super) fn settle_dirty(&self, file: &FileHandle, pace: Pace) -> Answer<()> {
        let Some(room) = self.dirty.as_ref().filter(|_| file.dirty.bytes.load(Ordering::Acquire) > 0) else {
            return Ok(());
        };
        match pace {
            Pace::Now => return Err(Errno::EAGAIN),
            Pace::Patient => write_back(file, room),
        }
        Ok(())
    }

    /// Before all files are closed: those with any are left to the reaper, because neither a new guest nor the thread that
    /// ends a connection should wait for the disk. They keep their room until they are written back.
    pub(super) fn settle_all_dirty(&self) {
        let Some(room) = &self.dirty else { return };
        let dirty = self.files.each().filter(|file| file.dirty.bytes.load(Ordering::Acquire) > 0);
        dirty.for_each(|file| self.reaper.write_back(file, Arc::clone(room)));
    }

    /// Writes back the file that has the most.
    fn make_room(&self, room: &DirtyRoom) {
        let dirtiest = self.files.each().max_by_key(|file| file.dirty.bytes.load(Ordering::Relaxed));
        match dirtiest.filter(|file| file.dirty.bytes.load(Ordering::Relaxed) > 0) {
            Some(file) => write_back(&file, room),
            // Others are at it.
            None => std::thread::park_timeout(DIRTY_NAP),
        }
    }
}

/// Writes a file back and gives back its room.
pub(super) fn write_back(file: &FileHandle, room: &DirtyRoom) {
    let dirty = file.dirty.bytes.swap(0, Ordering::Acquire);
    if dirty == 0 {
        return;
    }
    if let Err(error) = rustix::fs::fdatasync(&file.file) {
        // The host says this once for each open file, and the guest has not asked.
        file.dirty.failed.store(sync_errno(error).raw(), Ordering::Relaxed);
    }
    room.give_back(dirty);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_there_is_no_room_until_some_is_given_back() {
        let room = DirtyRoom::new(NonZero::new(100).unwrap());
        assert!(room.take(60) && room.take(40));
        assert!(!room.take(1));
        room.give_back(40);
        assert!(room.take(40));
    }

    #[test]
    fn a_write_larger_than_the_limit_has_room_alone() {
        let room = DirtyRoom::new(NonZero::new(100).unwrap());
        assert!(room.take(1000));
        assert!(!room.take(1));
        room.give_back(1000);
        assert!(room.take(1) && !room.take(1000));
    }
}
