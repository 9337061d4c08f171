//! The ring of one queue: when a thread serves it, and what uses the guest's memory for it.

use super::in_flight::{InFlightCounts, Stage, Tail};
use super::queue_thread::{Complaint, QueueThread, TaskHandle};
use super::regions::{LoadedViews, Regions, SharedViews};
use super::sleep::{CallEvent, Sleep, StopSignal, raise};
use super::split_ring::{Available, Done, RingError, RingPlace, Used};
use crate::guest_view::GuestView;
use crate::session::Effort;
use crate::sync::lock::{Condvar, Mutex};
use crate::threads::OnDemand;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use vhost_user_backend::{VringMutex, VringT as _};
use virtio_queue::{Error as QueueError, QueueT as _};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestMemoryBackend as _, GuestMemoryMmap};

/// The guest's memory as the front-end has described it last.
pub(super) type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The work of a queue thread for one queue.
pub(super) trait QueueJob: Send + Sync {
    /// Serves `ring` until `sleep` is over, or until the ring cannot be trusted.
    fn run(&self, ring: &Arc<Ring>, available: &mut Available, sleep: &Sleep) -> Result<(), RingError>;

    /// Called before the ring is served.
    fn starting(&self);

    /// Called when the host has no room for the thread of the ring. Arranges its start for later.
    fn not_started(&self, ring: &Arc<Ring>);

    /// Makes a queue thread that waits for the pool check whether it must stop.
    fn interrupt(&self);

    /// Called when the ring is being stopped: its thread stops after its current request.
    fn stopping(&self);

    /// Called when the queue thread has stopped. The stop of the ring now waits for requests in
    /// flight.
    fn taken_all(&self);

    /// Called when the ring was stopped.
    fn stopped(&self);
}

/// The state of a ring, as the front-end has set it.
pub(super) struct RingState {
    /// SET_VRING_ADDR came and the used index was read from there.
    pub(super) addressed: bool,
    /// SET_VRING_NUM named a size that a split ring can have.
    pub(super) sized: bool,
    /// Started by a kick event, not yet stopped by GET_VRING_BASE.
    pub(super) ready: bool,
    /// Enabled by SET_VRING_ENABLE.
    pub(super) enabled: bool,
    /// The guest's kick event, from SET_VRING_KICK.
    pub(super) kick: Option<File>,
    running: Option<Running>,
}

impl RingState {
    /// Returns whether a thread is to serve the ring.
    const fn is_in_use(&self) -> bool {
        self.addressed && self.sized && self.ready && self.enabled
    }
}

struct Running {
    stop: Arc<StopSignal>,
    /// Held so that the queue thread, which has it too, does not close it.
    _sleep: Arc<Sleep>,
    task: TaskHandle,
    /// The queue thread's half of the ring. It is here and not in the task, so that it remains if
    /// the task ends by a panic.
    available: Arc<Mutex<Available>>,
}

/// The used ring, and the event that tells the guest.
#[derive(Default)]
struct GiveBack {
    used: Used,
    /// The guest's call event, from SET_VRING_CALL.
    call: Option<Arc<CallEvent>>,
}

/// One queue of the device.
pub(super) struct Ring {
    /// The state that the crate reads and sets while no thread serves the ring.
    vring: VringMutex<Memory>,
    /// The guest's memory, with the kind of each region.
    regions: OnceLock<Arc<Regions>>,
    /// The job that serves the ring, and the thread for the job.
    server: OnceLock<(Arc<dyn QueueJob>, Arc<QueueThread>)>,
    /// The connection's thread holds this lock during a change, with the stop and start of the
    /// queue thread. A queue thread never holds it.
    state: Mutex<RingState>,
    give_back: Mutex<GiveBack>,
    /// Odd while the queue thread uses the guest's memory.
    bursts: AtomicU64,
    /// Whether a thread waits for the end of a burst.
    awaited: AtomicBool,
    in_flight: Mutex<InFlightCounts>,
    tail: Mutex<Tail>,
    /// Notified when a burst has ended, or a request in flight is gone or at another stage.
    quiet: Condvar,
    error_event: Mutex<Option<File>>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// The queue thread's use of the guest's memory; see [`Ring::begin`]. The memory is dropped first.
pub(super) struct Burst<'r> {
    memory: LoadedViews,
    _busy: Busy<'r>,
}

