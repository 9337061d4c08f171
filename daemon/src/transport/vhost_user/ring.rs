//! A split ring in guest memory, and the life of the thread that serves it.

use super::vring::Memory;
use crate::transport::chain::Table;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::num::Wrapping;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use vhost_user_backend::{VringMutex, VringT as _};
use virtio_queue::{Error as QueueError, QueueT as _};
use vm_memory::{Address as _, Bytes as _, GuestAddress, GuestMemoryMmap};

/// Bytes of the available ring before its entries: flags and index (virtio 1.3, 2.7.6).
const AVAIL_HEADER_LEN: u64 = 4;

/// Why a ring cannot be trusted any longer. Its queue stops; nothing else does.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("the ring does not lie in memory")]
    OutsideMemory,
    #[error("{pending} requests waiting in a ring of {size}")]
    TooManyAvailable { pending: u16, size: u16 },
    #[error("a request at descriptor {head} of {size}")]
    HeadOutOfRange { head: u16, size: u16 },
    #[error("the ring cannot be used: {0}")]
    Queue(#[from] QueueError),
    #[error("the guest's kick event does not work: {0}")]
    Kick(std::io::Error),
    #[error("the guest's call event does not work: {0}")]
    Call(std::io::Error),
    #[error("the thread cannot be prepared: {0}")]
    Thread(std::io::Error),
}

/// What a worker does; one value a queue.
pub(super) trait Job: Send + Sync {
    /// The thread's name.
    fn name(&self) -> String;
    /// Serves `ring` until `stop`, or until the ring cannot be trusted.
    fn run(&self, ring: &Ring, kick: &File, stop: &StopSignal) -> Result<(), RingError>;
}

/// Tells a worker to end after its current request.
#[derive(Debug)]
pub(super) struct StopSignal {
    requested: AtomicBool,
    event: OwnedFd,
}

impl StopSignal {
    fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { requested: AtomicBool::new(false), event })
    }

    fn request(&self) {
        self.requested.store(true, Ordering::Release);
        raise(&self.event);
    }

    pub(super) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Readable once the stop is requested.
    pub(super) const fn event(&self) -> &OwnedFd {
        &self.event
    }
}

/// Adds to an eventfd. Its number has the host's byte order; any order of 1 is a number above 0.
fn raise(event: impl std::os::fd::AsFd) {
    if let Err(error) = rustix::io::write(event, &1u64.to_le_bytes()) {
        tracing::error!(%error, "cannot raise an event");
    }
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

struct Running {
    stop: Arc<StopSignal>,
    thread: JoinHandle<()>,
}

/// One queue of the device.
pub(super) struct Ring {
    vring: VringMutex<Memory>,
    memory: Memory,
    job: OnceLock<Arc<dyn Job>>,
    /// Held by the connection's thread across a change and the stop and start of the worker; never by a worker.
    state: Mutex<RingState>,
    /// Whether a request is between the available and the used ring, and how many have been before it.
    busy: Mutex<(bool, u64)>,
    idle: Condvar,
    error_event: Mutex<Option<File>>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// A request's stay between the two rings; see [`Ring::begin`].
pub(super) struct Busy<'r>(&'r Ring);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.0.busy);
        *busy = (false, busy.1.wrapping_add(1));
        self.0.idle.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks: a panic there has broken no invariant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// The life of the worker.
impl Ring {
    pub(super) fn new(memory: Memory, max_size: u16) -> Result<Self, QueueError> {
        Ok(Self {
            vring: VringMutex::new(memory.clone(), max_size)?,
            memory,
            job: OnceLock::new(),
            state: Mutex::new(RingState {
                addressed: false,
                sized: true,
                ready: false,
                enabled: false,
                kick: None,
                running: None,
            }),
            busy: Mutex::new((false, 0)),
            idle: Condvar::new(),
            error_event: Mutex::new(None),
        })
    }

    pub(super) const fn vring(&self) -> &VringMutex<Memory> {
        &self.vring
    }

    /// Says what the worker will do. Once, before the connection is served.
    pub(super) fn attach(&self, job: Arc<dyn Job>) {
        if self.job.set(job).is_err() {
            tracing::error!("a queue was given a second worker");
        }
    }

