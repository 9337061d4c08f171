//! What the guest takes a file for, so that an open under `--cache auto` finds what was closed before it.
//!
//! Linux drops a file's cached data at each open, but goes on believing the length and the name that it was told, each
//! for its timeout: for that long it would read a file of another guest's to its old end, or open one that has been
//! replaced, moved away or exchanged. The answer to OPEN has no room for attributes. To ESTALE, however, Linux looks the
//! path up once more and opens what is there now ([`super::retries`]). So ESTALE is the answer to the open of a file
//! that is not what the guest takes it for; and never twice to one open: the thread that comes back is let in.

use super::config::CacheMode;
use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::resolve::Stat;
use super::{Answer, Call};
use pinhole_protocol::{Errno, InitFlags, Open};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a guest was last told of a file: marks of it, for there is one for each node.
#[derive(Debug)]
pub(crate) struct Told {
    /// How long it is; see [`mark_of`].
    len: AtomicU32,
    /// [`Stat::changed`] when its name was looked up: a name that is taken from a file changes it. Whatever the guest does to
    /// the file itself makes this unknown (0) until it closes the file.
    found: AtomicU32,
}

/// The mark of no length.
const UNTOLD: u32 = u32::MAX;
/// Beside a mark: the length was told while the guest believed another. Linux drops an answer that was overtaken by a
/// later one, so the guest may still believe the other.
const DOUBTFUL: u32 = 1 << 31;

/// Tells lengths apart, all but one in a billion.
fn mark_of(len: u64) -> u32 {
    const BITS: u32 = 30;
    u32::try_from((len ^ len >> BITS) & ((1 << BITS) - 1)).unwrap_or(0)
}

impl Told {
    pub(crate) const fn new() -> Self {
        Self { len: AtomicU32::new(UNTOLD), found: AtomicU32::new(0) }
    }

    /// The guest has looked the file up.
    pub(crate) fn find(&self, stat: &Stat) {
        self.tell(stat);
        set(&self.found, stat.changed().get());
    }

    /// The guest is told its attributes.
    pub(crate) fn tell(&self, stat: &Stat) {
        self.tell_len(stat.size());
    }

    fn tell_len(&self, len: u64) {
        let (before, mark) = (self.len.load(Ordering::Relaxed), mark_of(len));
        let is_news = before != UNTOLD && before & !DOUBTFUL != mark;
        set(&self.len, if is_news { mark | DOUBTFUL } else { mark });
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
    fn may_differ(&self, len: u64) -> bool {
        let told = self.len.load(Ordering::Relaxed);
        told != UNTOLD && told != mark_of(len)
    }

    /// Whether another may have changed the file since, its names among the rest.
    fn was_changed(&self, changed: u32) -> bool {
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

impl Passthrough {
    /// Whether an open must find what was closed before it. In `strict` the guest believes nothing, in `exclusive` it is
    /// right to. With a writeback cache it believes nobody but itself.
    pub(super) fn is_close_to_open(&self) -> bool {
        self.config.cache == CacheMode::Auto && !self.negotiated(InitFlags::WRITEBACK_CACHE)
    }

    /// Whether a file that is to be opened has to be what the guest takes it for. A thread that was sent back and has come
    /// again is let in.
    pub(super) fn is_to_be_checked(&self, node: &NodeRef, call: &Call<'_, Open>) -> bool {
        !self.retries.settle(call.caller.pid, Some(node.id())) && self.is_close_to_open()
    }

    /// Whether a file is what the guest takes it for.
    ///
    /// # Errors
    /// ESTALE: it has another length, or no name any more, or has been changed by another since it was looked up, who may
    /// have given its name to another file.
    pub(super) fn check_told(&self, node: &NodeRef, stat: &Stat) -> Answer<()> {
        let is_other = node.told.may_differ(stat.size())
            || node.told.was_changed(stat.changed().get())
            || stat.is_deleted();
        if is_other { Err(Errno::ESTALE) } else { Ok(()) }
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
    fn what_the_guest_does_to_a_file_is_not_taken_for_what_others_do() {
        let told = Told::new();
        assert!(!told.was_changed(4), "it was never looked up");
        set(&told.found, 4);
        assert!(told.was_changed(5) && !told.was_changed(4));
        told.untell();
        assert!(told.is_changed() && !told.was_changed(5));
    }
}
