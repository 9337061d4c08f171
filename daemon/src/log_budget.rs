//! Limits the log lines that a guest can cause.
//!
//! Each line comes from a [`Source`]. There is a source for each kind of error of each queue, and
//! for each other place where a guest can cause a line. A source backs off: its first line passes
//! at once, the next line at least a second later, then a minute, then an hour ([`LOG_BACK_OFF`]).
//! All sources share one budget of the process ([`LOG_LINES_BURST`], [`LOG_LINE_PERIOD`]). Lines
//! that do not pass are counted, and the next line of the source reports their number.

use crate::limits::{LOG_BACK_OFF, LOG_LINE_PERIOD, LOG_LINES_BURST};
use crate::sync::clock;
use crate::sync::lock::Mutex;
use std::time::{Duration, Instant};

/// The budget of this process.
static BUDGET: LineBudget = LineBudget::new();

/// Number of lines of all sources that may pass now.
#[derive(Debug)]
struct LineBudget(Mutex<Option<Lines>>);

#[derive(Clone, Copy, Debug)]
struct Lines {
    left: u32,
    /// Time at which the last line was added.
    added: Instant,
}

impl LineBudget {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Takes one line if one is left.
    fn take(&self, now: Instant) -> bool {
        let mut lines = self.0.lock();
        let Lines { left, added } = lines.unwrap_or(Lines { left: LOG_LINES_BURST, added: now });
        let periods = now.saturating_duration_since(added).as_secs() / LOG_LINE_PERIOD.as_secs().max(1);
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        let filled = left.saturating_add(periods).min(LOG_LINES_BURST);
        let passed = LOG_LINE_PERIOD.checked_mul(periods).and_then(|passed| added.checked_add(passed));
        *lines = Some(Lines { left: filled.saturating_sub(1), added: passed.unwrap_or(now) });
        filled > 0
    }
}

/// One place in the code that writes lines.
#[derive(Debug)]
pub struct Source {
    /// The shortest times between the first line and the second, the second and the third, and so
    /// on. The last one repeats.
    back_off: &'static [Duration],
    past: Mutex<Past>,
}

#[derive(Debug)]
struct Past {
    /// Number of lines that have passed since the source was last quiet.
    passed: usize,
    last_passed: Option<Instant>,
    last_tried: Option<Instant>,
    suppressed: u64,
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}

impl Source {
    /// Makes a source that backs off.
    pub const fn new() -> Self {
        Self::with(&LOG_BACK_OFF)
    }

    /// Makes a source that only the budget of the process limits, for events of a connection. An
    /// operator needs each of these lines.
    pub const fn of_news() -> Self {
        Self::with(&[])
    }

    const fn with(back_off: &'static [Duration]) -> Self {
        let past = Past { passed: 0, last_passed: None, last_tried: None, suppressed: 0 };
        Self { back_off, past: Mutex::new(past) }
    }

    /// Asks for one line. Returns the number of suppressed lines since the last line that passed.
    /// `None`: this line does not pass either.
    pub fn pass(&self) -> Option<u64> {
        let now = clock::now();
        self.past.lock().pass(self.back_off, &BUDGET, now)
    }

    /// Does the same as [`Source::pass`] without waiting, for a panic hook: the panicking thread
    /// may hold the lock.
    pub fn try_pass(&self) -> Option<u64> {
        let now = clock::now();
        self.past.try_lock()?.pass(self.back_off, &BUDGET, now)
    }
}

