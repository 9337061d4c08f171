//! Where a session stands between INIT and DESTROY.

use crate::limits::SESSION_LANES;
use pinhole_dax_cache::Capabilities;
use pinhole_protocol::Negotiated;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
#[derive(Debug, Default)]
pub(super) struct SharedState {
    copies: [Copy; SESSION_LANES],
    /// Changes that wait for what is under way.
    awaited: AtomicUsize,
}

impl SharedState {
    /// Whether a change waits for what is under way. Everything that is will be forgotten.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    pub(super) fn read(&self, lane: Lane) -> RwLockReadGuard<'_, State> {
        // A lane is below their number; were it not, any copy would say the same.
        let [first, ..] = &self.copies;
        self.copies.get(lane.0).unwrap_or(first).0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that is under way, and holds back what comes.
    pub(super) fn write(&self) -> Change<'_> {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let held = self.copies.each_ref().map(|copy| copy.0.write().unwrap_or_else(PoisonError::into_inner));
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        Change(held)
    }
}

/// All copies of the state, held by the one who changes it.
pub(super) struct Change<'s>([RwLockWriteGuard<'s, State>; SESSION_LANES]);

impl Change<'_> {
    pub(super) fn to(mut self, state: State) {
        for copy in &mut self.0 {
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

    #[test]
    fn no_ordinary_thread_gets_the_express_lane() {
        for _ in 0..4 * SESSION_LANES {
            assert!(Lane::next().0 < Lane::EXPRESS.0);
        }
    }
}
