//! The locks of one file: which owner has which bytes, by way of which descriptions.

use super::ofd::{self, Said};
use super::ranges::{Edit, Locked, Ranges, Span};
use crate::limits::{LOCK_HANDLES_MAX, LOCKS_MOVED_MAX, LOCKS_OF_FILE_MAX};
use crate::sync::budget::Ticket;
use pinhole_protocol::{Errno, LockKind, LockOwner};
use std::os::fd::{AsFd, OwnedFd};

/// All that this guest has locked of one file.
#[derive(Debug, Default)]
pub(in crate::passthrough) struct FileLocks {
    owners: Vec<Owner>,
    /// Whose the file is on the host; known since its first record lock.
    whose: Option<Whose>,
    /// Handles that have a flock(2) lock, which is that of their own description.
    pub(in crate::passthrough) flocks: Vec<u64>,
}

/// Who has a file's record locks on the host.
#[derive(Debug)]
enum Whose {
    /// Each owner what it has locked.
    Owners,
    /// This guest the whole file, while any of its owners has a range, by one description for them all.
    Guest(Option<Description>),
}

/// One owner of record locks: a process of the guest, or a description of its.
#[derive(Debug)]
pub(in crate::passthrough) struct Owner {
    name: LockOwner,
    /// The process that last asked for it.
    process: u32,
    /// `None` where the guest has the whole file.
    description: Option<Description>,
    ranges: Ranges,
    /// Handles by which it came. With the last of them it ends.
    handles: Vec<u64>,
}

/// An open file description of the host that is an owner's alone: two owners exclude one another by theirs, and one
/// owner's locks end with it.
#[derive(Debug)]
pub(in crate::passthrough) struct Description {
    pub(in crate::passthrough) fd: OwnedFd,
    /// Read locks need one that reads, write locks one that writes.
    pub(in crate::passthrough) reads: bool,
    pub(in crate::passthrough) writes: bool,
    pub(in crate::passthrough) _ticket: Ticket,
}

impl Description {
    const fn allows(&self, kind: LockKind) -> bool {
        match kind {
            LockKind::Read => self.reads,
            LockKind::Write => self.writes,
        }
    }
}

/// Who asks, and by which handle.
#[derive(Clone, Copy, Debug)]
pub(in crate::passthrough) struct Asking {
    pub(in crate::passthrough) owner: LockOwner,
    pub(in crate::passthrough) process: u32,
    pub(in crate::passthrough) handle: u64,
}

