//! The locks of one file: which owner holds which bytes, through which descriptions of the host.

use super::description::Description;
use super::ofd;
use super::ranges::{RangeEdit, RangeLock, Ranges, Span};
use crate::filesystem::{Answer, Locking};
use crate::limits::{LOCK_HANDLES_MAX, LOCKS_MOVED_MAX, LOCKS_OF_FILE_MAX};
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::slots::Keyed;
use pinhole_protocol::{Errno, LockKind, LockOwner};
use std::os::fd::{AsFd, BorrowedFd};

/// All locks of this guest on one file.
#[derive(Debug, Default)]
pub(super) struct FileLocks {
    owners: Vec<RecordOwner>,
    /// How the record locks are held on the host; known since the first one.
    host: Option<HostLocks>,
    /// Handles that hold a flock(2) lock, which belongs to their own description.
    pub(super) flocks: Vec<u64>,
}

/// How the record locks of a file are held on the host.
#[derive(Debug)]
enum HostLocks {
    /// Each owner holds its own ranges.
    PerOwner,
    /// The guest holds the whole file through one description, while any of its owners has a range.
    WholeFile(Option<Description>),
}

/// An owner of record locks: a process of the guest, or one of its descriptions.
#[derive(Debug)]
pub(super) struct RecordOwner {
    pub(super) name: LockOwner,
    /// The process that sent the last request of this owner.
    pub(super) process: u32,
    /// `None` if the guest holds the whole file.
    description: Option<Description>,
    ranges: Ranges,
    /// Handles of the owner's requests. The owner ends when the last handle is released.
    handles: Vec<u64>,
}

/// A request to lock or unlock a range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordRequest<'f> {
    pub(crate) file: &'f Keyed<FileHandle>,
    pub(crate) owner: LockOwner,
    pub(crate) process: u32,
    pub(crate) span: Span,
    /// `None` unlocks.
    pub(crate) kind: Option<LockKind>,
}

impl FileLocks {
    pub(super) const fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.flocks.is_empty()
    }

    /// Returns the number of ranges and flock locks.
    pub(super) fn len(&self) -> usize {
        self.owners.iter().map(|owner| owner.ranges.len()).sum::<usize>().saturating_add(self.flocks.len())
    }

    pub(super) fn owner(&mut self, name: LockOwner) -> Option<&mut RecordOwner> {
        self.owners.iter_mut().find(|owner| owner.name == name)
    }

    /// Returns whether this guest locks the file as a whole on the host. `decide` decides that the
    /// first time.
    pub(super) fn locks_whole_file(&mut self, decide: impl FnOnce() -> bool) -> bool {
        let decided = || if decide() { HostLocks::WholeFile(None) } else { HostLocks::PerOwner };
        matches!(self.host.get_or_insert_with(decided), HostLocks::WholeFile(_))
    }

    /// Locks the whole file for this guest, if it does not hold that lock, so that one of its
    /// owners may have a lock of this kind. `open` opens a description for that.
    ///
    /// # Errors
    /// Errors of `open` and of the host; ENOLCK for a write lock if the description only reads,
    /// because then readers of other guests share the file.
    pub(super) fn lock_whole_file(
        &mut self,
        wanted: LockKind,
        open: impl FnOnce() -> Answer<Description>,
    ) -> Answer<Locking> {
        let Some(HostLocks::WholeFile(held)) = &mut self.host else { return Ok(Locking::Done) };
        let check = |description: &Description| {
            if description.allows(wanted) { Ok(()) } else { Err(Errno::ENOLCK) }
        };
        if let Some(description) = held {
            return check(description).map(|()| Locking::Done);
        }
        let description = open()?;
        check(&description)?;
        let kind = if description.writes { LockKind::Write } else { LockKind::Read };
        let attempt = ofd::set(description.fd.as_fd(), Span::WHOLE_FILE, Some(kind))?;
        if attempt == Locking::Done {
            *held = Some(description);
        }
        Ok(attempt)
    }

    /// Unlocks the whole file, if no owner holds a range of it.
    pub(super) fn unlock_unused_file(&mut self) {
        let is_unused = self.owners.iter().all(|owner| owner.ranges.len() == 0);
        if let Some(HostLocks::WholeFile(held)) = &mut self.host
            && is_unused
        {
            *held = None;
        }
    }

    /// Returns the description whose locks do not conflict with those of an owner.
    pub(super) fn description(&self, name: LockOwner) -> Option<BorrowedFd<'_>> {
        let description = match &self.host {
            Some(HostLocks::WholeFile(held)) => held.as_ref(),
            Some(HostLocks::PerOwner) | None => {
                self.owners.iter().find(|owner| owner.name == name)?.description.as_ref()
            }
        };
        description.map(|description| description.fd.as_fd())
    }

    /// Returns the owner of a request, with a description that allows the wanted kind. `open` opens
    /// one.
    ///
    /// # Errors
    /// Errors of `open`; ENOLCK if the locks of an owner cannot move to a description that allows
    /// more.
    pub(super) fn owner_for(
        &mut self,
        request: RecordRequest<'_>,
        kind: LockKind,
        open: impl FnOnce() -> Answer<Description>,
    ) -> Answer<&mut RecordOwner> {
        let RecordRequest { file, owner: name, process, .. } = request;
        let handle = file.id();
        let known = self.owners.iter().position(|owner| owner.name == name);
        let Some(index) = known else {
            // The host walks all locks of a file when it sets one and when it closes a description.
            if self.owners.len() >= LOCKS_OF_FILE_MAX {
                return Err(Errno::ENOLCK);
            }
            let whole = matches!(self.host, Some(HostLocks::WholeFile(_)));
            let description = if whole { None } else { Some(open()?) };
            let ranges = Ranges::default();
            self.owners.push(RecordOwner { name, process, description, ranges, handles: vec![handle] });
            return self.owners.last_mut().ok_or(Errno::EIO);
        };
        let owner = self.owners.get_mut(index).ok_or(Errno::EIO)?;
        if owner.description.as_ref().is_some_and(|description| !description.allows(kind)) {
            owner.move_to(open()?)?;
        }
        owner.process = process;
        if !owner.handles.contains(&handle) {
            if owner.handles.len() >= LOCK_HANDLES_MAX {
                return Err(Errno::ENOLCK);
            }
            owner.handles.push(handle);
        }
        Ok(owner)
    }

    /// Returns a conflicting lock of another owner of this guest.
    pub(super) fn conflict(&self, owner: LockOwner, wanted: RangeLock) -> Option<(&RecordOwner, RangeLock)> {
        let mut others = self.owners.iter().filter(|other| other.name != owner);
        others.find_map(|other| Some((other, other.ranges.conflict(wanted)?)))
    }

    /// Ends all record locks of an owner.
    pub(super) fn end_owner(&mut self, name: LockOwner) {
        self.owners.retain(|owner| owner.name != name);
        self.unlock_unused_file();
    }

    /// Ends the locks that were taken through this handle and no other.
    ///
    /// A guest ends the locks of an owner by FLUSH before. The exception is an owner that is a
    /// description (`F_OFD_SETLK`), for which this is the only sign.
    pub(super) fn end_handle(&mut self, handle: u64) {
        self.flocks.retain(|flock| *flock != handle);
        self.owners.retain_mut(|owner| {
            owner.handles.retain(|known| *known != handle);
            !owner.handles.is_empty()
        });
        self.unlock_unused_file();
    }
}