impl Past {
    fn pass(&mut self, back_off: &[Duration], budget: &LineBudget, now: Instant) -> Option<u64> {
        let longest = back_off.last().copied().unwrap_or_default();
        let since = |moment: Option<Instant>| moment.map(|moment| now.saturating_duration_since(moment));
        if since(self.last_tried).is_some_and(|quiet| quiet > longest) {
            self.passed = 0;
        }
        self.last_tried = Some(now);
        let wait = self.passed.checked_sub(1).map(|step| back_off.get(step).copied().unwrap_or(longest));
        let is_early = since(self.last_passed).zip(wait).is_some_and(|(passed, wait)| passed < wait);
        if is_early || !budget.take(now) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.passed = self.passed.saturating_add(1);
        self.last_passed = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_LINE_LEN_MAX;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    /// A source with a clock of its own, and a budget for it alone.
    struct Clock {
        source: Source,
        budget: LineBudget,
        began: Instant,
    }

    impl Clock {
        fn new(source: Source) -> Self {
            Self { source, budget: LineBudget::new(), began: clock::now() }
        }

        fn pass(&self, at: Duration) -> Option<u64> {
            let mut past = self.source.past.lock();
            past.pass(self.source.back_off, &self.budget, self.began + at)
        }
    }

    #[test]
    fn a_source_backs_off_to_one_line_an_hour() {
        let clock = Clock::new(Source::new());
        let passed: Vec<_> = (0..3 * 3600)
            .filter_map(|second| clock.pass(second * SECOND).map(|suppressed| (second, suppressed)))
            .collect();
        assert_eq!(passed, [(0, 0), (1, 0), (61, 59), (3661, 3599), (7261, 3599)]);
    }

    #[test]
    fn lines_within_the_first_second_are_counted() {
        let clock = Clock::new(Source::new());
        let passed: Vec<_> = (0..=10).map(|tenth| clock.pass(tenth * SECOND / 10)).collect();
        assert_eq!((passed[0], passed[10]), (Some(0), Some(9)));
        assert!(passed[1..10].iter().all(Option::is_none), "{passed:?}");
    }

    #[test]
    fn a_source_that_was_quiet_for_an_hour_begins_anew() {
        let clock = Clock::new(Source::new());
        assert_eq!(clock.pass(Duration::ZERO), Some(0));
        assert_eq!(clock.pass(SECOND), Some(0));
        assert_eq!(clock.pass(2 * SECOND), None);
        // Exactly an hour does not count as quiet: that would allow three lines an hour, not one.
        assert_eq!(clock.pass(2 * SECOND + HOUR), Some(1));
        assert_eq!(clock.pass(3 * SECOND + HOUR), None);
        let later = 3 * SECOND + 2 * HOUR + SECOND;
        assert_eq!(clock.pass(later), Some(1));
        assert_eq!(clock.pass(later + SECOND), Some(0));
    }

    #[test]
    fn a_budget_that_is_used_up_fills_by_the_period() {
        let clock = Clock::new(Source::of_news());
        let burst = (0..2 * LOG_LINES_BURST).filter(|_| clock.pass(Duration::ZERO).is_some()).count();
        assert_eq!(burst, usize::try_from(LOG_LINES_BURST).unwrap());
        assert_eq!(clock.pass(SECOND), None);
        assert_eq!(clock.pass(LOG_LINE_PERIOD), Some(u64::from(LOG_LINES_BURST) + 1));
        assert_eq!(clock.pass(LOG_LINE_PERIOD + SECOND), None);
        // The budget never exceeds a burst.
        let much_later = 1000 * HOUR;
        let burst = (0..2 * LOG_LINES_BURST).filter(|_| clock.pass(much_later).is_some()).count();
        assert_eq!(burst, usize::try_from(LOG_LINES_BURST).unwrap());
    }

    /// Every queue of the largest device has both kinds of errors ten times a second for a day.
    #[test]
    fn hostile_guest_adds_under_half_a_megabyte_a_day() {
        const QUEUES: usize = 64;
        let (budget, began) = (LineBudget::new(), clock::now());
        let sources: Vec<Source> = (0..2 * QUEUES).map(|_| Source::new()).collect();
        let mut lines = 0;
        for tenth in 0..24 * 3600 * 10 {
            let now = began + tenth * SECOND / 10;
            // Each source once a second, in turn.
            for source in sources.iter().skip(usize::try_from(tenth % 10).unwrap()).step_by(10) {
                let passed = source.past.lock().pass(source.back_off, &budget, now);
                lines += usize::from(passed.is_some());
            }
        }
        let bytes = lines * LOG_LINE_LEN_MAX;
        println!("{lines} lines, at most {bytes} bytes a day");
        assert!(lines > 100 && bytes < 500_000, "{lines} lines, {bytes} bytes");
        assert!(MINUTE < HOUR);
    }
}
