//! Requests that wait for somebody else than the host: for the front-end (SETUPMAPPING, REMOVEMAPPING, and INIT of a guest
//! that wants to map), or for a lock (SETLKW).
//!
//! They hold no thread while they wait. One thread answers them when there is an outcome.

use crate::filesystem::FileSystem;
use crate::limits::{LOCK_TRIES_REST, LOCK_TRIES_TIME};
use crate::session::{Parked, Scratch, Session};
use crate::sync::channel::bounded_channel;
use crate::sync::clock;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A request that waits, with its way back.
pub(super) trait Stay: Send + 'static {
    /// What it waits for.
    fn parked(&self) -> &Parked;

    /// The queue from which it was taken.
    fn queue(&self) -> usize;

    /// How many requests of its queue were taken before it.
    fn number(&self) -> u64;

    /// Its queue is being stopped: puts it back into the available ring, as if it had not been taken. False: a later request of
    /// that queue has been answered, or may be, so that this one must be answered too.
    fn put_back(&self) -> bool;

    /// Gives it back with what it has come to.
    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch);
}

/// What a look at one came to.
enum Look {
    Over(Result<(), Errno>),
    WaitsOn,
    /// It waits for a lock, and those had had their time.
    Untried,
    /// It stands in the available ring again.
    PutBack,
}

/// Those of one connection.
#[derive(Debug)]
pub(super) struct Parking<S> {
    shared: Arc<Shared<S>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared<S> {
    wake: Arc<EventCounter>,
    places: Mutex<Places<S>>,
}

#[derive(Debug)]
struct Places<S> {
    stays: Vec<S>,
    /// Queues that are being stopped.
    stopping: Vec<usize>,
    over: bool,
}

impl<S: Stay> Parking<S> {
    /// Starts the thread that answers them.
    ///
    /// # Errors
    /// Where the host has no thread left, or it cannot be made fit to serve.
    pub(super) fn start<F: FileSystem + 'static>(
        session: &Arc<Session<F>>,
        threads: ThreadSetup,
    ) -> io::Result<Self> {
        let places = Mutex::new(Places { stays: Vec::new(), stopping: Vec::new(), over: false });
        let shared = Arc::new(Shared { wake: Arc::clone(session.wake_event()), places });
        let (fit, is_fit) = bounded_channel(1);
        let (own, session) = (Arc::clone(&shared), Arc::clone(session));
        let thread = thread::Builder::new().name("answers".to_owned()).spawn(move || {
            let prepared = threads.enter(Threads::OFFLOAD);
            let failed = prepared.is_err();
            if fit.try_send(prepared).is_ok() && !failed {
                own.answer_all(&session);
            }
        })?;
        is_fit.receive().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a request in.
    pub(super) fn park(&self, stay: S) {
        self.shared.lock().stays.push(stay);
        self.shared.wake.notify();
    }
}

impl<S> Parking<S> {
    /// A queue is being stopped and takes no more requests, and whoever stops it waits for those that were taken: those that
    /// may wait for long are put back now, or answered.
    pub(super) fn hurry(&self, queue: usize) {
        self.shared.lock().stopping.push(queue);
        self.shared.wake.notify();
    }

    /// It has been stopped.
    pub(super) fn calm_down(&self, queue: usize) {
        self.shared.lock().stopping.retain(|stopping| *stopping != queue);
    }

    /// Ends the thread; by then no request may be left. Not for it to call: a request that waits holds its ring, and that
    /// its worker, and that this.
    pub(super) fn end(&self) {
        self.shared.lock().over = true;
        self.shared.wake.notify();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that answers what has waited ended by a panic");
        }
    }
}

impl<S> Drop for Parking<S> {
    /// Who drops it may be a thread of the same kind, which must not wait for another's end.
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.wake.notify();
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Places<S>> {
        // Nothing is left half done under this lock.
        self.places.lock()
    }
}

impl<S: Stay> Shared<S> {
    fn answer_all<F: FileSystem>(&self, session: &Session<F>) {
        let mut scratch = Scratch::default();
        // Locks are not tried before.
        let mut rested = clock::now();
        loop {
            let seen = self.wake.count();
            let began = clock::now();
            let tries_locks = began >= rested;
            let mut waiting = self.take_all();
            let mut untried = Vec::new();
            // Not under the lock: looking may ask the host, and a worker may have one more to park.
            for _ in 0..waiting.len() {
                let Some(stay) = waiting.pop_front() else { break };
                let may_try = tries_locks && clock::elapsed(began) < LOCK_TRIES_TIME;
                match self.look(session, &stay, may_try, &mut scratch) {
                    Look::Over(result) => stay.answer(session, result, &mut scratch),
                    Look::WaitsOn => waiting.push_back(stay),
                    Look::Untried => untried.push(stay),
                    Look::PutBack => drop(stay),
                }
            }
            if tries_locks {
                rested = clock::now().checked_add(clock::elapsed(began) * LOCK_TRIES_REST).unwrap_or(began);
            }
            // Those that had no turn have the first next time.
            let again = waiting.iter().filter_map(|stay| session.look_again(stay.parked())).min();
            let again = if untried.is_empty() { again } else { Some(rested) };
            untried.extend(waiting);
            {
                let mut places = self.lock();
                untried.append(&mut places.stays);
                places.stays = untried;
                if places.over {
                    return;
                }
            }
            self.wake.wait(seen, again);
        }
    }

    /// All that wait, to be looked at in this order.
    fn take_all(&self) -> VecDeque<S> {
        let mut places = self.lock();
        let mut stays = std::mem::take(&mut places.stays);
        // The last of a queue is put back first.
        if !places.stopping.is_empty() {
            stays.sort_by_key(|stay| std::cmp::Reverse(stay.number()));
        }
        stays.into()
    }

    fn look<F: FileSystem>(
        &self,
        session: &Session<F>,
        stay: &S,
        may_try: bool,
        scratch: &mut Scratch,
    ) -> Look {
        let parked = stay.parked();
        let is_stopping = self.lock().stopping.contains(&stay.queue());
        if is_stopping && parked.put_back(|| stay.put_back()) {
            return Look::PutBack;
        }
        if let Some(errno) = parked.gives_way() {
            if is_stopping {
                return Look::Over(Err(errno));
            }
            if !may_try {
                return Look::Untried;
            }
        }
        session.outcome(parked, scratch).map_or(Look::WaitsOn, Look::Over)
    }
}
