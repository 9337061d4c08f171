//! The length, the name and the time of change of a file that the guest's kernel may have cached.
//!
//! Linux drops a file's cached data at each open. But it keeps the length and the name from earlier
//! replies, each for its timeout. For that time it would read a file that another guest has
//! extended only up to its old end, or open a file that was replaced, moved away or exchanged. The
//! reply to OPEN has no room for attributes. So OPEN gets ESTALE if the guest's length or name of
//! the file may be old.
//!
//! The guest's kernel need not use the last reply. Replies to several threads overtake one another:
//! Linux uses the reply that it handles first, and drops the replies to earlier requests. After a
//! READ that ended at the old end of the file, Linux also shortens the cached file. So a file that
//! others have changed is uncertain for [`REPLY_HANDLED_WITHIN`]. It is opened with
//! FOPEN_DIRECT_IO: a read then returns the host's data, even if the guest has another length.

use crate::limits::REPLY_HANDLED_WITHIN;
use crate::passthrough::resolve::Stat;
use crate::sync::clock;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Marks of a file's attributes in the last replies to the guest. They are small because each node
/// has them.
#[derive(Debug)]
pub(crate) struct GuestCache {
    /// Length; see [`len_mark`].
    len: AtomicU32,
    /// [`Stat::changed`] at the last LOOKUP. Removing a name of the file changes it too. It is 0
    /// (unknown) from a change by the guest itself until the guest closes the file.
    changed: AtomicU32,
    /// Name of the last LOOKUP (see [`name_mark`]), or 0 before the first LOOKUP.
    name: AtomicU32,
    /// Time at which a change by others was last seen (see [`clock_ms`]), or 0 if the guest knows
    /// all changes.
    uncertain_since: AtomicU32,
}

/// Mark of an unknown length.
const NO_LEN: u32 = u32::MAX;
/// Flag of a length: an earlier reply had another length. Linux drops a reply that a later one has
/// overtaken, so it may still use the earlier length.
const MAY_BE_OLD_LEN: u32 = 1 << 31;
/// Flag of a name: the file had another name at the LOOKUP before, and was changed shortly before
/// this one. The guest may still trust the other name.
const HAD_OTHER_NAME: u32 = 1 << 31;

/// Returns a mark of a name in a directory. It is never 0. Two names have the same mark with a
/// probability of 2^-31.
pub(super) fn name_mark(directory: u64, name: u64) -> u32 {
    let mixed = (directory ^ name).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    u32::try_from(mixed).unwrap_or(1).max(1)
}

/// Returns the milliseconds of the monotonic clock modulo 2^32. It is never 0.
fn clock_ms() -> u32 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(clock::now);
    let millis = clock::elapsed(*BEGAN).as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).unwrap_or(1).max(1)
}

/// Returns a mark of a length. Two lengths have the same mark with a probability of 2^-30.
fn len_mark(len: u64) -> u32 {
    const BITS: u32 = 30;
    u32::try_from((len ^ len >> BITS) & ((1 << BITS) - 1)).unwrap_or(0)
}

