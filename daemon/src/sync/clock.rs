//! The clocks of the daemon. Some threads do not read them: another thread tells them the time. A
//! unit test can advance the monotonic clock.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

thread_local! {
    /// Returns the time, for a thread that does not read the clock.
    static TELLER: Cell<Option<fn() -> Time>> = const { Cell::new(None) };
}

/// The time of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) monotonic: Instant,
    /// The time of day.
    pub(super) wall: SystemTime,
}

/// Makes `teller` tell the calling thread the time from now on. A time may be a little old.
pub(super) fn use_here(teller: fn() -> Time) {
    TELLER.set(Some(teller));
}

/// Returns the time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Instant {
    let now = TELLER.get().map_or_else(Instant::now, |teller| teller().monotonic);
    #[cfg(test)]
    let now = now.checked_add(tests::ADVANCED.get()).unwrap_or(now);
    now
}

/// Returns the time of day.
pub(crate) fn wall() -> SystemTime {
    TELLER.get().map_or_else(SystemTime::now, |teller| teller().wall)
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
    fn a_thread_can_be_told_the_time() {
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
