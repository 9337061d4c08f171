//! Requests of one queue that have left its worker and have not been given back: in the pool, or waiting for a lock or for
//! the front-end.
//!
//! Whoever stops the ring waits for all of them that cannot be put back ([`super::tail`]), and the VMM waits with it. So the
//! pool is given only as many as the host can finish in about a second, by the session's estimate ([`Effort`]); the next long
//! request stays in the available ring until some of them are done. One that may take longer than that (a FALLOCATE of
//! gigabytes) is the last that its queue takes until it is done: then it can be put back between any two of its steps.
//!
//! Requests behind one that is held back wait with it, whatever they ask for: to answer them first would make them later ones
//! that have been answered. They wait about as long as the pool takes for what it was given.

use crate::limits::BACKLOG_TIME_MAX;
use crate::session::Effort;
use std::time::Duration;

/// Those of one queue.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The half of `counts` for those that come now.
    present: bool,
    /// Those that use the guest's memory, from before a change of it and after that.
    counts: (usize, usize),
    /// Those that use no memory: a change of it does not wait for them.
    aside: usize,
    /// Those that were handed to the pool.
    efforts: usize,
    /// How long the host may take for them.
    time: Duration,
    /// One of them may take longer, and is the last.
    is_closed: bool,
    /// The worker waits until one of them is done.
    pub(super) is_awaited: bool,
}

/// The memory that a request uses: that of before the last change or the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(bool);

impl Backlog {
    pub(super) const fn is_empty(&self) -> bool {
        self.aside == 0 && matches!(self.counts, (0, 0))
    }

    /// Those that use no memory.
    pub(super) const fn aside(&self) -> usize {
        self.aside
    }

    /// One more uses the present memory.
    pub(super) const fn enter(&mut self) -> Era {
        let era = Era(self.present);
        let count = self.count(era);
        *count = count.saturating_add(1);
        era
    }

    /// One more waits without memory.
    pub(super) const fn enter_aside(&mut self) {
        self.aside = self.aside.saturating_add(1);
    }

    /// One of them is gone, or uses other memory. True: it was the last such.
    pub(super) const fn leave(&mut self, era: Option<Era>) -> bool {
        let count = match era {
            Some(era) => self.count(era),
            None => &mut self.aside,
        };
        *count = count.saturating_sub(1);
        *count == 0
    }

    /// The memory changes: returns the era that ends.
    pub(super) const fn change_memory(&mut self) -> Era {
        let era = Era(self.present);
        self.present = !self.present;
        era
    }

    /// Whether any uses the memory of that era.
    pub(super) const fn uses(&self, era: Era) -> bool {
        let (before, after) = self.counts;
        (if era.0 { after } else { before }) > 0
    }

    const fn count(&mut self, era: Era) -> &mut usize {
        if era.0 { &mut self.counts.1 } else { &mut self.counts.0 }
    }

    /// Whether the pool may be given one more that takes so long; `None`: whether the worker may take anything at all.
    pub(super) fn has_room(&self, effort: Option<Effort>) -> bool {
        let fits = |effort: Effort| self.time.saturating_add(effort.time()) <= BACKLOG_TIME_MAX;
        !self.is_closed && effort.is_none_or(|effort| self.efforts == 0 || fits(effort))
    }

    /// The pool is given one.
    pub(super) fn begin(&mut self, effort: Effort) {
        self.efforts = self.efforts.saturating_add(1);
        self.time = self.time.saturating_add(effort.time());
        self.is_closed |= effort.is_interruptible();
    }

    /// It has left the pool.
    pub(super) fn end(&mut self, effort: Effort) {
        self.efforts = self.efforts.saturating_sub(1);
        self.time = self.time.saturating_sub(effort.time());
        // No other was taken after it.
        self.is_closed &= !effort.is_interruptible();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LONG_ALLOCATION_LEN;

    fn effort(ms: u64) -> Effort {
        Effort::for_tests(Duration::from_millis(ms), false)
    }

    #[test]
    fn a_queue_is_given_about_a_second_of_work_and_always_something() {
        let mut backlog = Backlog::default();
        let long = effort(5000);
        assert!(backlog.has_room(Some(long)), "an idle pool takes anything");
        backlog.begin(long);
        assert!(!backlog.has_room(Some(effort(1))) && backlog.has_room(None));
        backlog.end(long);
        let mut begun = 0;
        while backlog.has_room(Some(effort(20))) {
            backlog.begin(effort(20));
            begun += 1;
        }
        assert_eq!(begun, 50);
        backlog.end(effort(20));
        assert!(backlog.has_room(Some(effort(20))) && !backlog.has_room(Some(effort(21))));
    }

    #[test]
    fn a_request_that_may_take_longer_is_the_last_until_it_is_done() {
        let mut backlog = Backlog::default();
        let last = Effort::for_tests(Duration::from_nanos(LONG_ALLOCATION_LEN), true);
        backlog.begin(effort(1));
        backlog.begin(last);
        assert!(!backlog.has_room(None) && !backlog.has_room(Some(effort(1))));
        backlog.end(effort(1));
        assert!(!backlog.has_room(None));
        backlog.end(last);
        assert!(backlog.has_room(None));
    }

    #[test]
    fn a_change_of_memory_waits_for_those_before_it_alone() {
        let mut backlog = Backlog::default();
        backlog.enter_aside();
        let before = backlog.enter();
        let ended = backlog.change_memory();
        assert_eq!(before, ended);
        let after = backlog.enter();
        assert!(backlog.uses(ended) && after != ended);
        assert!(backlog.leave(Some(before)) && !backlog.uses(ended));
        assert!(!backlog.is_empty());
        assert!(backlog.leave(Some(after)) && backlog.leave(None) && backlog.is_empty());
    }
}
