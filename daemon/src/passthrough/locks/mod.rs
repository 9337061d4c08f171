//! Locks of files, which the host enforces: POSIX record locks and flock(2).
//!
//! Each owner of record locks has its own open file description of the host for each file. A
//! flock(2) lock belongs to the description of its handle. So the host excludes guests of other
//! daemons, its own processes and the owners of one guest from one another. The locks of a
//! description end when it is closed, also by the end of this process.
//!
//! Nothing here waits. A request that has to wait is tried again ([`crate::session`]).

mod description;
mod file;
mod ofd;
mod ranges;

use crate::filesystem::{Answer, Locking};
use crate::limits::{LOCKS_MAX, LOCKS_OF_FILE_MAX};
use crate::passthrough::files::Files;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::{Inodes, NodeKey};
use crate::passthrough::resolve::errno;
use crate::passthrough::slots::Keyed;
use crate::sync::event::EventCounter;
use crate::sync::lock::Mutex;
use description::{Description, is_shared_by_memory};
use file::FileLocks;
use hashbrown::HashMap;
use pinhole_protocol::{Errno, FileLock, Handle, LockKind, LockOwner};
use rustix::fs::FlockOperation;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(super) use file::RecordRequest;
pub(super) use ranges::{RangeLock, Span};

/// All locks of the guest. If a request panics, this record and the locks on the host may differ,
/// by at most one range.
#[derive(Debug)]
pub(super) struct Locks {
    files: Mutex<HashMap<NodeKey, Arc<Mutex<FileLocks>>>>,
    /// Number of those files. Each close reads it, and most files have no locks.
    len: AtomicUsize,
    /// Number of ranges and flock locks.
    held: AtomicU64,
    limit: u64,
    /// Notified when something is unlocked.
    wake: Arc<EventCounter>,
}

impl Locks {
    /// Creates a record without locks. `limit` is the limit `locks` of the policy.
    pub(super) fn new(limit: Option<NonZero<u64>>) -> Self {
        Self {
            files: Mutex::default(),
            len: AtomicUsize::new(0),
            held: AtomicU64::new(0),
            limit: limit.map_or(LOCKS_MAX, |limit| limit.get().min(LOCKS_MAX)),
            wake: Arc::default(),
        }
    }

    /// Returns the event that is notified when something is unlocked.
    pub(super) const fn wake_event(&self) -> &Arc<EventCounter> {
        &self.wake
    }

    /// Returns whether any lock may be held.
    pub(super) fn any(&self) -> bool {
        self.len.load(Ordering::Relaxed) > 0
    }

    /// Returns a lock of another owner that conflicts with `wanted`.
    ///
    /// # Errors
    /// The host's error.
    pub(super) fn find_conflict(
        &self,
        file: &FileHandle,
        owner: LockOwner,
        wanted: RangeLock,
    ) -> Answer<Option<FileLock>> {
        self.with(file.key, |locks| {
            if let Some((other, lock)) = locks.conflict(owner, wanted) {
                return Ok(Some(lock.for_reply(other.process)));
            }
            // The host looks for conflicts with the locks of other descriptions. So the question
            // uses the description that holds the owner's own locks.
            let description = locks.description(owner).unwrap_or_else(|| file.as_fd());
            // A process of the host has no number in the guest.
            Ok(ofd::conflict(description, wanted)?.map(|lock| lock.for_reply(0)))
        })
    }

    /// Locks or unlocks a range.
    ///
    /// # Errors
    /// EBADF if the handle is released by now; ENOLCK past a limit; the host's errors.
    pub(super) fn set_record(
        &self,
        inodes: &Inodes,
        files: &Files,
        request: RecordRequest<'_>,
    ) -> Answer<Locking> {
        let RecordRequest { file, owner, span, kind, .. } = request;
        self.with_open(files, file, |locks| {
            if kind.is_none() && locks.owner(owner).is_none() {
                // Unlocking needs no right, so the filter may not even permit the call that reads
                // the name of the file.
                return Ok(Locking::Done);
            }
            let whole_file = locks.locks_whole_file(|| is_shared_by_memory(inodes, file));
            if let Some(kind) = kind
                && whole_file
            {
                if let Some((other, _)) = locks.conflict(owner, RangeLock { span, kind }) {
                    return Ok(Locking::Held(Some(other.name)));
                }
                match locks.lock_whole_file(kind, || Description::for_guest(inodes, file)) {
                    Ok(Locking::Done) => {}
                    // A process of the host has a lease on the file.
                    Err(Errno::EAGAIN) => return Ok(Locking::Held(None)),
                    held => return held,
                }
            }
            let done = self.set_range(inodes, locks, request);
            if whole_file {
                // Also after an error.
                locks.unlock_unused_file();
            }
            done
        })
    }

