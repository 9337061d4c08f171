//! The clocks of the daemon. Some threads do not read them and use times that another thread has
//! read. A unit test can advance the monotonic clock.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

thread_local! {
    /// Function that returns the time, if this thread does not read the clocks itself.
    static TIME_SOURCE: Cell<Option<fn() -> Time>> = const { Cell::new(None) };
}

/// The time of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) monotonic: Instant,
    /// The time of day.
    pub(super) wall: SystemTime,
}

/// Makes the calling thread take the time from `source` instead of the clocks. A time may be a
/// little old.
pub(super) fn use_here(source: fn() -> Time) {
    TIME_SOURCE.set(Some(source));
}

/// Returns the time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Instant {
    let now = TIME_SOURCE.get().map_or_else(Instant::now, |source| source().monotonic);
    #[cfg(test)]
    let now = now.checked_add(tests::ADVANCED.get()).unwrap_or(now);
    now
}

/// Returns the time of day.
pub(crate) fn wall() -> SystemTime {
    TIME_SOURCE.get().map_or_else(SystemTime::now, |source| source().wall)
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
    use std::sync::OnceLock;

    thread_local! {
        /// How far the clock of this thread is ahead of the host's.
        pub(super) static ADVANCED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn thread_can_take_the_time_from_a_function() {
        static TOLD: OnceLock<Instant> = OnceLock::new();
        let told = TOLD.get_or_init(|| now().checked_add(Duration::from_hours(1)).unwrap());
        let thread = std::thread::spawn(|| {
            let monotonic = *TOLD.get().unwrap();
            use_here(|| Time { monotonic: *TOLD.get().unwrap(), wall: SystemTime::UNIX_EPOCH });
            assert_eq!((now(), wall()), (monotonic, SystemTime::UNIX_EPOCH));
        });
        thread.join().unwrap();
        assert!(now() < *told && wall() > SystemTime::UNIX_EPOCH);
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
