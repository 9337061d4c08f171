//! Locks of files that reach as far as the host: POSIX record locks and flock(2), GETLK, SETLK, SETLKW.
//!
//! Each owner of record locks has an open file description of the host to itself for each file, and each guest handle
//! has one anyhow, on which its flock(2) lock is. So guests of other daemons and processes of the host are excluded by
//! the host, and so are two owners of one guest; and what a description has locked ends when it is closed, also by the
//! end of this process. Nothing here waits: who is to wait tries again ([`crate::session`]).

mod file;
mod ofd;
mod ranges;

use crate::filesystem::{Answer, Locking, Pace, Paced};
use crate::limits::{LOCKS_MAX, LOCKS_OF_FILE_MAX};
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::node::NodeKey;
use crate::passthrough::resolve::DELETED;
use crate::passthrough::slots::Entry;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Mutex, MutexGuard};
use file::{Asking, Description, FileLocks};
use hashbrown::HashMap;
use ofd::Said;
use pinhole_protocol::{Errno, FileLock, GetLock, Handle, LockKind, LockOwner, LockRange, SetLock};
use ranges::{Locked, Span};
use rustix::fs::{FlockOperation, OFlags};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the guest has locked.
#[derive(Debug)]
pub(in crate::passthrough) struct Locks {
    /// A panic may part the host's locks and these notes, by one range at most.
    files: Mutex<HashMap<NodeKey, Arc<Mutex<FileLocks>>>>,
    /// How many those are: closing a file asks, and most files have no locks.
    len: AtomicUsize,
    /// Ranges and flock locks held.
    held: AtomicU64,
    limit: u64,
    /// Notified when something is unlocked.
    wake: Arc<EventCounter>,
}

impl Locks {
    pub(in crate::passthrough) fn new(limit: Option<NonZero<u64>>) -> Self {
        Self {
            files: Mutex::default(),
            len: AtomicUsize::new(0),
            held: AtomicU64::new(0),
            limit: limit.map_or(LOCKS_MAX, |limit| limit.get().min(LOCKS_MAX)),
            wake: Arc::default(),
        }
    }

    pub(in crate::passthrough) const fn wake_event(&self) -> &Arc<EventCounter> {
        &self.wake
    }

    /// Whether anything may be locked.
    pub(in crate::passthrough) fn any(&self) -> bool {
        self.len.load(Ordering::Relaxed) > 0
    }

    fn files(&self) -> MutexGuard<'_, HashMap<NodeKey, Arc<Mutex<FileLocks>>>> {
        self.files.lock()
    }

    /// Does something with the locks of a file that may have none yet.
    fn with<T>(&self, key: NodeKey, act: impl FnOnce(&mut FileLocks) -> T) -> T {
        let file = {
            let mut files = self.files();
            let file = Arc::clone(files.entry(key).or_default());
            self.len.store(files.len(), Ordering::Relaxed);
            file
        };
        let done = act(&mut file.lock());
        self.let_go(key, file);
        done
    }

    /// The same where a file has locks. What ends by it is let go of, and who waits hears of it.
    fn end(&self, key: NodeKey, end: impl FnOnce(&mut FileLocks)) {
        // The first lock of a file comes by a handle that is still open, and this by closing one.
        if !self.any() {
            return;
        }
        let Some(file) = self.files().get(&key).map(Arc::clone) else { return };
        let ended = {
            let mut locks = file.lock();
            let before = locks.held();
            end(&mut locks);
            before.saturating_sub(locks.held())
        };
        self.let_go(key, file);
        if ended > 0 {
            self.give_back(ended);
            self.wake.notify_listeners();
        }
    }

    /// Forgets a file of which nobody has locked anything.
    fn let_go(&self, key: NodeKey, file: Arc<Mutex<FileLocks>>) {
        let mut files = self.files();
        drop(file);
        // Who else has found it holds another reference, and looks when he lets go of that.
        if files.get(&key).is_some_and(|file| Arc::strong_count(file) == 1 && file.lock().is_empty()) {
            files.remove(&key);
        }
        self.len.store(files.len(), Ordering::Relaxed);
    }

    /// Ends all record locks and forgets the others, whose handles are returned.
    fn clear(&self) -> Vec<u64> {
        let files = std::mem::take(&mut *self.files());
        self.len.store(0, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.wake.notify_listeners();
        files.into_values().flat_map(|file| std::mem::take(&mut file.lock().flocks)).collect()
    }

    /// The right to so many more.
    ///
    /// # Errors
    /// ENOLCK.
    fn take(&self, more: usize) -> Answer<()> {
        let more = more as u64;
        let room = |held: u64| held.checked_add(more).filter(|held| more == 0 || *held <= self.limit);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        taken.map(drop).map_err(|_full| Errno::ENOLCK)
    }

    fn give_back(&self, fewer: usize) {
        self.held.fetch_sub(fewer as u64, Ordering::Relaxed);
    }
}