    /// Locks or unlocks a range of one owner.
    fn set_range(
        &self,
        inodes: &Inodes,
        locks: &mut FileLocks,
        request: RecordRequest<'_>,
    ) -> Answer<Locking> {
        let RecordRequest { file, owner: name, span, kind, .. } = request;
        let held = locks.len();
        let owner = match kind {
            Some(kind) => locks.owner_for(request, kind, || Description::for_owner(inodes, file))?,
            // `set_record` has found it.
            None => locks.owner(name).ok_or(Errno::EIO)?,
        };
        let edit = owner.ranges().edit(span, kind);
        let (before, after) = (owner.ranges().len(), owner.ranges().len_after(&edit));
        if after > before && held >= LOCKS_OF_FILE_MAX {
            return Err(Errno::ENOLCK);
        }
        self.reserve(after.saturating_sub(before))?;
        let weakened = owner.ranges().weakened_by(span, kind);
        let attempt = owner.set(span, kind, edit);
        let is_set = attempt == Ok(Locking::Done);
        if weakened && is_set {
            self.wake.notify_subscribers();
        }
        self.give_back(if is_set { before.saturating_sub(after) } else { after.saturating_sub(before) });
        match (attempt?, kind) {
            (Locking::Done, _) => Ok(Locking::Done),
            (Locking::Held(_), Some(kind)) => {
                let conflict = locks.conflict(name, RangeLock { span, kind });
                Ok(Locking::Held(conflict.map(|(other, _)| other.name)))
            }
            (Locking::Held(_), None) => Err(Errno::EIO),
        }
    }

    /// Takes, converts or releases the flock(2) lock of a handle.
    ///
    /// # Errors
    /// EBADF if the handle is released by now; ENOLCK past a limit; the host's errors.
    pub(super) fn set_flock(
        &self,
        files: &Files,
        file: &Keyed<FileHandle>,
        kind: Option<LockKind>,
    ) -> Answer<Locking> {
        self.with_open(files, file, |locks| {
            let position = locks.flocks.iter().position(|handle| *handle == file.id());
            if kind.is_none() && position.is_none() {
                // Unlocking needs no right, so the filter may not permit the call.
                return Ok(Locking::Done);
            }
            let operation = match kind {
                Some(LockKind::Read) => FlockOperation::NonBlockingLockShared,
                Some(LockKind::Write) => FlockOperation::NonBlockingLockExclusive,
                None => FlockOperation::NonBlockingUnlock,
            };
            let is_new = kind.is_some() && position.is_none();
            if is_new && locks.len() >= LOCKS_OF_FILE_MAX {
                return Err(Errno::ENOLCK);
            }
            self.reserve(usize::from(is_new))?;
            let result = rustix::fs::flock(&file.file, operation);
            // A lock that cannot be converted is lost (flock(2)).
            let is_held = result.is_ok() && kind.is_some();
            match (is_held, position) {
                (true, None) => locks.flocks.push(file.id()),
                (false, Some(position)) => drop(locks.flocks.swap_remove(position)),
                (true, Some(_)) | (false, None) => {}
            }
            if !is_held {
                self.give_back(1);
            }
            if position.is_some() && (!is_held || kind == Some(LockKind::Read)) {
                self.wake.notify_subscribers();
            }
            match result {
                Ok(()) => Ok(Locking::Done),
                Err(rustix::io::Errno::AGAIN) => Ok(Locking::Held(None)),
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => Err(Errno::ENOLCK),
                Err(error) => Err(errno(error)),
            }
        })
    }

