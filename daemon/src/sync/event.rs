//! A bell: rung when something has changed that another thread may wait for. Who hears it looks for himself what that is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Counts its rings, so that none is missed between a look and the wait that follows it.
#[derive(Debug, Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
    listeners: AtomicUsize,
    /// Rings that were for listeners.
    calls: AtomicU64,
}

/// Somebody listens, for as long as this lives.
#[derive(Debug)]
pub struct Listener(Arc<Bell>);

impl Bell {
    /// Wakes everybody who waits.
    pub fn ring(&self) {
        let mut rings = self.lock();
        *rings = rings.wrapping_add(1);
        drop(rings);
        self.rung.notify_all();
    }

    /// The same where anybody listens; else it costs a look.
    pub fn ring_for_listeners(&self) {
        if self.listeners.load(Ordering::SeqCst) > 0 {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.ring();
        }
    }

    /// How often it has been rung for listeners.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Has [`Bell::ring_for_listeners`] ring from now on. Who needs what has been, looks for it after this.
    pub fn listen(self: &Arc<Self>) -> Listener {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener(Arc::clone(self))
    }

    /// A mark of this moment, for [`Bell::wait`].
    pub fn rings(&self) -> u64 {
        *self.lock()
    }

    /// Waits until it has been rung since `seen`, and no longer than `until`.
    pub fn wait(&self, seen: u64, until: Option<Instant>) {
        let mut rings = self.lock();
        while *rings == seen {
            let Some(until) = until else {
                rings = self.rung.wait(rings).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (rings, _) = self.rung.wait_timeout(rings, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // A count is never half done.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ring_between_a_look_and_the_wait_is_not_missed() {
        let bell = Bell::default();
        let seen = bell.rings();
        bell.ring();
        bell.wait(seen, None);
    }

    #[test]
    fn a_wait_is_over_when_its_time_is() {
        let bell = Bell::default();
        bell.wait(bell.rings(), Instant::now().checked_add(Duration::from_millis(1)));
    }

    #[test]
    fn without_listeners_it_stays_silent() {
        let bell = Arc::new(Bell::default());
        bell.ring_for_listeners();
        assert_eq!(bell.rings(), 0);
        let listener = bell.listen();
        bell.ring_for_listeners();
        drop(listener);
        bell.ring_for_listeners();
        assert_eq!((bell.rings(), bell.calls()), (1, 1));
    }
}
