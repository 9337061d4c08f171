//! The offload service of one connection: threads for requests that would hold up their queue.
//!
//! A queue thread passes on a request that may wait for the host (cold reads, fsync, long copies)
//! and takes the next one. A thread of the pool serves the request patiently and gives it back
//! through the same ring. The number of requests that wait for a thread is limited. Past the limit,
//! a queue that has one more waits.
//!
//! Threads of the pool are started when there is work for them, and end when there is none for a
//! while ([`crate::threads`]). One thread, `answers`, is started with the connection and stays. It
//! answers deferred requests ([`crate::transport::deferred`]), and it serves the requests of the
//! pool while the host has no room for any other thread. So each request has a thread to serve it.
//!
//! When a queue is stopped, its thread withdraws the requests that have not begun. Those that
//! cannot be put back into the available ring ([`super::in_flight`]) return as urgent, and a long
//! FALLOCATE of another queue makes room for them between two of its steps.

use super::deferred::QueueDeferred;
use super::request::QueueRequest;
use super::ring::{InFlight, Ring};
use super::split_ring::{Done, RingPlace};
use crate::filesystem::FileSystem;
use crate::limits::{LOCK_WAIT_LEN_MAX, POOL_BACKLOG_BYTES_MAX, POOL_BACKLOG_MAX, THREAD_IDLE};
use crate::log_budget::Source;
use crate::session::{Next, Pace, Pacing, Repeat, Scratch, Session, StopCheck};
use crate::sync::clock;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::sync::relay;
use crate::threads::{OnDemand, ThreadSetup};
use crate::transport::deferred::DeferredRequests;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// A request that the pool serves. It holds no guest memory while it is in the backlog.
#[derive(Debug)]
pub(super) struct Offloaded {
    pub(super) request: QueueRequest,
    /// Its place in the available ring.
    pub(super) place: RingPlace,
    /// The queue from which it was taken.
    pub(super) queue: usize,
    pub(super) in_flight: InFlight,
    /// A stop of its ring waits for it.
    pub(super) is_urgent: bool,
    /// The point up to which it was carried out; see [`StopCheck`].
    pub(super) reached: Option<u64>,
    /// Whether the request can be carried out from its beginning again, although a part of it was
    /// carried out. Then a queue that stops may put it back into its ring. See [`Repeat`].
    pub(super) may_begin_again: bool,
}

/// Limits of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    /// Number of threads. With 0, each queue waits for its own requests.
    pub(super) threads: u16,
    /// Number of requests at once, waiting or being served.
    pub(super) requests: usize,
}

/// The offload service of one connection. [`OffloadService::end`] must be called, because the
/// threads hold references to it.
pub(super) struct OffloadService<F> {
    session: Arc<Session<F>>,
    /// Requests that wait for the front-end, for a lock or for a file system to be durable.
    deferred: DeferredRequests<QueueDeferred>,
    answers: Mutex<Option<JoinHandle<()>>>,
    threads_max: usize,
    /// Largest number of requests at once, waiting or being served.
    requests_max: usize,
    setup: ThreadSetup,
    state: Mutex<PoolState>,
    /// Notified when a request is in the backlog, or the pool ends.
    work: Condvar,
    /// Notified when a request has left the backlog or the pool, and when a thread ends.
    room: Condvar,
    /// Limits log lines about threads that could not be started.
    log: Source,
}

impl<F> fmt::Debug for OffloadService<F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OffloadService").field("threads_max", &self.threads_max).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct PoolState {
    backlog: VecDeque<Offloaded>,
    /// Requests in the backlog or being served.
    requests: usize,
    /// Bytes of the daemon's memory that the backlog takes.
    bytes: usize,
    threads: usize,
    /// The threads that were started. Some may have ended lately.
    handles: Vec<JoinHandle<()>>,
    /// Requests being served.
    busy: usize,
    /// Whether the host had no room for a thread at the last attempt to start one.
    is_host_full: bool,
    is_over: bool,
}

impl PoolState {
    fn add(&mut self, offloaded: Offloaded) {
        self.bytes = self.bytes.saturating_add(offloaded.request.footprint());
        if offloaded.is_urgent {
            self.backlog.push_front(offloaded);
        } else {
            self.backlog.push_back(offloaded);
        }
    }

