//! Locks and condition variables that ignore poisoning.
//!
//! A panic in one request must not fail all later ones, so the data under a lock stays usable after
//! a panic. Every user of these types keeps its data valid at each point where it may panic: most
//! change one value at a time, or allocate before they change anything. Where that is not obvious,
//! a comment at the field or at the change says why.
#![expect(clippy::disallowed_types, reason = "this file wraps them")]

use super::clock;
use std::sync::{PoisonError, TryLockError, TryLockResult};
use std::time::Instant;

pub(crate) use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// A mutex that ignores poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Locks the mutex. Waits while another thread holds it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the mutex, unless it is locked.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        unpoisoned(self.0.try_lock())
    }
}

/// A reader-writer lock that ignores poisoning.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// Locks for reading. Waits while a writer holds the lock.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks for reading, unless that would wait.
    pub(crate) fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        unpoisoned(self.0.try_read())
    }

    /// Locks for writing. Waits while another thread holds the lock.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unpoisoned<G>(result: TryLockResult<G>) -> Option<G> {
    match result {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A condition variable for a [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    /// Waits for a notification. May return without one.
    pub(crate) fn wait<'m, T>(&self, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a notification, but not past `until`. Returns true if `until` is reached. May
    /// return early.
    pub(crate) fn wait_until<'m, T>(
        &self,
        guard: MutexGuard<'m, T>,
        until: Option<Instant>,
    ) -> (MutexGuard<'m, T>, bool) {
        let Some(until) = until else { return (self.wait(guard), false) };
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return (guard, true);
        }
        let (guard, result) = self.0.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
        (guard, result.timed_out())
    }

    /// Waits as long as `condition` holds, but not past `until`.
    pub(crate) fn wait_while<'m, T>(
        &self,
        mut guard: MutexGuard<'m, T>,
        until: Option<Instant>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'m, T> {
        let mut is_over = false;
        while !is_over && condition(&mut guard) {
            (guard, is_over) = self.wait_until(guard, until);
        }
        guard
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    #[test]
    fn a_panic_leaves_the_locks_usable() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let (_mutex, _lock) = (mutex.lock(), lock.write());
            panic!("on purpose");
        }));
        assert!(panics.is_err());
        assert_eq!(*mutex.lock(), 1);
        assert!(mutex.try_lock().is_some() && lock.try_read().is_some());
        assert_eq!(*lock.read(), 1);
        *lock.write() = 2;
        assert_eq!(lock.into_inner(), 2);
    }

    #[test]
    fn a_try_does_not_wait() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let _guards = (mutex.lock(), lock.write());
        assert!(mutex.try_lock().is_none() && lock.try_read().is_none());
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (mutex, changed) = (Mutex::new(0), Condvar::new());
        let until = clock::now().checked_add(Duration::from_millis(1));
        let mut checks = changed.wait_while(mutex.lock(), until, |checks| {
            *checks += 1;
            true
        });
        assert!(*checks > 0);
        *checks = 0;
        let (checks, is_over) = changed.wait_until(checks, until);
        assert!(is_over && *checks == 0);
    }
}
