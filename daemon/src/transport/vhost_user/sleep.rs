//! The waits of a queue thread for the guest. The thread polls the ring, then sleeps until the
//! guest kicks or the thread must stop. A sleep is one system call.

use super::split_ring::RingError;
use crate::limits::NAP_MAX;
use crate::sync::{clock, relay};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Tells a queue thread to stop after its current request.
#[derive(Debug)]
pub(super) struct StopSignal {
    requested: AtomicBool,
    event: OwnedFd,
}

impl StopSignal {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { requested: AtomicBool::new(false), event: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    pub(super) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        if let Err(error) = raise(&self.event) {
            tracing::error!(%error, "cannot tell a queue thread to stop");
        }
    }

    pub(super) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

/// Adds to the counter of an eventfd. The host reads the number in its own byte order, and 1 is
/// above 0 in any byte order.
pub(super) fn raise(event: impl AsFd) -> io::Result<()> {
    match rustix::io::write(event, &1u64.to_le_bytes()) {
        // A full counter is already readable.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The event that interrupts the guest.
///
/// The front-end may replace it while a queue thread raises it. Then the queue thread is the last
/// to use it, and another thread closes it.
#[derive(Debug)]
pub(super) struct CallEvent(Option<File>);

impl CallEvent {
    pub(super) const fn new(event: File) -> Self {
        Self(Some(event))
    }

    pub(super) fn raise(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), raise)
    }
}

impl Drop for CallEvent {
    fn drop(&mut self) {
        relay::dispose(self.0.take());
    }
}

/// The sleep of a queue thread. Its waits do not read the clock, and the kernel does not restart
/// them with the remaining time after an interruption, so the filter needs no call for either.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: OwnedFd,
    /// Has only the event of `stop`.
    nap: OwnedFd,
    stop: Arc<StopSignal>,
}

impl Sleep {
    /// Makes a sleep that ends at a kick through `kick`, or at `stop`.
    pub(super) fn new(kick: &File, stop: Arc<StopSignal>) -> io::Result<Self> {
        // Edge-triggered: each kick wakes once, although the thread does not read the event's
        // counter. The counter is read only here: it may be full, and a kick that does not fit is
        // lost. The poll keeps the read from blocking: the front-end can make the event blocking.
        let mut polled = [PollFd::new(kick, PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&Timespec::default()))? > 0 {
            match rustix::io::read(kick, &mut [0; 8]) {
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, kick, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &stop.event, EventData::new_u64(1), EventFlags::IN)?;
        let nap = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&nap, &stop.event, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self { epoll, nap, stop })
    }

    /// Returns whether the queue thread must stop.
    pub(super) fn is_over(&self) -> bool {
        self.stop.requested()
    }

