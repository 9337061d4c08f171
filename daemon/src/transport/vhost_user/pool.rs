//! The offload pool: a few threads for requests that would hold up their queue (cold reads, fsync,
//! long copies).
//!
//! A queue thread passes such a request on and takes the next one. A thread of the pool serves the
//! request patiently and gives it back through the same ring. The number of requests that wait for
//! a thread is limited. Past the limit, a queue that has one more waits.
//!
//! When a queue is stopped, its thread withdraws the requests that have not begun. Those that
//! cannot be put back into the available ring ([`super::in_flight`]) return as urgent, and a long
//! FALLOCATE of another queue makes room for them between two of its steps.
//!
//! The first thread is started with the connection and stays, so a request always has a thread to
//! serve it, even if the host has no room for more. More threads are started when there is work for
//! them, and never by a queue thread: the spawner does that, so that no thread which handles a
//! guest's messages needs the right to start one. The spawner also starts queue threads that the
//! host had no room for at first.

use super::deferred::{QueueDeferred, QueueDeferredRequests};
use super::request::QueueRequest;
use super::ring::{InFlight, Ring};
use super::split_ring::{Done, RingPlace};
use crate::filesystem::FileSystem;
use crate::limits::{LOCK_WAIT_LEN_MAX, POOL_BACKLOG_BYTES_MAX, POOL_BACKLOG_MAX, POOL_IDLE, POOL_RETRY};
use crate::log_budget::Source;
use crate::session::{Next, Pace, Pacing, Repeat, Scratch, Session, StopCheck};
use crate::sync::channel::bounded_channel;
use crate::sync::clock;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The name of each thread that serves.
const THREAD_NAME: &str = "pool";

/// A request that the pool serves. It uses no guest memory before it begins, and drops the memory
/// before it is counted as gone.
#[derive(Debug)]
pub(super) struct Offloaded {
    pub(super) request: QueueRequest,
    /// Where it was in the available ring.
    pub(super) place: RingPlace,
    /// The queue from which it was taken.
    pub(super) queue: usize,
    pub(super) in_flight: InFlight,
    /// A stop of its ring waits for it.
    pub(super) is_urgent: bool,
    /// How far it was carried out; see [`StopCheck`].
    pub(super) reached: Option<u64>,
    /// Whether it can be carried out from its beginning once more; see [`Repeat`].
    pub(super) may_begin_anew: bool,
}

/// How large a pool may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    /// Threads. With none, each queue waits for its own requests, and the pool has only its
    /// spawner.
    pub(super) threads: u16,
    /// Requests at once, waiting or being served.
    pub(super) requests: usize,
}

/// The threads of one connection.
pub(super) struct Pool {
    shared: Arc<PoolShared>,
    spawner: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool").field("threads_max", &self.shared.threads_max).finish_non_exhaustive()
    }
}

struct PoolShared {
    threads_max: usize,
    /// Requests that may be here at once, waiting or being served.
    requests_max: usize,
    /// Takes requests that turn out to wait for a lock or for a file system.
    deferred: Option<Arc<QueueDeferredRequests>>,
    setup: ThreadSetup,
    state: Mutex<PoolState>,
    /// Notified when a request is in the backlog, or the pool ends.
    work: Condvar,
    /// Notified when a request has left the backlog or the pool.
    room: Condvar,
    /// Notified when there are more requests than free threads, or the pool ends.
    spawn: Condvar,
    /// Limits log lines about threads that could not be started.
    log: Source,
}

