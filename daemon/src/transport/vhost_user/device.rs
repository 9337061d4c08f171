//! The virtio-fs device (virtio 1.3, 5.11), as the crate vhost-user-backend calls it. Its
//! workarounds for that crate are those of `vring.rs` and the ones that comments name here.

use super::back_channel;
use super::deferred::QueueDeferredRequests;
use super::options::DeviceOptions;
use super::pool::Pool;
use super::queue::Queue;
use super::queue_thread::QueueThread;
use super::regions::Regions;
use super::ring::{Memory, QueueJob};
use super::vring::QueueVring;
use crate::filesystem::FileSystem;
use crate::limits::QUEUE_SIZE_MAX;
use crate::session::Session;
use crate::sync::lock::Mutex;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use vhost::vhost_user::Backend;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestAddressSpace as _;
use vmm_sys_util::epoll::EventSet;

/// The device of one connection.
pub(super) struct Device<F> {
    session: Arc<Session<F>>,
    options: DeviceOptions,
    acked_features: Arc<AtomicU64>,
    regions: Arc<Regions>,
    rings: OnceLock<Vec<QueueVring>>,
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
    pub(super) fn new(session: Arc<Session<F>>, options: DeviceOptions) -> Self {
        Self {
            regions: Arc::new(Regions::new(session.window(), &options.memory_devices)),
            session,
            options,
            acked_features: Arc::default(),
            rings: OnceLock::new(),
            back_channel: Mutex::new(None),
        }
    }

    /// Attaches each queue to its thread. Called once, before the connection is served.
    pub(super) fn attach(
        &self,
        rings: Vec<QueueVring>,
        (pool, deferred): (&Arc<Pool>, Option<&Arc<QueueDeferredRequests>>),
        threads: &[Arc<QueueThread>],
    ) {
        for (index, (vring, thread)) in rings.iter().zip(threads).enumerate() {
            let job: Arc<dyn QueueJob> = Arc::new(Queue {
                index,
                session: Arc::clone(&self.session),
                acked_features: Arc::clone(&self.acked_features),
                pool: Arc::clone(pool),
                deferred: deferred.cloned(),
                poll: self.options.poll,
            });
            vring.ring().attach(job, Arc::clone(thread), Arc::clone(&self.regions));
        }
        if self.rings.set(rings).is_err() {
            tracing::error!("a device was given its queues twice");
        }
    }

    /// Stops all queues after their current requests, gives up requests that have not begun, waits
    /// for the rest, and forgets the guest.
    pub(super) fn stop(&self) {
        // All queues are told before any is waited for.
        for vring in self.rings() {
            vring.ring().abandon();
        }
        for vring in self.rings() {
            vring.ring().reset();
        }
        if let Some(window) = self.session.window() {
            window.halt();
        }
        self.session.end();
    }

    fn rings(&self) -> &[QueueVring] {
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
            && !self.rings().iter().any(|vring| vring.ring().is_ready())
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

    /// Workaround: offers what `vhost-user-backend` really supports. Not INFLIGHT_SHMFD, which it
    /// refuses later, nor STATUS, which ends the connection. No LOG_SHMFD: the host writes into
    /// guest memory past any dirty bitmap.
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

    /// The crate has disabled the queues, so their threads have stopped.
    fn reset_device(&self) {
        self.stop();
    }

    /// The crate has told each queue.
    fn set_event_idx(&self, _enabled: bool) {}

    /// Returns exactly `size` bytes, padded with zeros: a front-end hangs on any other length.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = self.options.config_space();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = space.get(from..).unwrap_or_default().iter().copied();
        bytes.chain(std::iter::repeat(0)).take(usize::try_from(size).unwrap_or(0)).collect()
    }

    /// The driver of a virtio-fs device may write nothing in the configuration.
    fn set_config(&self, _offset: u32, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Called with new memory in place. Requests that use the old memory end before the front-end
    /// gets its reply.
    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.regions.follow(&memory.memory());
        for vring in self.rings() {
            vring.ring().drain();
        }
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
