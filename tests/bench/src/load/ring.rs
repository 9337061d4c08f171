//! The driver's side of one split virtqueue (virtio 1.3, 2.7). The measured loop allocates nothing,
//! and sends and asks for as few notifications as EVENT_IDX permits.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes as _, VolatileSlice};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::{LIMIT, LoadError};

/// Number of descriptors in each ring.
pub(super) const RING_SIZE: u16 = 1024;

/// Largest number of requests in flight on one ring: 32, and one more that is measured beside them.
pub(super) const SLOTS: usize = 33;

/// Length of a slot in bytes: message, descriptors, reply, a listing, and 1 MiB of data.
pub(super) const SLOT_LEN: usize = 0x11_0000;

/// Offset of the available ring in the memory of a ring, in bytes. The descriptors come before.
pub(super) const AVAILABLE_AT: usize = 0x8000;

/// Offset of the used ring, in bytes.
pub(super) const USED_AT: usize = 0x1_0000;

/// Offset of the slots, in bytes.
pub(super) const SLOTS_AT: usize = 0x2_0000;

/// Offset of `used_event`, at which the driver wants an interrupt, in bytes.
const USED_EVENT_AT: usize = AVAILABLE_AT + 4 + 2 * RING_SIZE as usize;

/// Offset of `avail_event`, at which the device wants a kick, in bytes.
const AVAILABLE_EVENT_AT: usize = USED_AT + 4 + 8 * RING_SIZE as usize;

/// State of a ring on the driver's side, and the events by which both sides wake each other.
pub(super) struct RingState {
    /// Index of the next entry of the available ring.
    pub(super) next_available: u16,
    /// Index up to which the device sees the available ring.
    pub(super) published: u16,
    /// Index of the next entry of the used ring.
    pub(super) next_used: u16,
    /// Event that wakes the device.
    pub(super) kick: EventFd,
    /// Waits for `call`.
    pub(super) called: Epoll,
    /// Event that wakes the driver.
    pub(super) call: EventFd,
}

impl RingState {
    /// Creates the events of a ring that has not been used.
    pub(super) fn new() -> Result<Self, LoadError> {
        let event =
            || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(LoadError::host("cannot create an event"));
        let (kick, call) = (event()?, event()?);
        let called = Epoll::new().map_err(LoadError::host("cannot wait for events"))?;
        // Edge-triggered: each write to the event wakes once and nothing needs to be read, so
        // sleeping takes one system call.
        let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        called
            .ctl(ControlOperation::Add, call.as_raw_fd(), interest)
            .map_err(LoadError::host("cannot wait for interrupts"))?;
        Ok(Self { next_available: 0, published: 0, next_used: 0, kick, called, call })
    }
}

/// Ring of one thread.
pub(super) struct Ring<'m> {
    memory: VolatileSlice<'m>,
    state: &'m mut RingState,
}

/// Request that the device returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Head descriptor.
    pub(super) head: usize,
    /// Number of bytes that the device wrote.
    pub(super) len: u32,
}

impl<'m> Ring<'m> {
    /// Returns the ring in `memory`, with its state.
    pub(super) const fn new(memory: VolatileSlice<'m>, state: &'m mut RingState) -> Self {
        Self { memory, state }
    }

    /// Writes descriptor `head`: `len` bytes at `address`.
    pub(super) fn describe(&self, head: u16, address: u64, len: u32, flags: u16) -> Result<(), LoadError> {
        let at = 16 * usize::from(head);
        self.memory.write_obj(address.to_le(), at).map_err(LoadError::memory)?;
        let second = u64::from(len) | u64::from(flags) << 32;
        self.memory.write_obj(second.to_le(), at + 8).map_err(LoadError::memory)
    }

    /// Puts descriptor `head` into the available ring. [`Ring::publish`] shows it to the device.
    pub(super) fn offer(&mut self, head: u16) -> Result<(), LoadError> {
        let at = AVAILABLE_AT + 4 + 2 * usize::from(self.state.next_available % RING_SIZE);
        self.memory.store(head.to_le(), at, Ordering::Relaxed).map_err(LoadError::memory)?;
        self.state.next_available = self.state.next_available.wrapping_add(1);
        Ok(())
    }

    /// Shows the offered descriptors to the device, and kicks it if it asked for that.
    pub(super) fn publish(&mut self) -> Result<(), LoadError> {
        let (new, old) = (self.state.next_available, self.state.published);
        if new == old {
            return Ok(());
        }
        self.state.published = new;
        self.memory.store(new.to_le(), AVAILABLE_AT + 2, Ordering::Release).map_err(LoadError::memory)?;
        fence(Ordering::SeqCst);
        let event = self.memory.load(AVAILABLE_EVENT_AT, Ordering::Relaxed).map_err(LoadError::memory)?;
        // vring_need_event of the specification, 2.7.10.
        if new.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < new.wrapping_sub(old) {
            self.state.kick.write(1).map_err(LoadError::host("cannot kick the daemon"))?;
        }
        Ok(())
    }

    /// Takes the next returned request. Returns nothing if the device has returned none.
    pub(super) fn take(&mut self) -> Result<Option<Used>, LoadError> {
        let index: u16 = self.memory.load(USED_AT + 2, Ordering::Acquire).map_err(LoadError::memory)?;
        if u16::from_le(index) == self.state.next_used {
            return Ok(None);
        }
        let at = USED_AT + 4 + 8 * usize::from(self.state.next_used % RING_SIZE);
        let head: u32 = self.memory.read_obj(at).map_err(LoadError::memory)?;
        let len: u32 = self.memory.read_obj(at + 4).map_err(LoadError::memory)?;
        self.state.next_used = self.state.next_used.wrapping_add(1);
        Ok(Some(Used {
            head: usize::try_from(u32::from_le(head)).unwrap_or(usize::MAX),
            len: u32::from_le(len),
        }))
    }

    /// Takes the next returned request. Sleeps until the device returns one.
    pub(super) fn wait(&mut self) -> Result<Used, LoadError> {
        loop {
            if let Some(used) = self.take()? {
                return Ok(used);
            }
            let wanted = self.state.next_used.to_le();
            self.memory.store(wanted, USED_EVENT_AT, Ordering::Relaxed).map_err(LoadError::memory)?;
            fence(Ordering::SeqCst);
            if let Some(used) = self.take()? {
                return Ok(used);
            }
            self.sleep()?;
        }
    }

    /// Sleeps until the device interrupts.
    fn sleep(&mut self) -> Result<(), LoadError> {
        let mut events = [EpollEvent::default()];
        let limit_ms = i32::try_from(LIMIT.as_millis()).unwrap_or(i32::MAX);
        match self.state.called.wait(limit_ms, &mut events) {
            Ok(0) => Err(LoadError::TimedOut),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(LoadError::host("cannot wait for an interrupt")(error)),
        }
    }
}
