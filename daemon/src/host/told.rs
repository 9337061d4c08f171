//! How long the guest takes a file to be, so that an open under `--cache auto` finds what was closed before it.
//!
//! Linux drops a file's cached data at each open, but goes on believing the length and the name that it was told, each
//! for its timeout: for that long it would read a file of another guest's to its old end, or one that has been
//! replaced. The answer to OPEN has no room for attributes. To ESTALE, however, Linux looks the path up once more and
//! opens what is there now ([`super::retries`]). So ESTALE is the answer to the open of a file that is not what the guest
//! takes it for; and never twice to one open: the thread that comes back is let in.

use super::config::CacheMode;
use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::resolve::Stat;
use super::{Answer, Call};
use pinhole_protocol::{Errno, InitFlags, Open};
use std::sync::atomic::{AtomicU64, Ordering};

/// The length that a guest was last told of a file.
#[derive(Debug)]
pub(crate) struct ToldLen(AtomicU64);

/// No file is so long.
const UNTOLD: u64 = u64::MAX;
/// Beside a length: it was told while the guest believed another. Linux drops an answer that was overtaken by a later
/// one, so the guest may still believe the other.
const DOUBTFUL: u64 = 1 << 63;

impl ToldLen {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(UNTOLD))
    }

    /// The guest is told this length.
    pub(crate) fn tell(&self, len: u64) {
        let before = self.0.load(Ordering::Relaxed);
        let is_news = before != UNTOLD && before & !DOUBTFUL != len;
        self.set(before, if is_news { len | DOUBTFUL } else { len });
    }

    /// The guest itself changes the file, and asks for its length before it believes any.
    pub(crate) fn untell(&self) {
        self.set(self.0.load(Ordering::Relaxed), UNTOLD);
    }

    fn set(&self, before: u64, value: u64) {
        // Only where it differs: a store would take the cache line from the other queues each time.
        if before != value {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    /// Whether the guest may believe another length than this.
    fn may_differ(&self, len: u64) -> bool {
        let told = self.0.load(Ordering::Relaxed);
        told != UNTOLD && told != len
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
    /// ESTALE: it has another length, or no name any more.
    pub(super) fn check_told(&self, node: &NodeRef, stat: &Stat) -> Answer<()> {
        if !node.told_len.may_differ(stat.size()) && !stat.is_deleted() { Ok(()) } else { Err(Errno::ESTALE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_told_until_the_guest_changes_it() {
        let told = ToldLen::new();
        assert!(!told.may_differ(4), "nothing is believed");
        told.tell(5);
        assert!(told.may_differ(4) && !told.may_differ(5));
        told.untell();
        assert!(!told.may_differ(4));
    }

    #[test]
    fn a_length_that_is_news_is_believed_when_it_is_told_again() {
        let told = ToldLen::new();
        told.tell(5);
        told.tell(6);
        assert!(told.may_differ(6) && told.may_differ(5));
        told.tell(6);
        assert!(!told.may_differ(6) && told.may_differ(5));
        told.untell();
        told.tell(7);
        assert!(!told.may_differ(7));
    }
}
