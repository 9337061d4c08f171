//! A front-end that plays the VMM and the guest at the wire: a real vhost-user connection to the
//! real binary, real split virtqueues in a memfd, raw FUSE messages. A test may send messages as
//! malformed as it wants. Every wait has a time limit.

mod bench;
pub mod client;
mod error;
pub mod files;
mod footprint;
pub mod frame;
mod layout;
pub mod locks;
mod queue;
mod reply;
pub mod wire;

use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole_protocol::client::{decode_init, encode_request, header};
use pinhole_protocol::{Dialect, InitFlags, InitReply, InitRequest, NodeId, Operation, ReadDirPlus, Unique};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend as Connection, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

pub use bench::Bench;
pub use error::{FrontendError, LIMIT};
pub use footprint::{Footprint, times_asleep, wait_until_at_rest};
pub use layout::{MEMORY_LEN, MEMORY_START, OUT_HEADER_LEN, QUEUE_LEN, Shape};
pub use queue::{Descriptor, Queue, QueuePlace, Sent, Used};
pub use reply::Reply;

/// Waits until `holds` returns true, checking every few milliseconds for at most [`LIMIT`].
///
/// # Panics
/// Panics if `holds` is still false by then. `what` names the condition in the message.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "{what}: not true within {LIMIT:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Address at which a VMM would have mapped guest address 0.
const VMM_OFFSET: u64 = 0x7000_0000_0000;

/// Space for a reply of unknown length.
const ROOM: usize = 4096;

/// `VIRTIO_F_VERSION_1`.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_INDIRECT_DESC`.
pub const INDIRECT: u64 = 1 << 28;
/// `VIRTIO_F_RING_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << 29;
/// `VHOST_USER_F_PROTOCOL_FEATURES`.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Set-up of the device by a front-end.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Number of queues. Queue 0 is hiprio.
    pub queues: usize,
    /// Number of descriptors in each queue.
    pub queue_size: u16,
    /// Virtio features to acknowledge, in addition to those that vhost-user needs.
    pub features: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { queues: 3, queue_size: 128, features: INDIRECT | EVENT_IDX }
    }
}

/// Connected device, its memory and its queues.
pub struct Frontend {
    connection: Connection,
    memory: GuestMemoryMmap,
    file: std::fs::File,
    queues: Vec<Queue>,
    unique: u64,
    dialect: Dialect,
    /// Layout of further requests.
    pub shape: Shape,
}

