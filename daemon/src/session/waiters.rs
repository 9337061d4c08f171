//! Requests that wait for a lock (SETLKW): the owner that blocks each of them, and the time of its
//! next try.
//!
//! A waiting request is a deferred request and holds no thread. It is tried again when a lock is
//! released through this daemon. It is also tried from time to time, because the host does not
//! notify the daemon when another process releases a lock.

use crate::filesystem::Answer;
use crate::limits::{INTERRUPTS_KEPT, LOCK_RETRY_LATE, LOCK_RETRY_MAX, LOCK_RETRY_MIN, LOCK_WAITERS_MAX};
use crate::sync::clock;
use crate::sync::event::{EventCounter, Subscription};
use crate::sync::lock::Mutex;
use pinhole_protocol::{Errno, LockOwner, NodeId, SetLock, Unique};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All waiters of one session.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<WaiterList>);

#[derive(Debug, Default)]
struct WaiterList {
    waiting: Vec<Waiter>,
    /// Number of waiters so far, including those that have left.
    entered: u64,
    /// Requests that were interrupted before they arrived, the latest last.
    interrupted: VecDeque<Unique>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    unique: Unique,
    /// `None` for a flock lock: flock(2) detects no deadlock.
    owner: Option<LockOwner>,
    /// The owner of the conflicting lock at the last try, if it is known, and the count of unlock
    /// notifications at that time.
    blocked_by: Option<(LockOwner, u64)>,
    /// Error of a request that must not wait any longer.
    over: Option<Errno>,
}

/// One request that waits for a lock.
#[derive(Debug)]
pub(super) struct LockWait {
    pub(super) node: NodeId,
    pub(super) lock: SetLock,
    since: Instant,
    next: Mutex<NextTry>,
    pub(super) registration: Registration,
}

/// Condition for the next try: `at` has come, or the count of unlock notifications has changed.
#[derive(Clone, Copy, Debug)]
struct NextTry {
    at: Instant,
    calls: Option<u64>,
}

/// The registration of a waiter. Dropping it removes the waiter.
#[derive(Debug)]
pub(super) struct Registration {
    waiters: Arc<Waiters>,
    number: u64,
    _subscription: Subscription,
}

impl WaiterList {
    fn get(&mut self, number: u64) -> Option<&mut Waiter> {
        self.waiting.iter_mut().find(|waiting| waiting.number == number)
    }
}

impl Waiters {
    /// Registers a request that begins to wait.
    ///
    /// # Errors
    /// ENOLCK if too many wait, EINTR for a request that was interrupted before it arrived.
    pub(super) fn enter(
        self: &Arc<Self>,
        unique: Unique,
        owner: Option<LockOwner>,
        wake: &Arc<EventCounter>,
    ) -> Answer<Registration> {
        let mut list = self.0.lock();
        if let Some(at) = list.interrupted.iter().position(|known| *known == unique) {
            list.interrupted.remove(at);
            return Err(Errno::EINTR);
        }
        if list.waiting.len() >= LOCK_WAITERS_MAX {
            return Err(Errno::ENOLCK);
        }
        let number = list.entered;
        list.entered = number.wrapping_add(1);
        list.waiting.push(Waiter { number, unique, owner, blocked_by: None, over: None });
        Ok(Registration { waiters: Arc::clone(self), number, _subscription: wake.subscribe() })
    }

    /// Interrupts a request. Returns whether it was waiting here.
    pub(super) fn interrupt(&self, unique: Unique) -> bool {
        let mut list = self.0.lock();
        if let Some(waiting) = list.waiting.iter_mut().find(|waiting| waiting.unique == unique) {
            waiting.over = Some(Errno::EINTR);
            return true;
        }
        if list.interrupted.len() >= INTERRUPTS_KEPT {
            list.interrupted.pop_front();
        }
        list.interrupted.push_back(unique);
        false
    }

    /// Ends all waits, because the guest is gone.
    pub(super) fn end(&self) {
        let mut list = self.0.lock();
        list.interrupted.clear();
        for waiting in &mut list.waiting {
            waiting.over = Some(Errno::EIO);
        }
    }
}

impl Registration {
    /// Returns the error if the request must not wait any longer.
    pub(super) fn over(&self) -> Option<Errno> {
        self.waiters.0.lock().get(self.number)?.over
    }