    /// Changes what is known of the ring while no worker uses it; then starts one if the ring is in use.
    pub(super) fn reconfigure<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&VringMutex<Memory>, &mut RingState) -> T,
    ) -> T {
        let mut state = lock(&self.state);
        self.stop_worker(&mut state);
        let result = change(&self.vring, &mut state);
        if state.addressed && state.sized && state.ready && state.enabled {
            self.start_worker(&mut state);
        }
        result
    }

    /// Ends the worker after its current request and forgets the ring: device reset, connection lost.
    pub(super) fn reset(self: &Arc<Self>) {
        self.reconfigure(|vring, state| {
            vring.set_queue_ready(false);
            vring.set_kick(None);
            vring.set_call(None);
            state.addressed = false;
            state.ready = false;
            state.kick = None;
        });
    }

    fn stop_worker(&self, state: &mut RingState) {
        if let Some(Running { stop, thread }) = state.running.take() {
            stop.request();
            if thread.join().is_err() {
                tracing::error!("a queue worker ended by a panic outside a request");
            }
        }
    }

    fn start_worker(self: &Arc<Self>, state: &mut RingState) {
        let Some(job) = self.job.get().cloned() else { return };
        let Some(kick) = &state.kick else { return };
        match self.spawn(job, kick) {
            Ok(running) => state.running = Some(running),
            Err(error) => tracing::error!(%error, "cannot start a queue worker; the queue is not served"),
        }
    }

    fn spawn(self: &Arc<Self>, job: Arc<dyn Job>, kick: &File) -> std::io::Result<Running> {
        let stop = Arc::new(StopSignal::new()?);
        let (ring, kick, seen) = (Arc::clone(self), kick.try_clone()?, Arc::clone(&stop));
        let thread = std::thread::Builder::new().name(job.name()).spawn(move || {
            if let Err(error) = job.run(&ring, &kick, &seen) {
                tracing::error!(queue = job.name(), %error, "queue stopped");
                ring.report_error();
            }
        })?;
        Ok(Running { stop, thread })
    }

    pub(super) fn set_error_event(&self, file: Option<File>) {
        *lock(&self.error_event) = file;
    }

    fn report_error(&self) {
        if let Some(event) = &*lock(&self.error_event) {
            raise(event.as_fd());
        }
    }
}

// What the worker does with the ring.
impl Ring {
    /// Marks a request as being between the rings, and gives the memory that it may use. The order matters: who
    /// replaces the memory and then sees the ring idle knows that the next request takes the new one.
    pub(super) fn begin(&self) -> (Busy<'_>, impl std::ops::Deref<Target = GuestMemoryMmap> + use<>) {
        use vm_memory::GuestAddressSpace as _;
        lock(&self.busy).0 = true;
        (Busy(self), self.memory.memory())
    }

    /// Waits for the request that is between the rings, if there is one. Not for those that come after it, of which
    /// a guest can have one ready at any moment.
    pub(super) fn drain(&self) {
        let mut busy = lock(&self.busy);
        let (_, noted) = *busy;
        while busy.0 && busy.1 == noted {
            busy = self.idle.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// # Errors
    /// [`RingError::OutsideMemory`].
    pub(super) fn check(&self) -> Result<(), RingError> {
        let (_busy, memory) = self.begin();
        let inside = self.vring.get_ref().get_queue().is_valid(&*memory);
        if inside { Ok(()) } else { Err(RingError::OutsideMemory) }
    }

    /// Takes the next request from the available ring: the index of its first descriptor.
    pub(super) fn next_head(&self, memory: &GuestMemoryMmap) -> Result<Option<(u16, Table)>, RingError> {
        let mut vring = self.vring.get_mut();
        let queue = vring.get_queue_mut();
        let (next, size) = (Wrapping(queue.next_avail()), queue.size());
        let Wrapping(pending) = queue.avail_idx(memory, Ordering::Acquire)? - next;
        if pending == 0 {
            return Ok(None);
        }
        if pending > size {
            return Err(RingError::TooManyAvailable { pending, size });
        }
        // The crate keeps the size a power of two, at least 1.
        let place = AVAIL_HEADER_LEN + 2 * u64::from(next.0 & (size - 1));
        let address = GuestAddress(queue.avail_ring()).checked_add(place).ok_or(RingError::OutsideMemory)?;
        let head: u16 = memory.load(address, Ordering::Relaxed).map_err(QueueError::GuestMemory)?;
        let head = u16::from_le(head);
        if head >= size {
            return Err(RingError::HeadOutOfRange { head, size });
        }
        queue.set_next_avail((next + Wrapping(1)).0);
        Ok(Some((head, Table { address: GuestAddress(queue.desc_table()), count: size })))
    }

    /// Gives a request back through the used ring.
    pub(super) fn add_used(&self, memory: &GuestMemoryMmap, head: u16, len: u32) -> Result<(), RingError> {
        Ok(self.vring.get_mut().get_queue_mut().add_used(memory, head, len)?)
    }

    /// Interrupts the guest, if it wants to be.
    pub(super) fn signal(&self) -> Result<(), RingError> {
        let (_busy, _memory) = self.begin();
        if self.vring.needs_notification()? {
            match self.vring.signal_used_queue() {
                // The event is full of interrupts that the guest has not taken yet; one more says nothing new.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                signalled => signalled.map_err(RingError::Call)?,
            }
        }
        Ok(())
    }

    pub(super) fn disable_notification(&self) -> Result<(), RingError> {
        let (_busy, _memory) = self.begin();
        Ok(self.vring.disable_notification()?)
    }

    /// Asks the guest for kicks; true: something has come meanwhile.
    pub(super) fn enable_notification(&self) -> Result<bool, RingError> {
        let (_busy, _memory) = self.begin();
        Ok(self.vring.enable_notification()?)
    }
}
