//! The virtio-fs device (virtio 1.3, 5.11) and its rings, as the crate vhost-user-backend uses
//! them. All workarounds for that crate are here. Each has a comment that begins with "Workaround".
//!
//! The crate's rings do not know queue threads. [`QueueVring`] wraps one and adjusts the daemon's
//! ring after every change that the front-end makes: a thread serves the ring exactly while the
//! ring has addresses and a kick event and is ready and enabled. A stop waits for the thread, which
//! ends its current request first. That is the drain which GET_VRING_BASE, a reset and a lost
//! connection need (`docs/decisions/0003-one-thread-per-queue.md`).

use super::back_channel;
use super::offload::OffloadService;
use super::options::DeviceOptions;
use super::queue::Queue;
use super::queue_thread::QueueThread;
use super::regions::Regions;
use super::ring::{Memory, Ring};
use crate::filesystem::FileSystem;
use crate::limits::QUEUE_SIZE_MAX;
use crate::session::Session;
use crate::sync::lock::Mutex;
use rustix::fs::OFlags;
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use vhost::vhost_user::Backend;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures};
use vhost_user_backend::{
    Error as BackendError, VhostUserBackend, VhostUserDaemon, VringState, VringStateGuard,
    VringStateMutGuard, VringT,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error as QueueError, QueueT as _};
use vm_memory::{GuestAddressSpace as _, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

/// Bytes of flags and index at the start of a used ring.
const USED_HEADER_LEN: usize = 4;

thread_local! {
    /// Rings made on this thread. Workaround: the crate makes them itself and does not return them.
    static MADE: RefCell<Vec<Arc<Ring>>> = const { RefCell::new(Vec::new()) };
}

/// The device of one connection.
pub(super) struct Device<F> {
    session: Arc<Session<F>>,
    options: DeviceOptions,
    acked_features: Arc<AtomicU64>,
    regions: Arc<Regions>,
    rings: OnceLock<Vec<Arc<Ring>>>,
    /// The channel for the daemon's own requests, which are about the DAX window. It is kept open
    /// without a window too: User-mode Linux waits forever if its end closes.
    back_channel: Mutex<Option<Backend>>,
}

impl<F> fmt::Debug for Device<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The session is large, and the back channel has nothing to show.
        f.debug_struct("Device").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<F: FileSystem + 'static> Device<F> {
    /// Makes the device of one connection, and the crate's daemon that serves it. Each queue is
    /// attached to its thread.
    ///
    /// Workaround: the crate refuses a second SET_OWNER on one daemon, so each connection has its
    /// own.
    ///
    /// # Errors
    /// The crate's error.
    pub(super) fn connect(
        session: &Arc<Session<F>>,
        options: &DeviceOptions,
        offload: &Arc<OffloadService<F>>,
        threads: &[Arc<QueueThread>],
    ) -> Result<(Arc<Self>, VhostUserDaemon<Arc<Self>>), BackendError> {
        let device = Arc::new(Self {
            regions: Arc::new(Regions::new(session.window(), &options.memory_devices)),
            session: Arc::clone(session),
            options: options.clone(),
            acked_features: Arc::default(),
            rings: OnceLock::new(),
            back_channel: Mutex::new(None),
        });
        MADE.with_borrow_mut(Vec::clear);
        let memory = Memory::new(GuestMemoryMmap::new());
        let daemon = VhostUserDaemon::new("vhost-user".to_owned(), Arc::clone(&device), memory)?;
        let rings = device.rings.get_or_init(|| MADE.with_borrow_mut(std::mem::take));
        for (index, (ring, thread)) in rings.iter().zip(threads).enumerate() {
            let queue = Queue {
                index,
                session: Arc::clone(session),
                acked_features: Arc::clone(&device.acked_features),
                offload: Arc::clone(offload),
                poll: options.poll,
            };
            ring.attach(Arc::new(queue), Arc::clone(thread), Arc::clone(&device.regions));
        }
        Ok((device, daemon))
    }

    /// Stops all queues after their current requests, gives up requests that have not begun, waits
    /// for the rest, and forgets the guest.
    pub(super) fn stop(&self) {
        // All queues are told to stop before the first wait.
        for ring in self.rings() {
            ring.abandon();
        }
        for ring in self.rings() {
            ring.reset();
        }
        if let Some(window) = self.session.window() {
            window.halt();
        }
        self.session.end();
    }

    fn rings(&self) -> &[Arc<Ring>] {
        self.rings.get().map(Vec::as_slice).unwrap_or_default()
    }
}