    /// Notes the owner of the conflicting lock. `calls` is the count of unlock notifications before
    /// the try that found the owner.
    ///
    /// # Errors
    /// EDEADLK if that owner waits for this request, directly or through other owners. As on the
    /// host (`posix_locks_deadlock`), only the first conflicting owner counts, and chains longer
    /// than `CHAIN_MAX` are not followed. A blocker that was found before the last notification
    /// does not count, because it may have unlocked since. The next try finds the present one.
    pub(super) fn blocked_by(&self, blocker: Option<LockOwner>, calls: u64) -> Answer<()> {
        const CHAIN_MAX: usize = 10;
        let mut list = self.waiters.0.lock();
        let Some(own) = list.get(self.number) else { return Ok(()) };
        own.blocked_by = blocker.map(|blocker| (blocker, calls));
        let (owner, mut next) = (own.owner, own.blocked_by);
        for _ in 0..CHAIN_MAX {
            let Some((blocking, _)) = next else { return Ok(()) };
            if owner == Some(blocking) {
                // Only one request of the cycle has to fail.
                if let Some(own) = list.get(self.number) {
                    own.blocked_by = None;
                }
                return Err(Errno::EDEADLK);
            }
            // One owner may wait in several threads. Skip those that wait for an unknown owner.
            let mut its = list.waiting.iter().filter(|waiting| waiting.owner == Some(blocking));
            next = its.find_map(|waiting| waiting.blocked_by.filter(|(_, found)| *found == calls));
        }
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.waiters.0.lock().waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl LockWait {
    pub(super) fn new(node: NodeId, lock: SetLock, registration: Registration) -> Self {
        let since = clock::now();
        // The lock may have been released between the try and the registration, so the first try is
        // at once.
        let next = Mutex::new(NextTry { at: since, calls: None });
        Self { node, lock, since, next, registration }
    }

    /// Returns the time of the next try if no lock is released before.
    pub(super) fn until(&self) -> Instant {
        self.next.lock().at
    }

    /// Returns whether it is time to try the lock. If so, sets the time of the next try. `calls` is
    /// the present count of unlock notifications.
    pub(super) fn begin_try(&self, calls: u64) -> bool {
        let (now, mut next) = (clock::now(), self.next.lock());
        if now < next.at && next.calls == Some(calls) {
            return false;
        }
        let at = now.checked_add(pause(now.saturating_duration_since(self.since))).unwrap_or(now);
        *next = NextTry { at, calls: Some(calls) };
        true
    }
}

/// Returns the pause before the next try, from how long the request has waited.
fn pause(waited: Duration) -> Duration {
    let most = LOCK_RETRY_MAX.max((waited / 1000).min(LOCK_RETRY_LATE));
    (waited / 4).clamp(LOCK_RETRY_MIN, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(waiters: &Arc<Waiters>, owner: u64) -> Registration {
        waiters.enter(Unique(owner), Some(LockOwner(owner)), &Arc::default()).unwrap()
    }

    #[test]
    fn a_cycle_is_a_deadlock_and_a_chain_is_not() {
        for len in [2, 3, 9] {
            let waiters = Arc::new(Waiters::default());
            let registrations: Vec<_> = (0..len).map(|owner| registered(&waiters, owner)).collect();
            for (owner, registration) in (1..len).zip(&registrations) {
                registration.blocked_by(Some(LockOwner(owner)), 1).unwrap();
            }
            let last = registrations.last().unwrap();
            assert_eq!(last.blocked_by(Some(LockOwner(99)), 1), Ok(()), "{len}");
            assert_eq!(last.blocked_by(Some(LockOwner(0)), 1), Err(Errno::EDEADLK), "{len}");
        }
    }

    #[test]
    fn a_waiter_that_has_left_blocks_no_other() {
        let waiters = Arc::new(Waiters::default());
        let (first, second) = (registered(&waiters, 1), registered(&waiters, 2));
        first.blocked_by(Some(LockOwner(2)), 1).unwrap();
        drop(first);
        assert_eq!(second.blocked_by(Some(LockOwner(1)), 1), Ok(()));
    }

    #[test]
    fn a_cycle_of_others_is_no_deadlock_for_a_third() {
        let waiters = Arc::new(Waiters::default());
        let (one, two, third) = (registered(&waiters, 1), registered(&waiters, 2), registered(&waiters, 3));
        one.blocked_by(Some(LockOwner(2)), 1).unwrap();
        // The two wait for each other.
        assert_eq!(two.blocked_by(Some(LockOwner(1)), 1), Err(Errno::EDEADLK));
        assert_eq!(third.blocked_by(Some(LockOwner(1)), 1), Ok(()));
        // The other request of the cycle does not fail too.
        assert_eq!(one.blocked_by(Some(LockOwner(2)), 1), Ok(()));
    }

    #[test]
    fn a_blocker_from_before_the_last_unlock_proves_no_deadlock() {
        let waiters = Arc::new(Waiters::default());
        let (one, two) = (registered(&waiters, 1), registered(&waiters, 2));
        one.blocked_by(Some(LockOwner(2)), 1).unwrap();
        assert_eq!(two.blocked_by(Some(LockOwner(1)), 2), Ok(()));
        assert_eq!(one.blocked_by(Some(LockOwner(2)), 2), Err(Errno::EDEADLK));
    }

    #[test]
    fn an_interrupt_that_comes_first_is_remembered() {
        let waiters = Arc::new(Waiters::default());
        assert!(!waiters.interrupt(Unique(7)));
        let wake = Arc::default();
        assert_eq!(waiters.enter(Unique(7), None, &wake).err(), Some(Errno::EINTR));
        let registration = waiters.enter(Unique(7), None, &wake).unwrap();
        assert_eq!(registration.over(), None);
        assert!(waiters.interrupt(Unique(7)));
        assert_eq!(registration.over(), Some(Errno::EINTR));
    }

    #[test]
    fn the_number_of_waiters_is_limited() {
        let (waiters, wake) = (Arc::new(Waiters::default()), Arc::default());
        let mut registrations: Vec<_> =
            (0..LOCK_WAITERS_MAX as u64).map(|n| waiters.enter(Unique(n), None, &wake).unwrap()).collect();
        assert_eq!(waiters.enter(Unique(0), None, &wake).err(), Some(Errno::ENOLCK));
        registrations.pop();
        drop(waiters.enter(Unique(0), None, &wake).unwrap());
    }

    #[test]
    fn pause_before_the_next_try_grows_with_the_wait() {
        let ms = Duration::from_millis;
        for (waited, paused) in [
            (ms(0), LOCK_RETRY_MIN),
            (ms(4), ms(1)),
            (ms(40), ms(10)),
            (ms(4000), ms(10)),
            (ms(10_000), ms(10)),
            // From here on a thousandth of the wait, up to 100 ms.
            (ms(10_001), Duration::from_micros(10_001)),
            (ms(25_000), ms(25)),
            (ms(100_000), ms(100)),
            (ms(100_001), ms(100)),
            (ms(1_000_000), ms(100)),
            (Duration::MAX, ms(100)),
        ] {
            assert_eq!(pause(waited), paused, "{waited:?}");
        }
    }
}
