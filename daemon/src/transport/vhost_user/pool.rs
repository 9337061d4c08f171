//! The pool: a few threads for requests that would hold up their queue (cold reads, fsync, long copies).
//!
//! A queue's worker hands such a request over and goes on; a thread of the pool serves it patiently
//! and gives it back through the same ring. What waits for a thread is bounded: past that, whoever has one more
//! waits. When a queue is stopped, its worker takes back what has not begun; what cannot be put back into the available ring
//! ([`super::tail`]) returns as urgent, and a long FALLOCATE of another queue makes room for it between two of its steps. The first thread is started with the connection and stays: a request that is taken always has a thread to
//! serve it, also where the host has no room for more. More threads are started when there is work for them, and never
//! by a queue's thread: a foreman does that, so that no thread which handles what a guest says needs to be able to
//! start one. The foreman also starts threads of queues that the host had no room for at first.

use super::parking::{Parking, Stay};
use super::request::{Fate, Taken};
use super::ring::{Deferral, Ring};
use super::split_ring::{Done, Place};
use crate::filesystem::FileSystem;
use crate::limits::{LOCK_WAIT_LEN_MAX, POOL_BACKLOG_BYTES_MAX, POOL_BACKLOG_MAX, POOL_IDLE, POOL_RETRY};
use crate::log_budget::Source;
use crate::session::{Pace, Repeat, Scratch, Session, StopCheck};
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

/// A request that is served outside its queue's worker. It uses no memory of the guest before it begins, and lets go of it
/// before the ring hears that it is done.
#[derive(Debug)]
pub(super) struct Postponed {
    /// What it says, and where the answer goes.
    pub(super) taken: Taken,
    /// Where it stood in the available ring.
    pub(super) place: Place,
    /// The queue from which it was taken.
    pub(super) queue: usize,
    /// Its way back.
    pub(super) deferral: Deferral,
    /// Whoever stops its ring waits for it.
    pub(super) is_urgent: bool,
    /// How far it has been carried out; see [`StopCheck`].
    pub(super) reached: Option<u64>,
    /// Whether it can be carried out from its beginning once more; see [`Repeat`].
    pub(super) may_begin_anew: bool,
}

/// How large a pool may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Threads. With none, each queue waits for its own requests, and the pool only has its foreman.
    pub(super) threads: u16,
    /// Requests at once, waiting or being served.
    pub(super) requests: usize,
}

/// The threads of one connection.
pub(super) struct Pool {
    shared: Arc<Office>,
    foreman: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool").field("threads_max", &self.shared.threads_max).finish_non_exhaustive()
    }
}

struct Office {
    threads_max: usize,
    /// Requests that may be here at once, waiting or being served.
    requests_max: usize,
    /// Where requests go of which a thread of the pool has found that they wait for a lock.
    parking: Option<Arc<Parking>>,
    setup: ThreadSetup,
    state: Mutex<State>,
    /// Something is in the backlog, or it is over.
    work: Condvar,
    /// Something was taken from the backlog.
    room: Condvar,
    /// There is more work than threads that are free, or it is over.
    hire: Condvar,
    /// Threads that could not be had, for the log.
    log: Source,
}

#[derive(Default)]
struct State {
    backlog: VecDeque<Postponed>,
    /// Requests that were handed over and are not given back.
    requests: usize,
    /// Bytes of our own memory that the backlog takes.
    bytes: usize,
    threads: usize,
    /// Threads that will look into the backlog next.
    free: usize,
    /// A thread could not be made fit for serving.
    unfit: bool,
    /// Rings whose thread could not be started; no more than the device has queues.
    unserved: Vec<Weak<Ring>>,
    over: bool,
}

