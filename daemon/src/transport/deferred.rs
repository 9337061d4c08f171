//! The deferred requests of one connection or mount, and the thread that answers them.
//!
//! Deferred requests wait for the front-end (SETUPMAPPING, REMOVEMAPPING, and INIT of a guest that
//! wants to map), for a lock (SETLKW) or for a file system to be durable. They hold no thread while
//! they wait. One thread answers them when they have their result.

use crate::filesystem::FileSystem;
use crate::limits::{LOCK_TRIES_REST, LOCK_TRIES_TIME};
use crate::session::{Deferred, Scratch, Session};
use crate::sync::clock;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::threads::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A deferred request, with the way to answer it.
pub(super) trait DeferredRequest: Send + 'static {
    /// Returns what the request waits for.
    fn deferred(&self) -> &Deferred;

    /// Returns the queue from which the request was taken; 0 in a transport without queues.
    fn queue(&self) -> usize {
        0
    }

    /// Returns how many requests of the same queue were taken before this one.
    fn number(&self) -> u64 {
        0
    }

    /// Puts the request back into the available ring of its queue, which is being stopped, as if it
    /// had not been taken. Returns false if a later request of that queue was answered or may be
    /// answered: then this one must be answered too.
    fn put_back(&self) -> bool {
        false
    }

    /// Sends the reply with this result.
    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch);
}

/// Result of a look at one request.
enum Look {
    Result(Result<(), Errno>),
    WaitsOn,
    /// It waits for a lock, and the time for trying locks is used up.
    Untried,
    /// It is in the available ring again.
    PutBack,
}

/// All deferred requests of one connection or mount.
#[derive(Debug)]
pub(super) struct DeferredRequests<R>(Arc<DeferredShared<R>>);

#[derive(Debug)]
struct DeferredShared<R> {
    wake: Arc<EventCounter>,
    list: Mutex<DeferredList<R>>,
}

#[derive(Debug)]
struct DeferredList<R> {
    requests: Vec<R>,
    /// Queues that are being stopped.
    stopping: Vec<usize>,
    over: bool,
}

impl<R: DeferredRequest> DeferredRequests<R> {
    /// Makes an empty list.
    pub(super) fn new<F: FileSystem>(session: &Session<F>) -> Self {
        let list = Mutex::new(DeferredList { requests: Vec::new(), stopping: Vec::new(), over: false });
        Self(Arc::new(DeferredShared { wake: Arc::clone(session.wake_event()), list }))
    }

    /// Starts the thread that answers the requests. It ends at [`Self::end`], or when this value is
    /// dropped.
    ///
    /// The thread also does work that waits because the host has no room for another thread: the
    /// work of the file system ([`FileSystem::run_stuck`]), and requests of the offload pool.
    /// `serve_stuck` serves one of these and returns whether there was one.
    ///
    /// # Errors
    /// The host has no room for a thread, or the thread cannot be prepared.
    pub(super) fn start_thread<F: FileSystem + 'static>(
        &self,
        session: &Arc<Session<F>>,
        threads: &ThreadSetup,
        serve_stuck: impl Fn(&mut Scratch) -> bool + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let (own, session) = (Arc::clone(&self.0), Arc::clone(session));
        threads.spawn("answers", Threads::OFFLOAD, move || own.answer_all(&session, serve_stuck))
    }

    /// Adds a request.
    pub(super) fn add(&self, request: R) {
        self.0.lock().requests.push(request);
        self.0.wake.notify();
    }
}

impl<R> DeferredRequests<R> {
    /// Makes the thread put back or answer those requests of a queue that may wait long. Called
    /// when the queue is being stopped: it takes no more requests, and the thread that stops it
    /// waits for the requests that were taken.
    pub(super) fn hurry(&self, queue: usize) {
        self.0.lock().stopping.push(queue);
        self.0.wake.notify();
    }

    /// Ends [`Self::hurry`], when the queue has stopped.
    pub(super) fn end_hurry(&self, queue: usize) {
        self.0.lock().stopping.retain(|stopping| *stopping != queue);
    }

    /// Ends the thread, when no request is left.
    pub(super) fn end(&self) {
        self.0.lock().over = true;
        self.0.wake.notify();
    }
}

impl<R> Drop for DeferredRequests<R> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<R> DeferredShared<R> {
    fn lock(&self) -> MutexGuard<'_, DeferredList<R>> {
        self.list.lock()
    }
}

impl<R: DeferredRequest> DeferredShared<R> {
    fn answer_all<F: FileSystem>(&self, session: &Session<F>, serve_stuck: impl Fn(&mut Scratch) -> bool) {
        let mut scratch = Scratch::default();
        // Locks are not tried before this time.
        let mut rested = clock::now();
        loop {
            let seen = self.wake.count();
            // Does at most one piece of work for the file system and one for the pool, so that
            // deferred requests wait no longer than that.
            let of_file_system = session.run_stuck();
            let was_stuck = serve_stuck(&mut scratch) || of_file_system;
            let began = clock::now();
            let tries_locks = began >= rested;
            let mut waiting = self.take_all();
            let mut untried = Vec::new();
            // The lock is not held: a look may call the host, and a queue thread may add a request
            // meanwhile.
            for _ in 0..waiting.len() {
                let Some(request) = waiting.pop_front() else { break };
                let may_try = tries_locks && clock::elapsed(began) < LOCK_TRIES_TIME;
                match self.look(session, &request, may_try, &mut scratch) {
                    Look::Result(result) => request.answer(session, result, &mut scratch),
                    Look::WaitsOn => waiting.push_back(request),
                    Look::Untried => untried.push(request),
                    Look::PutBack => drop(request),
                }
            }
            if tries_locks {
                rested = clock::now().checked_add(clock::elapsed(began) * LOCK_TRIES_REST).unwrap_or(began);
            }
            // The requests that were not tried come first next time.
            let again = waiting.iter().filter_map(|request| session.next_look(request.deferred())).min();
            let again = if untried.is_empty() { again } else { Some(rested) };
            untried.extend(waiting);
            {
                let mut list = self.lock();
                untried.append(&mut list.requests);
                list.requests = untried;
                if list.over {
                    return;
                }
            }
            if !was_stuck {
                self.wake.wait(seen, again);
            }
        }
    }

    /// Takes all requests, in the order in which to look at them.
    fn take_all(&self) -> VecDeque<R> {
        let mut list = self.lock();
        let mut requests = std::mem::take(&mut list.requests);
        // The last request of a queue is put back first.
        if !list.stopping.is_empty() {
            requests.sort_by_key(|request| std::cmp::Reverse(request.number()));
        }
        requests.into()
    }

    fn look<F: FileSystem>(
        &self,
        session: &Session<F>,
        request: &R,
        may_try: bool,
        scratch: &mut Scratch,
    ) -> Look {
        let deferred = request.deferred();
        let is_stopping = self.lock().stopping.contains(&request.queue());
        if is_stopping && deferred.put_back(|| request.put_back()) {
            return Look::PutBack;
        }
        if let Some(errno) = deferred.refusal() {
            if is_stopping {
                return Look::Result(Err(errno));
            }
            if !may_try {
                return Look::Untried;
            }
        }
        session.deferred_result(deferred, scratch).map_or(Look::WaitsOn, Look::Result)
    }
}
