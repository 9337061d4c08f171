//! How fast a guest may go on: a budget that fills by the second.
//!
//! What a request costs is taken after it was served, so that its true size counts and none is too large ever to be
//! served; who has overdrawn waits until the debt is paid before the next. Pure: the time comes from outside.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds that a full budget is worth: one second's allowance may be spent at once.
const BURST: u64 = 1_000_000_000;

/// A budget of so many units a second.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: NonZero<u64>,
    /// The moment at which all that was taken is paid, in nanoseconds since [`BURST`] before the beginning.
    paid: AtomicU64,
}

impl Rate {
    /// A full budget.
    pub(super) const fn new(per_second: NonZero<u64>) -> Self {
        Self { per_second, paid: AtomicU64::new(0) }
    }

    /// Units that are worth one second.
    pub(super) const fn per_second(&self) -> NonZero<u64> {
        self.per_second
    }

    /// Takes units, also where there are none left. `now` is the time since the beginning.
    pub(super) fn take(&self, units: u64, now: Duration) {
        let cost = u128::from(units).saturating_mul(u128::from(BURST)) / u128::from(self.per_second.get());
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        // What was not spent in the last second is lost.
        let full = nanoseconds(now);
        let add = |paid: u64| Some(paid.max(full).saturating_add(cost));
        // The update never declines.
        self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_default();
    }

    /// How long until the budget is no longer overdrawn.
    pub(super) fn owed(&self, now: Duration) -> Duration {
        let now = nanoseconds(now).saturating_add(BURST);
        Duration::from_nanos(self.paid.load(Ordering::Relaxed).saturating_sub(now))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn rate(per_second: u64) -> Rate {
        Rate::new(NonZero::new(per_second).unwrap())
    }

    #[test]
    fn one_seconds_worth_may_be_spent_at_once_and_no_more() {
        let rate = rate(100);
        for _ in 0..100 {
            assert_eq!(rate.owed(at(0)), Duration::ZERO);
            rate.take(1, at(0));
        }
        assert_eq!(rate.owed(at(0)), Duration::ZERO);
        rate.take(1, at(0));
        assert_eq!(rate.owed(at(0)), at(10));
        assert_eq!(rate.owed(at(10)), Duration::ZERO);
    }

    #[test]
    fn what_is_too_large_for_the_budget_is_paid_for_afterwards() {
        let rate = rate(1000);
        rate.take(10_000, at(0));
        assert_eq!(rate.owed(at(0)), at(9000));
        assert_eq!(rate.owed(at(8999)), at(1));
        assert_eq!(rate.owed(at(9000)), Duration::ZERO);
    }

    #[test]
    fn rest_fills_no_more_than_one_second() {
        let rate = rate(10);
        rate.take(20, at(0));
        rate.take(0, at(60_000));
        rate.take(11, at(60_000));
        assert_eq!(rate.owed(at(60_000)), at(100));
    }

    #[test]
    fn over_a_long_time_the_rate_is_what_was_asked_for() {
        let (rate, mut now, mut taken) = (rate(50), Duration::ZERO, 0);
        while now < at(100_000) {
            now += rate.owed(now).max(Duration::from_micros(10));
            rate.take(3, now);
            taken += 3;
        }
        assert!((5000..=5100).contains(&taken), "{taken}");
    }

    #[test]
    fn no_figure_overflows() {
        for (per_second, units) in [(1, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1)] {
            let rate = rate(per_second);
            rate.take(units, Duration::MAX);
            rate.take(units, Duration::ZERO);
            assert!(rate.owed(Duration::ZERO) >= rate.owed(Duration::MAX));
        }
    }
}