    fn take(&mut self) -> Option<Offloaded> {
        let offloaded = self.backlog.pop_front()?;
        self.bytes = self.bytes.saturating_sub(offloaded.request.footprint());
        self.busy += 1;
        Some(offloaded)
    }

    /// Returns whether requests wait that no thread will take.
    fn is_stuck(&self) -> bool {
        self.is_host_full && self.threads == 0 && !self.backlog.is_empty()
    }
}

impl<F: FileSystem + 'static> OffloadService<F> {
    /// Starts the service for `session`, with the thread that answers deferred requests. The first
    /// service also starts the thread that serves queue threads ([`relay`]).
    ///
    /// # Errors
    /// The host has no room for one of these threads, or it cannot be prepared.
    pub(super) fn start(
        session: &Arc<Session<F>>,
        limits: PoolLimits,
        setup: ThreadSetup,
    ) -> io::Result<Arc<Self>> {
        // Start this thread before the queue threads, which need it.
        relay::start(|run| setup.spawn("relay", Threads::OFFLOAD, run).map(drop))?;
        let service = Arc::new(Self {
            session: Arc::clone(session),
            deferred: DeferredRequests::new(session),
            answers: Mutex::new(None),
            threads_max: usize::from(limits.threads),
            requests_max: limits.requests.max(1),
            setup,
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            log: Source::new(),
        });
        let own = Arc::clone(&service);
        let answers = service
            .deferred
            .start_thread(session, &service.setup, move |scratch| own.serve_stuck(scratch))?;
        *service.answers.lock() = Some(answers);
        Ok(service)
    }

    /// Ends the threads, and waits for that. The caller has stopped all queues, so no request is
    /// left. The threads must not call this themselves.
    pub(super) fn end(&self) {
        self.deferred.end();
        let mut state = self.state.lock();
        state.is_over = true;
        self.work.notify_all();
        let mut state = self.room.wait_while(state, None, |state| state.threads > 0);
        let threads = std::mem::take(&mut state.handles);
        drop(state);
        // Waits for the threads, because the next connection may need their room on the host. A
        // panic in them was caught, so there is no result to check.
        for thread in threads {
            drop(thread.join());
        }
        if self.answers.lock().take().is_some_and(|answers| answers.join().is_err()) {
            tracing::error!("the thread that answers deferred requests ended by a panic");
        }
    }

    /// Returns whether the pool serves requests.
    pub(super) const fn has_pool(&self) -> bool {
        self.threads_max > 0
    }

    /// Makes the control thread start the thread of a ring as soon as the host has room for it.
    pub(super) fn start_later(&self, ring: &Arc<Ring>) {
        let ring: Weak<Ring> = Arc::downgrade(ring);
        self.setup.spawner().ask(ring);
    }

    /// Takes a request, or returns it if the pool is full.
    pub(super) fn submit(self: &Arc<Self>, offloaded: Offloaded) -> Option<Offloaded> {
        let mut state = self.state.lock();
        if self.is_full_for(offloaded.request.footprint(), &state) {
            return Some(offloaded);
        }
        state.requests += 1;
        state.add(offloaded);
        self.call_threads(state);
        None
    }

    /// Waits until there is room for one more request of `bytes` bytes, but not if `is_over`
    /// returns true.
    pub(super) fn wait_for_room(&self, bytes: usize, is_over: impl Fn() -> bool) {
        let is_full = |state: &mut PoolState| self.is_full_for(bytes, state) && !is_over();
        drop(self.room.wait_while(self.state.lock(), None, is_full));
    }

    /// Withdraws the requests of a queue that are in the backlog, in its order.
    pub(super) fn withdraw(&self, queue: usize) -> Vec<Offloaded> {
        let mut state = self.state.lock();
        let all = std::mem::take(&mut state.backlog);
        let (withdrawn, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|offloaded| offloaded.queue == queue);
        state.backlog = kept.into();
        for offloaded in &withdrawn {
            state.bytes = state.bytes.saturating_sub(offloaded.request.footprint());
            state.requests = state.requests.saturating_sub(1);
        }
        self.room.notify_all();
        withdrawn
    }

    /// Takes withdrawn requests again, before all others: a stop of their queue waits for them.
    /// They may exceed the limits, because they were counted before.
    pub(super) fn hurry(self: &Arc<Self>, withdrawn: Vec<Offloaded>) {
        if withdrawn.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for offloaded in withdrawn.into_iter().rev() {
            state.requests += 1;
            state.add(Offloaded { is_urgent: true, ..offloaded });
        }
        self.work.notify_all();
        self.call_threads(state);
    }

    /// Takes a deferred request. One thread answers it when it has its result.
    pub(super) fn defer(&self, request: QueueDeferred) {
        self.deferred.add(request);
    }
}

