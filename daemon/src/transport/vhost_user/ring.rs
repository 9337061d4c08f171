//! One queue's ring: the life of the thread that serves it, and who uses the guest's memory for it at the moment.

use super::backlog::{Backlog, Stage};
use super::crew::{Complaint, Member, Shift};
use super::regions::{Loaded, Regions, Shared};
use super::sleep::{Sleep, StopSignal, raise};
use super::split_ring::{Available, Done, Place, RingError, Used};
use super::tail::Tail;
use super::vring::Memory;
use crate::guest_view::GuestView;
use crate::session::Effort;
use crate::sync::lock::{Condvar, Mutex};
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use vhost_user_backend::{VringMutex, VringT as _};
use virtio_queue::{Error as QueueError, QueueT as _};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

/// What a worker does; one value a queue.
pub(super) trait Job: Send + Sync {
    /// Serves `ring` until `sleep` is over, or until the ring cannot be trusted.
    fn run(&self, ring: &Arc<Ring>, available: &mut Available, sleep: &Sleep) -> Result<(), RingError>;

    /// The ring is to be served.
    fn starting(&self);

    /// The ring is to be served and the host has no thread for it; [`Ring::start_again`] is to be called later.
    fn not_started(&self, ring: &Arc<Ring>);

    /// A worker that waits for the pool looks whether it is to end.
    fn interrupt(&self);

    /// The ring is being stopped: its worker ends after its current request.
    fn stopping(&self);

    /// The worker has ended, and whoever stops the ring waits for what was taken from it.
    fn taken_all(&self);

    /// It has been stopped.
    fn stopped(&self);
}

/// What the front-end has said about a ring.
pub(super) struct RingState {
    /// SET_VRING_ADDR came and the used index was read from there.
    pub(super) addressed: bool,
    /// SET_VRING_NUM named a size that a split ring can have.
    pub(super) sized: bool,
    /// Started by a kick event, not yet stopped by GET_VRING_BASE.
    pub(super) ready: bool,
    /// SET_VRING_ENABLE.
    pub(super) enabled: bool,
    /// SET_VRING_KICK.
    pub(super) kick: Option<File>,
    running: Option<Running>,
}

impl RingState {
    /// Whether a thread is to serve the ring.
    const fn is_in_use(&self) -> bool {
        self.addressed && self.sized && self.ready && self.enabled
    }
}

struct Running {
    stop: Arc<StopSignal>,
    shift: Shift,
    /// The worker's while it runs; here so that its end, whatever it is, leaves it behind.
    available: Arc<Mutex<Available>>,
}

/// The used ring and who is told.
#[derive(Default)]
struct GiveBack {
    used: Used,
    /// SET_VRING_CALL.
    call: Option<Arc<File>>,
}

/// One queue of the device.
pub(super) struct Ring {
    /// What the crate reads and sets while no worker runs.
    vring: VringMutex<Memory>,
    /// The guest's memory, where each region has been judged.
    regions: OnceLock<Arc<Regions>>,
    /// What serves it, and on which thread.
    server: OnceLock<(Arc<dyn Job>, Arc<Member>)>,
    /// Held by the connection's thread across a change and the stop and start of the worker; never by a worker.
    state: Mutex<RingState>,
    give_back: Mutex<GiveBack>,
    /// Odd while the worker uses the guest's memory.
    bursts: AtomicU64,
    /// Somebody waits for the end of a burst.
    awaited: AtomicBool,
    /// Requests that have left the worker.
    backlog: Mutex<Backlog>,
    tail: Mutex<Tail>,
    /// A burst has ended, or one of those requests is gone.
    quiet: Condvar,
    error_event: Mutex<Option<File>>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// The worker's use of the guest's memory; see [`Ring::begin`]. The memory is let go of first.
pub(super) struct Burst<'r> {
    memory: Loaded,
    _busy: Busy<'r>,
}

impl Burst<'_> {
    /// The memory that all of the burst may use.
    pub(super) fn memory(&self) -> GuestView<'_> {
        self.memory.view()
    }

    /// The part of it in which rings lie.
    pub(super) fn ram(&self) -> &GuestMemoryMmap {
        self.memory().ram
    }
}

struct Busy<'r>(&'r Ring);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.bursts.fetch_add(1, Ordering::SeqCst);
        if self.0.awaited.load(Ordering::SeqCst) {
            // Who waits holds this lock until it sleeps.
            drop(self.0.backlog.lock());
            self.0.quiet.notify_all();
        }
    }
}

