//! What the guest takes a file for, so that an open under `--cache auto` finds what was closed before it.
//!
//! Linux drops a file's cached data at each open, but goes on believing the length and the name that it was told, each
//! for its timeout: for that long it would read a file of another guest's to its old end, or open one that has been
//! replaced, moved away or exchanged. The answer to OPEN has no room for attributes. To ESTALE, however, Linux looks the
//! path up once more and opens what is there now ([`crate::passthrough::inodes::freshness::retries`]). So ESTALE is the answer to the open of a file
//! that is not what the guest takes it for; and never twice to one open: the thread that comes back is let in.
//!
//! What such a thread was told need not be what its kernel believes. Answers to several threads overtake one another:
//! Linux takes the one that it handles first and drops those that were asked for before that. And a READ that ended at
//! the old end of the file makes Linux shorten the file when it handles that answer. So a file that others have changed
//! is in doubt for a time, and is opened past the page cache (FOPEN_DIRECT_IO): what is read is then what the host has,
//! whatever length is believed.

use crate::limits::REPLY_HANDLED_WITHIN;
use crate::passthrough::resolve::Stat;
use crate::sync::clock;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a guest was last told of a file: marks of it, for there is one for each node.
#[derive(Debug)]
pub(crate) struct Told {
    /// How long it is; see [`mark_of`].
    len: AtomicU32,
    /// [`Stat::changed`] when its name was looked up: a name that is taken from a file changes it. Whatever the guest does to
    /// the file itself makes this unknown (0) until it closes the file.
    found: AtomicU32,
    /// The name by which it was looked up last; see [`name_mark`]. 0: none.
    name: AtomicU32,
    /// When others were last seen to have changed it, by [`clock`]. 0: the guest believes what it was told.
    doubted: AtomicU32,
}

/// The mark of no length.
const UNTOLD: u32 = u32::MAX;
/// Beside a mark of a length: the length was told while the guest believed another. Linux drops an answer that was
/// overtaken by a later one, so the guest may still believe the other.
const DOUBTFUL: u32 = 1 << 31;
/// Beside a mark of a name: the file was looked up by another name before, and was changed shortly before that. The guest
/// may still trust the other name.
const SEVERAL: u32 = 1 << 31;

/// Tells names in directories apart, all but one in two billion; never zero.
pub(super) fn name_mark(directory: u64, name: u64) -> u32 {
    let mixed = (directory ^ name).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    u32::try_from(mixed).unwrap_or(1).max(1)
}

/// Milliseconds of the monotonic clock, modulo 2^32; never zero.
fn clock() -> u32 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(clock::now);
    let millis = clock::elapsed(*BEGAN).as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).unwrap_or(1).max(1)
}

/// Tells lengths apart, all but one in a billion.
fn mark_of(len: u64) -> u32 {
    const BITS: u32 = 30;
    u32::try_from((len ^ len >> BITS) & ((1 << BITS) - 1)).unwrap_or(0)
}

