//! Requests of a queue that wait for another process of the host to give up its lease on a file
//! (`F_SETLEASE` of fcntl(2)), which may take 45 seconds.
//!
//! The first attempt, which did not wait, has made the host tell that process. The host does not
//! announce that the lease is gone, so the queue thread tries again from time to time, each time as
//! if the request had just come. Such a request holds no thread and no guest memory, and no part of
//! it was carried out.

use super::request::QueueRequest;
use super::split_ring::RingPlace;
use crate::limits::{LEASE_RETRY_MAX, LEASE_RETRY_MIN, LEASE_WAIT_MAX, LEASED_REQUESTS_MAX};
use crate::sync::clock;
use std::time::{Duration, Instant};

/// The requests of one queue that wait for leases.
#[derive(Debug, Default)]
pub(super) struct Leases(Vec<LeaseWait>);

/// A request that waits for a lease.
#[derive(Debug)]
pub(super) struct LeaseWait {
    pub(super) request: QueueRequest,
    /// Its place in the available ring.
    pub(super) place: RingPlace,
    pub(super) since: Instant,
    /// Time at which to try it again.
    pub(super) due: Instant,
}

impl LeaseWait {
    /// Makes a wait for a request that was just tried for the first time.
    pub(super) fn new(request: QueueRequest, place: RingPlace) -> Self {
        let since = clock::now();
        Self { request, place, since, due: later(since, LEASE_RETRY_MIN) }
    }

    /// Returns whether the request has waited for as long as it may.
    pub(super) fn is_over(&self) -> bool {
        clock::elapsed(self.since) >= LEASE_WAIT_MAX
    }
}

impl Leases {
    /// Returns whether one more request may wait in a queue that has `room` for such requests.
    pub(super) fn have_room(&self, room: usize) -> bool {
        self.0.len() < room.min(LEASED_REQUESTS_MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the time at which to try the next request.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|wait| wait.due).min()
    }

    pub(super) fn add(&mut self, wait: LeaseWait) {
        self.0.push(wait);
    }

    /// Takes a request that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<LeaseWait> {
        let at = self.0.iter().position(|wait| wait.due <= now)?;
        Some(self.0.remove(at))
    }

    /// Adds a request again that was tried without success.
    pub(super) fn put_back(&mut self, wait: LeaseWait) {
        let now = clock::now();
        let due = later(now, pause(now.saturating_duration_since(wait.since)));
        self.add(LeaseWait { due, ..wait });
    }

    /// Takes all requests, due or not.
    pub(super) fn take_all(&mut self) -> Vec<LeaseWait> {
        std::mem::take(&mut self.0)
    }
}

/// Returns the pause before the next attempt, from how long the request has waited.
fn pause(waited: Duration) -> Duration {
    (waited / 4).clamp(LEASE_RETRY_MIN, LEASE_RETRY_MAX)
}

fn later(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_requests_are_tried_less_and_less_often() {
        let ms = Duration::from_millis;
        for (waited, paused) in
            [(0, LEASE_RETRY_MIN), (40, ms(10)), (200, LEASE_RETRY_MAX), (45_000, LEASE_RETRY_MAX)]
        {
            assert_eq!(pause(ms(waited)), paused, "{waited}");
        }
    }

    #[test]
    fn each_request_is_due_once_and_room_is_bounded() {
        let mut leases = Leases::default();
        assert!(leases.next().is_none());
        for head in 0..u16::try_from(LEASED_REQUESTS_MAX).unwrap() {
            assert!(leases.have_room(usize::MAX));
            leases.add(LeaseWait::new(QueueRequest::default(), RingPlace { head, number: 0 }));
        }
        assert!(!leases.have_room(usize::MAX));
        let now = clock::now() + LEASE_RETRY_MAX;
        let heads: Vec<_> = std::iter::from_fn(|| leases.take_due(now)).map(|wait| wait.place.head).collect();
        assert_eq!(heads, (0..64).collect::<Vec<_>>());
        assert!(leases.have_room(1) && !leases.have_room(0));
    }
}