/// A request's stay outside its worker; see [`Ring::defer`].
#[derive(Debug)]
pub(super) struct Deferral {
    ring: Arc<Ring>,
    stage: Stage,
    /// How long the pool may take for it.
    effort: Option<Effort>,
}

impl Deferral {
    /// The request is carried out from here on, with the present memory, which this returns. The order matters, as it does in
    /// [`Ring::begin`].
    pub(super) fn begin(&mut self) -> Shared {
        if !matches!(self.stage, Stage::Begun(_)) {
            self.change_to(Backlog::present);
        }
        Arc::clone(&self.ring.load())
    }

    /// It waits for a thread of the pool again. By now it uses no memory.
    pub(super) fn queue_again(&mut self) {
        self.change_to(|_| Stage::Queued);
    }

    /// Whether its ring has room for one more that waits for as long as it takes.
    pub(super) fn has_room_aside(&self) -> bool {
        self.ring.has_room_aside(false)
    }

    /// It waits for longer than the pool does. By now it uses no memory.
    pub(super) fn step_aside(&mut self) {
        if let Some(effort) = self.effort.take() {
            self.ring.backlog.lock().end(effort);
        }
        self.change_to(|_| Stage::Aside);
    }

    fn change_to(&mut self, stage: impl FnOnce(&Backlog) -> Stage) {
        let mut backlog = self.ring.backlog.lock();
        let stage = stage(&backlog);
        backlog.enter(stage);
        backlog.leave(self.stage);
        self.stage = stage;
        // A change of memory waits for it no longer, nor does the worker.
        self.ring.quiet.notify_all();
    }

    /// Whether a change of memory waits for the request.
    pub(super) fn is_outdated(&self) -> bool {
        self.ring.backlog.lock().is_outdated(self.stage)
    }

    /// Puts the request back into the available ring, as if it had not been taken. False: it is to be answered.
    pub(super) fn put_back(&self, place: Place) -> bool {
        self.ring.put_back(place)
    }

    /// Whether the guest no longer waits for its reply.
    pub(super) fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }

    /// Whether its ring is being stopped.
    pub(super) fn is_waited_for(&self) -> bool {
        self.ring.tail.lock().taken().is_some()
    }

    /// Gives the request back and tells the guest, as the worker would have.
    pub(super) fn give_back(&self, memory: &Shared, done: Done) {
        if let Err(error) = self.ring.give_back(memory.view().ram, &[done]) {
            self.ring.complain(|suppressed| {
                tracing::error!(%error, suppressed, "a request that waited could not be given back");
            });
            self.ring.report_error();
        }
    }
}

impl Drop for Deferral {
    fn drop(&mut self) {
        let mut backlog = self.ring.backlog.lock();
        if let Some(effort) = self.effort {
            backlog.end(effort);
        }
        if backlog.leave(self.stage) || backlog.is_awaited {
            self.ring.quiet.notify_all();
        }
    }
}