impl FileLocks {
    pub(in crate::passthrough) const fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.flocks.is_empty()
    }

    /// Ranges and flock locks held.
    pub(in crate::passthrough) fn held(&self) -> usize {
        self.owners.iter().map(|owner| owner.ranges.len()).sum::<usize>().saturating_add(self.flocks.len())
    }

    pub(in crate::passthrough) fn owner(&mut self, name: LockOwner) -> Option<&mut Owner> {
        self.owners.iter_mut().find(|owner| owner.name == name)
    }

    /// Whether this guest has the file as a whole or not at all. `judge` says so the first time.
    pub(in crate::passthrough) fn is_for_one_guest(&mut self, judge: impl FnOnce() -> bool) -> bool {
        let judged = || if judge() { Whose::Guest(None) } else { Whose::Owners };
        matches!(self.whose.get_or_insert_with(judged), Whose::Guest(_))
    }

    /// Takes the whole file for this guest, if it has not got it, so that one of its owners may have a lock of this kind;
    /// `open` makes a description for that.
    ///
    /// # Errors
    /// What `open` or the host says; ENOLCK for a write lock where the description only reads, for the file is then shared with
    /// the readers of other guests.
    pub(in crate::passthrough) fn take_for_guest(
        &mut self,
        wanted: LockKind,
        open: impl FnOnce() -> Result<Description, Errno>,
    ) -> Result<Said, Errno> {
        let Some(Whose::Guest(taken)) = &mut self.whose else { return Ok(Said::Done) };
        let check = |description: &Description| {
            if description.allows(wanted) { Ok(()) } else { Err(Errno::ENOLCK) }
        };
        if let Some(description) = taken {
            return check(description).map(|()| Said::Done);
        }
        let description = open()?;
        check(&description)?;
        let kind = if description.writes { LockKind::Write } else { LockKind::Read };
        let said = ofd::set(description.fd.as_fd(), Span::WHOLE_FILE, Some(kind))?;
        if said == Said::Done {
            *taken = Some(description);
        }
        Ok(said)
    }

    /// Gives it back where none of its owners has anything of it.
    pub(in crate::passthrough) fn leave_to_others(&mut self) {
        let is_free = self.owners.iter().all(|owner| owner.ranges.len() == 0);
        if let Some(Whose::Guest(taken)) = &mut self.whose
            && is_free
        {
            *taken = None;
        }
    }

    /// The description by which whoever asks finds out what others have: what is locked by that is not in the way.
    pub(in crate::passthrough) fn description(&self, name: LockOwner) -> Option<&Description> {
        match &self.whose {
            Some(Whose::Guest(taken)) => taken.as_ref(),
            Some(Whose::Owners) | None => {
                self.owners.iter().find(|owner| owner.name == name)?.description.as_ref()
            }
        }
    }

    /// The owner that asks, with a description that allows what it asks for; `open` makes one.
    ///
    /// # Errors
    /// What `open` says; ENOLCK where an owner's locks cannot be taken over by a description that allows more.
    pub(in crate::passthrough) fn owner_for(
        &mut self,
        asking: Asking,
        kind: LockKind,
        open: impl FnOnce() -> Result<Description, Errno>,
    ) -> Result<&mut Owner, Errno> {
        let Asking { owner: name, process, handle } = asking;
        let known = self.owners.iter().position(|owner| owner.name == name);
        let Some(index) = known else {
            // Closing a description goes through all locks of the file, as a lock does.
            if self.owners.len() >= LOCKS_OF_FILE_MAX {
                return Err(Errno::ENOLCK);
            }
            let alone = matches!(self.whose, Some(Whose::Guest(_)));
            let description = if alone { None } else { Some(open()?) };
            let ranges = Ranges::default();
            self.owners.push(Owner { name, process, description, ranges, handles: vec![handle] });
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

    /// Another owner of this guest that has what is asked for, its process, and the lock.
    pub(in crate::passthrough) fn in_the_way(
        &self,
        asking: LockOwner,
        span: Span,
        kind: LockKind,
    ) -> Option<(LockOwner, u32, Locked)> {
        let others = self.owners.iter().filter(|owner| owner.name != asking);
        let mut found = others.filter_map(|owner| {
            owner.ranges.in_the_way(span, kind).map(|locked| (owner.name, owner.process, locked))
        });
        found.next()
    }

    /// Ends all record locks of an owner.
    pub(in crate::passthrough) fn end_owner(&mut self, name: LockOwner) {
        self.owners.retain(|owner| owner.name != name);
        self.leave_to_others();
    }

    /// Ends what was locked by a handle and by no other. A guest has ended an owner's locks by FLUSH before, unless the
    /// owner is the description itself (`F_OFD_SETLK`), for which it says nothing else.
    pub(in crate::passthrough) fn end_handle(&mut self, handle: u64) {
        self.flocks.retain(|flock| *flock != handle);
        self.owners.retain_mut(|owner| {
            owner.handles.retain(|known| *known != handle);
            !owner.handles.is_empty()
        });
        self.leave_to_others();
    }
}

impl Owner {
    pub(in crate::passthrough) const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Locks, or with `None` unlocks. `edit` is what its ranges become by that.
    ///
    /// # Errors
    /// What the host says; then nothing has changed.
    pub(in crate::passthrough) fn set(
        &mut self,
        span: Span,
        kind: Option<LockKind>,
        edit: Edit,
    ) -> Result<Said, Errno> {
        let said = match &self.description {
            Some(description) => ofd::set(description.fd.as_fd(), span, kind)?,
            None => Said::Done,
        };
        if said == Said::Done {
            self.ranges.apply(edit);
        }
        Ok(said)
    }

    /// Takes the locks over to another description before it lets go of the present one, so that nobody gets between:
    /// read locks of both agree. Write locks never have to be taken over, for a description that writes is opened to read
    /// as well.
    fn move_to(&mut self, description: Description) -> Result<(), Errno> {
        if self.ranges.len() > LOCKS_MOVED_MAX {
            return Err(Errno::ENOLCK);
        }
        for locked in self.ranges.iter() {
            if ofd::set(description.fd.as_fd(), locked.span, Some(locked.kind))? == Said::Held {
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

    /// A file that its owner may not write to by mode, but has open to write since it was made.
    #[test]
    fn nobody_has_a_write_lock_of_a_whole_file_that_is_only_read_locked_on_the_host() {
        let (file, budget) = (tempfile::NamedTempFile::new().unwrap(), Budget::new(10));
        let open = || {
            let fd = std::fs::File::open(file.path()).unwrap().into();
            Ok(Description { fd, reads: true, writes: false, _ticket: budget.ticket().unwrap() })
        };
        let mut locks = FileLocks::default();
        assert!(locks.is_for_one_guest(|| true));
        assert_eq!(locks.take_for_guest(LockKind::Write, open), Err(Errno::ENOLCK));
        assert_eq!(locks.take_for_guest(LockKind::Read, open), Ok(Said::Done));
        assert_eq!(locks.take_for_guest(LockKind::Write, open), Err(Errno::ENOLCK));
        assert_eq!(locks.take_for_guest(LockKind::Read, open), Ok(Said::Done));
    }
}