impl Passthrough {
    pub(in crate::passthrough) fn get_lock(
        &self,
        get: GetLock,
        pace: Pace,
    ) -> Answer<Paced<Option<FileLock>>> {
        let Some((file, span)) = self.lockable(&get.0, pace)? else { return Ok(Paced::WouldBlock) };
        let kind = get.0.kind.ok_or(Errno::EINVAL)?;
        if get.0.flock {
            return Err(Errno::EINVAL);
        }
        let found = self.locks.with(file.key, |locks| {
            if let Some((_, process, locked)) = locks.in_the_way(get.0.owner, span, kind) {
                return Ok(Some(told(locked, process)));
            }
            // The description of whoever asks, if there is one: what is locked by that is not in the way.
            let description = locks.description(get.0.owner).map_or(file.as_fd(), |own| own.fd.as_fd());
            let found = ofd::in_the_way(description, span, kind)?;
            // A process of the host's has no number in the guest.
            Ok(found.map(|locked| told(locked, 0)))
        });
        found.map(Paced::Ready)
    }

    pub(in crate::passthrough) fn set_lock(&self, set: SetLock, pace: Pace) -> Answer<Paced<Locking>> {
        let Some((file, span)) = self.lockable(&set.lock, pace)? else { return Ok(Paced::WouldBlock) };
        let kind = set.lock.kind;
        if set.lock.flock && span != Span::WHOLE_FILE {
            return Err(Errno::EINVAL);
        }
        let needed = match kind {
            _ if set.lock.flock => true,
            Some(LockKind::Read) => file.readable,
            Some(LockKind::Write) => file.writable,
            None => true,
        };
        if !needed {
            return Err(Errno::EBADF);
        }
        let done = self.locks.with(file.key, |locks| {
            // Who closes a handle takes it away first and ends its locks then, so none is left behind by this one.
            if !self.files.is_open(&file) {
                return Err(Errno::EBADF);
            }
            if set.lock.flock {
                self.set_flock(locks, &file, kind)
            } else {
                self.set_record(locks, &file, (&set.lock, span, kind))
            }
        });
        done.map(Paced::Ready)
    }

    /// Returns the file that is to be locked, and its bytes. `None`: another server has to be asked, which the pace
    /// forbids.
    fn lockable(&self, lock: &LockRange, pace: Pace) -> Answer<Option<(Arc<Entry<FileHandle>>, Span)>> {
        let file = self.files.file(lock.handle)?;
        let span = Span::new(lock.start, lock.end)?;
        let would_block = file.traits.remote && pace == Pace::Now;
        Ok((!would_block).then_some((file, span)))
    }