// The life of the worker.
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
            backlog: Mutex::default(),
            tail: Mutex::default(),
            quiet: Condvar::new(),
            error_event: Mutex::new(None),
        })
    }

    pub(super) const fn vring(&self) -> &VringMutex<Memory> {
        &self.vring
    }

    /// Says what the worker will do, on which thread, and in which memory. Once, before the connection is served.
    pub(super) fn attach(&self, job: Arc<dyn Job>, member: Arc<Member>, regions: Arc<Regions>) {
        let regions = self.regions.set(regions);
        if self.server.set((job, member)).is_err() || regions.is_err() {
            tracing::error!("a queue was given a second worker");
        }
    }

    /// Whether the log may hear of what the guest has done wrong; see [`Member::may_log`].
    pub(super) fn may_log(&self, complaint: Complaint) -> Option<u64> {
        self.server.get().and_then(|(_, member)| member.may_log(complaint))
    }

    /// Logs something about the ring that the guest or the front-end can cause again and again.
    pub(super) fn complain(&self, log: impl FnOnce(u64)) {
        if let Some(suppressed) = self.may_log(Complaint::Ring) {
            log(suppressed);
        }
    }

    /// Changes what is known of the ring while no worker uses it; then starts one if the ring is in use.
    pub(super) fn reconfigure<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&VringMutex<Memory>, &mut RingState) -> T,
    ) -> T {
        let mut state = self.state.lock();
        self.stop_worker(&mut state);
        let result = change(&self.vring, &mut state);
        if state.is_in_use() {
            self.start_worker(&mut state);
        }
        result
    }

    /// Starts the thread that the host had no room for before, if the ring still needs it. False: the ring is being
    /// changed at this moment, and it is too early to tell.
    pub(super) fn start_again(self: &Arc<Self>) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        if state.running.is_none() && state.is_in_use() {
            self.start_worker(&mut state);
        }
        true
    }

    /// Ends the worker after its current request and forgets the ring: device reset, connection lost.
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

    /// The guest is gone (device reset, connection lost): what was taken and has not begun is given up, and the worker is
    /// told to end. [`Ring::reset`] waits for that.
    pub(super) fn abandon(&self) {
        self.tail.lock().abandon();
        if let Some(running) = &self.state.lock().running {
            self.request_end(&running.stop);
        }
    }

    /// Tells the worker to end, whatever it waits for.
    fn request_end(&self, stop: &StopSignal) {
        stop.request();
        drop(self.backlog.lock());
        self.quiet.notify_all();
        if let Some((job, _)) = self.server.get() {
            job.interrupt();
        }
    }

    /// Ends the worker, waits for what it has handed on, and tells the crate how far all of it came.
    fn stop_worker(&self, state: &mut RingState) {
        let Some(Running { stop, shift, available }) = state.running.take() else { return };
        self.request_end(&stop);
        let job = self.server.get().map(|(job, _)| job);
        if let Some(job) = job {
            job.stopping();
        }
        if !shift.wait() {
            self.complain(|suppressed| {
                tracing::error!(suppressed, "a queue worker ended by a panic outside a request");
            });
        }
        if let Some(job) = job {
            job.taken_all();
        }
        drop(self.quiet.wait_while(self.backlog.lock(), None, |backlog| !backlog.is_empty()));
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

    fn start_worker(self: &Arc<Self>, state: &mut RingState) {
        let Some((job, member)) = self.server.get() else { return };
        let Some(kick) = &state.kick else { return };
        if let Some(regions) = self.regions.get() {
            regions.begin();
        }
        *self.tail.lock() = Tail::default();
        job.starting();
        match self.start(Arc::clone(job), member, kick) {
            Ok(running) => state.running = Some(running),
            Err(error) => {
                self.complain(|suppressed| {
                    let queue = member.name();
                    tracing::error!(
                        queue, %error, suppressed,
                        "cannot start the thread of a queue; trying again until the host has room for one"
                    );
                });
                self.report_error();
                job.not_started(self);
            }
        }
    }

    fn start(self: &Arc<Self>, job: Arc<dyn Job>, member: &Member, kick: &File) -> std::io::Result<Running> {
        let stop = Arc::new(StopSignal::new()?);
        let sleep = Sleep::new(kick, Arc::clone(&stop))?;
        let available = {
            let vring = self.vring.get_ref();
            self.give_back.lock().used = Used::of(vring.get_queue());
            Arc::new(Mutex::new(Available::of(vring.get_queue())))
        };
        let (ring, own, queue) = (Arc::clone(self), Arc::clone(&available), member.name().to_owned());
        let shift = member.start(move || {
            if let Err(error) = job.run(&ring, &mut own.lock(), &sleep) {
                ring.complain(|suppressed| tracing::error!(queue, %error, suppressed, "queue stopped"));
                ring.report_error();
            }
        })?;
        Ok(Running { stop, shift, available })
    }

    /// Whether it was started and not stopped since.
    pub(super) fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// The event by which the guest is told from now on.
    pub(super) fn set_call(&self, file: Option<File>) {
        self.give_back.lock().call = file.map(Arc::new);
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

// Who uses the guest's memory.
impl Ring {
    /// Marks the worker as using the guest's memory, and gives it that. The order matters: who replaces the memory
    /// and then sees the ring quiet knows that the next burst takes the new one.
    pub(super) fn begin(&self) -> Burst<'_> {
        self.bursts.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Burst { memory: self.load(), _busy: Busy(self) }
    }

    fn load(&self) -> Loaded {
        self.regions.get_or_init(|| Arc::new(Regions::new(None, &[]))).load()
    }

    /// Whether these bytes may be read and written by the daemon itself.
    pub(super) fn is_ram(&self, address: u64, len: usize) -> bool {
        self.load().view().ram.check_range(GuestAddress(address), len)
    }

    /// Lets a request of this effort wait for a pool thread. A stop of the ring waits for the request; a
    /// change of memory waits only once it has begun.
    pub(super) fn defer(self: &Arc<Self>, effort: Effort) -> Deferral {
        let mut backlog = self.backlog.lock();
        backlog.begin(effort);
        backlog.enter(Stage::Queued);
        Deferral { ring: Arc::clone(self), stage: Stage::Queued, effort: Some(effort) }
    }

    /// Whether the pool may be given one more request of this effort. `None`: whether any request may
    /// be taken off the ring.
    pub(super) fn has_room(&self, effort: Option<Effort>) -> bool {
        self.backlog.lock().has_room(effort)
    }

    /// Waits until it may, or it is `until`, or the worker is to stop.
    pub(super) fn wait_for_room(&self, effort: Option<Effort>, until: Option<Instant>, sleep: &Sleep) {
        let mut backlog = self.backlog.lock();
        while !sleep.is_over() && !backlog.has_room(effort) {
            backlog.is_awaited = true;
            let (after, is_over) = self.quiet.wait_until(backlog, until);
            backlog = after;
            if is_over {
                break;
            }
        }
        backlog.is_awaited = false;
    }

    /// The worker has taken so many requests and takes no more: from now on they can be put back, the last one first.
    pub(super) fn close_tail(&self, taken: u64) {
        self.tail.lock().close(taken);
    }

    /// Puts a request back into the available ring; see [`Tail::put_back`].
    pub(super) fn put_back(&self, place: Place) -> bool {
        self.tail.lock().put_back(place)
    }

    /// Whether the guest waits for no answer any longer.
    pub(super) fn is_abandoned(&self) -> bool {
        self.tail.lock().is_abandoned()
    }

    /// Whether one more may wait without the memory, for as long as it takes. Without `indirect` a request takes up to
    /// three descriptors of the ring.
    pub(super) fn has_room_aside(&self, indirect: bool) -> bool {
        let size = usize::from(self.vring.get_ref().get_queue().size());
        let room = if indirect { size / 4 * 3 } else { size / 4 };
        self.backlog.lock().aside() < room
    }

    /// How many requests may wait for leases of the host's processes. Without `indirect` each takes up to five descriptors.
    pub(super) fn room_for_leased(&self, indirect: bool) -> usize {
        let size = usize::from(self.vring.get_ref().get_queue().size());
        if indirect { size / 8 } else { size / 40 }
    }

    /// Lets a request wait without the memory: what stops the ring waits for it, what changes the memory does not.
    pub(super) fn set_aside(self: &Arc<Self>) -> Deferral {
        self.backlog.lock().enter(Stage::Aside);
        Deferral { ring: Arc::clone(self), stage: Stage::Aside, effort: None }
    }

    /// Waits for the burst that is under way, if there is one, and for the requests that the pool has begun. Not for those that
    /// come after them, of which a guest can have one ready at any moment.
    pub(super) fn drain(&self) {
        fence(Ordering::SeqCst);
        let mut backlog = self.backlog.lock();
        let noted = self.bursts.load(Ordering::SeqCst);
        if !noted.is_multiple_of(2) {
            self.awaited.store(true, Ordering::SeqCst);
            let is_under_way = |_: &mut Backlog| self.bursts.load(Ordering::SeqCst) == noted;
            backlog = self.quiet.wait_while(backlog, None, is_under_way);
            self.awaited.store(false, Ordering::SeqCst);
        }
        let era = backlog.change_memory();
        drop(self.quiet.wait_while(backlog, None, |backlog| backlog.uses(era)));
    }

    /// # Errors
    /// [`RingError::OutsideMemory`].
    pub(super) fn check(&self) -> Result<(), RingError> {
        let burst = self.begin();
        let inside = self.vring.get_ref().get_queue().is_valid(burst.ram());
        if inside { Ok(()) } else { Err(RingError::OutsideMemory) }
    }

    /// Gives requests back through the used ring, all at one moment, and interrupts the guest once if it wants to be.
    pub(super) fn give_back(&self, memory: &GuestMemoryMmap, done: &[Done]) -> Result<(), RingError> {
        let call = {
            let mut side = self.give_back.lock();
            if !side.used.give_back(memory, done)? {
                return Ok(());
            }
            side.call.clone()
        };
        call.map_or(Ok(()), |call| raise(&*call).map_err(RingError::Call))
    }
}
