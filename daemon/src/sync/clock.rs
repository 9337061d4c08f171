//! The monotonic clock of the daemon, which a unit test can advance.

use std::time::{Duration, Instant};

/// Returns the time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Instant {
    let now = Instant::now();
    #[cfg(test)]
    let now = now.checked_add(tests::ADVANCED.get()).unwrap_or(now);
    now
}

/// Returns the time that has passed since `moment`.
pub(crate) fn elapsed(moment: Instant) -> Duration {
    now().saturating_duration_since(moment)
}

/// Advances the clock of the calling thread.
#[cfg(test)]
pub(crate) fn advance(by: Duration) {
    tests::ADVANCED.set(tests::ADVANCED.get().saturating_add(by));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// How far the clock of this thread is ahead of the host's.
        pub(super) static ADVANCED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn a_test_can_advance_the_clock_of_its_thread() {
        const DAY: Duration = Duration::from_hours(24);
        let before = now();
        advance(DAY);
        assert!(elapsed(before) >= DAY);
        std::thread::scope(|scope| scope.spawn(|| assert!(elapsed(before) < DAY)).join().unwrap());
    }
}
