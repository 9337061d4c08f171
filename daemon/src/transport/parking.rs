//! Requests that wait for somebody else than the host: for the front-end (SETUPMAPPING, REMOVEMAPPING, and INIT of a guest
//! that wants to map), or for a lock (SETLKW).
//!
//! They hold no thread while they wait. One thread answers them when there is an outcome.

use crate::bell::Bell;
use crate::handoff::handoff;
use crate::host::FileSystem;
use crate::session::{Parked, Scratch, Session};
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A request that waits, with its way back.
pub(super) trait Stay: Send + 'static {
    /// What it waits for.
    fn parked(&self) -> &Parked;

    /// The queue from which it was taken.
    fn queue(&self) -> usize;

    /// Gives it back with what it has come to.
    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch);
}

/// Those of one connection.
#[derive(Debug)]
pub(super) struct Parking<S> {
    shared: Arc<Shared<S>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared<S> {
    bell: Arc<Bell>,
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
    pub(super) fn start<F: FileSystem + 'static>(session: &Arc<Session<F>>) -> io::Result<Self> {
        let places = Mutex::new(Places { stays: Vec::new(), stopping: Vec::new(), over: false });
        let shared = Arc::new(Shared { bell: Arc::clone(session.bell()), places });
        let (fit, is_fit) = handoff(1);
        let (own, session) = (Arc::clone(&shared), Arc::clone(session));
        let thread = thread::Builder::new().name("answers".to_owned()).spawn(move || {
            let prepared = session.enter_thread(Threads::OFFLOAD);
            let failed = prepared.is_err();
            if fit.offer(prepared).is_ok() && !failed {
                own.answer_all(&session);
            }
        })?;
        is_fit.take().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a request in.
    pub(super) fn park(&self, stay: S) {
        self.shared.lock().stays.push(stay);
        self.shared.bell.ring();
    }
}

impl<S> Parking<S> {
    /// A queue is being stopped, and whoever stops it waits for the requests that were taken from it: those that may wait
    /// for long are answered now, and so are those that come.
    pub(super) fn hurry(&self, queue: usize) {
        self.shared.lock().stopping.push(queue);
        self.shared.bell.ring();
    }

    /// It has been stopped.
    pub(super) fn calm_down(&self, queue: usize) {
        self.shared.lock().stopping.retain(|stopping| *stopping != queue);
    }

    /// Ends the thread; by then no request may be left. Not for it to call: a request that waits holds its ring, and that
    /// its worker, and that this.
    pub(super) fn end(&self) {
        self.shared.lock().over = true;
        self.shared.bell.ring();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that answers what has waited ended by a panic");
        }
    }
}

impl<S> Drop for Parking<S> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Places<S>> {
        // Nothing is left half done under this lock.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Stay> Shared<S> {
    fn answer_all<F: FileSystem>(&self, session: &Session<F>) {
        let mut scratch = Scratch::default();
        loop {
            let seen = self.bell.rings();
            // Not under the lock: looking may ask the host, and a worker may have one more to park.
            let (stays, stopping) = {
                let mut places = self.lock();
                (std::mem::take(&mut places.stays), places.stopping.clone())
            };
            let mut waiting = Vec::new();
            for stay in stays {
                let gives_way = stay.parked().gives_way().filter(|_| stopping.contains(&stay.queue()));
                match gives_way.map(Err).or_else(|| session.outcome(stay.parked(), &scratch)) {
                    Some(result) => stay.answer(session, result, &mut scratch),
                    None => waiting.push(stay),
                }
            }
            let until = waiting.iter().filter_map(|stay| session.look_again(stay.parked())).min();
            {
                let mut places = self.lock();
                // Those that wait longest are asked first.
                waiting.append(&mut places.stays);
                places.stays = waiting;
                if places.over {
                    return;
                }
            }
            self.bell.wait(seen, until);
        }
    }
}
