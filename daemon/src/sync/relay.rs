//! A thread that reads the clock, writes the log and closes descriptors for queue threads.
//!
//! The filter of a queue thread has no call for the first two, and none for the third under the
//! profile `prepared`. Most hosts read the clock without a call, but a host whose clock is not in
//! the vDSO makes one for each time (`docs/decisions/0018-queue-threads-without-a-clock.md`). The
//! thread takes no lock but those of this file, so a queue thread may wait for it while it holds
//! any other lock.
//!
//! A queue thread that needs the time wakes the thread and waits. As long as times are wanted, the
//! thread then publishes the time every [`CLOCK_TICK`], and no queue thread waits.

use super::clock::{self, Time};
use super::lock::{Condvar, Mutex};
use crate::limits::{CLOCK_TICK, CLOCK_TICKS_UNUSED_MAX, RELAYED_LINES_LEN_MAX, RELAYED_LINES_MAX};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The service of this process.
static RELAY: Relay = Relay::new();

/// Function that writes lines to the log.
type LineSink = Mutex<Option<Box<dyn FnMut(Relayed) + Send>>>;

/// A value that is only dropped.
type Disposed = Box<dyn Send>;

/// The log of this process.
static SINK: LineSink = Mutex::new(None);

thread_local! {
    /// The calling thread leaves the clock and the log to the service.
    static IS_SERVED: Cell<bool> = const { Cell::new(false) };
}

/// What queue threads pass to the log.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// A line of this severity, with its end.
    Line(tracing::Level, Vec<u8>),
    /// Number of lines for which there was no room.
    Lost(u64),
}

struct Relay {
    state: Mutex<State>,
    /// Notified when there is work.
    work: Condvar,
    /// Notified when a time was published that a thread waits for.
    told: Condvar,
    published: Published,
    /// The thread publishes the time regularly.
    is_ticking: AtomicBool,
    /// A published time was read since the last tick.
    was_read: AtomicBool,
}

/// A time of both clocks.
struct Published {
    /// Time on the monotonic clock since [`Relay::began`], in nanoseconds.
    monotonic: AtomicU64,
    /// Time since 1970, in nanoseconds.
    wall: AtomicU64,
    /// The beginning of the monotonic clock.
    began: OnceLock<Instant>,
}

/// The state of the service.
///
/// A panic under its lock breaks nothing: any list of lines and any numbers are valid.
struct State {
    is_started: bool,
    /// Number of times that were asked for.
    asked: u64,
    /// Number of those that were published.
    answered: u64,
    lines: VecDeque<Relayed>,
    /// Bytes of `lines`.
    bytes: usize,
    /// Lines that were lost since lines were written last.
    lost: u64,
    /// Values to drop.
    disposed: Vec<Disposed>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Relay").finish_non_exhaustive()
    }
}

/// Makes `write` write the lines of queue threads. Called before the thread is started.
pub(crate) fn write_lines_with(write: impl FnMut(Relayed) + Send + 'static) {
    *SINK.lock() = Some(Box::new(write));
}

/// Starts the thread with `spawn`, which gets its work, unless it was started before.
///
/// # Errors
/// The error of `spawn`. A later call tries again.
pub(crate) fn start<E>(spawn: impl FnOnce(fn()) -> Result<(), E>) -> Result<(), E> {
    if std::mem::replace(&mut RELAY.state.lock().is_started, true) {
        return Ok(());
    }
    RELAY.publish();
    spawn(|| RELAY.serve(&SINK)).inspect_err(|_error| RELAY.state.lock().is_started = false)
}

/// Makes the calling thread leave the clock and the log to the thread, if it was started.
pub(crate) fn use_here() {
    if RELAY.state.lock().is_started {
        IS_SERVED.set(true);
        clock::use_here(|| RELAY.fresh().time());
    }
}

/// Returns whether the calling thread leaves the clock and the log to the thread.
pub(crate) fn is_used() -> bool {
    IS_SERVED.get()
}