impl Burst<'_> {
    /// Returns the memory that the burst may use.
    pub(super) fn memory(&self) -> GuestView<'_> {
        self.memory.view()
    }

    /// Returns the part of the memory in which rings may be.
    pub(super) fn ram(&self) -> &GuestMemoryMmap {
        self.memory().ram
    }
}

struct Busy<'r>(&'r Ring);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.bursts.fetch_add(1, Ordering::SeqCst);
        if self.0.awaited.load(Ordering::SeqCst) {
            // A thread that waits holds this lock until it sleeps.
            drop(self.0.in_flight.lock());
            self.0.quiet.notify_all();
        }
    }
}

/// A request in flight, counted until it is dropped; see [`Ring::offload`] and [`Ring::defer`].
#[derive(Debug)]
pub(super) struct InFlight {
    ring: Arc<Ring>,
    stage: Stage,
    /// Time that the pool may take for it, while the pool has it.
    effort: Option<Effort>,
}

impl InFlight {
    /// Begins to carry the request out. Returns the present memory, which the request uses. The
    /// order matters, as in [`Ring::begin`].
    pub(super) fn begin(&mut self) -> SharedViews {
        if !matches!(self.stage, Stage::Begun(_)) {
            self.change_to(InFlightCounts::present);
        }
        Arc::clone(&self.ring.load())
    }

    /// Makes the request wait for a thread of the pool again. It must no longer use memory.
    pub(super) fn queue_again(&mut self) {
        self.change_to(|_| Stage::Queued);
    }

    /// Returns whether its ring has room for one more deferred request.
    pub(super) fn has_room_to_defer(&self) -> bool {
        self.ring.has_room_to_defer(false)
    }

    /// Makes the request a deferred one. It must no longer use memory.
    pub(super) fn defer(&mut self) {
        if let Some(effort) = self.effort.take() {
            self.ring.in_flight.lock().end_offload(effort);
        }
        self.change_to(|_| Stage::Deferred);
    }

    fn change_to(&mut self, stage: impl FnOnce(&InFlightCounts) -> Stage) {
        let mut counts = self.ring.in_flight.lock();
        let stage = stage(&counts);
        counts.enter(stage);
        counts.leave(self.stage);
        self.stage = stage;
        // A change of memory no longer waits for it, nor does the queue thread.
        self.ring.quiet.notify_all();
    }

    /// Returns whether a change of memory waits for the request.
    pub(super) fn is_outdated(&self) -> bool {
        self.ring.in_flight.lock().is_outdated(self.stage)
    }

    /// Puts the request back into the available ring, as if it had not been taken. Returns false if
    /// it must be answered.
    pub(super) fn put_back(&self, place: RingPlace) -> bool {
        self.ring.put_back(place)
    }

    /// Returns whether the guest no longer waits for its reply.
    pub(super) fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }

    /// Returns whether its ring is being stopped.
    pub(super) fn is_waited_for(&self) -> bool {
        self.ring.tail.lock().taken().is_some()
    }

    /// Gives the request back and tells the guest, as the queue thread would have.
    pub(super) fn give_back(&self, memory: &SharedViews, done: Done) {
        if let Err(error) = self.ring.give_back(memory.view().ram, &[done]) {
            self.ring.complain(|suppressed| {
                tracing::error!(%error, suppressed, "a request that waited could not be given back");
            });
            self.ring.report_error();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut counts = self.ring.in_flight.lock();
        if let Some(effort) = self.effort {
            counts.end_offload(effort);
        }
        if counts.leave(self.stage) || counts.is_awaited {
            self.ring.quiet.notify_all();
        }
    }
}

