//! How a worker sleeps: until the guest kicks, or until it is told to stop. One system call each time.

use super::split_ring::RingError;
use crate::sync::clock;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tells a worker to end after its current request.
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
            tracing::error!(%error, "cannot tell a worker to stop");
        }
    }

    pub(super) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

/// Adds to an eventfd. Its number has the host's byte order; any order of 1 is a number above 0.
pub(super) fn raise(event: impl AsFd) -> io::Result<()> {
    match rustix::io::write(event, &1u64.to_le_bytes()) {
        // One that is full has not been seen yet; one more says nothing new.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A worker's sleep.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: OwnedFd,
    stop: Arc<StopSignal>,
}

impl Sleep {
    /// A sleep that kicks on `kick` and `stop` end.
    pub(super) fn new(kick: &File, stop: Arc<StopSignal>) -> io::Result<Self> {
        // Edge-triggered: each kick wakes once, although nobody reads the event's number. Only what it has counted
        // until now is taken away, for it may be full, and a kick that does not fit is none.
        let mut count = [0; 8];
        match rustix::io::read(kick, &mut count) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, kick, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &stop.event, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self { epoll, stop })
    }

    /// Whether the worker is to end.
    pub(super) fn is_over(&self) -> bool {
        self.stop.requested()
    }

    /// Sleeps until the guest kicks, or has kicked since the last time, or it is `until` (true), or the worker is to stop
    /// (false).
    pub(super) fn until_kicked(&self, until: Option<Instant>) -> Result<bool, RingError> {
        let left = until.map(|until| until.saturating_duration_since(clock::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        loop {
            match epoll::wait(&self.epoll, &mut events, left.as_ref()) {
                Ok(_) => return Ok(!self.is_over()),
                // Who sleeps for a time looks whether it is over.
                Err(Errno::INTR) if until.is_some() => return Ok(!self.is_over()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(RingError::Kick(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kick() -> File {
        eventfd(0, EventfdFlags::NONBLOCK).unwrap().into()
    }

    #[test]
    fn every_kick_wakes_although_nobody_reads_the_count() {
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
    fn an_event_that_was_left_full_takes_kicks_again() {
        let kick = kick();
        // As much as it holds: u64::MAX - 1 on a little-endian host, and no host takes u64::MAX.
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
        let until = clock::now() + std::time::Duration::from_millis(5);
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
}