impl Told {
    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicU32::new(UNTOLD),
            found: AtomicU32::new(0),
            name: AtomicU32::new(0),
            doubted: AtomicU32::new(0),
        }
    }

    /// The guest has looked the file up.
    pub(crate) fn find(&self, stat: &Stat) {
        self.tell(stat);
        let changed = stat.changed().get();
        if self.was_changed(changed) {
            self.doubt();
        }
        set(&self.found, changed);
    }

    /// It was by this name. `is_recent`: whether its last change is so recent that the guest may trust an older name.
    pub(super) fn find_by(&self, mark: u32, is_recent: impl FnOnce() -> bool) {
        let before = self.name.load(Ordering::Relaxed);
        if before != mark {
            let is_other = before & !SEVERAL != mark;
            let several = before != 0 && (is_other || before & SEVERAL != 0) && is_recent();
            set(&self.name, if several { mark | SEVERAL } else { mark });
        }
    }

    /// Whether the guest may trust another name of it than the last one, if it was changed recently.
    pub(super) fn has_several_names(&self) -> bool {
        self.name.load(Ordering::Relaxed) & SEVERAL != 0
    }

    /// The guest is told its attributes.
    pub(crate) fn tell(&self, stat: &Stat) {
        self.tell_len(stat.size());
    }

    fn tell_len(&self, len: u64) {
        let (before, mark) = (self.len.load(Ordering::Relaxed), mark_of(len));
        let is_news = before != UNTOLD && before & !DOUBTFUL != mark;
        set(&self.len, if is_news { mark | DOUBTFUL } else { mark });
        if is_news {
            self.doubt();
        } else if self.doubted.load(Ordering::Relaxed) != 0 {
            self.believe(clock());
        }
    }

    /// Others have changed it. Answers from before may still be on their way to the guest.
    pub(crate) fn doubt(&self) {
        set(&self.doubted, clock());
    }

    /// The guest is told of it at this time. Once it has handled all from before, it believes that.
    fn believe(&self, now: u32) {
        let age = now.wrapping_sub(self.doubted.load(Ordering::Relaxed));
        if Duration::from_millis(age.into()) >= REPLY_HANDLED_WITHIN {
            set(&self.doubted, 0);
        }
    }

    /// Whether the guest may believe what it was told before others changed it.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) != 0
    }

    /// The guest itself changes the file, and asks for its length before it believes any.
    pub(crate) fn untell(&self) {
        set(&self.len, UNTOLD);
        set(&self.found, 0);
    }

    /// Whether the guest has changed the file since it was looked up or closed.
    pub(crate) fn is_changed(&self) -> bool {
        self.found.load(Ordering::Relaxed) == 0
    }

    /// What has changed the file until now was the guest.
    pub(crate) fn own(&self, stat: &Stat) {
        if self.is_changed() {
            set(&self.found, stat.changed().get());
        }
    }

    /// Whether the guest may believe another length than this.
    pub(super) fn may_differ(&self, len: u64) -> bool {
        let told = self.len.load(Ordering::Relaxed);
        told != UNTOLD && told != mark_of(len)
    }

    /// Whether another may have changed the file since, its names among the rest.
    pub(super) fn was_changed(&self, changed: u32) -> bool {
        let found = self.found.load(Ordering::Relaxed);
        found != 0 && found != changed
    }
}

/// Only where it differs: a store would take the cache line from the other queues each time.
fn set(place: &AtomicU32, value: u32) {
    if place.load(Ordering::Relaxed) != value {
        place.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_told_until_the_guest_changes_it() {
        let told = Told::new();
        assert!(!told.may_differ(4), "nothing is believed");
        told.tell_len(5);
        assert!(told.may_differ(4) && !told.may_differ(5));
        told.untell();
        assert!(!told.may_differ(4));
    }

    #[test]
    fn a_length_that_is_news_is_believed_when_it_is_told_again() {
        let told = Told::new();
        told.tell_len(5);
        told.tell_len(6);
        assert!(told.may_differ(6) && told.may_differ(5));
        told.tell_len(6);
        assert!(!told.may_differ(6) && told.may_differ(5));
        told.untell();
        told.tell_len(7);
        assert!(!told.may_differ(7));
    }

    #[test]
    fn a_file_is_doubted_until_it_is_told_late_enough() {
        let told = Told::new();
        told.tell_len(5);
        assert!(!told.is_doubted());
        told.tell_len(6);
        told.tell_len(6);
        assert!(told.is_doubted() && !told.may_differ(6), "what was told before may come later");
        let since = told.doubted.load(Ordering::Relaxed);
        let handled = u32::try_from(REPLY_HANDLED_WITHIN.as_millis()).unwrap();
        told.believe(since.wrapping_add(handled - 1));
        assert!(told.is_doubted());
        told.believe(since.wrapping_add(handled));
        assert!(!told.is_doubted());
    }

    #[test]
    fn a_file_found_by_another_name_is_distrusted_while_its_change_is_recent() {
        let told = Told::new();
        let (one, other) = (name_mark(1, 7), name_mark(2, 7));
        told.find_by(one, || panic!("there was no name before"));
        told.find_by(one, || panic!("it is the same name"));
        assert_ne!(one, other);
        told.find_by(other, || false);
        assert!(!told.has_several_names());
        told.find_by(one, || true);
        told.find_by(one, || true);
        assert!(told.has_several_names(), "the other name may still be trusted");
        told.find_by(one, || false);
        assert!(!told.has_several_names());
    }

    #[test]
    fn what_the_guest_does_to_a_file_is_not_taken_for_what_others_do() {
        let told = Told::new();
        assert!(!told.was_changed(4), "it was never looked up");
        set(&told.found, 4);
        assert!(told.was_changed(5) && !told.was_changed(4));
        told.untell();
        assert!(told.is_changed() && !told.was_changed(5));
    }
}