#[derive(Default)]
struct PoolState {
    backlog: VecDeque<Offloaded>,
    /// Requests in the backlog or being served.
    requests: usize,
    /// Bytes of the daemon's memory that the backlog takes.
    bytes: usize,
    threads: usize,
    /// Threads that will look into the backlog next.
    free: usize,
    /// A thread could not be prepared.
    failed: bool,
    /// Rings whose thread could not be started; no more than the device has queues.
    unserved: Vec<Weak<Ring>>,
    over: bool,
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }

    fn is_full_for(&self, bytes: usize, state: &PoolState) -> bool {
        // A request larger than the limit, which a guest can hardly make, waits until it is alone.
        let heavy = state.bytes.saturating_add(bytes) > POOL_BACKLOG_BYTES_MAX;
        let many = state.backlog.len() >= POOL_BACKLOG_MAX || state.requests >= self.requests_max;
        many || (heavy && !state.backlog.is_empty())
    }

    /// Notes that a thread has served a request and is free.
    fn served(&self) {
        let mut state = self.lock();
        state.free += 1;
        state.requests = state.requests.saturating_sub(1);
        self.room.notify_all();
    }

    /// Returns whether a stop of a ring waits for a request in the backlog.
    fn has_urgent(&self) -> bool {
        self.lock().backlog.front().is_some_and(|offloaded| offloaded.is_urgent)
    }

    /// Takes back a request of which a part was carried out, to continue it later. The thread is
    /// free.
    fn requeue(&self, mut offloaded: Offloaded) {
        let mut state = self.lock();
        // Its own queue may be stopping now, and may not have found it in the backlog.
        offloaded.is_urgent |= offloaded.in_flight.is_waited_for();
        state.free += 1;
        state.bytes = state.bytes.saturating_add(offloaded.request.footprint());
        if offloaded.is_urgent {
            state.backlog.push_front(offloaded);
        } else {
            state.backlog.push_back(offloaded);
        }
        if self.is_short_handed(&state) {
            self.spawn.notify_one();
        }
        drop(state);
        self.work.notify_one();
    }

    fn is_short_handed(&self, state: &PoolState) -> bool {
        state.backlog.len() > state.free && state.threads < self.threads_max
    }

    /// Waits for a request. `None`: the calling thread must end, and is no longer counted.
    fn next(&self) -> Option<Offloaded> {
        let mut state = self.lock();
        let mut patience = Some(POOL_IDLE);
        loop {
            if let Some(offloaded) = state.backlog.pop_front() {
                state.bytes = state.bytes.saturating_sub(offloaded.request.footprint());
                state.free = state.free.saturating_sub(1);
                self.room.notify_all();
                if self.is_short_handed(&state) {
                    self.spawn.notify_one();
                }
                return Some(offloaded);
            }
            if state.over || (patience.is_none() && state.threads > 1) {
                state.threads = state.threads.saturating_sub(1);
                state.free = state.free.saturating_sub(1);
                return None;
            }
            let Some(limit) = patience else {
                // The last thread stays, asleep.
                state = self.work.wait(state);
                patience = Some(POOL_IDLE);
                continue;
            };
            let (after, is_over) = self.work.wait_until(state, clock::now().checked_add(limit));
            state = after;
            if is_over {
                patience = None;
            }
        }
    }

    /// Runs a thread that was started while others serve.
    fn join_in<F: FileSystem>(&self, session: &Session<F>) {
        if let Err(error) = self.setup.enter(Threads::OFFLOAD) {
            if let Some(suppressed) = self.log.pass() {
                tracing::error!(%error, suppressed, "a thread of the pool cannot be prepared");
            }
            let mut state = self.lock();
            state.threads = state.threads.saturating_sub(1);
            state.free = state.free.saturating_sub(1);
            state.failed = true;
            self.spawn.notify_one();
            return;
        }
        self.work(session);
    }

    /// Serves until the pool ends, or until there was no request for a while.
    fn work<F: FileSystem>(&self, session: &Session<F>) {
        let mut scratch = Scratch::default();
        while let Some(offloaded) = self.next() {
            self.serve(session, offloaded, &mut scratch);
        }
    }

    fn serve<F: FileSystem>(&self, session: &Session<F>, offloaded: Offloaded, scratch: &mut Scratch) {
        let Offloaded { request, place, queue, mut in_flight, is_urgent, reached, may_begin_anew } =
            offloaded;
        if in_flight.is_abandoned() {
            self.served();
            drop(in_flight);
            return;
        }
        let memory = in_flight.begin();
        let (yields, reached) = (Cell::new(None), Cell::new(reached));
        let can_be_put_back = |repeat| repeat == Repeat::Harmless && in_flight.put_back(place);
        let asked = |repeat| {
            if in_flight.is_abandoned() || can_be_put_back(repeat) {
                return true;
            }
            let makes_room = !is_urgent && self.has_urgent();
            yields.set((makes_room || in_flight.is_outdated()).then_some(repeat));
            yields.get().is_some()
        };
        let pacing = Pacing { pace: Pace::Patient, stop: StopCheck::new(&asked, &reached) };
        let next = request.serve(session, memory.view(), pacing, scratch);
        let len = match (next, &self.deferred) {
            (Next::Done(len), _) => len,
            (Next::Stopped, _) if yields.get().is_some_and(|repeat| !can_be_put_back(repeat)) => {
                let reached = reached.get();
                let may_begin_anew = may_begin_anew && yields.get() == Some(Repeat::Harmless);
                // The memory goes before it is counted as gone.
                drop(memory);
                in_flight.queue_again();
                let offloaded =
                    Offloaded { request, place, queue, in_flight, is_urgent, reached, may_begin_anew };
                return self.requeue(offloaded);
            }
            // It is in the available ring again, or the guest no longer waits for it.
            (Next::Stopped, _) => {
                self.served();
                drop((memory, in_flight));
                // A deferred request before it may be put back now.
                session.wake_event().notify();
                return;
            }
            (Next::Deferred(deferred), Some(requests))
                if deferred.refusal().is_none()
                    || (request.chain_footprint() <= LOCK_WAIT_LEN_MAX && in_flight.has_room_to_defer()) =>
            {
                // The memory goes before it is counted as gone.
                drop(memory);
                in_flight.defer();
                self.served();
                let request = request.without_message();
                return requests.add(QueueDeferred { deferred, request, place, queue, in_flight });
            }
            (Next::Deferred(deferred), _) => {
                let refused = Err(Errno::ENOLCK);
                request.answer_deferred((session, memory.view()), &deferred, refused, scratch)
            }
            // Unreachable: a patient request is answered. It would be given back empty.
            (Next::Offload(_) | Next::Retry, _) => 0,
        };
        // Before the guest is told, so that its next request finds this thread free and starts no
        // other.
        self.served();
        in_flight.give_back(&memory, Done { head: place.head, len });
        drop((memory, in_flight));
    }

    /// Starts threads when there are more requests than free threads, until the pool ends. Then
    /// waits for the end of its threads.
    fn run_spawner(&self, mut threads: Vec<JoinHandle<()>>, start: impl Fn() -> io::Result<JoinHandle<()>>) {
        let mut state = self.lock();
        while !state.over {
            let mut pause = std::mem::take(&mut state.failed);
            if !pause && self.is_short_handed(&state) {
                state.threads += 1;
                state.free += 1;
                drop(state);
                threads.retain(|thread| !thread.is_finished());
                let started = start();
                state = self.lock();
                match started {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        if let Some(suppressed) = self.log.pass() {
                            tracing::error!(%error, suppressed, "cannot start one more thread of the pool");
                        }
                        state.threads = state.threads.saturating_sub(1);
                        state.free = state.free.saturating_sub(1);
                        pause = true;
                    }
                }
            }
            let unserved = std::mem::take(&mut state.unserved);
            if !unserved.is_empty() {
                drop(state);
                self.start_queues(&unserved);
                state = self.lock();
                pause |= !state.unserved.is_empty();
            }
            if pause {
                (state, _) = self.spawn.wait_until(state, clock::now().checked_add(POOL_RETRY));
            } else if !self.is_short_handed(&state) && state.unserved.is_empty() && !state.over {
                state = self.spawn.wait(state);
            }
        }
        drop(state);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the pool ended by a panic outside a request");
            }
        }
    }

    /// Tries to start the threads of queues. Those that fail are noted again. Not under the lock: a
    /// ring notes itself.
    fn start_queues(&self, unserved: &[Weak<Ring>]) {
        for ring in unserved {
            if ring.upgrade().is_some_and(|ring| !ring.start_again()) {
                self.lock().unserved.push(Weak::clone(ring));
            }
        }
    }
}

