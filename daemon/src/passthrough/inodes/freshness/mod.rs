//! What the guest believes of an inode, and how it learns that it is wrong.

pub(in crate::passthrough) mod removed;
pub(in crate::passthrough) mod retries;
pub(in crate::passthrough) mod told;

use crate::filesystem::{Answer, Call, Caller};
use crate::passthrough::config::CacheMode;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::freshness::told::name_mark;
use crate::passthrough::inodes::lookup::Found;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve::Stat;
use pinhole_protocol::{Entry, Errno, InitFlags, Name, Open};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// Times that a name is looked up anew when what it meant is gone before it could be opened.
const LOOKUP_TRIES: usize = 8;

impl Inodes {
    /// Whether an open must find what was closed before it. In `strict` the guest believes nothing, in `exclusive` it is
    /// right to. With a writeback cache it believes nobody but itself.
    pub(in crate::passthrough) fn is_close_to_open(&self) -> bool {
        self.cache == CacheMode::Auto && !self.negotiated.contains(InitFlags::WRITEBACK_CACHE)
    }

    /// Notes under which name the guest has found a file.
    pub(in crate::passthrough) fn tell_found(&self, node: &NodeRef, stat: &Stat, found: Found<'_>) {
        node.told.find(stat);
        if let Some(name) = found.name.filter(|_| self.is_close_to_open()) {
            let mark = name_mark(found.directory.id(), self.table.hash_of_name(name));
            node.told.find_by(mark, || self.is_recent(node, stat));
        }
    }

    /// Whether a file was changed so recently that the guest may trust a name from before.
    fn is_recent(&self, node: &NodeRef, stat: &Stat) -> bool {
        // A server has a clock of its own.
        node.mount.traits.remote || is_within(self.entry_timeout, stat, SystemTime::now())
    }

    /// Whether the thread that opens a file has been sent back and comes again. It is let in.
    pub(in crate::passthrough) fn is_let_in(&self, node: &NodeRef, call: &Call<'_, Open>) -> bool {
        self.retries.settle(call.caller.pid, Some(node.id()))
    }

    /// Whether a file is what the guest takes it for.
    ///
    /// # Errors
    /// ESTALE: it has another length, or no name any more, or has been changed by another since it was looked up, who may
    /// have given its name to another file; or the guest came by a name that it may have lost since.
    pub(in crate::passthrough) fn check_told(&self, node: &NodeRef, stat: &Stat) -> Answer<()> {
        let is_other = node.told.may_differ(stat.size()) || node.told.was_changed(stat.changed().get());
        if is_other {
            node.told.doubt();
        }
        let is_moved = stat.is_deleted() || node.told.has_several_names() && self.is_recent(node, stat);
        if is_other || is_moved { Err(Errno::ESTALE) } else { Ok(()) }
    }

    /// Whether an open goes past the guest's page cache because the guest may believe another length.
    pub(in crate::passthrough) fn is_uncached(&self, node: &NodeRef, is_let_in: bool) -> bool {
        // Older kernels share no mapping of such a file.
        (is_let_in || node.told.is_doubted())
            && self.is_close_to_open()
            && self.negotiated.contains(InitFlags::DIRECT_IO_ALLOW_MMAP)
    }
}

/// Whether a file was changed within a time before now. The kernel's time of change is that of its last tick.
fn is_within(time: Duration, stat: &Stat, now: SystemTime) -> bool {
    const TICK: Duration = Duration::from_millis(10);
    let since = stat.changed_at().and_then(|changed| now.duration_since(changed).ok());
    since.is_none_or(|since| since < time.saturating_add(TICK))
}

impl Inodes {
    /// Notes who is answered ESTALE.
    pub(in crate::passthrough) fn note_stale<T>(&self, caller: &Caller<'_>, answer: Answer<T>) -> Answer<T> {
        if matches!(answer, Err(Errno::ESTALE)) {
            self.retries.expect(caller.pid, None);
        }
        answer
    }

    /// Notes who is answered ESTALE to an OPEN.
    pub(in crate::passthrough) fn note_stale_open<T>(
        &self,
        call: &Call<'_, Open>,
        answer: Answer<T>,
    ) -> Answer<T> {
        if matches!(answer, Err(Errno::ESTALE)) {
            self.retries.expect(call.caller.pid, Some(call.node.0));
        }
        answer
    }

    /// An OPEN that was let in could not be carried out yet, and comes again: it is let in then, too.
    pub(in crate::passthrough) fn expect_again(&self, call: &Call<'_, Open>) {
        if self.is_close_to_open() {
            self.retries.expect(call.caller.pid, Some(call.node.0));
        }
    }

    /// LOOKUP: what is found by a thread that looks its path up once more stays open until it has come for it.
    pub(in crate::passthrough) fn look_up_for(
        &self,
        caller: &Caller<'_>,
        parent: &NodeRef,
        name: Name<'_>,
    ) -> Answer<Entry> {
        if !self.retries.expects(caller.pid) {
            return self.answer_lookup((parent, name), caller, self.look_up(parent, name));
        }
        let found = self.answer_lookup((parent, name), caller, self.look_up_to_stay(parent, name));
        match &found {
            Ok(entry) => self.retries.found(caller.pid, self.table.hash_of_name(name), Some(entry.node.0)),
            Err(Errno::ESTALE) => {}
            Err(_) => self.retries.found(caller.pid, self.table.hash_of_name(name), None),
        }
        found
    }

    /// As [`Self::look_up`], but what is found is open then, if there is a descriptor left for it.
    fn look_up_to_stay(&self, parent: &NodeRef, name: Name<'_>) -> Answer<Entry> {
        for _ in 0..LOOKUP_TRIES {
            let entry = self.look_up(parent, name)?;
            match self.reach(&self.table.get(entry.node)?) {
                Err(Errno::ESTALE) => drop(self.table.forget(entry.node, 1)),
                Ok(_) | Err(_) => return Ok(entry),
            }
        }
        self.look_up(parent, name)
    }

    /// The thread is on no path any more: it makes a name, whatever that was before.
    pub(in crate::passthrough) fn end_path_retry(&self, caller: &Caller<'_>) {
        self.retries.settle(caller.pid, None);
    }

    /// Opens a directory to list it, unless it was removed and its path may lead elsewhere.
    ///
    /// # Errors
    /// ESTALE once to each thread for a removed directory, and what the host says.
    pub(in crate::passthrough) fn open_directory(
        &self,
        node: &NodeRef,
        caller: &Caller<'_>,
    ) -> Answer<OwnedFd> {
        let is_retry = self.retries.settle(caller.pid, Some(node.id()));
        let opened = self.open_inside(node, OFlags::RDONLY | OFlags::DIRECTORY);
        let opened = self.answer_at(&[(node, None)], caller, opened)?;
        if is_retry {
            self.retries.forget_refusal(caller.pid, node.id());
        } else {
            self.check_not_removed((node, opened.as_fd()), caller)?;
        }
        Ok(opened)
    }
}
