//! Requests that wait for a lock (SETLKW): who waits, for whom, and when it is tried again.
//!
//! None of them holds a thread. The request is parked ([`super::Parked`]) and tried again when something is unlocked here,
//! and from time to time, because what a host process or another daemon unlocks nobody tells.

use super::dax::Terms;
use super::state::State;
use super::{Outcome, Parked, Scratch, Session, encoded};
use crate::filesystem::{Answer, Call, Caller, FileSystem, Locking, Pace, Paced, nothing_in_the_way};
use crate::limits::{INTERRUPTS_KEPT, LOCK_RETRY_LATE, LOCK_RETRY_MAX, LOCK_RETRY_MIN, LOCK_WAITERS_MAX};
use crate::sync::clock;
use crate::sync::event::{EventCounter, Listener};
use crate::sync::lock::{Mutex, MutexGuard};
use pinhole_protocol::{Errno, GetLock, Header, LockOwner, NodeId, Reply, SetLock, Unique};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the session does about locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// The host has them.
    #[default]
    Host,
    /// There are none to be had: ENOLCK.
    Refuse,
}

/// All that wait in one session.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    waiting: Vec<Waiting>,
    /// Counts those that there have been.
    entered: u64,
    /// Requests that were to be interrupted and are not here, the latest last.
    interrupted: VecDeque<Unique>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    unique: Unique,
    /// `None` for a flock lock: flock(2) knows no deadlock.
    owner: Option<LockOwner>,
    /// Who was in the way when it was last tried, where that is known, and how often listeners had been woken by then.
    blocked_by: Option<(LockOwner, u64)>,
    /// Why it is not to wait any longer.
    over: Option<Errno>,
}

/// One request that waits for a lock.
#[derive(Debug)]
pub(super) struct LockWait {
    node: NodeId,
    lock: SetLock,
    since: Instant,
    next: Mutex<Next>,
    place: Place,
}

/// When it is tried next: at that time, or when something has been unlocked since.
#[derive(Clone, Copy, Debug)]
struct Next {
    at: Instant,
    calls: Option<u64>,
}

/// A place among the waiters; given up when dropped.
#[derive(Debug)]
struct Place {
    waiters: Arc<Waiters>,
    number: u64,
    _listener: Listener,
}

