//! Starts threads for threads that may not start any.
//!
//! The filter of a thread that serves requests does not allow it to start threads. Such a thread
//! asks the spawner, and the control thread starts the threads. The control thread handles no
//! message of a guest.

use crate::limits::SPAWN_RETRY;
use crate::sync::lock::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

/// A client of the [`Spawner`]. Its threads are started when there is work for them.
pub(crate) trait OnDemand: Send + Sync {
    /// Starts the threads that are missing. Returns false if the host has no room for one. Then
    /// this is called again after [`SPAWN_RETRY`].
    fn start_missing(self: Arc<Self>) -> bool;
}

/// Passes requests for threads to the control thread.
pub(crate) struct Spawner {
    /// Readable when there are new requests. `None`: no thread has a filter, and each starts the
    /// threads that it asks for.
    event: Option<OwnedFd>,
    asked: Mutex<Vec<Weak<dyn OnDemand>>>,
}

impl fmt::Debug for Spawner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl Spawner {
    /// Makes a spawner for threads with a filter.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Some(event), asked: Mutex::default() })
    }

    /// Makes a spawner for threads without a filter.
    pub(super) fn direct() -> Self {
        Self { event: None, asked: Mutex::default() }
    }

    /// Makes the control thread call [`OnDemand::start_missing`]. The caller holds no lock that the
    /// function takes.
    pub(crate) fn ask(&self, client: Weak<dyn OnDemand>) {
        if !Self::add(&mut self.asked.lock(), client) {
            return;
        }
        match &self.event {
            // Ignore a full counter: the event is readable.
            Some(event) => {
                rustix::io::write(event, &1_u64.to_le_bytes()).unwrap_or_default();
            }
            None => {
                self.start_asked();
            }
        }
    }

    /// Starts threads until `end` is readable.
    ///
    /// # Errors
    /// The host's error. No more threads are started then.
    pub(crate) fn serve_until(&self, end: BorrowedFd<'_>) -> io::Result<()> {
        let Some(event) = &self.event else { return Ok(()) };
        let retry = Timespec::try_from(SPAWN_RETRY).map_err(io::Error::other)?;
        loop {
            // Reset the counter. Ignore the error of a counter that is 0.
            rustix::io::read(event, &mut [0; 8]).unwrap_or_default();
            let mut polled =
                [PollFd::from_borrowed_fd(end, PollFlags::IN), PollFd::new(event, PollFlags::IN)];
            // While the host has no room, new requests wait too.
            let outcome = if self.start_asked() {
                rustix::event::poll(&mut polled, None)
            } else {
                rustix::event::poll(polled.split_at_mut(1).0, Some(&retry))
            };
            match outcome {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [end, _] = polled;
            if !end.revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// Adds a client. Returns false if the list has it already.
    fn add(asked: &mut Vec<Weak<dyn OnDemand>>, client: Weak<dyn OnDemand>) -> bool {
        let is_new = !asked.iter().any(|known| known.ptr_eq(&client));
        if is_new {
            asked.push(client);
        }
        is_new
    }

    /// Starts the threads that were asked for. Returns false if a start must be tried again.
    fn start_asked(&self) -> bool {
        let clients = std::mem::take(&mut *self.asked.lock());
        let mut all = true;
        for client in clients {
            // The lock is not held: a started thread may ask for more threads.
            let starts = client.upgrade().is_none_or(|client| {
                catch_unwind(AssertUnwindSafe(|| client.start_missing())).unwrap_or_else(|_panic| {
                    tracing::error!("the start of a thread ended by a panic");
                    true
                })
            });
            if !starts {
                all = false;
                Self::add(&mut self.asked.lock(), client);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A client whose first `failures` calls fail.
    #[derive(Default)]
    struct Client {
        failures: AtomicUsize,
        calls: AtomicUsize,
        end: Option<OwnedFd>,
    }

    impl OnDemand for Client {
        fn start_missing(self: Arc<Self>) -> bool {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let failed = |left: usize| left.checked_sub(1);
            let starts = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, failed).is_err();
            if let Some(end) = self.end.as_ref().filter(|_| starts) {
                rustix::io::write(end, &1_u64.to_le_bytes()).unwrap();
            }
            starts
        }
    }

    fn ask_for(spawner: &Spawner, client: &Arc<Client>) {
        let client: Weak<Client> = Arc::downgrade(client);
        spawner.ask(client);
    }

    #[test]
    fn failed_start_is_tried_again() {
        let spawner = Spawner::new().unwrap();
        let end = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let copy = end.try_clone().unwrap();
        let client = Client { failures: AtomicUsize::new(2), end: Some(copy), ..Client::default() };
        let client = Arc::new(client);
        ask_for(&spawner, &client);
        ask_for(&spawner, &client);
        spawner.serve_until(std::os::fd::AsFd::as_fd(&end)).unwrap();
        assert_eq!(client.calls.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn client_that_is_gone_is_forgotten() {
        let spawner = Spawner::new().unwrap();
        ask_for(&spawner, &Arc::new(Client { failures: AtomicUsize::new(1), ..Client::default() }));
        assert!(spawner.start_asked());
    }

    /// A client whose every call asks for one more call and fails.
    struct Insistent(Arc<Spawner>);

    impl OnDemand for Insistent {
        fn start_missing(self: Arc<Self>) -> bool {
            let own: Weak<Self> = Arc::downgrade(&self);
            self.0.ask(own);
            false
        }
    }

    #[test]
    fn client_that_asks_while_it_fails_is_kept_once() {
        let spawner = Arc::new(Spawner::new().unwrap());
        let client = Arc::new(Insistent(Arc::clone(&spawner)));
        let weak: Weak<Insistent> = Arc::downgrade(&client);
        spawner.ask(weak);
        for _ in 0..3 {
            assert!(!spawner.start_asked());
        }
        assert_eq!(spawner.asked.lock().len(), 1);
    }

    struct Panics;

    impl OnDemand for Panics {
        fn start_missing(self: Arc<Self>) -> bool {
            panic!("on purpose")
        }
    }

    #[test]
    fn panic_of_a_client_leaves_the_others() {
        let (spawner, bad, good) = (Spawner::new().unwrap(), Arc::new(Panics), Arc::new(Client::default()));
        let weak: Weak<Panics> = Arc::downgrade(&bad);
        spawner.ask(weak);
        ask_for(&spawner, &good);
        assert!(spawner.start_asked());
        assert_eq!(good.calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn direct_spawner_starts_on_the_asking_thread() {
        let (spawner, client) = (Spawner::direct(), Arc::new(Client::default()));
        ask_for(&spawner, &client);
        ask_for(&spawner, &client);
        assert_eq!(client.calls.load(Ordering::Relaxed), 2);
    }
}