impl Pool {
    /// Starts the first thread of a pool that serves `session`, and the spawner that starts the
    /// others.
    ///
    /// # Errors
    /// The host has no room for these two threads, or the first one cannot be prepared.
    pub(super) fn start<F: FileSystem + 'static>(
        session: &Arc<Session<F>>,
        limits: PoolLimits,
        (deferred, setup): (Option<Arc<QueueDeferredRequests>>, ThreadSetup),
    ) -> io::Result<Self> {
        let shared = Arc::new(PoolShared {
            threads_max: usize::from(limits.threads),
            requests_max: limits.requests.max(1),
            deferred,
            setup,
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            spawn: Condvar::new(),
            log: Source::new(),
        });
        // If a later step fails, dropping the pool ends what was started.
        let pool = Self { shared: Arc::clone(&shared), spawner: Mutex::new(None) };
        let first = if limits.threads > 0 { Some(start_first(&shared, session)?) } else { None };
        let session = Arc::clone(session);
        let spawner = thread::Builder::new().name("pool-spawner".to_owned()).spawn(move || {
            shared.run_spawner(Vec::from_iter(first), || {
                let (shared, session) = (Arc::clone(&shared), Arc::clone(&session));
                thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || shared.join_in(&session))
            });
        })?;
        *pool.spawner.lock() = Some(spawner);
        Ok(pool)
    }

    /// Returns whether the pool serves requests.
    pub(super) fn has_threads(&self) -> bool {
        self.shared.threads_max > 0
    }

    /// Makes the spawner start the thread of a ring as soon as the host has room for it.
    pub(super) fn start_later(&self, ring: &Arc<Ring>) {
        let ring = Arc::downgrade(ring);
        let mut state = self.shared.lock();
        if !state.unserved.iter().any(|known| known.ptr_eq(&ring)) {
            state.unserved.push(ring);
        }
        self.shared.spawn.notify_one();
    }

    /// Takes a request, or returns it if too many already wait.
    pub(super) fn submit(&self, offloaded: Offloaded) -> Option<Offloaded> {
        let bytes = offloaded.request.footprint();
        let mut state = self.shared.lock();
        if self.shared.is_full_for(bytes, &state) {
            return Some(offloaded);
        }
        state.backlog.push_back(offloaded);
        state.bytes = state.bytes.saturating_add(bytes);
        state.requests = state.requests.saturating_add(1);
        if self.shared.is_short_handed(&state) {
            self.shared.spawn.notify_one();
        }
        drop(state);
        self.shared.work.notify_one();
        None
    }

    /// Waits for room for one more request of so many bytes, but not past `until`, and not if
    /// `is_over`.
    pub(super) fn wait_for_room(&self, bytes: usize, until: Option<Instant>, is_over: impl Fn() -> bool) {
        let is_full = |state: &mut PoolState| self.shared.is_full_for(bytes, state) && !is_over();
        drop(self.shared.room.wait_while(self.shared.lock(), until, is_full));
    }

    /// Makes each queue thread that waits in [`Pool::wait_for_room`] check whether it must stop.
    pub(super) fn interrupt(&self) {
        drop(self.shared.lock());
        self.shared.room.notify_all();
    }

    /// Withdraws the requests of a queue that have not begun, the oldest first.
    pub(super) fn withdraw(&self, queue: usize) -> Vec<Offloaded> {
        let mut state = self.shared.lock();
        let all = std::mem::take(&mut state.backlog);
        let (withdrawn, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|offloaded| offloaded.queue == queue);
        state.backlog = kept.into();
        for offloaded in &withdrawn {
            state.bytes = state.bytes.saturating_sub(offloaded.request.footprint());
            state.requests = state.requests.saturating_sub(1);
        }
        self.shared.room.notify_all();
        withdrawn
    }

    /// Takes withdrawn requests again, before all others: a stop of their queue waits for them.
    /// They exceed the limits, because they had a place before.
    pub(super) fn hurry(&self, withdrawn: Vec<Offloaded>) {
        if withdrawn.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for offloaded in withdrawn.into_iter().rev() {
            state.bytes = state.bytes.saturating_add(offloaded.request.footprint());
            state.requests = state.requests.saturating_add(1);
            state.backlog.push_front(Offloaded { is_urgent: true, ..offloaded });
        }
        if self.shared.is_short_handed(&state) {
            self.shared.spawn.notify_one();
        }
        drop(state);
        self.shared.work.notify_all();
    }

    /// Ends the threads, when no request is left. The threads must not call this themselves: a
    /// request holds its ring, the ring holds its queue's job, and the job holds this pool.
    pub(super) fn end(&self) {
        self.shared.lock().over = true;
        self.shared.work.notify_all();
        self.shared.spawn.notify_all();
        let spawner = self.spawner.lock().take();
        if spawner.is_some_and(|spawner| spawner.join().is_err()) {
            tracing::error!("the pool's spawner ended by a panic");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a thread and waits until it is ready to serve.
fn start_first<F: FileSystem + 'static>(
    shared: &Arc<PoolShared>,
    session: &Arc<Session<F>>,
) -> io::Result<JoinHandle<()>> {
    {
        let mut state = shared.lock();
        state.threads = 1;
        state.free = 1;
    }
    let (fit, is_fit) = bounded_channel(1);
    let (shared, session) = (Arc::clone(shared), Arc::clone(session));
    let thread = thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
        let prepared = shared.setup.enter(Threads::OFFLOAD);
        let failed = prepared.is_err();
        if fit.try_send(prepared).is_ok() && !failed {
            shared.work(&session);
        }
    })?;
    is_fit.receive().ok_or(io::ErrorKind::BrokenPipe)??;
    Ok(thread)
}