    fn set_record(
        &self,
        locks: &mut FileLocks,
        file: &Entry<FileHandle>,
        (lock, span, kind): (&LockRange, Span, Option<LockKind>),
    ) -> Answer<Locking> {
        if kind.is_none() && locks.owner(lock.owner).is_none() {
            // Giving back needs no right, so there may be none to ask the host even for the file's name.
            return Ok(Locking::Done);
        }
        let asking = Asking { owner: lock.owner, process: lock.pid, handle: file.id() };
        let for_one_guest = locks.is_for_one_guest(|| self.is_shared_by_memory(file));
        if let Some(kind) = kind
            && for_one_guest
        {
            if let Some((owner, ..)) = locks.in_the_way(lock.owner, span, kind) {
                return Ok(Locking::Held(Some(owner)));
            }
            match locks.take_for_guest(kind, || self.describe_whole(file)) {
                // EAGAIN: a process of the host has a lease on it, and has been told to give that up.
                Ok(Said::Held) | Err(Errno::EAGAIN) => return Ok(Locking::Held(None)),
                taken => drop(taken?),
            }
        }
        let done = self.set_range(locks, file, (asking, span, kind));
        if for_one_guest {
            // Also where it came to nothing.
            locks.leave_to_others();
        }
        done
    }

    /// Locks or unlocks what is one owner's.
    fn set_range(
        &self,
        locks: &mut FileLocks,
        file: &Entry<FileHandle>,
        (asking, span, kind): (Asking, Span, Option<LockKind>),
    ) -> Answer<Locking> {
        let held = locks.held();
        let owner = match kind {
            Some(kind) => locks.owner_for(asking, kind, || self.describe(file))?,
            None => match locks.owner(asking.owner) {
                Some(owner) => owner,
                None => return Ok(Locking::Done),
            },
        };
        let edit = owner.ranges().edit(span, kind);
        let (before, after) = (owner.ranges().len(), owner.ranges().len_after(&edit));
        if after > before && held >= LOCKS_OF_FILE_MAX {
            return Err(Errno::ENOLCK);
        }
        self.locks.take(after.saturating_sub(before))?;
        let weakened = owner.ranges().weakened_by(span, kind);
        let said = owner.set(span, kind, edit);
        if weakened && said == Ok(Said::Done) {
            self.locks.wake.notify_listeners();
        }
        let in_vain =
            if said == Ok(Said::Done) { before.saturating_sub(after) } else { after.saturating_sub(before) };
        self.locks.give_back(in_vain);
        Ok(match (said?, kind) {
            (Said::Held, Some(kind)) => {
                Locking::Held(locks.in_the_way(asking.owner, span, kind).map(|(owner, ..)| owner))
            }
            (Said::Held, None) => return Err(Errno::EIO),
            (Said::Done, _) => Locking::Done,
        })
    }

