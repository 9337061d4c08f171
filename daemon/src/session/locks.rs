//! The requests for locks: GETLK, SETLK, SETLKW and INTERRUPT.

use super::deferred::Deferred;
use super::options::LockMode;
use super::serve::{Outcome, Scratch, Session, Terms};
use super::state::SessionState;
use super::waiters::LockWait;
use crate::filesystem::{Answer, Call, Caller, FileSystem, Locking, Pace, Paced, no_conflict};
use pinhole_protocol::{Errno, GetLock, Header, Reply, SetLock, Unique};

impl<F: FileSystem> Session<F> {
    /// Carries out GETLK.
    pub(super) fn get_lock(
        &self,
        header: &Header<'_>,
        get: GetLock,
        terms: Terms<'_>,
    ) -> Answer<Paced<Reply<'static>>> {
        self.check_locks_served()?;
        let found = self.filesystem.get_lock(self.permit(header, get)?, terms.pace)?;
        Ok(found.map(|found| Reply::Lock(found.unwrap_or_else(|| no_conflict(&get.0)))))
    }

    /// Carries out SETLK and SETLKW.
    pub(super) fn set_lock(
        &self,
        header: &Header<'_>,
        set: SetLock,
        (terms, scratch): (Terms<'_>, &mut Scratch),
    ) -> Answer<Paced<Outcome>> {
        self.check_locks_served()?;
        let permitted = self.permit(header, set)?;
        let calls = self.wake_event().subscriber_notifications();
        let tried = self.filesystem.set_lock(permitted, terms.pace)?;
        let blocker = match tried {
            Paced::Ready(Locking::Held(_)) if !set.wait => return Err(Errno::EAGAIN),
            Paced::Ready(Locking::Held(blocker)) => blocker,
            Paced::Ready(Locking::Done) | Paced::WouldBlock | Paced::Leased | Paced::Stopped => {
                return Ok(tried.map(|_done| scratch.encode(&Reply::Empty)));
            }
        };
        let owner = (!set.lock.flock).then_some(set.lock.owner);
        let registration = self.waiters.enter(header.unique, owner, self.wake_event())?;
        registration.blocked_by(blocker, calls)?;
        let wait = LockWait::new(header.node, set, registration);
        Ok(Paced::Ready(Outcome::Deferred(Deferred::for_lock(header.unique, wait))))
    }

    fn check_locks_served(&self) -> Answer<()> {
        match self.options.locks {
            LockMode::Host => Ok(()),
            LockMode::Refuse => Err(Errno::ENOLCK),
        }
    }

    /// Carries out INTERRUPT: the caller of a request has given up. An INTERRUPT that arrives
    /// before its request is remembered.
    pub(super) fn interrupt(&self, target: Unique) -> Outcome {
        if self.waiters.interrupt(target) {
            self.wake_event().notify();
        }
        Outcome::NoReply
    }

    /// Returns the result of a request that waits for a lock, or `None` while it must still wait.
    /// Tries to take the lock if it is time.
    pub(super) fn lock_result(&self, wait: &LockWait, scratch: &Scratch) -> Option<Answer<()>> {
        // Nothing is locked across an INIT.
        let state = self.state.read(scratch.shard);
        if matches!(*state, SessionState::Uninitialized) {
            return Some(Err(Errno::EIO));
        }
        if let Some(errno) = wait.registration.over() {
            return Some(Err(errno));
        }
        let calls = self.wake_event().subscriber_notifications();
        if !wait.begin_try(calls) {
            return None;
        }
        let call = Call { node: wait.node, caller: Caller::default(), operation: wait.lock };
        let tried = self.permit_call(call);
        let tried = tried.and_then(|permitted| self.filesystem.set_lock(permitted, Pace::Patient)?.ready());
        match tried {
            Ok(Locking::Done) => Some(Ok(())),
            Ok(Locking::Held(blocker)) => wait.registration.blocked_by(blocker, calls).err().map(Err),
            Err(errno) => Some(Err(errno)),
        }
    }
}