// Start and stop of the thread that serves the ring.
impl Ring {
    pub(super) fn new(memory: Memory, max_size: u16) -> Result<Self, QueueError> {
        Ok(Self {
            vring: VringMutex::new(memory, max_size)?,
            regions: OnceLock::new(),
            server: OnceLock::new(),
            state: Mutex::new(RingState {
                addressed: false,
                sized: true,
                ready: false,
                enabled: false,
                kick: None,
                running: None,
            }),
            give_back: Mutex::default(),
            bursts: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            in_flight: Mutex::default(),
            tail: Mutex::default(),
            quiet: Condvar::new(),
            error_event: Mutex::new(None),
        })
    }

    pub(super) const fn vring(&self) -> &VringMutex<Memory> {
        &self.vring
    }

    /// Sets the job, the thread and the memory of the ring. Called once, before the connection is
    /// served.
    pub(super) fn attach(&self, job: Arc<dyn QueueJob>, thread: Arc<QueueThread>, regions: Arc<Regions>) {
        let regions = self.regions.set(regions);
        if self.server.set((job, thread)).is_err() || regions.is_err() {
            tracing::error!("a queue was attached twice");
        }
    }

    /// Asks for one line of the log; see [`QueueThread::may_log`].
    pub(super) fn may_log(&self, complaint: Complaint) -> Option<u64> {
        self.server.get().and_then(|(_, thread)| thread.may_log(complaint))
    }

    /// Logs an event of the ring that the guest or the front-end can cause again and again.
    pub(super) fn complain(&self, log: impl FnOnce(u64)) {
        if let Some(suppressed) = self.may_log(Complaint::Ring) {
            log(suppressed);
        }
    }

    /// Stops the queue thread, changes the state of the ring, and starts the thread again if the
    /// ring is in use.
    pub(super) fn reconfigure<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&VringMutex<Memory>, &mut RingState) -> T,
    ) -> T {
        let mut state = self.state.lock();
        self.stop_thread(&mut state);
        let result = change(&self.vring, &mut state);
        if state.is_in_use()
            && !self.start_thread(&mut state)
            && let Some((job, _)) = self.server.get()
        {
            self.report_error();
            job.not_started(self);
        }
        result
    }

    /// Stops the queue thread after its current request and forgets the ring: the device is reset
    /// or the connection is lost.
    pub(super) fn reset(self: &Arc<Self>) {
        self.reconfigure(|vring, state| {
            vring.set_queue_ready(false);
            vring.set_kick(None);
            state.addressed = false;
            state.ready = false;
            state.kick = None;
        });
        self.set_call(None);
    }

    /// Gives up all requests that have not begun, because the guest is gone, and tells the queue
    /// thread to stop. [`Ring::reset`] waits for that.
    pub(super) fn abandon(&self) {
        self.tail.lock().abandon();
        if let Some(running) = &self.state.lock().running {
            self.request_stop(&running.stop);
        }
    }

    /// Tells the queue thread to stop, and ends each of its waits.
    fn request_stop(&self, stop: &StopSignal) {
        stop.request();
        drop(self.in_flight.lock());
        self.quiet.notify_all();
        if let Some((job, _)) = self.server.get() {
            job.interrupt();
        }
    }

    /// Stops the queue thread, waits for its requests in flight, and tells the crate the indexes
    /// that the ring has reached.
    fn stop_thread(&self, state: &mut RingState) {
        let Some(Running { stop, _sleep, task, available }) = state.running.take() else { return };
        self.request_stop(&stop);
        let job = self.server.get().map(|(job, _)| job);
        if let Some(job) = job {
            job.stopping();
        }
        if !task.wait() {
            self.complain(|suppressed| {
                tracing::error!(suppressed, "a queue thread ended its task by a panic outside a request");
            });
        }
        if let Some(job) = job {
            job.taken_all();
        }
        drop(self.quiet.wait_while(self.in_flight.lock(), None, |counts| !counts.is_empty()));
        if let Some(job) = job {
            job.stopped();
        }
        let mut available = available.lock();
        if let Some(taken) = self.tail.lock().taken() {
            available.go_back_to(taken);
        }
        let mut vring = self.vring.get_mut();
        available.note(vring.get_queue_mut());
        self.give_back.lock().used.note(vring.get_queue_mut());
    }

    /// Starts the queue thread. Returns false if the host has no room for it.
    fn start_thread(self: &Arc<Self>, state: &mut RingState) -> bool {
        let Some((job, thread)) = self.server.get() else { return true };
        let Some(kick) = &state.kick else { return true };
        if let Some(regions) = self.regions.get() {
            regions.begin();
        }
        *self.tail.lock() = Tail::default();
        job.starting();
        match self.start(Arc::clone(job), thread, kick) {
            Ok(running) => {
                state.running = Some(running);
                true
            }
            Err(error) => {
                self.complain(|suppressed| {
                    let queue = thread.name();
                    tracing::error!(
                        queue, %error, suppressed,
                        "cannot start the thread of a queue; trying again until the host has room for one"
                    );
                });
                false
            }
        }
    }

    fn start(
        self: &Arc<Self>,
        job: Arc<dyn QueueJob>,
        thread: &QueueThread,
        kick: &File,
    ) -> std::io::Result<Running> {
        let stop = Arc::new(StopSignal::new()?);
        let sleep = Arc::new(Sleep::new(kick, Arc::clone(&stop))?);
        let available = {
            let vring = self.vring.get_ref();
            self.give_back.lock().used = Used::of(vring.get_queue());
            Arc::new(Mutex::new(Available::of(vring.get_queue())))
        };
        let (ring, own, queue) = (Arc::clone(self), Arc::clone(&available), thread.name().to_owned());
        let own_sleep = Arc::clone(&sleep);
        let task = thread.start(move || {
            if let Err(error) = job.run(&ring, &mut own.lock(), &own_sleep) {
                ring.complain(|suppressed| tracing::error!(queue, %error, suppressed, "queue stopped"));
                ring.report_error();
            }
        })?;
        Ok(Running { stop, _sleep: sleep, task, available })
    }

    /// Returns whether the front-end has started the ring and not stopped it since.
    pub(super) fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// Sets the event that interrupts the guest.
    pub(super) fn set_call(&self, file: Option<File>) {
        self.give_back.lock().call = file.map(CallEvent::new).map(Arc::new);
    }

    pub(super) fn set_error_event(&self, file: Option<File>) {
        *self.error_event.lock() = file;
    }

    fn report_error(&self) {
        if let Some(event) = &*self.error_event.lock()
            && let Err(error) = raise(event)
        {
            self.complain(|suppressed| {
                tracing::error!(%error, suppressed, "cannot report that a queue has stopped");
            });
        }
    }
}