    /// Ends all record locks of an owner on a file, as fcntl(2) demands when a process closes any
    /// descriptor of the file.
    pub(super) fn end_owner(&self, file: &FileHandle, owner: LockOwner) {
        self.end(file.key, |locks| locks.end_owner(owner));
    }

    /// Ends the locks of a handle that was removed from the table of handles. Running operations
    /// may keep its open file description for a while.
    pub(super) fn end_handle(&self, file: &Keyed<FileHandle>) {
        self.end(file.key, |locks| {
            if locks.flocks.contains(&file.id()) {
                end_flock(file);
            }
            locks.end_handle(file.id());
        });
    }

    /// Ends all locks. The handles must still be in the table `files`.
    pub(super) fn clear(&self, files: &Files) {
        let locked = std::mem::take(&mut *self.files.lock());
        self.len.store(0, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.wake.notify_subscribers();
        let handles = locked.into_values().flat_map(|locks| std::mem::take(&mut locks.lock().flocks));
        for handle in handles {
            if let Ok(file) = files.file(Handle(handle)) {
                end_flock(&file);
            }
        }
    }

    /// Calls `act` with the locks of a file, even if it has no locks yet.
    fn with<T>(&self, key: NodeKey, act: impl FnOnce(&mut FileLocks) -> T) -> T {
        let locks = {
            let mut files = self.files.lock();
            let locks = Arc::clone(files.entry(key).or_default());
            self.len.store(files.len(), Ordering::Relaxed);
            locks
        };
        let result = act(&mut locks.lock());
        self.remove_if_empty(key, locks);
        result
    }

    /// Calls `act` with the locks of a file, unless its handle was removed from the table. A
    /// RELEASE first removes the handle and then ends its locks, so no lock is left behind.
    fn with_open(
        &self,
        files: &Files,
        file: &Keyed<FileHandle>,
        act: impl FnOnce(&mut FileLocks) -> Answer<Locking>,
    ) -> Answer<Locking> {
        self.with(file.key, |locks| if files.is_open(file) { act(locks) } else { Err(Errno::EBADF) })
    }

    /// Calls `end` with the locks of a file, if it has any, and wakes requests that wait for them.
    fn end(&self, key: NodeKey, end: impl FnOnce(&mut FileLocks)) {
        // No other thread can take the first lock of the file at this moment: that needs an open
        // handle, and the handle was closed before this call.
        if !self.any() {
            return;
        }
        let Some(locks) = self.files.lock().get(&key).map(Arc::clone) else { return };
        let ended = {
            let mut locks = locks.lock();
            let before = locks.len();
            end(&mut locks);
            before.saturating_sub(locks.len())
        };
        self.remove_if_empty(key, locks);
        if ended > 0 {
            self.give_back(ended);
            self.wake.notify_subscribers();
        }
    }

    /// Forgets a file without locks.
    fn remove_if_empty(&self, key: NodeKey, locks: Arc<Mutex<FileLocks>>) {
        let mut files = self.files.lock();
        drop(locks);
        // Another thread that has found the entry holds a reference, and makes this check when it
        // drops the reference.
        if files.get(&key).is_some_and(|locks| Arc::strong_count(locks) == 1 && locks.lock().is_empty()) {
            files.remove(&key);
        }
        self.len.store(files.len(), Ordering::Relaxed);
    }

    /// Counts `more` locks.
    ///
    /// # Errors
    /// ENOLCK past the limit.
    fn reserve(&self, more: usize) -> Answer<()> {
        let more = more as u64;
        let room = |held: u64| held.checked_add(more).filter(|held| more == 0 || *held <= self.limit);
        let reserved = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        reserved.map(drop).map_err(|_full| Errno::ENOLCK)
    }

    fn give_back(&self, fewer: usize) {
        self.held.fetch_sub(fewer as u64, Ordering::Relaxed);
    }
}

/// Unlocks before the description is closed. Operations under way may close it later than the guest
/// expects.
fn end_flock(file: &FileHandle) {
    if let Err(error) = rustix::fs::flock(&file.file, FlockOperation::NonBlockingUnlock) {
        tracing::debug!(%error, "cannot unlock; the lock ends when the file is closed");
    }
}