/// Adds a line of the log. Past a limit, the line is lost and counted.
pub(crate) fn log(level: tracing::Level, text: Vec<u8>) {
    RELAY.add(level, text);
}

/// Drops a value, which may close a descriptor: here, or on the thread if it serves this one.
pub(crate) fn dispose(value: impl Send + 'static) {
    if is_used() {
        RELAY.state.lock().disposed.push(Box::new(value));
        RELAY.work.notify_one();
    }
}

/// Writes all lines that queue threads have added so far.
pub(crate) fn flush() {
    RELAY.write_lines(&SINK);
}

impl Relay {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                is_started: false,
                asked: 0,
                answered: 0,
                lines: VecDeque::new(),
                bytes: 0,
                lost: 0,
                disposed: Vec::new(),
            }),
            work: Condvar::new(),
            told: Condvar::new(),
            published: Published {
                monotonic: AtomicU64::new(0),
                wall: AtomicU64::new(0),
                began: OnceLock::new(),
            },
            is_ticking: AtomicBool::new(false),
            was_read: AtomicBool::new(false),
        }
    }

    fn add(&self, level: tracing::Level, text: Vec<u8>) {
        let mut state = self.state.lock();
        let bytes = state.bytes.saturating_add(text.len());
        if state.lines.len() >= RELAYED_LINES_MAX || bytes > RELAYED_LINES_LEN_MAX {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        state.bytes = bytes;
        state.lines.push_back(Relayed::Line(level, text));
        drop(state);
        self.work.notify_one();
    }

    /// Returns the published time when it is fresh.
    fn fresh(&self) -> &Published {
        if !self.is_ticking.load(Ordering::Acquire) {
            let mut state = self.state.lock();
            state.asked = state.asked.saturating_add(1);
            let own = state.asked;
            self.work.notify_one();
            drop(self.told.wait_while(state, None, |state| state.answered < own));
        } else if !self.was_read.load(Ordering::Relaxed) {
            // The load comes first: each store would take the cache line from the other queues.
            self.was_read.store(true, Ordering::Relaxed);
        }
        &self.published
    }

    fn publish(&self) {
        let began = *self.published.began.get_or_init(clock::now);
        let wall = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.published.monotonic.store(nanoseconds(clock::elapsed(began)), Ordering::Release);
        self.published.wall.store(nanoseconds(wall), Ordering::Release);
    }

    /// Serves queue threads as long as the process lives.
    fn serve(&self, sink: &LineSink) {
        let mut unused = CLOCK_TICKS_UNUSED_MAX;
        loop {
            let is_idle = |state: &mut State| {
                state.asked == state.answered && state.lines.is_empty() && state.disposed.is_empty()
            };
            let is_ticking = unused < CLOCK_TICKS_UNUSED_MAX;
            let until = if is_ticking { clock::now().checked_add(CLOCK_TICK) } else { None };
            let mut state = self.work.wait_while(self.state.lock(), until, is_idle);
            self.publish();
            let was_asked = state.answered != state.asked;
            state.answered = state.asked;
            let has_lines = !state.lines.is_empty();
            let disposed = std::mem::take(&mut state.disposed);
            let was_read = self.was_read.swap(false, Ordering::Relaxed);
            unused = if was_asked || was_read { 0 } else { unused.saturating_add(1) };
            self.is_ticking.store(unused < CLOCK_TICKS_UNUSED_MAX, Ordering::Release);
            drop(state);
            if was_asked {
                self.told.notify_all();
            }
            drop(disposed);
            if has_lines {
                self.write_lines(sink);
            }
        }
    }

    /// Writes the lines that wait. The lock of the sink is held until they are written, so after
    /// this call no earlier line is left.
    fn write_lines(&self, sink: &LineSink) {
        let mut sink = sink.lock();
        let (lines, lost) = {
            let mut state = self.state.lock();
            state.bytes = 0;
            (std::mem::take(&mut state.lines), std::mem::take(&mut state.lost))
        };
        let lost = (lost > 0).then_some(Relayed::Lost(lost));
        if let Some(write) = &mut *sink {
            lines.into_iter().chain(lost).for_each(write);
        }
    }
}