impl Office {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.state.lock()
    }

    fn is_full_for(&self, bytes: usize, state: &State) -> bool {
        // One that is larger than all that is allowed, which a guest can hardly make, waits until it is alone.
        let heavy = state.bytes.saturating_add(bytes) > POOL_BACKLOG_BYTES_MAX;
        let many = state.backlog.len() >= POOL_BACKLOG_MAX || state.requests >= self.requests_max;
        many || (heavy && !state.backlog.is_empty())
    }

    /// A thread has served a request and is free.
    fn served(&self) {
        let mut state = self.lock();
        state.free += 1;
        state.requests = state.requests.saturating_sub(1);
        self.room.notify_all();
    }

    /// Whether a request waits for a thread that keeps a ring from being stopped.
    fn has_urgent(&self) -> bool {
        self.lock().backlog.front().is_some_and(|postponed| postponed.is_urgent)
    }

    /// Takes a request back of which a part has been carried out, to carry it out later; the thread is free.
    fn requeue(&self, mut postponed: Postponed) {
        let mut state = self.lock();
        // Its own queue may have been stopped in this very moment, and not have found it in the backlog.
        postponed.is_urgent |= postponed.deferral.is_waited_for();
        state.free += 1;
        state.bytes = state.bytes.saturating_add(postponed.taken.footprint());
        if postponed.is_urgent {
            state.backlog.push_front(postponed);
        } else {
            state.backlog.push_back(postponed);
        }
        if self.is_short_handed(&state) {
            self.hire.notify_one();
        }
        drop(state);
        self.work.notify_one();
    }

    fn is_short_handed(&self, state: &State) -> bool {
        state.backlog.len() > state.free && state.threads < self.threads_max
    }

    /// Waits for something to do. `None`: the calling thread is to end, and is counted no more.
    fn next(&self) -> Option<Postponed> {
        let mut state = self.lock();
        let mut patience = Some(POOL_IDLE);
        loop {
            if let Some(postponed) = state.backlog.pop_front() {
                state.bytes = state.bytes.saturating_sub(postponed.taken.footprint());
                state.free = state.free.saturating_sub(1);
                self.room.notify_all();
                if self.is_short_handed(&state) {
                    self.hire.notify_one();
                }
                return Some(postponed);
            }
            if state.over || (patience.is_none() && state.threads > 1) {
                state.threads = state.threads.saturating_sub(1);
                state.free = state.free.saturating_sub(1);
                return None;
            }
            let Some(limit) = patience else {
                // The last one stays, asleep: there has been work once.
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

    /// One thread of the pool that was started while others serve.
    fn join_in<F: FileSystem>(&self, session: &Session<F>) {
        if let Err(error) = self.setup.enter(Threads::OFFLOAD) {
            if let Some(suppressed) = self.log.pass() {
                tracing::error!(%error, suppressed, "a thread of the pool cannot be prepared");
            }
            let mut state = self.lock();
            state.threads = state.threads.saturating_sub(1);
            state.free = state.free.saturating_sub(1);
            state.unfit = true;
            self.hire.notify_one();
            return;
        }
        self.work(session);
    }

    /// Serves until it is over, or until there has been nothing to do for a while.
    fn work<F: FileSystem>(&self, session: &Session<F>) {
        let mut scratch = Scratch::default();
        while let Some(postponed) = self.next() {
            self.serve(session, postponed, &mut scratch);
        }
    }

    fn serve<F: FileSystem>(&self, session: &Session<F>, postponed: Postponed, scratch: &mut Scratch) {
        let Postponed { taken, place, queue, mut deferral, is_urgent, reached, may_begin_anew } = postponed;
        if deferral.is_abandoned() {
            self.served();
            drop(deferral);
            return;
        }
        let memory = deferral.begin();
        let (yields, reached) = (Cell::new(None), Cell::new(reached));
        let can_be_put_back = |repeat| repeat == Repeat::Harmless && deferral.put_back(place);
        let asked = |repeat| {
            if deferral.is_abandoned() || can_be_put_back(repeat) {
                return true;
            }
            let makes_room = !is_urgent && self.has_urgent();
            yields.set((makes_room || deferral.is_outdated()).then_some(repeat));
            yields.get().is_some()
        };
        let pace = (Pace::Patient, StopCheck::new(&asked, &reached));
        let len = match (taken.serve(session, memory.view(), pace, scratch), &self.parking) {
            (Fate::Answered(len), _) => len,
            (Fate::Stopped, _) if yields.get().is_some_and(|repeat| !can_be_put_back(repeat)) => {
                let reached = reached.get();
                let may_begin_anew = may_begin_anew && yields.get() == Some(Repeat::Harmless);
                // Before the memory is counted as let go of.
                drop(memory);
                deferral.queue_again();
                self.requeue(Postponed { taken, place, queue, deferral, is_urgent, reached, may_begin_anew });
                return;
            }
            // It is in the available ring again, or the guest no longer waits for it.
            (Fate::Stopped, _) => {
                self.served();
                drop((memory, deferral));
                // One before it that waits for something else may be put back now.
                session.wake_event().notify();
                return;
            }
            (Fate::Parked(parked), Some(parking))
                if parked.gives_way().is_none()
                    || (taken.chain_footprint() <= LOCK_WAIT_LEN_MAX && deferral.has_room_aside()) =>
            {
                // Before the memory is counted as let go of.
                drop(memory);
                deferral.step_aside();
                self.served();
                let taken = taken.without_message();
                parking.park(Stay { parked, taken, place, queue, deferral });
                return;
            }
            (Fate::Parked(parked), _) => {
                let refused = Err(Errno::ENOLCK);
                taken.settle((session, memory.view()), &parked, refused, scratch)
            }
            // Unreachable: a patient request is answered. It would be given back empty.
            (Fate::WouldWait | Fate::Leased, _) => 0,
        };
        // Before the guest hears of it, so that its next request finds this thread free and hires no other.
        self.served();
        deferral.give_back(&memory, Done { head: place.head, len });
        drop((memory, deferral));
    }

    /// Starts threads while there is more to do than they can, until it is over; then waits for the end of the pool's.
    fn supervise(&self, mut team: Vec<JoinHandle<()>>, start: impl Fn() -> io::Result<JoinHandle<()>>) {
        let mut state = self.lock();
        while !state.over {
            let mut pause = std::mem::take(&mut state.unfit);
            if !pause && self.is_short_handed(&state) {
                state.threads += 1;
                state.free += 1;
                drop(state);
                team.retain(|thread| !thread.is_finished());
                let started = start();
                state = self.lock();
                match started {
                    Ok(thread) => team.push(thread),
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
                (state, _) = self.hire.wait_until(state, clock::now().checked_add(POOL_RETRY));
            } else if !self.is_short_handed(&state) && state.unserved.is_empty() && !state.over {
                state = self.hire.wait(state);
            }
        }
        drop(state);
        for thread in team {
            if thread.join().is_err() {
                tracing::error!("a thread of the pool ended by a panic outside a request");
            }
        }
    }

    /// Tries to start the threads of queues; those for which it fails are noted again. Not under the lock: a ring notes
    /// itself.
    fn start_queues(&self, unserved: &[Weak<Ring>]) {
        for ring in unserved {
            if ring.upgrade().is_some_and(|ring| !ring.start_again()) {
                self.lock().unserved.push(Weak::clone(ring));
            }
        }
    }
}

impl Pool {
    /// The first thread of a pool that serves `session`, and the foreman that starts the others.
    ///
    /// # Errors
    /// Where the host has no room for these two threads, or the first one cannot be made fit to serve.
    pub(super) fn start<F: FileSystem + 'static>(
        session: &Arc<Session<F>>,
        limits: Limits,
        (parking, setup): (Option<Arc<Parking>>, ThreadSetup),
    ) -> io::Result<Self> {
        let shared = Arc::new(Office {
            threads_max: usize::from(limits.threads),
            requests_max: limits.requests.max(1),
            parking,
            setup,
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            hire: Condvar::new(),
            log: Source::new(),
        });
        // From here on, what has been started ends where the rest fails.
        let pool = Self { shared: Arc::clone(&shared), foreman: Mutex::new(None) };
        let first = if limits.threads > 0 { Some(start_first(&shared, session)?) } else { None };
        let session = Arc::clone(session);
        let foreman = thread::Builder::new().name("pool-foreman".to_owned()).spawn(move || {
            shared.supervise(Vec::from_iter(first), || {
                let (shared, session) = (Arc::clone(&shared), Arc::clone(&session));
                thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || shared.join_in(&session))
            });
        })?;
        *pool.foreman.lock() = Some(foreman);
        Ok(pool)
    }

    /// Whether it serves requests.
    pub(super) fn has_threads(&self) -> bool {
        self.shared.threads_max > 0
    }

    /// Has the foreman start the thread of a ring as soon as the host has room for it.
    pub(super) fn start_later(&self, ring: &Arc<Ring>) {
        let ring = Arc::downgrade(ring);
        let mut state = self.shared.lock();
        if !state.unserved.iter().any(|known| known.ptr_eq(&ring)) {
            state.unserved.push(ring);
        }
        self.shared.hire.notify_one();
    }

    /// Hands a request over. `Some`: too many already wait.
    pub(super) fn submit(&self, postponed: Postponed) -> Option<Postponed> {
        let bytes = postponed.taken.footprint();
        let mut state = self.shared.lock();
        if self.shared.is_full_for(bytes, &state) {
            return Some(postponed);
        }
        state.backlog.push_back(postponed);
        state.bytes = state.bytes.saturating_add(bytes);
        state.requests = state.requests.saturating_add(1);
        if self.shared.is_short_handed(&state) {
            self.shared.hire.notify_one();
        }
        drop(state);
        self.shared.work.notify_one();
        None
    }

    /// Waits until there is room for one more of so many bytes, or it is `until`, or `is_over`.
    pub(super) fn wait_for_room(&self, bytes: usize, until: Option<Instant>, is_over: impl Fn() -> bool) {
        let is_full = |state: &mut State| self.shared.is_full_for(bytes, state) && !is_over();
        drop(self.shared.room.wait_while(self.shared.lock(), until, is_full));
    }

    /// Has each queue that waits in [`Pool::wait_for_room`] look whether it is to stop.
    pub(super) fn interrupt(&self) {
        drop(self.shared.lock());
        self.shared.room.notify_all();
    }

    /// Takes back what has not begun of a queue, the oldest first.
    pub(super) fn withdraw(&self, queue: usize) -> Vec<Postponed> {
        let mut state = self.shared.lock();
        let all = std::mem::take(&mut state.backlog);
        let (withdrawn, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|postponed| postponed.queue == queue);
        state.backlog = kept.into();
        for postponed in &withdrawn {
            state.bytes = state.bytes.saturating_sub(postponed.taken.footprint());
            state.requests = state.requests.saturating_sub(1);
        }
        self.shared.room.notify_all();
        withdrawn
    }

    /// Takes such requests in again, before all others: whoever stops their queue waits for them. They go past the limits, for
    /// they had a place before.
    pub(super) fn hurry(&self, withdrawn: Vec<Postponed>) {
        if withdrawn.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for postponed in withdrawn.into_iter().rev() {
            state.bytes = state.bytes.saturating_add(postponed.taken.footprint());
            state.requests = state.requests.saturating_add(1);
            state.backlog.push_front(Postponed { is_urgent: true, ..postponed });
        }
        if self.shared.is_short_handed(&state) {
            self.shared.hire.notify_one();
        }
        drop(state);
        self.shared.work.notify_all();
    }

    /// Ends the threads; by then nothing may be left for them to do. Not for them to call: a request that waits holds
    /// its ring, and that its worker, and that this pool.
    pub(super) fn end(&self) {
        self.shared.lock().over = true;
        self.shared.work.notify_all();
        self.shared.hire.notify_all();
        let foreman = self.foreman.lock().take();
        if foreman.is_some_and(|foreman| foreman.join().is_err()) {
            tracing::error!("the pool's foreman ended by a panic");
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
    office: &Arc<Office>,
    session: &Arc<Session<F>>,
) -> io::Result<JoinHandle<()>> {
    {
        let mut state = office.lock();
        state.threads = 1;
        state.free = 1;
    }
    let (fit, is_fit) = bounded_channel(1);
    let (office, session) = (Arc::clone(office), Arc::clone(session));
    let thread = thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
        let prepared = office.setup.enter(Threads::OFFLOAD);
        let failed = prepared.is_err();
        if fit.try_send(prepared).is_ok() && !failed {
            office.work(&session);
        }
    })?;
    is_fit.receive().ok_or(io::ErrorKind::BrokenPipe)??;
    Ok(thread)
}