impl Frontend {
    /// Connects and starts the queues as a VMM does.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn connect(socket: &Path) -> Result<Self, FrontendError> {
        Self::connect_with(socket, Setup::default())
    }

    /// As [`Frontend::connect`], with another set-up.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn connect_with(socket: &Path, setup: Setup) -> Result<Self, FrontendError> {
        let mut frontend = Self::greet(socket)?;
        frontend.negotiate(setup.features)?;
        frontend.share_memory()?;
        for index in 0..setup.queues {
            frontend.start_queue(index, setup)?;
        }
        Ok(frontend)
    }

    /// Connects and exchanges only the first messages.
    ///
    /// # Errors
    /// Fails if no process listens.
    pub fn greet(socket: &Path) -> Result<Self, FrontendError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let connection = Connection::from_stream(stream, 64);
        let file = std::fs::File::from(
            rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC).map_err(io::Error::from)?,
        );
        file.set_len(MEMORY_LEN)?;
        let whole = usize::try_from(MEMORY_LEN).map_err(io::Error::other)?;
        let region = (GuestAddress(MEMORY_START), whole, Some(FileOffset::new(file.try_clone()?, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([region])
            .map_err(|error| FrontendError::Memory(error.to_string()))?;
        connection.set_owner()?;
        Ok(Self {
            connection,
            memory,
            file,
            queues: Vec::new(),
            unique: 0,
            dialect: Dialect::default(),
            shape: Shape::default(),
        })
    }

    /// Acknowledges `features` and all protocol features that are offered, which it returns. The
    /// daemon acknowledges each later message.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn negotiate(&mut self, features: u64) -> Result<VhostUserProtocolFeatures, FrontendError> {
        self.connection.get_features()?;
        self.connection.set_features(features | VERSION_1 | PROTOCOL_FEATURES)?;
        let offered = self.connection.get_protocol_features()?;
        self.connection.set_protocol_features(offered)?;
        self.connection.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        Ok(offered)
    }

    /// Returns the vhost-user side, for messages without a function here.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Returns the guest's memory.
    pub const fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Returns one region of the guest's memory as the front-end describes it.
    pub fn region(&self, start: u64, len: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: VMM_OFFSET + start,
            mmap_offset: start - MEMORY_START,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// Describes all of the guest's memory in one region.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn share_memory(&self) -> Result<(), FrontendError> {
        self.remap(&[(MEMORY_START, MEMORY_LEN)])
    }

    /// Describes the guest's memory again: only these regions, each by its start and its length.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn remap(&self, ranges: &[(u64, u64)]) -> Result<(), FrontendError> {
        let regions: Vec<_> = ranges.iter().map(|(start, len)| self.region(*start, *len)).collect();
        self.connection.set_mem_table(&regions)?;
        Ok(())
    }

    /// Sets up a queue from its beginning and enables it.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn start_queue(&mut self, index: usize, setup: Setup) -> Result<(), FrontendError> {
        let queue = Queue::new(index, setup.queue_size, setup.features & EVENT_IDX != 0, &self.memory)?;
        queue.end_with(&self.connection)?;
        self.connect_queue(&queue, 0)?;
        self.queues.retain(|other| other.index() != index);
        self.queues.push(queue);
        self.queues.sort_by_key(Queue::index);
        Ok(())
    }

    /// Starts a queue again where GET_VRING_BASE has stopped it.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn resume_queue(&mut self, index: usize, base: u16) -> Result<(), FrontendError> {
        let at = self.queues.iter().position(|queue| queue.index() == index);
        let queue = self.queues.swap_remove(at.ok_or(FrontendError::NoQueue(index))?);
        let connected = self.connect_queue(&queue, base);
        self.queues.push(queue);
        self.queues.sort_by_key(Queue::index);
        connected
    }

    /// Describes a queue to the daemon and enables it. The daemon starts at index `base`.
    fn connect_queue(&mut self, queue: &Queue, base: u16) -> Result<(), FrontendError> {
        let place = queue.place();
        let config = VringConfigData {
            queue_max_size: queue.size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: VMM_OFFSET + place.descriptors,
            used_ring_addr: VMM_OFFSET + place.used,
            avail_ring_addr: VMM_OFFSET + place.available,
            log_addr: None,
        };
        let index = queue.index();
        self.connection.set_vring_num(index, queue.size())?;
        self.connection.set_vring_base(index, base)?;
        self.connection.set_vring_addr(index, &config)?;
        self.connection.set_vring_err(index, queue.err())?;
        self.connection.set_vring_call(index, queue.call())?;
        self.connection.set_vring_kick(index, queue.kick_event())?;
        self.connection.set_vring_enable(index, true)?;
        Ok(())
    }

    /// Stops a queue. Returns its position in the available ring.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn stop_queue(&self, index: usize) -> Result<u16, FrontendError> {
        let base = self.connection.get_vring_base(index)?;
        u16::try_from(base).map_err(|_wide| FrontendError::Reply(format!("vring base {base}")))
    }

    /// Returns `len` bytes of the device's configuration space, from `offset`.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message.
    pub fn config(&mut self, offset: u32, len: u32) -> Result<Vec<u8>, FrontendError> {
        let room = vec![0; usize::try_from(len).unwrap_or(0)];
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, bytes) = self.connection.get_config(offset, len, flags, &room)?;
        Ok(bytes)
    }

    /// Returns a queue that was started.
    ///
    /// # Errors
    /// [`FrontendError::NoQueue`].
    pub fn queue(&mut self, index: usize) -> Result<(&mut Queue, &GuestMemoryMmap), FrontendError> {
        let queue = self.queues.iter_mut().find(|queue| queue.index() == index);
        Ok((queue.ok_or(FrontendError::NoQueue(index))?, &self.memory))
    }
}

