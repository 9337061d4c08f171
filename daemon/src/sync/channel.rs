//! A bounded channel from one thread to another, built on a mutex and a condition variable.
//!
//! A channel of the standard library also yields its processor. That is one more system call, which
//! the filter of a queue thread would have to allow.

use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The sending end. After it is dropped, the receiver gets the values that are left, then `None`.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<BoundedChannel<T>>);

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<BoundedChannel<T>>);

#[derive(Debug)]
struct BoundedChannel<T> {
    values: Mutex<Values<T>>,
    /// Notified when a value was sent or received, and when an end was dropped.
    changed: Condvar,
    len_max: usize,
}

#[derive(Debug)]
struct Values<T> {
    queue: VecDeque<T>,
    /// One end was dropped.
    is_closed: bool,
}

impl<T> BoundedChannel<T> {
    fn close(&self) {
        self.values.lock().is_closed = true;
        self.changed.notify_all();
    }
}

/// Returns the two ends of a channel that holds at most `len_max` values.
pub(crate) fn bounded_channel<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let values = Mutex::new(Values { queue: VecDeque::new(), is_closed: false });
    let shared = Arc::new(BoundedChannel { values, changed: Condvar::new(), len_max });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Sends the value if there is room and a receiver.
    ///
    /// # Errors
    /// The value itself.
    pub(crate) fn try_send(&self, value: T) -> Result<(), T> {
        let values = self.0.values.lock();
        if values.queue.len() >= self.0.len_max {
            return Err(value);
        }
        self.push(values, value)
    }

    /// Sends the value, and waits for room.
    ///
    /// # Errors
    /// The value itself, if there is no receiver.
    pub(crate) fn send(&self, value: T) -> Result<(), T> {
        let is_full = |values: &mut Values<T>| !values.is_closed && values.queue.len() >= self.0.len_max;
        self.push(self.0.changed.wait_while(self.0.values.lock(), None, is_full), value)
    }

    fn push(&self, mut values: MutexGuard<'_, Values<T>>, value: T) -> Result<(), T> {
        if values.is_closed {
            return Err(value);
        }
        values.queue.push_back(value);
        drop(values);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for the next value. Returns `None` if the channel is closed and empty.
    pub(crate) fn receive(&self) -> Option<T> {
        self.receive_until(None)
    }

    /// Waits for the next value, but not past `until`. `None` also means that no value came in
    /// time.
    pub(crate) fn receive_until(&self, until: Option<Instant>) -> Option<T> {
        let is_empty = |values: &mut Values<T>| values.queue.is_empty() && !values.is_closed;
        let next = self.0.changed.wait_while(self.0.values.lock(), until, is_empty).queue.pop_front();
        self.0.changed.notify_all();
        next
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::clock;
    use std::time::Duration;

    #[test]
    fn values_arrive_in_order_before_the_end() {
        let (sender, receiver) = bounded_channel(2);
        sender.send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(3));
        drop(sender);
        assert_eq!((receiver.receive(), receiver.receive(), receiver.receive()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_sender_waits_for_room_and_notices_a_dropped_receiver() {
        let (sender, receiver) = bounded_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1000).for_each(|value| sender.send(value).unwrap()));
            assert!((0..1000).all(|value| receiver.receive() == Some(value)));
        });
        drop(receiver);
        assert_eq!(sender.send(1), Err(1));
    }

    #[test]
    fn a_receiver_may_limit_its_wait() {
        let (sender, receiver) = bounded_channel(1);
        let after = |limit| clock::now().checked_add(limit);
        assert_eq!(receiver.receive_until(after(Duration::from_millis(1))), None);
        sender.send(1).unwrap();
        assert_eq!(receiver.receive_until(after(Duration::from_mins(1))), Some(1));
    }
}
