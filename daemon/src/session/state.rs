//! Where a session stands between INIT and DESTROY.

use crate::limits::SESSION_LANES;
use crate::sync::lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use pinhole_dax_cache::Capabilities;
use pinhole_protocol::Negotiated;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum State {
    /// No INIT yet, or DESTROY since.
    #[default]
    Waiting,
    /// The guest and the session have agreed, and the guest asks with each inode whether to map it where there is a
    /// front-end that maps.
    Serving(Negotiated, Option<Capabilities>),
}

/// Which copy of the state a thread reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane(usize);

impl Lane {
    /// The lane of a thread that waits for nobody: a change takes it last, so that it is held up by no other.
    pub(super) const EXPRESS: Self = Self(SESSION_LANES - 1);

    /// The lane of the next thread, whatever it serves.
    pub(super) fn next() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed) % Self::EXPRESS.0)
    }
}

/// A copy of the state with its lock, apart from its neighbours: two lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Copy(RwLock<State>);

/// The state, one copy for each lane: each request holds that of its thread for reading while it is served, so that
/// an INIT, which takes them all, waits for what is under way and nothing is served across it. Threads of different
/// lanes share no memory that changes.
///
/// One change follows another only after all requests that the first one held up have their copy. Otherwise a guest that
/// sends INIT in several queues would keep its other queues waiting: a lock of the standard library goes to the next
/// writer first.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    copies: [Copy; SESSION_LANES],
    /// Changes that wait for what is under way.
    awaited: AtomicUsize,
    /// Held for the whole of a change.
    turn: Mutex<()>,
    /// Requests that a change holds up.
    held_up: Mutex<usize>,
    /// None is held up any longer.
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
    /// Whether a change waits for what is under way. Everything that is will be forgotten.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    pub(super) fn read(&self, lane: Lane) -> RwLockReadGuard<'_, State> {
        // A lane is below their number; were it not, any copy would say the same.
        let [first, ..] = &self.copies;
        let Copy(copy) = self.copies.get(lane.0).unwrap_or(first);
        copy.try_read().unwrap_or_else(|| {
            let _held_up = HeldUp::new(self);
            copy.read()
        })
    }

    /// Waits for all that is under way, and holds back what comes.
    pub(super) fn write(&self) -> Change<'_> {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn.lock();
        // No copy is locked for writing now, so these get theirs, and requests that come now are not held up.
        drop(self.all_served.wait_while(self.held_up.lock(), None, |held_up| *held_up > 0));
        let copies = self.copies.each_ref().map(|copy| copy.0.write());
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        Change { copies, _turn: turn }
    }
}

/// All copies of the state, held by the one who changes it. They are let go of before the next turn begins.
pub(super) struct Change<'s> {
    copies: [RwLockWriteGuard<'s, State>; SESSION_LANES],
    _turn: MutexGuard<'s, ()>,
}

impl Change<'_> {
    pub(super) fn to(mut self, state: State) {
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
    fn a_change_waits_for_every_lane_and_reaches_every_lane() {
        let state = SharedState::default();
        for lane in (0..SESSION_LANES).map(Lane) {
            let held = state.read(lane);
            let (changed, seen) = channel();
            std::thread::scope(|scope| {
                let state = &state;
                scope.spawn(move || {
                    state.write().to(State::Waiting);
                    changed.send(()).unwrap();
                });
                assert!(seen.recv_timeout(Duration::from_millis(5)).is_err(), "{lane:?}");
                drop(held);
                seen.recv().unwrap();
            });
        }
    }

    #[test]
    fn a_change_that_waits_holds_up_no_express_lane() {
        let state = SharedState::default();
        let held = state.read(Lane(3));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| state.write().to(State::Waiting));
            for _ in 0..1000 {
                drop(state.read(Lane::EXPRESS));
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            drop(held);
        });
    }

    /// Several INITs are waiting when one ends that has held up a request.
    #[test]
    fn requests_held_up_by_a_change_come_before_the_next_change() {
        const CHANGES: usize = 4;
        const READERS: usize = 6;
        for _ in 0..50 {
            let (state, order) = (SharedState::default(), Mutex::new(Vec::new()));
            let first = state.write();
            std::thread::scope(|scope| {
                for number in 0..READERS {
                    let (state, order) = (&state, &order);
                    scope.spawn(move || {
                        let held = state.read(Lane(number % 2));
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
                        change.to(State::Waiting);
                    });
                }
                std::thread::yield_now();
                first.to(State::Waiting);
            });
            let order = order.lock();
            assert_eq!(order[..READERS], ["request"; READERS], "{order:?}");
            assert_eq!(order.len(), READERS + CHANGES);
        }
    }

    #[test]
    fn no_ordinary_thread_gets_the_express_lane() {
        for _ in 0..4 * SESSION_LANES {
            assert!(Lane::next().0 < Lane::EXPRESS.0);
        }
    }
}