impl fmt::Debug for Frontend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Frontend").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// Requests.
impl Frontend {
    /// Sends INIT as Linux 7.2 does, on the first request queue.
    ///
    /// # Errors
    /// Fails if it is refused.
    pub fn init(&mut self) -> Result<InitReply, FrontendError> {
        self.init_with(InitFlags::all())
    }

    /// As [`Frontend::init`], with other flags.
    ///
    /// # Errors
    /// Fails if it is refused.
    pub fn init_with(&mut self, flags: InitFlags) -> Result<InitReply, FrontendError> {
        let request = InitRequest { major: 7, minor: 45, max_readahead: 128 << 10, flags };
        let reply = self.request(1, NodeId(1), &Operation::Init(request), &[])?;
        let agreed =
            decode_init(reply.success()?).map_err(|error| FrontendError::Reply(error.to_string()))?;
        self.dialect = Dialect::of(agreed.flags);
        Ok(agreed)
    }

    /// Returns the bytes of a request from the guest's root, with the next `unique`.
    pub fn encode(&mut self, node: NodeId, operation: &Operation<'_>, payload: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let mut message = Vec::new();
        let header = header(operation, Unique(self.unique), node);
        encode_request(&header, operation, payload, self.dialect, &mut message);
        message
    }

    /// Sends a request and waits for its reply, with as much space as a guest would leave.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] and other errors of the wire.
    pub fn request(
        &mut self,
        queue: usize,
        node: NodeId,
        operation: &Operation<'_>,
        payload: &[u8],
    ) -> Result<Reply, FrontendError> {
        let message = self.encode(node, operation, payload);
        self.raw(queue, &message, OUT_HEADER_LEN + room(operation))
    }

    /// Sends any bytes and waits until the device returns them.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] and other errors of the wire.
    pub fn raw(&mut self, queue: usize, message: &[u8], room: usize) -> Result<Reply, FrontendError> {
        let shape = self.shape;
        let (queue, memory) = self.queue(queue)?;
        let sent = queue.submit(memory, message, room, shape)?;
        queue.kick()?;
        let used = queue.wait(memory)?;
        if used.head != u32::from(sent.head) {
            return Err(FrontendError::Reply(format!("request {} given back, not {}", used.head, sent.head)));
        }
        queue.take_reply(memory, &sent, used.len)
    }

    /// Writes descriptors unchanged, offers the first one and waits until the device returns it.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] and other errors of the wire.
    pub fn raw_chain(&mut self, queue: usize, chain: &[Descriptor]) -> Result<Used, FrontendError> {
        let (queue, memory) = self.queue(queue)?;
        queue.write_table(memory, queue.place().descriptors, chain)?;
        queue.offer(memory, 0)?;
        queue.kick()?;
        queue.wait(memory)
    }

    /// Writes into the guest's memory.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), FrontendError> {
        Ok(self.memory.write_slice(bytes, GuestAddress(address))?)
    }

    /// Reads the guest's memory.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn peek(&self, address: u64, len: usize) -> Result<Vec<u8>, FrontendError> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address))?;
        Ok(bytes)
    }
}

/// Returns the space for the body of a reply.
fn room(operation: &Operation<'_>) -> usize {
    let size = if let Operation::Read(read) = operation {
        read.size
    } else if let Operation::ReadDir(list) | Operation::ReadDirPlus(ReadDirPlus { list }) = operation {
        list.size
    } else if let Operation::Forget(_) | Operation::BatchForget(_) = operation {
        return 0;
    } else {
        return ROOM;
    };
    usize::try_from(size).unwrap_or(ROOM)
}
