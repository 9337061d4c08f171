//! Bytes that the guest has written and the host may not have put to its disk yet, under a policy that limits them.
//!
//! A write takes room before it is done. Where there is none, the files with the most are written back first, by a
//! thread that may wait; it has the next room, so that others who go on writing cannot keep it waiting for ever. A file
//! with any is written back before it is closed, or by the reaper where a write ends later than that, so that the sum is
//! always one over files that will be written back. Whoever has taken room gives it back when it is dropped, if not
//! before: none is ever lost. What the host writes back by itself is not seen, and a byte written twice counts twice:
//! the figure is never too small.

use crate::filesystem::{Answer, Pace, Paced};
use crate::limits::DIRTY_NAP;
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::resolve::sync_errno;
use crate::passthrough::slots::Entry;
use pinhole_protocol::Errno;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Room for such bytes.
#[derive(Debug)]
pub(crate) struct DirtyRoom {
    limit: NonZero<u64>,
    taken: AtomicU64,
    /// Whose turn it is among those who wait; a panic under the lock breaks nothing.
    turn: Mutex<()>,
    /// Somebody has the turn, and nobody else takes any.
    awaited: AtomicBool,
}

/// Room that was taken, given back with this.
#[derive(Debug)]
struct Taken<'r> {
    room: &'r DirtyRoom,
    len: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.len, Ordering::Relaxed);
    }
}

/// A turn to wait for room.
struct Turn<'r>(&'r DirtyRoom);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.awaited.store(false, Ordering::Relaxed);
    }
}

/// What of it one open file has taken.
#[derive(Debug)]
pub(crate) struct Dirty {
    /// `None`: nobody counts.
    room: Option<Arc<DirtyRoom>>,
    bytes: AtomicU64,
    /// The error of a write-back that nobody asked for; the next FSYNC's. Zero: none.
    failed: AtomicI32,
}

impl Dirty {
    pub(crate) const fn new(room: Option<Arc<DirtyRoom>>) -> Self {
        Self { room, bytes: AtomicU64::new(0), failed: AtomicI32::new(0) }
    }

    /// Bytes that are to be written back.
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// What is to be written back by now, to be given back when that is done.
    fn take(&self) -> Option<Taken<'_>> {
        let room = self.room.as_ref()?;
        Some(Taken { room, len: self.bytes.swap(0, Ordering::AcqRel) })
    }
}

impl Drop for Dirty {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl DirtyRoom {
    pub(crate) const fn new(limit: NonZero<u64>) -> Self {
        Self { limit, taken: AtomicU64::new(0), turn: Mutex::new(()), awaited: AtomicBool::new(false) }
    }

    /// Takes room for so many bytes, if nobody waits for any.
    fn take(&self, len: u64) -> Option<Taken<'_>> {
        if self.awaited.load(Ordering::Relaxed) { None } else { self.take_in_turn(len) }
    }

    /// The same for who has the turn. However many there are, they have it while nobody has any.
    fn take_in_turn(&self, len: u64) -> Option<Taken<'_>> {
        let take = |taken: u64| {
            let then = taken.saturating_add(len);
            (taken == 0 || then <= self.limit.get()).then_some(then)
        };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Taken { room: self, len })
    }

    /// Takes it as soon as there is any; `make_room` is called while there is none. It ends as soon as the host has
    /// written back what was there before: nobody takes any meanwhile.
    fn wait(&self, len: u64, mut make_room: impl FnMut()) -> Taken<'_> {
        let _next = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.awaited.store(true, Ordering::Relaxed);
        let _turn = Turn(self);
        loop {
            if let Some(taken) = self.take_in_turn(len) {
                return taken;
            }
            make_room();
        }
    }
}

impl Passthrough {
    /// Does a write of `len` bytes to a file once there is room for them; `write` says how many it was.
    pub(in crate::passthrough) fn write_dirty(
        &self,
        file: &Arc<Entry<FileHandle>>,
        (len, pace): (usize, Pace),
        write: impl FnOnce() -> Answer<usize>,
    ) -> Answer<Paced<usize>> {
        let Some(room) = &self.dirty else { return write().map(Paced::Ready) };
        let len = len as u64;
        let mut taken = match (room.take(len), pace) {
            (Some(taken), _) => taken,
            (None, Pace::Now) => return Ok(Paced::WouldBlock),
            (None, Pace::Patient) => room.wait(len, || self.make_room()),
        };
        let written = write();
        let dirtied = written.as_ref().map_or(0, |written| *written as u64).min(len);
        file.dirty.bytes.fetch_add(dirtied, Ordering::AcqRel);
        taken.len = taken.len.saturating_sub(dirtied);
        drop(taken);
        // A RELEASE has overtaken this write, and seen nothing that was to be written back.
        if dirtied > 0 && !self.files.is_open(file) {
            self.reaper.write_back(Arc::clone(file));
        }
        written.map(Paced::Ready)
    }

