//! Old names and attributes in the guest's kernel, and how the guest learns that they are old.
//!
//! This module implements the rules A1, A2 and A7 of `docs/use/coherence.md`, and H5 in the mode
//! `auto`. The daemon cannot tell a guest that a file or a name has changed. But when Linux gets
//! ESTALE, it looks up the whole path once more, asks the host for each name, and repeats the
//! operation (`LOOKUP_REVAL`). The program sees only the second result. So an operation gets ESTALE
//! if the guest's name or attributes of its inode are old, but never twice for one operation of one
//! thread.
//!
//! - A1, close-to-open (`guest_cache.rs`): an OPEN of a file that others have changed gets ESTALE.
//!   Soon after such a change, an OPEN bypasses the guest's page cache.
//! - A2, opens during changes, and H5, replaced files (`path_retries.rs`): the OPEN after an ESTALE
//!   succeeds. An inode that a retrying thread looks up stays open until the thread has opened it.
//! - A7, recreated directories (`removed.rs`): an operation in a removed directory gets ESTALE once
//!   for each thread.
//!
//! The entry points are functions of [`Inodes`]:
//!
//! - LOOKUP: [`Inodes::look_up_for_caller`]
//! - OPEN: [`Inodes::is_retried_open`], [`Inodes::check_unchanged`],
//!   [`Inodes::bypasses_page_cache`], [`Inodes::note_leased_open`]
//! - OPENDIR: [`Inodes::open_directory`]
//! - operations that change a directory: [`Inodes::stale_if_removed`], [`Inodes::end_path_retry`]
//! - READLINK: [`Inodes::check_not_removed`]
//! - every operation on a node: [`Inodes::note_stale`]
//!
//! Replies with attributes, and changes by the guest itself, are noted in the
//! [`GuestCache`](guest_cache::GuestCache) of the node.

pub(crate) mod guest_cache;
pub(crate) mod path_retries;
mod removed;

use crate::filesystem::{Answer, Call, Caller};
use crate::passthrough::config::GuestCaching;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::freshness::guest_cache::name_mark;
use crate::passthrough::inodes::lookup::Found;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve::Stat;
use crate::sync::clock;
use pinhole_protocol::{Entry, Errno, InitFlags, Name, NodeId, Open};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// Attempts to look up one name while its inode is gone each time before it can be opened.
const LOOKUP_TRIES: usize = 8;

impl Inodes {
    /// Returns whether an open must see the changes of every earlier close (A1).
    ///
    /// In the mode `strict` the guest caches no data, and in the mode `exclusive` its cache is
    /// never old. With a writeback cache the guest trusts only its own attributes.
    pub(crate) fn is_close_to_open(&self) -> bool {
        self.cache == GuestCaching::Auto && !self.negotiated.contains(InitFlags::WRITEBACK_CACHE)
    }

    /// Notes that the guest has found an inode.
    pub(super) fn note_looked_up(&self, node: &NodeRef, found: Found<'_>) {
        node.guest_cache.looked_up(found.stat);
        if let Some(name) = found.name.filter(|_| self.is_close_to_open()) {
            let mark = name_mark(found.directory.id(), self.table.hash_of_name(name));
            node.guest_cache.looked_up_by(mark, || self.is_recently_changed(node, found.stat));
        }
    }

    /// Returns whether an inode was changed so recently that the guest may trust a name from before
    /// the change.
    fn is_recently_changed(&self, node: &NodeRef, stat: &Stat) -> bool {
        // A server has a clock of its own.
        node.mount.traits.remote || is_within(self.entry_timeout, stat, clock::wall())
    }

    /// Returns whether an OPEN repeats an OPEN that got ESTALE. The repeated OPEN must succeed.
    pub(crate) fn is_retried_open(&self, node: &NodeRef, call: &Call<'_, Open>) -> bool {
        self.retries.finish(call.caller.pid, Some(node.id()))
    }

    /// Checks that the guest's length and name of a file are not old.
    ///
    /// # Errors
    /// ESTALE in each of these cases: the file has another length; others have changed it since it
    /// was looked up, and may have given its name to another file; it has no name; or the guest has
    /// looked it up by several names and may trust a name that it has lost.
    pub(crate) fn check_unchanged(&self, node: &NodeRef, stat: &Stat) -> Answer<()> {
        let cache = &node.guest_cache;
        let is_changed =
            cache.may_have_other_len(stat.size()) || cache.was_changed_by_others(stat.changed().get());
        if is_changed {
            cache.mark_uncertain();
        }
        let is_moved = stat.is_deleted() || cache.may_have_old_name() && self.is_recently_changed(node, stat);
        if is_changed || is_moved { Err(Errno::ESTALE) } else { Ok(()) }
    }