impl Published {
    fn time(&self) -> Time {
        let monotonic = Duration::from_nanos(self.monotonic.load(Ordering::Acquire));
        let wall = Duration::from_nanos(self.wall.load(Ordering::Acquire));
        let began = *self.began.get_or_init(clock::now);
        Time {
            monotonic: began.checked_add(monotonic).unwrap_or(began),
            wall: SystemTime::UNIX_EPOCH.checked_add(wall).unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::Level;

    /// Starts a service for one test, which never ends. Returns it, and the lines that it writes.
    fn served() -> (&'static Relay, Arc<Mutex<Vec<String>>>) {
        let relay: &Relay = Box::leak(Box::new(Relay::new()));
        let written = Arc::<Mutex<Vec<String>>>::default();
        let sink: &LineSink = Box::leak(Box::new(sink_to(&written)));
        relay.publish();
        std::thread::spawn(|| relay.serve(sink));
        (relay, written)
    }

    fn sink_to(written: &Arc<Mutex<Vec<String>>>) -> LineSink {
        let written = Arc::clone(written);
        Mutex::new(Some(Box::new(move |line| {
            written.lock().push(match line {
                Relayed::Line(level, text) => format!("{level} {}", String::from_utf8(text).unwrap()),
                Relayed::Lost(lines) => format!("lost {lines}"),
            });
        })))
    }

    #[test]
    fn each_time_is_little_older_than_the_request_for_it() {
        const LATE: Duration = Duration::from_secs(10);
        let (relay, _) = served();
        let mut last = clock::now();
        for _ in 0..20 {
            let asked = clock::now();
            let told = relay.fresh().time();
            assert!(told.monotonic >= last && asked.saturating_duration_since(told.monotonic) < LATE);
            last = told.monotonic;
            std::thread::park_timeout(CLOCK_TICK / 2);
        }
        assert!(relay.fresh().time().wall > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn service_sleeps_while_no_thread_asks_for_the_time() {
        let (relay, _) = served();
        relay.fresh();
        let began = clock::now();
        while relay.is_ticking.load(Ordering::Acquire) {
            assert!(clock::elapsed(began) < Duration::from_secs(20));
            std::thread::park_timeout(CLOCK_TICK);
        }
        let before = relay.published.time().monotonic;
        std::thread::park_timeout(CLOCK_TICK * 3);
        assert_eq!(relay.published.time().monotonic, before);
        assert!(relay.fresh().time().monotonic > before);
    }

    #[test]
    fn lines_are_written_in_order_by_the_service() {
        let (relay, written) = served();
        relay.add(Level::WARN, b"first".to_vec());
        relay.add(Level::INFO, b"second".to_vec());
        let began = clock::now();
        while written.lock().len() < 2 {
            assert!(clock::elapsed(began) < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert_eq!(*written.lock(), ["WARN first", "INFO second"]);
    }

    #[test]
    fn lines_without_room_are_counted() {
        let relay = Relay::new();
        let written = Arc::<Mutex<Vec<String>>>::default();
        let sink = sink_to(&written);
        for line in 0..RELAYED_LINES_MAX + 3 {
            relay.add(Level::WARN, line.to_string().into_bytes());
        }
        relay.write_lines(&sink);
        assert_eq!(written.lock().len(), RELAYED_LINES_MAX + 1);
        assert_eq!(written.lock().last().unwrap(), "lost 3");
        relay.add(Level::WARN, vec![b'x'; RELAYED_LINES_LEN_MAX + 1]);
        relay.write_lines(&sink);
        assert_eq!(written.lock().last().unwrap(), "lost 1");
    }
}
