//! GETLK, SETLK, SETLKW: record locks and flock(2).

use crate::filesystem::{Answer, Locking, Pace, Paced};
use crate::passthrough::Passthrough;
use crate::passthrough::files::FileRef;
use crate::passthrough::locks::{RangeLock, RecordRequest, Span};
use pinhole_protocol::{Errno, FileLock, GetLock, LockKind, LockRange, SetLock};

impl Passthrough {
    /// Returns a lock that conflicts with the given one.
    pub(super) fn get_lock(&self, get: GetLock, pace: Pace) -> Answer<Paced<Option<FileLock>>> {
        let Some((file, span)) = self.lockable(&get.0, pace)? else { return Ok(Paced::WouldBlock) };
        let kind = get.0.kind.ok_or(Errno::EINVAL)?;
        if get.0.flock {
            return Err(Errno::EINVAL);
        }
        self.locks.find_conflict(&file, get.0.owner, RangeLock { span, kind }).map(Paced::Ready)
    }

    /// Locks or unlocks, without waiting for other owners.
    pub(super) fn set_lock(&self, set: SetLock, pace: Pace) -> Answer<Paced<Locking>> {
        let Some((file, span)) = self.lockable(&set.lock, pace)? else { return Ok(Paced::WouldBlock) };
        let LockRange { owner, kind, pid, flock, .. } = set.lock;
        if flock {
            if span != Span::WHOLE_FILE {
                return Err(Errno::EINVAL);
            }
            return self.locks.set_flock(&self.files, &file, kind).map(Paced::Ready);
        }
        let is_permitted = match kind {
            Some(LockKind::Read) => file.readable,
            Some(LockKind::Write) => file.writable,
            None => true,
        };
        if !is_permitted {
            return Err(Errno::EBADF);
        }
        let request = RecordRequest { file: &file, owner, process: pid, span, kind };
        self.locks.set_record(&self.inodes, &self.files, request).map(Paced::Ready)
    }

    /// Returns the file to lock and the range. `None`: the request would wait for the server of a
    /// network file system, which the pace forbids.
    fn lockable(&self, lock: &LockRange, pace: Pace) -> Answer<Option<(FileRef, Span)>> {
        let file = self.files.file(lock.handle)?;
        let span = Span::new(lock.start, lock.end)?;
        let would_block = file.traits.remote && pace == Pace::Now;
        Ok((!would_block).then_some((file, span)))
    }
}
