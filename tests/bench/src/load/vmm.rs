//! The VMM of the load generator. The memory of the guest is a memfd. The hiprio queue and each
//! client thread have a ring, which is laid out once, so that the measured loop writes only what
//! changes.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend as Connection, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, VolatileSlice};

use super::error::LoadError;
use super::hiprio::Hiprio;
use super::ring::{AVAILABLE_AT, RING_SIZE, Ring, RingState, SLOT_LEN, SLOTS, SLOTS_AT, USED_AT};
use pinhole_tests::frontend::{EVENT_IDX, INDIRECT, LIMIT, PROTOCOL_FEATURES, VERSION_1};

/// Length of the memory of a ring with its slots, in bytes.
const RING_LEN: usize = SLOTS_AT + SLOTS * SLOT_LEN;

/// Guest address at which the memory begins.
const MEMORY_START: u64 = 0x10_0000;

/// Address of the VMM that stands for guest address 0.
const VMM_OFFSET: u64 = 0x7000_0000_0000;

/// VMM that is connected to a device.
pub(super) struct Vmm {
    memory: GuestMemoryMmap,
    /// The hiprio ring, then the request rings.
    rings: Vec<Mutex<RingState>>,
    /// Hiprio queue, for FORGET only.
    hiprio: Mutex<Hiprio>,
    // The daemon ends when the connection is closed.
    _connection: Connection,
}

impl Vmm {
    /// Connects to the daemon, and starts the hiprio ring and `queues` request rings.
    ///
    /// # Errors
    /// Fails if the daemon refuses the connection or lacks a feature or a queue.
    pub(super) fn connect(socket: &Path, queues: usize) -> Result<Self, LoadError> {
        let stream = UnixStream::connect(socket).map_err(LoadError::host("cannot connect to the daemon"))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(LoadError::host("cannot set a time limit"))?;
        let mut connection = Connection::from_stream(stream, 64);
        connection.set_owner()?;
        let offered = connection.get_features()?;
        let features = VERSION_1 | PROTOCOL_FEATURES | EVENT_IDX | INDIRECT;
        if offered & features != features {
            return Err(LoadError::Device(format!(
                "features {offered:#x} of which {features:#x} are needed"
            )));
        }
        connection.set_features(features)?;
        let protocol = connection.get_protocol_features()?;
        connection.set_protocol_features(protocol)?;
        let has = connection.get_queue_num()?;
        if has < queues as u64 + 1 {
            return Err(LoadError::Device(format!(
                "{has} queues in all; {queues} for requests were asked for"
            )));
        }
        connection.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let memory = share_memory(&connection, (queues + 1) * RING_LEN)?;
        let mut rings = Vec::new();
        for index in 0..=queues {
            let state = RingState::new()?;
            start_ring(&connection, index, &state)?;
            rings.push(Mutex::new(state));
        }
        Ok(Self { memory, rings, hiprio: Mutex::new(Hiprio::new()), _connection: connection })
    }

    /// Returns the memory of ring `index`, and its address for the device.
    pub(super) fn memory(&self, index: usize) -> Result<(VolatileSlice<'_>, u64), LoadError> {
        let start = guest_address(index);
        let slice = self.memory.get_slice(GuestAddress(start), RING_LEN);
        Ok((slice.map_err(|error| LoadError::Memory(error.to_string()))?, start))
    }

    /// Forgets `nodes`, each with its count of lookups, and empties the list.
    pub(super) fn forget(&self, nodes: &mut Vec<(u64, u64)>) -> Result<(), LoadError> {
        let mut hiprio = self.hiprio.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state(0)?;
        let (memory, base) = self.memory(0)?;
        hiprio.forget(&mut Ring::new(memory, &mut state), &memory, base, nodes)
    }

    /// Locks the state of ring `index`.
    pub(super) fn state(&self, index: usize) -> Result<MutexGuard<'_, RingState>, LoadError> {
        let ring = self.rings.get(index).ok_or_else(|| LoadError::Device(format!("no queue {index}")))?;
        Ok(ring.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the guest address of the memory of ring `index`.
fn guest_address(index: usize) -> u64 {
    MEMORY_START + (index * RING_LEN) as u64
}

/// Creates the memory of the guest and shares it with the daemon.
fn share_memory(connection: &Connection, len: usize) -> Result<GuestMemoryMmap, LoadError> {
    let file = rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC)
        .map_err(|error| LoadError::host("cannot create the guest's memory")(error.into()))?;
    let file = std::fs::File::from(file);
    file.set_len(len as u64).map_err(LoadError::host("cannot size the guest's memory"))?;
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: MEMORY_START,
        memory_size: len as u64,
        userspace_addr: VMM_OFFSET + MEMORY_START,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    connection.set_mem_table(&[region])?;
    let range = (GuestAddress(MEMORY_START), len, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([range]).map_err(|error| LoadError::Memory(error.to_string()))
}

/// Tells the daemon the addresses and events of ring `index`, and starts it.
fn start_ring(connection: &Connection, index: usize, state: &RingState) -> Result<(), LoadError> {
    let base = VMM_OFFSET + guest_address(index);
    let config = VringConfigData {
        queue_max_size: RING_SIZE,
        queue_size: RING_SIZE,
        flags: 0,
        desc_table_addr: base,
        used_ring_addr: base + USED_AT as u64,
        avail_ring_addr: base + AVAILABLE_AT as u64,
        log_addr: None,
    };
    connection.set_vring_num(index, RING_SIZE)?;
    connection.set_vring_base(index, 0)?;
    connection.set_vring_addr(index, &config)?;
    connection.set_vring_call(index, &state.call)?;
    connection.set_vring_kick(index, &state.kick)?;
    let mut connection = connection.clone();
    connection.set_vring_enable(index, true)?;
    Ok(())
}
