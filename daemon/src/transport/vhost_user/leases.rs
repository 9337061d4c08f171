//! Requests of a queue that wait for another process of the host to give up its lease on a file (`F_SETLEASE` of
//! fcntl(2)), which may take it 45 seconds.
//!
//! The first try, which does not wait, has made the host tell that process. Nothing announces that the lease is gone, so
//! the queue's own thread tries again from time to time, each time as if the request had just come. Such a request holds
//! no thread and no memory of the guest, and nothing of it has been done.

use super::request::Taken;
use super::split_ring::Place;
use crate::limits::{LEASE_RETRY_MAX, LEASE_RETRY_MIN, LEASE_WAIT_MAX, LEASED_REQUESTS_MAX};
use crate::sync::clock;
use std::time::{Duration, Instant};

/// Those of one queue.
#[derive(Debug, Default)]
pub(super) struct Leases(Vec<Waiting>);

/// One of them.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) taken: Taken,
    /// Where it stood in the available ring.
    pub(super) place: Place,
    since: Instant,
    /// When to try again.
    due: Instant,
}

impl Waiting {
    /// A request that has just been tried for the first time.
    pub(super) fn new(taken: Taken, place: Place) -> Self {
        let since = clock::now();
        Self { taken, place, since, due: later(since, LEASE_RETRY_MIN) }
    }

    /// Takes the request out, which [`Waits::joined`] puts back.
    pub(super) fn split(self) -> (Taken, Waits) {
        let Self { taken, place, since, .. } = self;
        (taken, Waits { place, since })
    }

    /// Whether it has waited for as long as it may.
    pub(super) fn is_over(&self) -> bool {
        clock::elapsed(self.since) >= LEASE_WAIT_MAX
    }
}

/// Where a request stood that waits, and since when.
#[derive(Debug)]
pub(super) struct Waits {
    place: Place,
    since: Instant,
}

impl Waits {
    /// The same with its request.
    pub(super) fn joined(self, taken: Taken) -> Waiting {
        let Self { place, since } = self;
        Waiting { taken, place, since, due: since }
    }
}

impl Leases {
    /// Whether one more may wait in a queue that has `room` for such requests.
    pub(super) fn have_room(&self, room: usize) -> bool {
        self.0.len() < room.min(LEASED_REQUESTS_MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When to try the next one.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    pub(super) fn add(&mut self, waiting: Waiting) {
        self.0.push(waiting);
    }

    /// Takes out one that is to be tried by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waiting> {
        let at = self.0.iter().position(|waiting| waiting.due <= now)?;
        Some(self.0.remove(at))
    }

    /// Puts one back that was tried in vain.
    pub(super) fn put_back(&mut self, waiting: Waiting) {
        let now = clock::now();
        let due = later(now, pause(now.saturating_duration_since(waiting.since)));
        self.add(Waiting { due, ..waiting });
    }

    /// Takes out all of them, whenever they are to be tried.
    pub(super) fn take_all(&mut self) -> Vec<Waiting> {
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
    fn waiting_requests_are_tried_ever_less_often() {
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
            leases.add(Waiting::new(Taken::default(), Place { head, number: 0 }));
        }
        assert!(!leases.have_room(usize::MAX));
        let now = clock::now() + LEASE_RETRY_MAX;
        let heads: Vec<_> =
            std::iter::from_fn(|| leases.take_due(now)).map(|waiting| waiting.place.head).collect();
        assert_eq!(heads, (0..64).collect::<Vec<_>>());
        assert!(leases.have_room(1) && !leases.have_room(0));
    }
}