impl OnDemand for Ring {
    /// Starts the thread that the host had no room for before, if the ring still needs it. Does not
    /// write to events of the front-end, which could block the control thread.
    fn start_missing(self: Arc<Self>) -> bool {
        // Another thread is changing the ring, so this is tried again later.
        let Some(mut state) = self.state.try_lock() else { return false };
        state.running.is_some() || !state.is_in_use() || self.start_thread(&mut state)
    }
}

// Use of the guest's memory.
impl Ring {
    /// Marks the queue thread as a user of the guest's memory, then takes that memory. The order
    /// matters: a thread that replaces the memory and then sees no burst knows that the next burst
    /// takes the new memory.
    pub(super) fn begin(&self) -> Burst<'_> {
        self.bursts.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Burst { memory: self.load(), _busy: Busy(self) }
    }

    fn load(&self) -> LoadedViews {
        self.regions.get_or_init(|| Arc::new(Regions::new(None, &[]))).load()
    }

    /// Returns whether the daemon itself may read and write these bytes.
    pub(super) fn is_ram(&self, address: u64, len: usize) -> bool {
        self.load().view().ram.check_range(GuestAddress(address), len)
    }

    /// Counts a request of this effort that waits for a pool thread. A stop of the ring waits for
    /// the request; a change of memory waits only once it has begun.
    pub(super) fn offload(self: &Arc<Self>, effort: Effort) -> InFlight {
        let mut counts = self.in_flight.lock();
        counts.offload(effort);
        counts.enter(Stage::Queued);
        InFlight { ring: Arc::clone(self), stage: Stage::Queued, effort: Some(effort) }
    }

    /// Returns whether the pool may get one more request of this effort. `None`: whether any
    /// request may be taken off the ring.
    pub(super) fn has_room(&self, effort: Option<Effort>) -> bool {
        self.in_flight.lock().has_room(effort)
    }

    /// Waits for the room of [`Ring::has_room`], but not if the queue thread must stop.
    pub(super) fn wait_for_room(&self, effort: Option<Effort>, sleep: &Sleep) {
        let counts = self.in_flight.lock();
        let mut counts = self.quiet.wait_while(counts, None, |counts| {
            let waits = !sleep.is_over() && !counts.has_room(effort);
            counts.is_awaited |= waits;
            waits
        });
        counts.is_awaited = false;
    }

    /// Notes that the queue thread has taken `taken` requests and takes no more. From now on they
    /// can be put back, the last one first.
    pub(super) fn close_tail(&self, taken: u64) {
        self.tail.lock().close(taken);
    }

    /// Puts a request back into the available ring; see [`Tail::put_back`].
    pub(super) fn put_back(&self, place: RingPlace) -> bool {
        self.tail.lock().put_back(place)
    }

    /// Returns whether the guest no longer waits for replies.
    pub(super) fn is_abandoned(&self) -> bool {
        self.tail.lock().is_abandoned()
    }

    /// Returns whether one more request may be deferred. Without `indirect` a request takes up to
    /// three descriptors of the ring.
    pub(super) fn has_room_to_defer(&self, indirect: bool) -> bool {
        let size = usize::from(self.vring.get_ref().get_queue().size());
        let room = if indirect { size / 4 * 3 } else { size / 4 };
        self.in_flight.lock().deferred() < room
    }

    /// Returns how many requests may wait for leases of host processes. Without `indirect` each
    /// takes up to five descriptors.
    pub(super) fn room_for_leased(&self, indirect: bool) -> usize {
        let size = usize::from(self.vring.get_ref().get_queue().size());
        if indirect { size / 8 } else { size / 40 }
    }

    /// Counts a deferred request. A stop of the ring waits for it; a change of memory does not.
    pub(super) fn defer(self: &Arc<Self>) -> InFlight {
        self.in_flight.lock().enter(Stage::Deferred);
        InFlight { ring: Arc::clone(self), stage: Stage::Deferred, effort: None }
    }

    /// Waits for the present burst, if there is one, and for the requests that the pool has begun.
    /// Does not wait for later ones, because a guest can have one ready at any moment.
    pub(super) fn drain(&self) {
        fence(Ordering::SeqCst);
        let mut counts = self.in_flight.lock();
        let noted = self.bursts.load(Ordering::SeqCst);
        if !noted.is_multiple_of(2) {
            self.awaited.store(true, Ordering::SeqCst);
            let is_in_burst = |_: &mut InFlightCounts| self.bursts.load(Ordering::SeqCst) == noted;
            counts = self.quiet.wait_while(counts, None, is_in_burst);
            self.awaited.store(false, Ordering::SeqCst);
        }
        let ended = counts.change_memory();
        drop(self.quiet.wait_while(counts, None, |counts| counts.uses(ended)));
    }

    /// Checks that the ring lies in memory.
    ///
    /// # Errors
    /// [`RingError::OutsideMemory`].
    pub(super) fn check(&self) -> Result<(), RingError> {
        let burst = self.begin();
        let inside = self.vring.get_ref().get_queue().is_valid(burst.ram());
        if inside { Ok(()) } else { Err(RingError::OutsideMemory) }
    }

    /// Gives requests back through the used ring with one new index, and interrupts the guest once
    /// if it asks for it.
    pub(super) fn give_back(&self, memory: &GuestMemoryMmap, done: &[Done]) -> Result<(), RingError> {
        let call = {
            let mut side = self.give_back.lock();
            if !side.used.give_back(memory, done)? {
                return Ok(());
            }
            side.call.clone()
        };
        call.map_or(Ok(()), |call| call.raise().map_err(RingError::Call))
    }
}