    /// Whether programs share what is in a file by mapping it, and use its locks to agree about that: the index of
    /// SQLite's write-ahead log, the table of readers of LMDB. No two guests have one page of it, but for a DAX window, so two of
    /// them would destroy what the locks are there to keep. Their programs are told that it is locked.
    ///
    /// A file of which the host does not say the name, as one that was opened by its file handle may be, is taken for one of
    /// them: another guest's program is then told that it is locked, and nothing is lost.
    fn is_shared_by_memory(&self, file: &FileHandle) -> bool {
        let path = self.inodes.proc_fds().path_of(file.as_fd()).unwrap_or_default();
        let path = path.strip_suffix(DELETED).unwrap_or(&path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.is_empty() || name.ends_with(b"-shm") || name == b"lock.mdb"
    }

    /// A description that can have a write lock, whatever the guest has opened the file for; or, where nobody here may write to
    /// the file, one for a read lock: who cannot store anything harms no other reader.
    fn describe_whole(&self, file: &FileHandle) -> Answer<Description> {
        let ticket = self.inodes.ticket().map_err(no_lock)?;
        let open = |flags| self.inodes.proc_fds().reopen_fd(file.as_fd(), flags | OFlags::NONBLOCK);
        let (fd, writes) = match open(OFlags::RDWR) {
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => {
                (open(OFlags::RDONLY).map_err(no_lock)?, false)
            }
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            opened => (opened.map_err(no_lock)?, true),
        };
        Ok(Description { fd, reads: true, writes, _ticket: ticket })
    }

    /// A description for one owner. One that writes reads as well where the host lets it, so that it never has to be
    /// exchanged while it has a write lock. No lease of another process is in its way: the guest has the file open as
    /// this opens it.
    fn describe(&self, file: &FileHandle) -> Answer<Description> {
        let ticket = self.inodes.ticket().map_err(no_lock)?;
        let open =
            |flags| self.inodes.proc_fds().reopen_fd(file.as_fd(), flags | OFlags::NONBLOCK).map_err(no_lock);
        let (fd, reads, writes) = match (file.readable, file.writable) {
            (_, false) => (open(OFlags::RDONLY)?, true, false),
            (true, true) => (open(OFlags::RDWR)?, true, true),
            (false, true) => match open(OFlags::RDWR) {
                Ok(fd) => (fd, true, true),
                Err(_) => (open(OFlags::WRONLY)?, false, true),
            },
        };
        Ok(Description { fd, reads, writes, _ticket: ticket })
    }

    fn set_flock(
        &self,
        locks: &mut FileLocks,
        file: &Entry<FileHandle>,
        kind: Option<LockKind>,
    ) -> Answer<Locking> {
        let place = locks.flocks.iter().position(|handle| *handle == file.id());
        if kind.is_none() && place.is_none() {
            // Giving back needs no right, so there may be none to ask the host.
            return Ok(Locking::Done);
        }
        let operation = match kind {
            Some(LockKind::Read) => FlockOperation::NonBlockingLockShared,
            Some(LockKind::Write) => FlockOperation::NonBlockingLockExclusive,
            None => FlockOperation::NonBlockingUnlock,
        };
        let is_new = kind.is_some() && place.is_none();
        if is_new && locks.held() >= LOCKS_OF_FILE_MAX {
            return Err(Errno::ENOLCK);
        }
        self.locks.take(usize::from(is_new))?;
        let said = rustix::fs::flock(&file.file, operation);
        // One that cannot be made another is lost by that (flock(2)).
        let has_it = said.is_ok() && kind.is_some();
        let shares = kind == Some(LockKind::Read);
        match (has_it, place) {
            (true, None) => locks.flocks.push(file.id()),
            (false, Some(place)) => drop(locks.flocks.swap_remove(place)),
            (true, Some(_)) | (false, None) => {}
        }
        if !has_it && (kind.is_some() || place.is_some()) {
            self.locks.give_back(1);
        }
        if place.is_some() && (!has_it || shares) {
            self.locks.wake.notify_listeners();
        }
        match said {
            Ok(()) => Ok(Locking::Done),
            Err(rustix::io::Errno::AGAIN) => Ok(Locking::Held(None)),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => Err(Errno::ENOLCK),
            Err(error) => Err(crate::passthrough::resolve::errno(error)),
        }
    }

    /// FLUSH: a process has closed a descriptor of the file, which ends all its record locks there (fcntl(2)).
    pub(in crate::passthrough) fn end_locks_of_owner(&self, file: &FileHandle, owner: LockOwner) {
        self.locks.end(file.key, |locks| locks.end_owner(owner));
    }

    /// RELEASE, once the handle is taken back. Operations that are under way may keep its description for a while.
    pub(in crate::passthrough) fn end_locks_of_handle(&self, file: &Entry<FileHandle>) {
        self.locks.end(file.key, |locks| {
            if locks.flocks.contains(&file.id()) {
                end_flock(file);
            }
            locks.end_handle(file.id());
        });
    }

    /// The guest is gone.
    pub(in crate::passthrough) fn end_all_locks(&self) {
        for handle in self.locks.clear() {
            if let Ok(file) = self.files.file(Handle(handle)) {
                end_flock(&file);
            }
        }
    }
}

/// Whatever keeps a description from being opened, to the one who wants a lock there is none.
fn no_lock(why: Errno) -> Errno {
    tracing::debug!(%why, "no description for a lock");
    Errno::ENOLCK
}

/// Before its description is closed, which may be later than the guest thinks: what is to be written back keeps it.
fn end_flock(file: &FileHandle) {
    if let Err(error) = rustix::fs::flock(&file.file, FlockOperation::NonBlockingUnlock) {
        tracing::debug!(%error, "a lock that ends with its file");
    }
}

const fn told(locked: Locked, process: u32) -> FileLock {
    FileLock { start: locked.span.first(), end: locked.span.last(), kind: Some(locked.kind), pid: process }
}
