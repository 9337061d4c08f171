//! The state of a session between INIT and DESTROY, shared by the threads that serve.

use crate::limits::SESSION_SHARDS;
use crate::sync::lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use pinhole_dax_cache::Capabilities;
use pinhole_protocol::{Dialect, InitFlags};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The result of the guest's last INIT or DESTROY.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum SessionState {
    /// There was no INIT, or a DESTROY came after it.
    #[default]
    Uninitialized,
    /// INIT was answered, or is assumed. Holds the negotiated features, and the capabilities of the
    /// front-end if the guest has a DAX window and asks for each inode whether to map it.
    Serving(InitFlags, Option<Capabilities>),
}

impl SessionState {
    /// Returns the state of a session without an INIT.
    pub(super) fn before_init(assumed: Option<InitFlags>) -> Self {
        assumed.map_or(Self::Uninitialized, |flags| Self::Serving(flags, None))
    }

    /// Returns the dialect of the guest's messages.
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Uninitialized => Dialect::default(),
            Self::Serving(negotiated, _) => Dialect::of(*negotiated),
        }
    }
}

/// Index of the copy of the state that a thread reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateShard(usize);

impl StateShard {
    /// Shard of a thread that must not wait for others. A change locks this copy last, so threads
    /// of other shards do not hold it up.
    pub(super) const EXPRESS: Self = Self(SESSION_SHARDS - 1);

    /// Returns the shard of the next thread.
    pub(super) fn next() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed) % Self::EXPRESS.0)
    }
}

/// One copy of the state with its lock.
///
/// It fills two cache lines, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct StateCopy(RwLock<SessionState>);

/// The state, in one copy for each shard of threads.
///
/// While a request is served, its thread holds a copy for reading. An INIT locks all copies for
/// writing, so it waits for all requests in progress. Threads of different shards share no memory
/// that changes.
///
/// A change begins only when all requests that the previous change held up have their copy. The
/// lock of the standard library prefers the next writer. Without this rule, a guest that sends INIT
/// in several queues would keep its other queues waiting.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    copies: [StateCopy; SESSION_SHARDS],
    /// Number of changes that wait for requests in progress.
    awaited: AtomicUsize,
    /// Held for the whole of a change.
    turn: Mutex<()>,
    /// Number of requests that a change holds up.
    held_up: Mutex<usize>,
    /// Notified when `held_up` becomes zero.
    all_served: Condvar,
}

/// A request that a change holds up, counted until it is dropped.
struct HeldUp<'s>(&'s SharedState);

impl<'s> HeldUp<'s> {
    fn new(state: &'s SharedState) -> Self {
        let mut held_up = state.held_up.lock();
        *held_up = held_up.saturating_add(1);
        Self(state)
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        let mut held_up = self.0.held_up.lock();
        *held_up = held_up.saturating_sub(1);
        if *held_up == 0 {
            self.0.all_served.notify_one();
        }
    }
}

impl SharedState {
    /// Makes all copies of a state.
    pub(super) fn new(state: SessionState) -> Self {
        let copies = std::array::from_fn(|_| StateCopy(RwLock::new(state)));
        Self { copies, ..Self::default() }
    }

    /// Returns whether a change waits for requests in progress. It will undo their effects on the
    /// session.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// Locks the copy of a shard for reading.
    pub(super) fn read(&self, shard: StateShard) -> RwLockReadGuard<'_, SessionState> {
        // The index is always in range. If it were not, any copy would do.
        let [first, ..] = &self.copies;
        let StateCopy(copy) = self.copies.get(shard.0).unwrap_or(first);
        copy.try_read().unwrap_or_else(|| {
            let _held_up = HeldUp::new(self);
            copy.read()
        })
    }

    /// Waits for all requests in progress, and holds up those that come.
    pub(super) fn write(&self) -> Change<'_> {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn.lock();
        // No copy is locked for writing now. So the held-up requests get their copies, and new
        // requests are not held up.
        drop(self.all_served.wait_while(self.held_up.lock(), None, |held_up| *held_up > 0));
        let copies = self.copies.each_ref().map(|copy| copy.0.write());
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        Change { copies, _turn: turn }
    }
}

/// All copies of the state, locked for a change. They are unlocked before the next change begins.
pub(super) struct Change<'s> {
    copies: [RwLockWriteGuard<'s, SessionState>; SESSION_SHARDS],
    _turn: MutexGuard<'s, ()>,
}

impl Change<'_> {
    /// Sets all copies to `state`.
    pub(super) fn to(mut self, state: SessionState) {
        for copy in &mut self.copies {
            **copy = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_change_waits_for_every_shard_and_reaches_every_shard() {
        let state = SharedState::default();
        for shard in (0..SESSION_SHARDS).map(StateShard) {
            let held = state.read(shard);
            let (changed, seen) = channel();
            std::thread::scope(|scope| {
                let state = &state;
                scope.spawn(move || {
                    state.write().to(SessionState::Uninitialized);
                    changed.send(()).unwrap();
                });
                assert!(seen.recv_timeout(Duration::from_millis(5)).is_err(), "{shard:?}");
                drop(held);
                seen.recv().unwrap();
            });
        }
    }

    #[test]
    fn a_guest_without_an_init_is_served_only_if_assumed() {
        let uninitialized = SharedState::new(SessionState::before_init(None));
        assert!(matches!(*uninitialized.read(StateShard(0)), SessionState::Uninitialized));
        let assumed = SharedState::new(SessionState::before_init(Some(InitFlags::EXPORT_SUPPORT)));
        for shard in (0..SESSION_SHARDS).map(StateShard) {
            let state = assumed.read(shard);
            assert!(matches!(*state, SessionState::Serving(InitFlags::EXPORT_SUPPORT, None)), "{shard:?}");
            assert!(state.dialect().lookup_dots, "{shard:?}");
        }
    }

    #[test]
    fn a_waiting_change_does_not_hold_up_the_express_shard() {
        let state = SharedState::default();
        let held = state.read(StateShard(3));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| state.write().to(SessionState::Uninitialized));
            for _ in 0..1000 {
                drop(state.read(StateShard::EXPRESS));
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            drop(held);
        });
    }

    /// Several INITs wait while another INIT ends that has held up requests.
    #[test]
    fn held_up_requests_come_before_the_next_change() {
        const CHANGES: usize = 4;
        const READERS: usize = 6;
        for _ in 0..50 {
            let (state, order) = (SharedState::default(), Mutex::new(Vec::new()));
            let first = state.write();
            std::thread::scope(|scope| {
                for number in 0..READERS {
                    let (state, order) = (&state, &order);
                    scope.spawn(move || {
                        let held = state.read(StateShard(number % 2));
                        order.lock().push("request");
                        drop(held);
                    });
                }
                while *state.held_up.lock() < READERS {
                    std::thread::yield_now();
                }
                for _ in 0..CHANGES {
                    let (state, order) = (&state, &order);
                    scope.spawn(move || {
                        let change = state.write();
                        order.lock().push("change");
                        change.to(SessionState::Uninitialized);
                    });
                }
                std::thread::yield_now();
                first.to(SessionState::Uninitialized);
            });
            let order = order.lock();
            assert_eq!(order[..READERS], ["request"; READERS], "{order:?}");
            assert_eq!(order.len(), READERS + CHANGES);
        }
    }

    #[test]
    fn no_ordinary_thread_gets_the_express_shard() {
        for _ in 0..4 * SESSION_SHARDS {
            assert!(StateShard::next().0 < StateShard::EXPRESS.0);
        }
    }
}
