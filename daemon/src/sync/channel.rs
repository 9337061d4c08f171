//! A queue from one thread to another, of a length that it does not exceed unasked. Its two sides wait for one another by a lock
//! and a condition alone: a channel of the standard library also yields its processor, which is one more system call
//! that a worker's filter would have to allow.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The side that gives. When it is dropped, the other side gets what is left and then nothing more.
#[derive(Debug)]
pub(crate) struct Giver<T>(Arc<Shared<T>>);

/// The side that takes.
#[derive(Debug)]
pub(crate) struct Taker<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something was given, taken, or is over.
    changed: Condvar,
    len_max: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// One side is gone.
    over: bool,
}

impl<T> State<T> {
    /// There is nothing to take, and there may be yet.
    fn may_get_one(&mut self) -> bool {
        self.waiting.is_empty() && !self.over
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing is left half done under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }
}

/// A queue of at most `len_max` values.
pub(crate) fn handoff<T>(len_max: usize) -> (Giver<T>, Taker<T>) {
    let state = Mutex::new(State { waiting: VecDeque::new(), over: false });
    let shared = Arc::new(Shared { state, changed: Condvar::new(), len_max });
    (Giver(Arc::clone(&shared)), Taker(shared))
}

impl<T> Giver<T> {
    /// Gives, if there is room and somebody to take it.
    ///
    /// # Errors
    /// The value itself.
    pub(crate) fn offer(&self, value: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.over || state.waiting.len() >= self.0.len_max {
            return Err(value);
        }
        state.waiting.push_back(value);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Gives, however many wait already: for what is limited elsewhere, by who must never wait.
    ///
    /// # Errors
    /// The value itself, where nobody is left to take it.
    pub(crate) fn force(&self, value: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.over {
            return Err(value);
        }
        state.waiting.push_back(value);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Gives, and waits for room.
    ///
    /// # Errors
    /// The value itself, where nobody is left to take it.
    pub(crate) fn give(&self, value: T) -> Result<(), T> {
        let mut state = self.0.lock();
        while !state.over && state.waiting.len() >= self.0.len_max {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.over {
            return Err(value);
        }
        state.waiting.push_back(value);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Taker<T> {
    /// Waits for the next value. `None`: there is none left, and nobody to give one.
    pub(crate) fn take(&self) -> Option<T> {
        self.next(self.0.changed.wait_while(self.0.lock(), State::may_get_one))
    }

    /// The same, for so long at most. `None`: also that nothing came.
    pub(crate) fn take_within(&self, limit: Duration) -> Option<T> {
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), limit, State::may_get_one);
        self.next(
            waited.map(|(state, _)| state).map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        )
    }

    /// Whether nothing will come any more.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.over && state.waiting.is_empty()
    }

    fn next(&self, waited: LockResult<MutexGuard<'_, State<T>>>) -> Option<T> {
        let next = waited.unwrap_or_else(PoisonError::into_inner).waiting.pop_front();
        self.0.changed.notify_all();
        next
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_in_order_and_then_the_end() {
        let (giver, taker) = handoff(2);
        giver.give(1).unwrap();
        giver.offer(2).unwrap();
        assert_eq!(giver.offer(3), Err(3));
        drop(giver);
        assert_eq!((taker.take(), taker.take(), taker.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn who_gives_waits_for_room_and_hears_that_nobody_takes() {
        let (giver, taker) = handoff(1);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1000).for_each(|value| giver.give(value).unwrap()));
            assert!((0..1000).all(|value| taker.take() == Some(value)));
        });
        drop(taker);
        assert_eq!(giver.give(1), Err(1));
    }

    #[test]
    fn who_must_not_wait_gives_past_the_length() {
        let (giver, taker) = handoff(1);
        (0..5).for_each(|value| giver.force(value).unwrap());
        assert_eq!(giver.offer(5), Err(5));
        assert_eq!((taker.take(), taker.take()), (Some(0), Some(1)));
        drop(taker);
        assert_eq!(giver.force(6), Err(6));
    }

    #[test]
    fn who_takes_need_not_wait_for_ever() {
        let (giver, taker) = handoff(1);
        assert_eq!(taker.take_within(Duration::from_millis(1)), None);
        giver.give(1).unwrap();
        assert_eq!(taker.take_within(Duration::from_mins(1)), Some(1));
    }
}
