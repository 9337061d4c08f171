//! The waits of a queue thread for the guest. The thread polls the ring, then sleeps until the
//! guest kicks or the thread must stop. A sleep is one system call.

use super::split_ring::RingError;
use crate::sync::clock;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The sleep of a queue thread.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: OwnedFd,
    stop: Arc<StopSignal>,
}

impl Sleep {
    /// Makes a sleep that kicks on `kick` and `stop` end.
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
        Ok(Self { epoll, stop })
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
                // The time may be over.
                Err(Errno::INTR) if until.is_some() => return Ok(!self.is_over()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(RingError::Kick(error.into())),
            }
        }
    }
}

/// Weight of the past in the average of gaps, in quarters.
const PAST: u32 = 3;
/// Largest gap that counts, in budgets. So one pause ends polling, and a few quick requests begin
/// it again.
const GAP_MAX: u32 = 8;

/// Decides whether a queue thread polls its ring before it sleeps.
///
/// A guest that waits for each reply sends its next request soon after it. A thread that still
/// polls then saves the guest's kick and its own sleep. It polls only while requests have lately
/// come within its budget of time. If it finds nothing in that time, it sleeps, and does not poll
/// again before several requests have come quickly: if guest and thread share a processor, polling
/// delays the request that it waits for.
#[derive(Debug)]
pub(super) struct Poller {
    /// Time for which to poll. Zero: never.
    budget: Duration,
    /// The average time between an empty ring and the next request.
    average: Duration,
    drained: Option<Instant>,
}

impl Poller {
    /// Makes a poller that polls for at most `budget`.
    pub(super) const fn new(budget: Duration) -> Self {
        Self { budget, average: budget.saturating_mul(GAP_MAX), drained: None }
    }

    /// Notes that the ring is empty. Returns the end of polling, or `None` if polling is not worth
    /// it.
    pub(super) fn drained(&mut self) -> Option<Instant> {
        if self.budget.is_zero() {
            return None;
        }
        let now = clock::now();
        self.drained = Some(now);
        if self.average > self.budget { None } else { now.checked_add(self.budget) }
    }

    /// Notes that a request has come.
    pub(super) fn came(&mut self) {
        if let Some(drained) = self.drained.take() {
            self.learn(clock::elapsed(drained));
        }
    }

    /// Notes that no request came in time.
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
    fn a_stop_ends_every_sleep() {
        let (kick, stop) = (kick(), Arc::new(StopSignal::new().unwrap()));
        let sleep = Sleep::new(&kick, Arc::clone(&stop)).unwrap();
        stop.request();
        for _ in 0..2 {
            assert!(!sleep.until_kicked(None).unwrap());
        }
    }

    const BUDGET: Duration = Duration::from_micros(50);

    #[test]
    fn polling_begins_when_requests_come_quickly() {
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
    fn a_poll_without_a_request_is_not_repeated_at_once() {
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
    fn one_long_pause_ends_polling() {
        let mut poller = Poller::new(BUDGET);
        for _ in 0..100 {
            poller.learn(BUDGET / 4);
        }
        assert!(poller.drained().is_some());
        poller.learn(Duration::from_secs(1));
        assert!(poller.drained().is_none());
    }

    #[test]
    fn slow_requests_are_not_polled_for() {
        let mut poller = Poller::new(BUDGET);
        for _ in 0..100 {
            poller.learn(BUDGET * 2);
        }
        assert!(poller.drained().is_none());
    }

    #[test]
    fn without_a_budget_there_is_no_polling() {
        let mut poller = Poller::new(Duration::ZERO);
        for _ in 0..10 {
            assert!(poller.drained().is_none());
            poller.came();
        }
    }
}