    /// Sleeps until the guest kicks, the time `until` has come or the thread must stop. A kick
    /// since the last sleep ends it at once. Returns false if the thread must stop.
    pub(super) fn until_kicked(&self, until: Option<Instant>) -> Result<bool, RingError> {
        let left = until.map(|until| until.saturating_duration_since(clock::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        loop {
            match epoll::wait(&self.epoll, &mut events, left.as_ref()) {
                Ok(_) => return Ok(!self.is_over()),
                // The time `until` may have come.
                Err(Errno::INTR) if until.is_some() => return Ok(!self.is_over()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(RingError::Kick(error.into())),
            }
        }
    }

    /// Sleeps for this time, but not for longer than [`NAP_MAX`], or until the thread must stop. No
    /// kick ends it.
    ///
    /// Returns early if a signal interrupts it. A guest cannot cause that.
    pub(super) fn nap(&self, time: Duration) {
        let Ok(time) = Timespec::try_from(time.min(NAP_MAX)) else { return };
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 1];
        // Ignore the result: the thread checks what it waits for.
        epoll::wait(&self.nap, &mut events, Some(&time)).unwrap_or_default();
    }
}

/// Iterations that [`PollBudget::measured`] measures at once.
const MEASURED_SPINS: u32 = 500;
/// Number of measurements, of which the fastest counts: an interruption only makes one slower.
const MEASUREMENTS: u32 = 5;

/// Number of times that a queue thread looks at its ring before it sleeps. Zero: it does not poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollBudget(u32);

impl PollBudget {
    /// No polling.
    pub const NONE: Self = Self(0);

    /// Returns the number of looks that take about `time`, by a measurement on this host. A queue
    /// thread counts its looks, because it does not read the clock.
    pub fn measured(time: Duration) -> Self {
        if time.is_zero() {
            return Self::NONE;
        }
        let ring = AtomicU32::new(0);
        let measure = || {
            let began = clock::now();
            for _ in 0..MEASURED_SPINS {
                std::hint::black_box(ring.load(Ordering::Acquire));
                std::hint::spin_loop();
            }
            clock::elapsed(began)
        };
        let fastest = (0..MEASUREMENTS).map(|_| measure()).min().unwrap_or_default();
        let looks = time.as_nanos().saturating_mul(MEASURED_SPINS.into()) / fastest.as_nanos().max(1);
        Self(u32::try_from(looks).unwrap_or(u32::MAX).max(1))
    }
}

/// Largest number of doublings of the pause between two polls: 64 requests.
const MISSES_MAX: u32 = 6;

/// Decides whether a queue thread polls its ring before it sleeps.
///
/// A guest that waits for each reply sends its next request soon after it. A thread that still
/// polls then saves the guest's kick and its own sleep. If it finds nothing, it sleeps, and lets
/// some requests pass before it polls again: after each further failure twice as many, after each
/// success half as many. So a thread that shares a processor with its guest, where polling delays
/// the request that it waits for, polls for one request in 65.
#[derive(Debug)]
pub(super) struct Poller {
    budget: PollBudget,
    /// Polls without a request, less those with one: 0 to [`MISSES_MAX`].
    misses: u32,
    /// Requests to let pass before the next poll.
    pass: u32,
}

impl Poller {
    /// Makes a poller that polls for at most `budget`.
    pub(super) const fn new(budget: PollBudget) -> Self {
        Self { budget, misses: 0, pass: 0 }
    }

    /// Notes that the ring is empty. Returns how often to look at it, or `None` if polling is not
    /// worth it.
    pub(super) fn drained(&mut self) -> Option<u32> {
        let next = self.pass.checked_sub(1);
        self.pass = next.unwrap_or(0);
        (next.is_none() && self.budget.0 > 0).then_some(self.budget.0)
    }

    /// Notes that a request came while the thread polled.
    pub(super) fn found(&mut self) {
        self.misses = self.misses.saturating_sub(1);
    }

    /// Notes that no request came in time.
    pub(super) fn missed(&mut self) {
        self.misses = self.misses.saturating_add(1).min(MISSES_MAX);
        self.pass = 1 << self.misses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kick() -> File {
        eventfd(0, EventfdFlags::NONBLOCK).unwrap().into()
    }

    #[test]
    fn every_kick_wakes_once_without_a_read() {
        let kick = kick();
        let sleep = Sleep::new(&kick, Arc::new(StopSignal::new().unwrap())).unwrap();
        for _ in 0..1000 {
            raise(&kick).unwrap();
            assert!(sleep.until_kicked(None).unwrap());
        }
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(epoll::wait(&sleep.epoll, &mut events, Some(&now)).unwrap(), 0, "a kick wakes once");
    }

    #[test]
    fn a_full_event_takes_kicks_again() {
        let kick = kick();
        // The largest number that the counter holds on a little-endian host. No host accepts
        // u64::MAX.
        rustix::io::write(&kick, &(u64::MAX - 1).to_le_bytes()).unwrap();
        assert_eq!(rustix::io::write(&kick, &1u64.to_le_bytes()), Err(Errno::AGAIN));
        let sleep = Sleep::new(&kick, Arc::new(StopSignal::new().unwrap())).unwrap();
        for _ in 0..2 {
            rustix::io::write(&kick, &1u64.to_le_bytes()).unwrap();
            assert!(sleep.until_kicked(None).unwrap());
        }
    }

    #[test]
    fn a_sleep_for_a_time_ends_without_a_kick() {
        let (kick, stop) = (kick(), Arc::new(StopSignal::new().unwrap()));
        let sleep = Sleep::new(&kick, Arc::clone(&stop)).unwrap();
        let until = clock::now() + Duration::from_millis(5);
        while clock::now() < until {
            assert!(sleep.until_kicked(Some(until)).unwrap());
        }
    }

    #[test]
    fn no_kick_ends_a_nap() {
        let kick = kick();
        let sleep = Sleep::new(&kick, Arc::new(StopSignal::new().unwrap())).unwrap();
        let (began, time) = (clock::now(), Duration::from_millis(5));
        raise(&kick).unwrap();
        sleep.nap(time);
        assert!(clock::elapsed(began) >= time);
        assert!(sleep.until_kicked(None).unwrap());
    }

    #[test]
    fn a_stop_ends_every_sleep() {
        let (kick, stop) = (kick(), Arc::new(StopSignal::new().unwrap()));
        let sleep = Sleep::new(&kick, Arc::clone(&stop)).unwrap();
        stop.request();
        for _ in 0..2 {
            assert!(!sleep.until_kicked(None).unwrap());
            sleep.nap(Duration::from_hours(1));
        }
    }

    fn poller() -> Poller {
        Poller::new(PollBudget(100))
    }

    #[test]
    fn quick_requests_are_polled_for_without_a_pause() {
        let mut poller = poller();
        for _ in 0..100 {
            assert_eq!(poller.drained(), Some(100));
            poller.found();
        }
    }

    #[test]
    fn a_poll_without_a_request_is_not_repeated_at_once() {
        let mut poller = poller();
        assert!(poller.drained().is_some());
        poller.missed();
        assert!([poller.drained(), poller.drained()].iter().all(Option::is_none));
        assert!(poller.drained().is_some());
    }

    #[test]
    fn slow_requests_are_seldom_polled_for() {
        let mut poller = poller();
        let mut polls = 0;
        for _ in 0..10_000 {
            if poller.drained().is_some() {
                poller.missed();
                polls += 1;
            }
        }
        assert!((100..200).contains(&polls), "{polls}");
    }

    #[test]
    fn polling_begins_again_when_requests_come_quickly() {
        let mut poller = poller();
        for _ in 0..100 {
            if poller.drained().is_some() {
                poller.missed();
            }
        }
        let slept = (0..1000)
            .filter(|_| {
                let is_asleep = poller.drained().is_none();
                if !is_asleep {
                    poller.found();
                }
                is_asleep
            })
            .count();
        assert!(slept <= 1 << MISSES_MAX, "{slept}");
    }

    #[test]
    fn without_a_budget_there_is_no_polling() {
        assert_eq!(PollBudget::measured(Duration::ZERO), PollBudget(0));
        let mut poller = Poller::new(PollBudget(0));
        assert!((0..10).all(|_| poller.drained().is_none()));
    }

    #[test]
    fn a_budget_grows_with_its_time() {
        let [short, long] = [1, 1000].map(|us| PollBudget::measured(Duration::from_micros(us)).0);
        assert!(short >= 1 && long >= 10 * short, "{short}, {long}");
    }
}