impl List {
    fn get(&mut self, number: u64) -> Option<&mut Waiting> {
        self.waiting.iter_mut().find(|waiting| waiting.number == number)
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, List> {
        // Each change under this lock is whole before anything can panic.
        self.0.lock()
    }

    /// # Errors
    /// ENOLCK where too many wait; EINTR for one that was to be interrupted before it came.
    fn enter(
        self: &Arc<Self>,
        unique: Unique,
        owner: Option<LockOwner>,
        wake: &Arc<EventCounter>,
    ) -> Answer<Place> {
        let mut list = self.lock();
        if let Some(at) = list.interrupted.iter().position(|known| *known == unique) {
            list.interrupted.remove(at);
            return Err(Errno::EINTR);
        }
        if list.waiting.len() >= LOCK_WAITERS_MAX {
            return Err(Errno::ENOLCK);
        }
        let number = list.entered;
        list.entered = number.wrapping_add(1);
        list.waiting.push(Waiting { number, unique, owner, blocked_by: None, over: None });
        Ok(Place { waiters: Arc::clone(self), number, _listener: wake.listen() })
    }

    /// Somebody gives up on a request; whether it was waiting here.
    fn interrupt(&self, unique: Unique) -> bool {
        let mut list = self.lock();
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

    /// The guest is gone: nobody waits any longer.
    pub(super) fn end(&self) {
        let mut list = self.lock();
        list.interrupted.clear();
        for waiting in &mut list.waiting {
            waiting.over = Some(Errno::EIO);
        }
    }
}

impl Place {
    fn over(&self) -> Option<Errno> {
        self.waiters.lock().get(self.number)?.over
    }

    /// Notes who is in the way, as it was found after listeners had been woken so often.
    ///
    /// # Errors
    /// EDEADLK where that one waits for this one, itself or through others. Of several in the way the first counts, and after
    /// a chain of so many nobody looks further, both as on the host (`posix_locks_deadlock`). What was found before the last
    /// ring proves nothing: who was in the way may have unlocked since. It is found out anew with the next look.
    fn blocked_by(&self, blocker: Option<LockOwner>, calls: u64) -> Answer<()> {
        const CHAIN_MAX: usize = 10;
        let mut list = self.waiters.lock();
        let Some(own) = list.get(self.number) else { return Ok(()) };
        own.blocked_by = blocker.map(|blocker| (blocker, calls));
        let (owner, mut next) = (own.owner, own.blocked_by);
        for _ in 0..CHAIN_MAX {
            let Some((blocking, _)) = next else { return Ok(()) };
            if owner == Some(blocking) {
                // Only one of them has to give way.
                if let Some(own) = list.get(self.number) {
                    own.blocked_by = None;
                }
                return Err(Errno::EDEADLK);
            }
            // One owner may wait in several threads; those that wait for strangers say nothing.
            let mut its = list.waiting.iter().filter(|waiting| waiting.owner == Some(blocking));
            next = its.find_map(|waiting| waiting.blocked_by.filter(|(_, found)| *found == calls));
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiters.lock().waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl LockWait {
    fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock()
    }

    /// When to look again, if there is no notification before.
    pub(super) fn until(&self) -> Instant {
        self.next().at
    }
}

impl PartialEq for LockWait {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// How long to leave a lock alone for which somebody has waited so long already.
fn pause(waited: Duration) -> Duration {
    let most = LOCK_RETRY_MAX.max((waited / 1000).min(LOCK_RETRY_LATE));
    (waited / 4).clamp(LOCK_RETRY_MIN, most)
}

impl<F: FileSystem> Session<F> {
    /// GETLK.
    pub(super) fn get_lock(
        &self,
        header: &Header<'_>,
        get: GetLock,
        terms: Terms<'_>,
    ) -> Answer<Paced<Reply<'static>>> {
        self.check_locks_served()?;
        let found = self.filesystem.get_lock(self.permit(header, get)?, terms.pace)?;
        Ok(found.map(|found| Reply::Lock(found.unwrap_or_else(|| nothing_in_the_way(&get.0)))))
    }

    /// SETLK and SETLKW.
    pub(super) fn set_lock(
        &self,
        header: &Header<'_>,
        set: SetLock,
        (terms, scratch): (Terms<'_>, &mut Scratch),
    ) -> Answer<Paced<Outcome>> {
        self.check_locks_served()?;
        let permitted = self.permit(header, set)?;
        let calls = self.wake_event().listener_notifications();
        let tried = self.filesystem.set_lock(permitted, terms.pace)?;
        let blocker = match tried {
            Paced::Ready(Locking::Held(_)) if !set.wait => return Err(Errno::EAGAIN),
            Paced::Ready(Locking::Held(blocker)) => blocker,
            Paced::Ready(Locking::Done) | Paced::WouldBlock | Paced::Leased | Paced::Stopped => {
                return Ok(tried.map(|_done| encoded(&Reply::Empty, scratch)));
            }
        };
        let owner = (!set.lock.flock).then_some(set.lock.owner);
        let place = self.waiters.enter(header.unique, owner, self.wake_event())?;
        place.blocked_by(blocker, calls)?;
        let since = clock::now();
        // It may have been unlocked between the try and the place, so the first look is at once.
        let next = Mutex::new(Next { at: since, calls: None });
        let wait = LockWait { node: header.node, lock: set, since, next, place };
        Ok(Paced::Ready(Outcome::Parked(Parked::for_lock(header.unique, wait))))
    }

    fn check_locks_served(&self) -> Answer<()> {
        match self.options.locks {
            LockMode::Host => Ok(()),
            LockMode::Refuse => Err(Errno::ENOLCK),
        }
    }

    /// INTERRUPT: a caller has given up. It may have overtaken the request that it is about, and is then remembered.
    pub(super) fn interrupt(&self, target: Unique) {
        if self.waiters.interrupt(target) {
            self.wake_event().notify();
        }
    }

    /// What became of a request that waits for a lock, if it is to wait no longer. Tries it where it is time.
    pub(super) fn lock_outcome(&self, wait: &LockWait, scratch: &Scratch) -> Option<Answer<()>> {
        // Nothing is locked across an INIT.
        let state = self.state.read(scratch.lane);
        if matches!(*state, State::Waiting) {
            return Some(Err(Errno::EIO));
        }
        if let Some(errno) = wait.place.over() {
            return Some(Err(errno));
        }
        let (now, calls) = (clock::now(), self.wake_event().listener_notifications());
        let next = *wait.next();
        if now < next.at && next.calls == Some(calls) {
            return None;
        }
        let at = now.checked_add(pause(now.saturating_duration_since(wait.since))).unwrap_or(now);
        *wait.next() = Next { at, calls: Some(calls) };
        let call = Call { node: wait.node, caller: Caller::default(), operation: wait.lock };
        let tried = self.policy.permit(call, &*self.filesystem).map_err(super::denied);
        let tried = tried.and_then(|permitted| self.filesystem.set_lock(permitted, Pace::Patient)?.ready());
        match tried {
            Ok(Locking::Done) => Some(Ok(())),
            Ok(Locking::Held(blocker)) => wait.place.blocked_by(blocker, calls).err().map(Err),
            Err(errno) => Some(Err(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(waiters: &Arc<Waiters>, owner: u64) -> Place {
        waiters.enter(Unique(owner), Some(LockOwner(owner)), &Arc::default()).unwrap()
    }

    #[test]
    fn a_cycle_of_any_length_is_a_deadlock_and_a_chain_is_none() {
        for len in [2, 3, 9] {
            let waiters = Arc::new(Waiters::default());
            let places: Vec<_> = (0..len).map(|owner| place(&waiters, owner)).collect();
            for (owner, place) in (1..len).zip(&places) {
                place.blocked_by(Some(LockOwner(owner)), 1).unwrap();
            }
            let last = places.last().unwrap();
            assert_eq!(last.blocked_by(Some(LockOwner(99)), 1), Ok(()), "{len}");
            assert_eq!(last.blocked_by(Some(LockOwner(0)), 1), Err(Errno::EDEADLK), "{len}");
        }
    }

    #[test]
    fn who_has_left_blocks_nobody() {
        let waiters = Arc::new(Waiters::default());
        let (first, second) = (place(&waiters, 1), place(&waiters, 2));
        first.blocked_by(Some(LockOwner(2)), 1).unwrap();
        drop(first);
        assert_eq!(second.blocked_by(Some(LockOwner(1)), 1), Ok(()));
    }

    #[test]
    fn a_ring_of_others_does_not_hold_up_who_waits_for_it() {
        let waiters = Arc::new(Waiters::default());
        let (one, two, third) = (place(&waiters, 1), place(&waiters, 2), place(&waiters, 3));
        one.blocked_by(Some(LockOwner(2)), 1).unwrap();
        // As if the two had met at the same moment.
        assert_eq!(two.blocked_by(Some(LockOwner(1)), 1), Err(Errno::EDEADLK));
        assert_eq!(third.blocked_by(Some(LockOwner(1)), 1), Ok(()));
        // The other of the two need not give way as well.
        assert_eq!(one.blocked_by(Some(LockOwner(2)), 1), Ok(()));
    }

    #[test]
    fn what_was_in_the_way_before_the_last_unlock_proves_no_deadlock() {
        let waiters = Arc::new(Waiters::default());
        let (one, two) = (place(&waiters, 1), place(&waiters, 2));
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
        let place = waiters.enter(Unique(7), None, &wake).unwrap();
        assert_eq!(place.over(), None);
        assert!(waiters.interrupt(Unique(7)));
        assert_eq!(place.over(), Some(Errno::EINTR));
    }

    #[test]
    fn so_many_may_wait_and_no_more() {
        let (waiters, wake) = (Arc::new(Waiters::default()), Arc::default());
        let mut places: Vec<_> =
            (0..LOCK_WAITERS_MAX as u64).map(|n| waiters.enter(Unique(n), None, &wake).unwrap()).collect();
        assert_eq!(waiters.enter(Unique(0), None, &wake).err(), Some(Errno::ENOLCK));
        places.pop();
        drop(waiters.enter(Unique(0), None, &wake).unwrap());
    }

    #[test]
    fn a_lock_is_looked_for_a_quarter_later_than_was_waited_and_never_much() {
        let ms = Duration::from_millis;
        for (waited, paused) in [
            (ms(0), LOCK_RETRY_MIN),
            (ms(4), ms(1)),
            (ms(40), ms(10)),
            (ms(4000), ms(10)),
            (ms(10_000), ms(10)),
            // From here on a thousandth, up to 100 ms.
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
