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
    /// Those in the pool that have not begun. They use no memory: a change of it does not wait for them.
    queued: usize,
    /// Those that wait for a lock or for the front-end, without memory.
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

/// What a request does outside its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for a thread of the pool.
    Queued,
    /// It is being carried out, with this memory.
    Begun(Era),
    /// It waits for a lock or for the front-end.
    Aside,
}

impl Backlog {
    pub(super) const fn is_empty(&self) -> bool {
        self.queued == 0 && self.aside == 0 && matches!(self.counts, (0, 0))
    }

    /// Those that wait for a lock or for the front-end.
    pub(super) const fn aside(&self) -> usize {
        self.aside
    }

    /// The stage of a request that uses the present memory.
    pub(super) const fn present(&self) -> Stage {
        Stage::Begun(Era(self.present))
    }

    /// One more is at this stage.
    pub(super) const fn enter(&mut self, stage: Stage) {
        let count = self.count(stage);
        *count = count.saturating_add(1);
    }

    /// One of them is gone, or at another stage. True: it was the last one at this stage.
    pub(super) const fn leave(&mut self, stage: Stage) -> bool {
        let count = self.count(stage);
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

    /// Whether a change of memory waits for a request at this stage.
    pub(super) fn is_outdated(&self, stage: Stage) -> bool {
        matches!(stage, Stage::Begun(_)) && stage != self.present()
    }

    const fn count(&mut self, stage: Stage) -> &mut usize {
        match stage {
            Stage::Queued => &mut self.queued,
            Stage::Begun(Era(false)) => &mut self.counts.0,
            Stage::Begun(Era(true)) => &mut self.counts.1,
            Stage::Aside => &mut self.aside,
        }
    }

    /// Whether the pool may be given one more request of this effort. `None`: whether the worker may
    /// take any request.
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
        let before = backlog.present();
        for stage in [Stage::Queued, Stage::Aside, before] {
            backlog.enter(stage);
            assert!(!backlog.is_outdated(stage));
        }
        let ended = backlog.change_memory();
        let after = backlog.present();
        backlog.enter(after);
        assert!(backlog.uses(ended) && backlog.is_outdated(before));
        assert!(![after, Stage::Queued, Stage::Aside].into_iter().any(|stage| backlog.is_outdated(stage)));
        assert!(backlog.leave(before) && !backlog.uses(ended));
        assert!(!backlog.is_empty());
        assert!([after, Stage::Queued, Stage::Aside].into_iter().all(|stage| backlog.leave(stage)));
        assert!(backlog.is_empty());
    }
}