impl<F: FileSystem + 'static> VhostUserBackend for Device<F> {
    type Bitmap = ();
    type Vring = QueueVring;

    fn num_queues(&self) -> usize {
        self.options.queues()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_SIZE_MAX)
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        if let Some(window) = self.session.window() {
            back_channel::start(window, backend.clone());
        }
        *self.back_channel.lock() = Some(backend);
    }

    /// Only shared memory region 0 exists.
    fn get_shmem_config(&self) -> io::Result<VhostUserShMemConfig> {
        let window = self.session.window().ok_or(io::ErrorKind::Unsupported)?;
        Ok(VhostUserShMemConfig::new(1, &[window.len_bytes()]))
    }

    /// Called when the crate has stopped a queue. After the last one, the front-end gets no more
    /// messages about the window.
    fn stop_vring(&self, _index: u32) -> io::Result<()> {
        if let Some(window) = self.session.window()
            && !self.rings().iter().any(|ring| ring.is_ready())
        {
            window.halt();
        }
        Ok(())
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        self.acked_features.store(features, Ordering::Release);
    }

    /// Workaround: offers only the features that `vhost-user-backend` really supports. It refuses
    /// INFLIGHT_SHMFD later, and STATUS ends the connection. LOG_SHMFD is missing because the host
    /// writes into guest memory without marking a dirty bitmap.
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let config = if self.options.tag.is_some() {
            VhostUserProtocolFeatures::CONFIG
        } else {
            VhostUserProtocolFeatures::empty()
        };
        let window = if self.session.window().is_some() {
            VhostUserProtocolFeatures::SHMEM
        } else {
            VhostUserProtocolFeatures::empty()
        };
        config
            | window
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::BACKEND_SEND_FD
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    /// Forgets the guest. The crate has disabled the queues, so their threads have stopped.
    fn reset_device(&self) {
        self.stop();
    }

    /// Does nothing, because the crate has told each queue.
    fn set_event_idx(&self, _enabled: bool) {}

    /// Returns exactly `size` bytes, padded with zeros: a front-end hangs on any other length.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = self.options.config_space();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = space.get(from..).unwrap_or_default().iter().copied();
        bytes.chain(std::iter::repeat(0)).take(usize::try_from(size).unwrap_or(0)).collect()
    }

    /// Refuses each write: the configuration of a virtio-fs device is read-only for the driver.
    fn set_config(&self, _offset: u32, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Called when the new memory is in place. Requests that use the old memory end before the
    /// front-end gets its reply.
    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let before = self.regions.follow(&memory.memory());
        for ring in self.rings() {
            ring.drain();
        }
        drop(before);
        Ok(())
    }

    /// Workaround: the crate starts no threads, because each queue has a thread of the daemon.
    fn queues_per_thread(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Never called, because the crate has no thread to call it.
    fn handle_event(
        &self,
        _device_event: u16,
        _events: EventSet,
        _vrings: &[Self::Vring],
        _thread: usize,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Makes an event of the front-end non-blocking. A queue thread that blocks in a write to a full
/// call event, or in a read of an empty kick event, could not be stopped.
fn unblock(ring: &Ring, event: Option<&File>) {
    let Some(event) = event else { return };
    let outcome = rustix::fs::fcntl_getfl(event)
        .and_then(|flags| rustix::fs::fcntl_setfl(event, flags | OFlags::NONBLOCK));
    if let Err(error) = outcome {
        ring.complain(|suppressed| {
            tracing::warn!(%error, suppressed, "an event of the front-end may block");
        });
    }
}

/// A ring as the crate sees it.
#[derive(Clone, Debug)]
pub(super) struct QueueVring {
    ring: Arc<Ring>,
}

impl<'a> VringStateGuard<'a, Memory> for QueueVring {
    type G = std::sync::MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for QueueVring {
    type G = std::sync::MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for QueueVring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let ring = Arc::new(Ring::new(memory, max_queue_size)?);
        MADE.with_borrow_mut(|made| made.push(Arc::clone(&ring)));
        Ok(Self { ring })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.ring.vring().get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.ring.vring().get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.ring.vring().add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.ring.vring().signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.ring.vring().enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.ring.vring().disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.ring.vring().needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.ring.reconfigure(|vring, state| {
            vring.set_enabled(enabled);
            state.enabled = enabled;
        });
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        // The crate reads the used index from the ring next and sets it. Until then no thread may
        // move it.
        self.ring.reconfigure(|vring, state| {
            state.addressed = false;
            vring.set_queue_info(desc_table, avail_ring, used_ring)
        })
    }

    fn queue_next_avail(&self) -> u16 {
        self.ring.vring().queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.ring.reconfigure(|vring, _| vring.set_queue_next_avail(base));
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_next_used(idx);
            state.addressed = true;
        });
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        let used_ring = self.ring.vring().get_ref().get_queue().used_ring();
        // Workaround: the crate itself reads the index, also from memory that only data may use.
        if !self.ring.is_ram(used_ring, USED_HEADER_LEN) {
            return Err(QueueError::FindMemoryRegion);
        }
        self.ring.vring().queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_size(num);
            // Workaround: the crate keeps its old size if it refuses the new one. A ring of two
            // sizes must not be served.
            state.sized = num.is_power_of_two();
        });
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.ring.reconfigure(|vring, _| vring.set_queue_event_idx(enabled));
    }

    fn set_queue_ready(&self, ready: bool) {
        self.ring.reconfigure(|vring, state| {
            vring.set_queue_ready(ready);
            state.ready = ready;
        });
    }

    fn set_kick(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.reconfigure(|vring, state| {
            // The crate needs to know that there is an event. The queue thread waits for this copy.
            state.kick = file.as_ref().and_then(|file| {
                let kept = file.try_clone();
                kept.inspect_err(|error| {
                    self.ring.complain(|suppressed| {
                        tracing::error!(%error, suppressed, "cannot keep a kick event");
                    });
                })
                .ok()
            });
            vring.set_kick(file);
        });
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.ring.vring().read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        unblock(&self.ring, file.as_ref());
        self.ring.set_error_event(file);
    }
}
