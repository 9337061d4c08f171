//! Whether a worker should look at its ring a little longer before it sleeps.
//!
//! A guest that waits for each answer sends its next request soon after it: the worker that still looks then saves
//! the guest's kick and its own sleep. It does so only while requests have lately come within the time that it may
//! look. One that finds nothing gives up after that time and sleeps, and does not look again before several requests
//! have come quickly: where guest and worker share a processor, looking keeps away what it looks for.

use crate::sync::clock;
use std::time::{Duration, Instant};

/// Weight of the past in the average of gaps, in quarters.
const PAST: u32 = 3;
/// A longer gap counts as so many budgets: enough that a pause ends looking, and a few quick requests begin it again.
const GAP_MAX: u32 = 8;

/// What one worker knows of its guest's pauses.
#[derive(Debug)]
pub(super) struct Poller {
    /// How long to look; zero: never.
    budget: Duration,
    /// Between an empty ring and the next request.
    average: Duration,
    drained: Option<Instant>,
}

impl Poller {
    /// One that looks for at most `budget`.
    pub(super) const fn new(budget: Duration) -> Self {
        Self { budget, average: budget.saturating_mul(GAP_MAX), drained: None }
    }

    /// The ring is empty: until when to look for more, if at all.
    pub(super) fn drained(&mut self) -> Option<Instant> {
        if self.budget.is_zero() {
            return None;
        }
        let now = clock::now();
        self.drained = Some(now);
        if self.average > self.budget { None } else { now.checked_add(self.budget) }
    }

    /// A request has come.
    pub(super) fn came(&mut self) {
        if let Some(drained) = self.drained.take() {
            self.learn(clock::elapsed(drained));
        }
    }

    /// Nothing was found in time.
    pub(super) fn missed(&mut self) {
        self.average = self.budget.saturating_mul(GAP_MAX);
    }

    fn learn(&mut self, gap: Duration) {
        let gap = gap.min(self.budget.saturating_mul(GAP_MAX));
        self.average = self.average.saturating_mul(PAST).saturating_add(gap) / PAST.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    #[test]
    fn it_looks_once_requests_come_quickly_and_not_before() {
        let mut poller = Poller::new(BUDGET);
        assert!(poller.drained().is_none());
        let mut quick = 0;
        while poller.drained().is_none() {
            poller.learn(BUDGET / 4);
            quick += 1;
        }
        assert!((3..20).contains(&quick), "{quick}");
    }

    #[test]
    fn looking_in_vain_is_not_repeated_at_once() {
        let mut poller = Poller::new(BUDGET);
        for _ in 0..100 {
            poller.learn(Duration::ZERO);
        }
        assert!(poller.drained().is_some());
        poller.missed();
        let mut quick = 0;
        while poller.drained().is_none() {
            poller.learn(Duration::ZERO);
            quick += 1;
        }
        assert!((5..20).contains(&quick), "{quick}");
    }

    #[test]
    fn one_long_pause_ends_it() {
        let mut poller = Poller::new(BUDGET);
        for _ in 0..100 {
            poller.learn(BUDGET / 4);
        }
        assert!(poller.drained().is_some());
        poller.learn(Duration::from_secs(1));
        assert!(poller.drained().is_none());
    }

    #[test]
    fn requests_that_come_too_late_are_not_looked_for() {
        let mut poller = Poller::new(BUDGET);
        for _ in 0..100 {
            poller.learn(BUDGET * 2);
        }
        assert!(poller.drained().is_none());
    }

    #[test]
    fn without_a_budget_nothing_is_looked_for() {
        let mut poller = Poller::new(Duration::ZERO);
        for _ in 0..10 {
            assert!(poller.drained().is_none());
            poller.came();
        }
    }
}