    /// Returns whether an open must bypass the guest's page cache, because the guest's kernel may
    /// have another length of the file than the host.
    pub(crate) fn bypasses_page_cache(&self, node: &NodeRef, is_retried_open: bool) -> bool {
        // Older kernels cannot map such a file shared.
        (is_retried_open || node.guest_cache.is_uncertain())
            && self.is_close_to_open()
            && self.negotiated.contains(InitFlags::DIRECT_IO_ALLOW_MMAP)
    }

    /// Notes a thread that gets ESTALE, and returns `answer`. `opens` is the node if the request is
    /// an OPEN.
    pub(crate) fn note_stale<T>(
        &self,
        caller: &Caller<'_>,
        opens: Option<NodeId>,
        answer: Answer<T>,
    ) -> Answer<T> {
        if matches!(answer, Err(Errno::ESTALE)) {
            self.retries.add(caller.pid, opens.map(|node| node.0));
        }
        answer
    }

    /// Notes that a repeated OPEN has met a lease and will be served again. It must succeed then
    /// too.
    pub(crate) fn note_leased_open(&self, call: &Call<'_, Open>) {
        if self.is_close_to_open() {
            self.retries.add(call.caller.pid, Some(call.node.0));
        }
    }

    /// Ends the retry of a thread that creates a file: it does not matter which file had the name
    /// before.
    pub(crate) fn end_path_retry(&self, caller: &Caller<'_>) {
        self.retries.finish(caller.pid, None);
    }

    /// Looks up a name for a LOOKUP. If the thread retries a path, the inode that it finds stays
    /// open.
    pub(crate) fn look_up_for_caller(
        &self,
        caller: &Caller<'_>,
        parent: &NodeRef,
        name: Name<'_>,
    ) -> Answer<Entry> {
        if !self.retries.contains(caller.pid) {
            return self.stale_lookup_if_removed((parent, name), caller, self.look_up(parent, name, None));
        }
        let found = self.look_up_and_keep_open(parent, name);
        let found = self.stale_lookup_if_removed((parent, name), caller, found);
        let node = match &found {
            Ok(entry) => Some(entry.node.0),
            Err(Errno::ESTALE) => return found,
            Err(_) => None,
        };
        self.retries.note_found(caller.pid, self.table.hash_of_name(name), node);
        found
    }

    /// Looks up a name and opens its inode, if a descriptor is left for it.
    fn look_up_and_keep_open(&self, parent: &NodeRef, name: Name<'_>) -> Answer<Entry> {
        for _ in 0..LOOKUP_TRIES {
            let entry = self.look_up(parent, name, None)?;
            match self.descriptor(&self.table.get(entry.node)?) {
                Err(Errno::ESTALE) => drop(self.table.forget(entry.node, 1)),
                Ok(_) | Err(_) => return Ok(entry),
            }
        }
        self.look_up(parent, name, None)
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// ESTALE, once for each thread, if the directory was removed. Otherwise the error of the host.
    pub(crate) fn open_directory(&self, node: &NodeRef, caller: &Caller<'_>) -> Answer<OwnedFd> {
        let is_retry = self.retries.finish(caller.pid, Some(node.id()));
        let opened = self.open_content(node, OFlags::RDONLY | OFlags::DIRECTORY);
        let opened = self.stale_if_removed(&[(node, None)], caller, opened)?;
        if is_retry {
            self.retries.forget_refusal(caller.pid, node.id());
        } else {
            self.check_not_removed((node, opened.as_fd()), caller)?;
        }
        Ok(opened)
    }
}

/// Returns whether an inode was changed less than `time` before `now`. The kernel's time of change
/// is that of its last tick.
fn is_within(time: Duration, stat: &Stat, now: SystemTime) -> bool {
    const TICK: Duration = Duration::from_millis(10);
    let since = stat.changed_at().and_then(|changed| now.duration_since(changed).ok());
    since.is_none_or(|since| since < time.saturating_add(TICK))
}