/// The stop of a queue.
impl<F: FileSystem + 'static> OffloadService<F> {
    /// Makes each queue thread that waits in [`OffloadService::wait_for_room`] check whether it
    /// must stop.
    pub(super) fn interrupt(&self) {
        drop(self.state.lock());
        self.room.notify_all();
    }

    /// Begins the stop of a queue. The front-end may be unable to reply until the stop ends, which
    /// the window has to know.
    pub(super) fn begin_stop(&self) {
        if let Some(window) = self.session.window() {
            window.begin_drain();
        }
    }

    /// Puts back or answers the deferred requests of a queue, which takes no more requests. Its
    /// stop waits for them.
    pub(super) fn hurry_deferred(&self, queue: usize) {
        self.deferred.hurry(queue);
    }

    /// Ends the stop of a queue.
    pub(super) fn end_stop(&self, queue: usize) {
        self.deferred.end_hurry(queue);
        if let Some(window) = self.session.window() {
            window.end_drain();
        }
    }
}

/// The threads of the pool.
impl<F: FileSystem + 'static> OffloadService<F> {
    fn is_full_for(&self, bytes: usize, state: &PoolState) -> bool {
        // A request larger than the limit, which a guest can hardly make, waits until it is alone.
        let heavy = state.bytes.saturating_add(bytes) > POOL_BACKLOG_BYTES_MAX;
        let many = state.backlog.len() >= POOL_BACKLOG_MAX || state.requests >= self.requests_max;
        many || (heavy && !state.backlog.is_empty())
    }

    fn is_short_handed(&self, state: &PoolState) -> bool {
        state.backlog.len() > state.threads.saturating_sub(state.busy) && state.threads < self.threads_max
    }

    /// Wakes or starts threads for the requests in the backlog.
    fn call_threads(self: &Arc<Self>, state: MutexGuard<'_, PoolState>) {
        let (is_short_handed, is_stuck) = (self.is_short_handed(&state), state.is_stuck());
        drop(state);
        self.work.notify_one();
        if is_stuck {
            self.session.wake_event().notify();
        }
        if is_short_handed {
            let own: Weak<Self> = Arc::downgrade(self);
            self.setup.spawner().ask(own);
        }
    }

    /// Serves until the pool ends, or until there was no request for a while.
    fn work(self: &Arc<Self>) {
        let mut scratch = Scratch::default();
        while let Some(offloaded) = self.next() {
            self.serve(offloaded, &mut scratch);
        }
    }

    /// Waits for a request. Returns `None` if the calling thread must end. Then it is no longer
    /// counted.
    fn next(self: &Arc<Self>) -> Option<Offloaded> {
        let is_idle = |state: &mut PoolState| state.backlog.is_empty() && !state.is_over;
        let until = clock::now().checked_add(THREAD_IDLE);
        let mut state = self.work.wait_while(self.state.lock(), until, is_idle);
        let next = state.take();
        if next.is_none() {
            state.threads = state.threads.saturating_sub(1);
        }
        self.room.notify_all();
        if self.is_short_handed(&state) {
            self.call_threads(state);
        }
        next
    }

    /// Serves one request while the host has no room for a thread of the pool. Returns whether
    /// there was one.
    fn serve_stuck(self: &Arc<Self>, scratch: &mut Scratch) -> bool {
        let mut state = self.state.lock();
        let next = if state.is_stuck() { state.take() } else { None };
        drop(state);
        let Some(offloaded) = next else { return false };
        self.room.notify_all();
        self.serve(offloaded, scratch);
        true
    }

    /// Notes that a thread has ended by a panic while it served a request.
    fn lose_thread(self: &Arc<Self>) {
        tracing::error!("a thread of the pool ended by a panic");
        self.served();
        let mut state = self.state.lock();
        state.threads = state.threads.saturating_sub(1);
        self.room.notify_all();
        self.call_threads(state);
    }

    /// Notes that a request was served.
    fn served(&self) {
        let mut state = self.state.lock();
        state.busy = state.busy.saturating_sub(1);
        state.requests = state.requests.saturating_sub(1);
        self.room.notify_all();
    }

    /// Returns whether a stop of a ring waits for a request in the backlog.
    fn has_urgent(&self) -> bool {
        self.state.lock().backlog.front().is_some_and(|offloaded| offloaded.is_urgent)
    }

    /// Takes back a request of which a part was carried out, to continue it later.
    fn requeue(self: &Arc<Self>, mut offloaded: Offloaded) {
        let mut state = self.state.lock();
        // Its own queue may be stopping now, and may not have found it in the backlog.
        offloaded.is_urgent |= offloaded.in_flight.is_waited_for();
        state.busy = state.busy.saturating_sub(1);
        state.add(offloaded);
        self.call_threads(state);
    }

    /// Serves a request to its end, unless it must stop between two of its steps: its queue stops
    /// and it can be put back, a stopping queue needs this thread, or a change of memory waits. In
    /// the last two cases it returns to the backlog.
    fn serve(self: &Arc<Self>, offloaded: Offloaded, scratch: &mut Scratch) {
        let session = &*self.session;
        let Offloaded { request, place, queue, mut in_flight, is_urgent, reached, may_begin_again } =
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
        let len = match next {
            Next::Done(len) => len,
            Next::Stopped if yields.get().is_some_and(|repeat| !can_be_put_back(repeat)) => {
                let reached = reached.get();
                let may_begin_again = may_begin_again && yields.get() == Some(Repeat::Harmless);
                // A change of memory that waits for this request then finds the memory unused.
                drop(memory);
                in_flight.queue_again();
                let offloaded =
                    Offloaded { request, place, queue, in_flight, is_urgent, reached, may_begin_again };
                return self.requeue(offloaded);
            }
            // The request is in the available ring again, or the guest no longer waits for it.
            Next::Stopped => {
                self.served();
                drop((memory, in_flight));
                // An earlier request that is deferred may be the last one taken now. Then it can be
                // put back.
                session.wake_event().notify();
                return;
            }
            Next::Deferred(deferred)
                if deferred.refusal().is_none()
                    || (request.chain_footprint() <= LOCK_WAIT_LEN_MAX && in_flight.has_room_to_defer()) =>
            {
                // A change of memory that waits for this request then finds the memory unused.
                drop(memory);
                in_flight.defer();
                self.served();
                let request = request.without_message();
                return self.defer(QueueDeferred { deferred, request, place, queue, in_flight });
            }
            Next::Deferred(deferred) => {
                let refused = Err(Errno::ENOLCK);
                request.answer_deferred((session, memory.view()), &deferred, refused, scratch)
            }
            // Unreachable: a patient request is answered. It would be given back empty.
            Next::Offload(_) | Next::Retry => 0,
        };
        // Counts this thread as free before the guest gets the reply. So the guest's next request
        // finds the thread free, and no other thread is started.
        self.served();
        in_flight.give_back(&memory, Done { head: place.head, len });
        drop((memory, in_flight));
    }
}

impl<F: FileSystem + 'static> OnDemand for OffloadService<F> {
    fn start_missing(self: Arc<Self>) -> bool {
        loop {
            let mut state = self.state.lock();
            if state.is_over || !self.is_short_handed(&state) {
                state.is_host_full = false;
                return true;
            }
            state.threads += 1;
            drop(state);
            let own = Arc::clone(&self);
            let started = self.setup.spawn("pool", Threads::OFFLOAD, move || {
                if catch_unwind(AssertUnwindSafe(|| own.work())).is_err() {
                    own.lose_thread();
                }
            });
            let mut state = self.state.lock();
            match started {
                Ok(thread) => {
                    state.is_host_full = false;
                    state.handles.retain(|thread| !thread.is_finished());
                    state.handles.push(thread);
                }
                Err(error) => {
                    state.is_host_full = true;
                    state.threads = state.threads.saturating_sub(1);
                    drop(state);
                    self.room.notify_all();
                    if let Some(suppressed) = self.log.pass() {
                        tracing::error!(%error, suppressed, "cannot start a thread of the pool");
                    }
                    self.session.wake_event().notify();
                    return false;
                }
            }
        }
    }
}