    /// Makes a file durable with `sync`, which also ends what it has of the room.
    pub(in crate::passthrough) fn sync_dirty(
        &self,
        file: &FileHandle,
        sync: impl FnOnce() -> Answer<()>,
    ) -> Answer<()> {
        let taken = file.dirty.take();
        let synced = sync();
        drop(taken);
        match file.dirty.failed.swap(0, Ordering::Relaxed) {
            0 => synced,
            failed => synced.and(Err(Errno::from_raw(failed))),
        }
    }

    /// Writes a file back before it is closed. False: that takes long and the pace forbids it.
    pub(in crate::passthrough) fn settle_dirty(&self, file: &FileHandle, pace: Pace) -> bool {
        if file.dirty.bytes() > 0 {
            if pace == Pace::Now {
                return false;
            }
            write_back(file);
        }
        true
    }

    /// A file that is closed: one that has any left all the same is written back first. Whether it is left to the reaper.
    pub(in crate::passthrough) fn closes_later(&self, file: &Arc<Entry<FileHandle>>) -> bool {
        let dirty = file.dirty.bytes() > 0;
        if dirty {
            self.reaper.write_back(Arc::clone(file));
        }
        dirty
    }

    /// Before all files are closed: those with any are left to the reaper, because neither a new guest nor the thread that
    /// ends a connection should wait for the disk. They keep their room until they are written back.
    pub(in crate::passthrough) fn settle_all_dirty(&self) {
        if self.dirty.is_some() {
            for file in self.files.each_file() {
                self.closes_later(&file);
            }
        }
    }

    /// Writes back the file that has the most.
    fn make_room(&self) {
        let dirtiest = self.files.each_file().max_by_key(|file| file.dirty.bytes());
        match dirtiest.filter(|file| file.dirty.bytes() > 0) {
            Some(file) => write_back(&file),
            // Others are at it.
            None => std::thread::park_timeout(DIRTY_NAP),
        }
    }
}

/// Writes a file back and gives back its room.
pub(in crate::passthrough) fn write_back(file: &FileHandle) {
    let Some(taken) = file.dirty.take().filter(|taken| taken.len > 0) else { return };
    if let Err(error) = rustix::fs::fdatasync(file.hears()) {
        // The host says this once for each open file, and the guest has not asked.
        file.dirty.failed.store(sync_errno(error).raw(), Ordering::Relaxed);
    }
    drop(taken);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(limit: u64) -> DirtyRoom {
        DirtyRoom::new(NonZero::new(limit).unwrap())
    }

    #[test]
    fn past_the_limit_there_is_no_room_until_some_is_given_back() {
        let room = room(100);
        let (_one, other) = (room.take(60).unwrap(), room.take(40).unwrap());
        assert!(room.take(1).is_none());
        drop(other);
        assert!(room.take(40).is_some());
    }

    #[test]
    fn a_write_larger_than_the_limit_has_room_alone() {
        let room = room(100);
        let large = room.take(1000).unwrap();
        assert!(room.take(1).is_none());
        drop(large);
        let _small = room.take(1).unwrap();
        assert!(room.take(1000).is_none());
    }

    #[test]
    fn who_waits_for_room_has_it_before_those_who_come_later() {
        let room = room(100);
        let (mut before, mut looks) = (vec![room.take(60), room.take(40)], 0);
        let taken = room.wait(100, || {
            drop(before.pop());
            looks += 1;
            assert!(room.take(1).is_none());
        });
        assert_eq!((taken.len, looks), (100, 2));
        drop(taken);
        assert!(room.take(1).is_some());
    }

    #[test]
    fn what_a_file_has_taken_is_given_back_with_it() {
        let room = Arc::new(room(100));
        let dirty = Dirty::new(Some(Arc::clone(&room)));
        let mut taken = room.take(100).unwrap();
        dirty.bytes.store(std::mem::take(&mut taken.len), Ordering::Relaxed);
        drop(taken);
        assert!(room.take(1).is_none());
        drop(dirty);
        assert!(room.take(100).is_some());
    }
}
