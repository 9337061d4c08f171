//! An event counter: a thread notifies it when something has changed that another thread may wait
//! for. Waiters check their own condition after waking.

use crate::sync::lock::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Counts notifications, so that a waiter misses none between its check and its wait.
#[derive(Debug, Default)]
pub struct EventCounter {
    count: Mutex<u64>,
    changed: Condvar,
    subscribers: AtomicUsize,
    /// Notifications by [`EventCounter::notify_subscribers`].
    subscriber_notifications: AtomicU64,
}

/// Makes [`EventCounter::notify_subscribers`] notify, until it is dropped.
#[derive(Debug)]
pub struct Subscription(Arc<EventCounter>);

impl EventCounter {
    /// Wakes all waiters.
    pub fn notify(&self) {
        let mut count = self.count.lock();
        *count = count.wrapping_add(1);
        drop(count);
        self.changed.notify_all();
    }

    /// Wakes all waiters if there is a subscriber. Otherwise it costs one atomic load.
    pub fn notify_subscribers(&self) {
        if self.subscribers.load(Ordering::SeqCst) > 0 {
            self.subscriber_notifications.fetch_add(1, Ordering::SeqCst);
            self.notify();
        }
    }

    /// Returns how often [`EventCounter::notify_subscribers`] has notified.
    pub fn subscriber_notifications(&self) -> u64 {
        self.subscriber_notifications.load(Ordering::SeqCst)
    }

    /// Makes [`EventCounter::notify_subscribers`] notify from now on. A subscriber checks after
    /// this call for changes that came before it.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        self.subscribers.fetch_add(1, Ordering::SeqCst);
        Subscription(Arc::clone(self))
    }

    /// Returns the number of notifications so far, for [`EventCounter::wait`].
    pub fn count(&self) -> u64 {
        *self.count.lock()
    }

    /// Waits until the count differs from `seen`, but not past `until`.
    pub fn wait(&self, seen: u64, until: Option<Instant>) {
        drop(self.changed.wait_while(self.count.lock(), until, |count| *count == seen));
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::clock;
    use std::time::Duration;

    #[test]
    fn a_notification_between_check_and_wait_is_not_missed() {
        let event = EventCounter::default();
        let seen = event.count();
        event.notify();
        event.wait(seen, None);
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let event = EventCounter::default();
        event.wait(event.count(), clock::now().checked_add(Duration::from_millis(1)));
    }

    #[test]
    fn without_subscribers_nothing_is_counted() {
        let event = Arc::new(EventCounter::default());
        event.notify_subscribers();
        assert_eq!(event.count(), 0);
        let subscriber = event.subscribe();
        event.notify_subscribers();
        drop(subscriber);
        event.notify_subscribers();
        assert_eq!((event.count(), event.subscriber_notifications()), (1, 1));
    }
}