impl GuestCache {
    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicU32::new(NO_LEN),
            changed: AtomicU32::new(0),
            name: AtomicU32::new(0),
            uncertain_since: AtomicU32::new(0),
        }
    }

    /// Notes that the guest has looked up the file.
    pub(crate) fn looked_up(&self, stat: &Stat) {
        self.sent_attributes(stat);
        let changed = stat.changed().get();
        if self.was_changed_by_others(changed) {
            self.mark_uncertain();
        }
        set(&self.changed, changed);
    }

    /// Notes the name of a LOOKUP. `is_recent` returns whether the file was changed so recently
    /// that the guest may trust an older name.
    pub(super) fn looked_up_by(&self, mark: u32, is_recent: impl FnOnce() -> bool) {
        let before = self.name.load(Ordering::Relaxed);
        if before != mark {
            let is_other = before & !HAD_OTHER_NAME != mark;
            let may_be_old = before != 0 && (is_other || before & HAD_OTHER_NAME != 0) && is_recent();
            set(&self.name, if may_be_old { mark | HAD_OTHER_NAME } else { mark });
        }
    }

    /// Returns whether the guest may trust another name than that of the last LOOKUP, if the file
    /// was changed recently.
    pub(super) fn may_have_old_name(&self) -> bool {
        self.name.load(Ordering::Relaxed) & HAD_OTHER_NAME != 0
    }

    /// Notes that a reply to the guest has these attributes.
    pub(crate) fn sent_attributes(&self, stat: &Stat) {
        self.sent_len(stat.size());
    }

    fn sent_len(&self, len: u64) {
        let (before, mark) = (self.len.load(Ordering::Relaxed), len_mark(len));
        let is_other = before != NO_LEN && before & !MAY_BE_OLD_LEN != mark;
        set(&self.len, if is_other { mark | MAY_BE_OLD_LEN } else { mark });
        if is_other {
            self.mark_uncertain();
        } else if self.is_uncertain() {
            self.end_uncertainty(clock_ms());
        }
    }

    /// Notes a change by others. The guest may still get replies from before the change.
    pub(super) fn mark_uncertain(&self) {
        set(&self.uncertain_since, clock_ms());
    }

    /// Ends the uncertainty if the guest has handled all replies from before the change.
    fn end_uncertainty(&self, now: u32) {
        let age = now.wrapping_sub(self.uncertain_since.load(Ordering::Relaxed));
        if Duration::from_millis(age.into()) >= REPLY_HANDLED_WITHIN {
            set(&self.uncertain_since, 0);
        }
    }

    /// Returns whether the guest may use attributes from before others changed the file.
    pub(super) fn is_uncertain(&self) -> bool {
        self.uncertain_since.load(Ordering::Relaxed) != 0
    }

    /// Notes a change by the guest itself. The guest asks for the new length before it uses a
    /// length.
    pub(crate) fn note_own_change(&self) {
        set(&self.len, NO_LEN);
        set(&self.changed, 0);
    }

    /// Returns whether the guest has changed the file since it was looked up or closed.
    pub(crate) fn has_own_change(&self) -> bool {
        self.changed.load(Ordering::Relaxed) == 0
    }

    /// Counts all changes until now as the guest's own. Later changes are by others.
    pub(crate) fn settle_own_change(&self, stat: &Stat) {
        if self.has_own_change() {
            set(&self.changed, stat.changed().get());
        }
    }

    /// Returns whether the guest may use another length than `len`.
    pub(super) fn may_have_other_len(&self, len: u64) -> bool {
        let known = self.len.load(Ordering::Relaxed);
        known != NO_LEN && known != len_mark(len)
    }

    /// Returns whether others may have changed the file, or removed a name of it, since it was
    /// looked up.
    pub(super) fn was_changed_by_others(&self, changed: u32) -> bool {
        let known = self.changed.load(Ordering::Relaxed);
        known != 0 && known != changed
    }
}

/// Stores a value if it differs. A store each time would take the cache line from the other queue
/// threads.
fn set(place: &AtomicU32, value: u32) {
    if place.load(Ordering::Relaxed) != value {
        place.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_known_until_the_guest_changes_it() {
        let cache = GuestCache::new();
        assert!(!cache.may_have_other_len(4), "no length is known");
        cache.sent_len(5);
        assert!(cache.may_have_other_len(4) && !cache.may_have_other_len(5));
        cache.note_own_change();
        assert!(!cache.may_have_other_len(4));
    }

    #[test]
    fn new_length_counts_once_it_was_sent_twice() {
        let cache = GuestCache::new();
        cache.sent_len(5);
        cache.sent_len(6);
        assert!(cache.may_have_other_len(6) && cache.may_have_other_len(5));
        cache.sent_len(6);
        assert!(!cache.may_have_other_len(6) && cache.may_have_other_len(5));
        cache.note_own_change();
        cache.sent_len(7);
        assert!(!cache.may_have_other_len(7));
    }

    #[test]
    fn file_is_uncertain_until_earlier_replies_are_handled() {
        let cache = GuestCache::new();
        cache.sent_len(5);
        assert!(!cache.is_uncertain());
        cache.sent_len(6);
        cache.sent_len(6);
        assert!(cache.is_uncertain() && !cache.may_have_other_len(6), "an earlier reply may arrive later");
        let since = cache.uncertain_since.load(Ordering::Relaxed);
        let handled = u32::try_from(REPLY_HANDLED_WITHIN.as_millis()).unwrap();
        cache.end_uncertainty(since.wrapping_add(handled - 1));
        assert!(cache.is_uncertain());
        cache.end_uncertainty(since.wrapping_add(handled));
        assert!(!cache.is_uncertain());
    }

    #[test]
    fn other_name_counts_while_the_change_is_recent() {
        let cache = GuestCache::new();
        let (one, other) = (name_mark(1, 7), name_mark(2, 7));
        cache.looked_up_by(one, || panic!("there was no name before"));
        cache.looked_up_by(one, || panic!("it is the same name"));
        assert_ne!(one, other);
        cache.looked_up_by(other, || false);
        assert!(!cache.may_have_old_name());
        cache.looked_up_by(one, || true);
        cache.looked_up_by(one, || true);
        assert!(cache.may_have_old_name(), "the guest may still trust the other name");
        cache.looked_up_by(one, || false);
        assert!(!cache.may_have_old_name());
    }

    #[test]
    fn own_changes_do_not_count_as_changes_by_others() {
        let cache = GuestCache::new();
        assert!(!cache.was_changed_by_others(4), "it was never looked up");
        set(&cache.changed, 4);
        assert!(cache.was_changed_by_others(5) && !cache.was_changed_by_others(4));
        cache.note_own_change();
        assert!(cache.has_own_change() && !cache.was_changed_by_others(5));
    }
}