impl RecordOwner {
    pub(super) const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Locks, or with `None` unlocks. `edit` is the change of the owner's ranges.
    ///
    /// # Errors
    /// The host's error; then nothing has changed.
    pub(super) fn set(&mut self, span: Span, kind: Option<LockKind>, edit: RangeEdit) -> Answer<Locking> {
        let attempt = match &self.description {
            Some(description) => ofd::set(description.fd.as_fd(), span, kind)?,
            None => Locking::Done,
        };
        if attempt == Locking::Done {
            self.ranges.apply(edit);
        }
        Ok(attempt)
    }

    /// Sets the locks on another description before the present one releases them, so that no other
    /// owner can lock in between: read locks of both do not conflict. Write locks never have to
    /// move, because a description that writes is opened to read as well.
    fn move_to(&mut self, description: Description) -> Answer<()> {
        if self.ranges.len() > LOCKS_MOVED_MAX {
            return Err(Errno::ENOLCK);
        }
        for lock in self.ranges.iter() {
            if ofd::set(description.fd.as_fd(), lock.span, Some(lock.kind))? != Locking::Done {
                return Err(Errno::ENOLCK);
            }
        }
        self.description = Some(description);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::budget::Budget;

    /// A file that its owner may not write to by mode, but has had open for writing since it was
    /// made.
    #[test]
    fn file_read_locked_on_the_host_has_no_write_locks() {
        let (file, budget) = (tempfile::NamedTempFile::new().unwrap(), Budget::new(10));
        let open = || {
            let fd = std::fs::File::open(file.path()).unwrap().into();
            Ok(Description { fd, reads: true, writes: false, _ticket: budget.ticket().unwrap() })
        };
        let mut locks = FileLocks::default();
        assert!(locks.locks_whole_file(|| true));
        assert_eq!(locks.lock_whole_file(LockKind::Write, open), Err(Errno::ENOLCK));
        assert_eq!(locks.lock_whole_file(LockKind::Read, open), Ok(Locking::Done));
        assert_eq!(locks.lock_whole_file(LockKind::Write, open), Err(Errno::ENOLCK));
        assert_eq!(locks.lock_whole_file(LockKind::Read, open), Ok(Locking::Done));
    }
}
