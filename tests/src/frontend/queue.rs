//! The driver's side of one split virtqueue (virtio 1.3, 2.7), written by hand so that it can also
//! be written wrongly.

use super::error::{FrontendError, LIMIT};
use super::layout::{MEMORY_START, QUEUE_LEN, Shape};
use super::reply::Reply;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Content of reply buffers before the device writes to them.
const UNTOUCHED: u8 = 0xa5;

/// Events that a queue waits for: the call event, and the end of the connection.
const CALLED: u64 = 0;
const CLOSED: u64 = 1;

/// Descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`Self::NEXT`], [`Self::WRITE`], [`Self::INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// `VIRTQ_DESC_F_NEXT`.
    pub const NEXT: u16 = 1;
    /// `VIRTQ_DESC_F_WRITE`.
    pub const WRITE: u16 = 2;
    /// `VIRTQ_DESC_F_INDIRECT`.
    pub const INDIRECT: u16 = 4;

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let fields = self.address.to_le_bytes().into_iter();
        let fields = fields.chain(self.len.to_le_bytes()).chain(self.flags.to_le_bytes());
        for (place, byte) in bytes.iter_mut().zip(fields.chain(self.next.to_le_bytes())) {
            *place = byte;
        }
        bytes
    }
}

/// Guest physical addresses of the parts of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// Indirect tables.
    pub tables: u64,
    /// Buffers.
    pub buffers: u64,
    /// End of the queue's memory.
    pub end: u64,
}

impl QueuePlace {
    fn of(index: usize) -> Self {
        let start = MEMORY_START + QUEUE_LEN * (index as u64);
        Self {
            descriptors: start,
            available: start + 0x8000,
            used: start + 0x1_0000,
            tables: start + 0x2_0000,
            buffers: start + 0x10_0000,
            end: start + QUEUE_LEN,
        }
    }
}

/// Request in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Index of its first descriptor.
    pub head: u16,
    room_at: u64,
    room: usize,
}

/// Request that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Index of its first descriptor.
    pub head: u32,
    /// Number of bytes that the device reports as written.
    pub len: u32,
}

/// Driver's side of one queue.
#[derive(Debug)]
pub struct Queue {
    index: usize,
    size: u16,
    event_idx: bool,
    place: QueuePlace,
    kick: EventFd,
    call: EventFd,
    err: EventFd,
    /// Waits for the call event and the end of the connection.
    called: Epoll,
    next_available: u16,
    next_used: u16,
    in_flight: u16,
    next_descriptor: u16,
    next_table: u64,
    next_buffer: u64,
    /// Number of interrupts.
    pub interrupts: u64,
}

impl Queue {
    /// Makes an empty ring in its place.
    ///
    /// # Errors
    /// Fails if the host has no more descriptors, or the guest has no such memory.
    pub fn new(
        index: usize,
        size: u16,
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Result<Self, FrontendError> {
        let place = QueuePlace::of(index);
        memory.write_slice(&vec![0; 0x2_0000], GuestAddress(place.descriptors))?;
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let (call, called) = (event()?, Epoll::new()?);
        called.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, CALLED))?;
        Ok(Self {
            index,
            size,
            event_idx,
            place,
            kick: event()?,
            call,
            err: event()?,
            called,
            next_available: 0,
            next_used: 0,
            in_flight: 0,
            next_descriptor: 0,
            next_table: place.tables,
            next_buffer: place.buffers,
            interrupts: 0,
        })
    }

    /// Returns its number on the device.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Returns the number of descriptors in its table.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Returns the addresses of its parts.
    pub const fn place(&self) -> QueuePlace {
        self.place
    }

    /// Returns the index that the device will use next in the used ring.
    pub const fn next_used(&self) -> u16 {
        self.next_used
    }

    pub(super) const fn call(&self) -> &EventFd {
        &self.call
    }

    pub(super) const fn kick_event(&self) -> &EventFd {
        &self.kick
    }

    pub(super) const fn err(&self) -> &EventFd {
        &self.err
    }

    /// Waits until the device reports, through the error event, that the ring is broken.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] if the device does not report it.
    pub fn wait_for_failure(&self) -> Result<(), FrontendError> {
        let failed = Epoll::new()?;
        failed.ctl(ControlOperation::Add, self.err.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        let mut events = [EpollEvent::default()];
        match failed.wait(i32::try_from(LIMIT.as_millis()).unwrap_or(i32::MAX), &mut events)? {
            0 => Err(FrontendError::TimedOut { queue: self.index }),
            _ => Ok(()),
        }
    }

    /// Puts a message and space for its reply into buffers and offers them, without a kick.
    ///
    /// # Errors
    /// [`FrontendError::TooBig`].
    pub fn submit(
        &mut self,
        memory: &GuestMemoryMmap,
        message: &[u8],
        room: usize,
        shape: Shape,
    ) -> Result<Sent, FrontendError> {
        if self.in_flight == 0 {
            (self.next_descriptor, self.next_table, self.next_buffer) =
                (0, self.place.tables, self.place.buffers);
        }
        let message_at = self.next_buffer;
        let room_at = (message_at + message.len() as u64).next_multiple_of(8);
        self.next_buffer = (room_at + room as u64).next_multiple_of(64);
        if self.next_buffer > self.place.end {
            return Err(FrontendError::TooBig(self.next_buffer - message_at));
        }
        memory.write_slice(message, GuestAddress(message_at))?;
        memory.write_slice(&vec![UNTOUCHED; room], GuestAddress(room_at))?;
        let mut chain = descriptors(message_at, message.len(), 0, shape.descriptor_len_max);
        chain.extend(descriptors(room_at, room, Descriptor::WRITE, shape.descriptor_len_max));
        let head = self.place_chain(memory, &chain, shape.indirect)?;
        self.offer(memory, head)?;
        Ok(Sent { head, room_at, room })
    }

    /// Links the descriptors and writes them to the queue's table, or to an indirect one.
    fn place_chain(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &[Descriptor],
        indirect: bool,
    ) -> Result<u16, FrontendError> {
        let first = if indirect { 0 } else { self.next_descriptor };
        let mut linked = chain.to_vec();
        let count = linked.len();
        for (at, descriptor) in linked.iter_mut().enumerate() {
            if at + 1 < count {
                descriptor.flags |= Descriptor::NEXT;
                descriptor.next = first + narrow(at + 1)?;
            }
        }
        let head = self.next_descriptor;
        if indirect {
            let len = u32::try_from(count * 16).map_err(io::Error::other)?;
            let table = self.next_table;
            self.next_table += u64::from(len);
            self.write_table(memory, table, &linked)?;
            linked = vec![Descriptor { address: table, len, flags: Descriptor::INDIRECT, next: 0 }];
        }
        self.next_descriptor += narrow(linked.len())?;
        if self.next_descriptor > self.size {
            return Err(FrontendError::TooBig(count as u64));
        }
        let at = self.place.descriptors + 16 * u64::from(head);
        self.write_table(memory, at, &linked)?;
        Ok(head)
    }

    /// Writes descriptors unchanged.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn write_table(
        &self,
        memory: &GuestMemoryMmap,
        at: u64,
        chain: &[Descriptor],
    ) -> Result<(), FrontendError> {
        let bytes: Vec<u8> = chain.iter().flat_map(|descriptor| descriptor.bytes()).collect();
        Ok(memory.write_slice(&bytes, GuestAddress(at))?)
    }

    /// Makes the chain at `head` available, even an invalid one.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) -> Result<(), FrontendError> {
        let slot = u64::from(self.next_available % self.size);
        memory.write_slice(&head.to_le_bytes(), GuestAddress(self.place.available + 4 + 2 * slot))?;
        self.next_available = self.next_available.wrapping_add(1);
        self.in_flight += 1;
        self.publish(memory, self.next_available)
    }

    /// Sets the index of the available ring, even to a wrong one.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn publish(&self, memory: &GuestMemoryMmap, index: u16) -> Result<(), FrontendError> {
        Ok(memory.store(index.to_le(), GuestAddress(self.place.available + 2), Ordering::SeqCst)?)
    }

    /// Kicks the device.
    ///
    /// # Errors
    /// [`FrontendError::Host`].
    pub fn kick(&self) -> Result<(), FrontendError> {
        Ok(self.kick.write(1)?)
    }

    /// Returns whether the device asks for a kick, by `avail_event` or `VIRTQ_USED_F_NO_NOTIFY`.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn wants_kick(&self, memory: &GuestMemoryMmap) -> Result<bool, FrontendError> {
        let event_at = self.place.used + 4 + 8 * u64::from(self.size);
        if self.event_idx {
            let event: u16 = memory.load(GuestAddress(event_at), Ordering::SeqCst)?;
            return Ok(u16::from_le(event) == self.next_available.wrapping_sub(1));
        }
        let flags: u16 = memory.load(GuestAddress(self.place.used), Ordering::SeqCst)?;
        Ok(u16::from_le(flags) & 1 == 0)
    }

    /// Takes the next used request. If there is none yet, sleeps until the device interrupts.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`], or [`FrontendError::Gone`] as soon as the device is gone.
    pub fn wait(&mut self, memory: &GuestMemoryMmap) -> Result<Used, FrontendError> {
        let started = Instant::now();
        loop {
            self.want_interrupt(memory, self.next_used)?;
            if let Some(used) = self.take_used(memory)? {
                return Ok(used);
            }
            match self.wait_for_interrupt(LIMIT.saturating_sub(started.elapsed())) {
                // A request that was used before the end is in the ring, perhaps without an
                // interrupt.
                Err(gone @ FrontendError::Gone { .. }) => return self.take_used(memory)?.ok_or(gone),
                outcome => outcome?,
            }
        }
    }

    /// Asks for an interrupt when the device has used the request `index` (`used_event`; with
    /// EVENT_IDX only).
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn want_interrupt(&self, memory: &GuestMemoryMmap, index: u16) -> Result<(), FrontendError> {
        if self.event_idx {
            let at = self.place.available + 4 + 2 * u64::from(self.size);
            memory.store(index.to_le(), GuestAddress(at), Ordering::SeqCst)?;
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Returns whether an interrupt has arrived since the last one that was waited for.
    pub fn was_interrupted(&self) -> bool {
        self.call.read().is_ok()
    }

    /// Waits for the interrupt itself.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`], [`FrontendError::Gone`].
    pub fn wait_for_call(&mut self) -> Result<(), FrontendError> {
        self.wait_for_interrupt(LIMIT)
    }

    /// Lets waits end when the device closes its end of this connection.
    ///
    /// # Errors
    /// Fails with the error of the host.
    pub(super) fn end_with(&self, connection: &impl AsRawFd) -> io::Result<()> {
        let closed = EpollEvent::new(EventSet::HANG_UP, CLOSED);
        self.called.ctl(ControlOperation::Add, connection.as_raw_fd(), closed)
    }

    /// Waits for an interrupt for at most `limit`. Also returns if a signal ends the wait.
    fn wait_for_interrupt(&mut self, limit: Duration) -> Result<(), FrontendError> {
        let mut events = [EpollEvent::default(); 2];
        let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let count = match self.called.wait(limit_ms, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            count => count?,
        };
        let is_called = events.iter().take(count).any(|event| event.data() == CALLED);
        if is_called {
            self.interrupts += self.call.read().unwrap_or(0);
            return Ok(());
        }
        let queue = self.index;
        Err(if count == 0 { FrontendError::TimedOut { queue } } else { FrontendError::Gone { queue } })
    }

    /// Takes the next used request, if there is one.
    ///
    /// # Errors
    /// [`FrontendError::Memory`].
    pub fn take_used(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Used>, FrontendError> {
        let index: u16 = memory.load(GuestAddress(self.place.used + 2), Ordering::Acquire)?;
        if u16::from_le(index) == self.next_used {
            return Ok(None);
        }
        let slot = u64::from(self.next_used % self.size);
        let element: [u32; 2] = memory.read_obj(GuestAddress(self.place.used + 4 + 8 * slot))?;
        let [head, len] = element.map(u32::from_le);
        self.next_used = self.next_used.wrapping_add(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(Some(Used { head, len }))
    }

    /// Returns the reply of a request that the device returned with `len` bytes.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the device reports more bytes than there is space for.
    pub fn take_reply(
        &self,
        memory: &GuestMemoryMmap,
        sent: &Sent,
        len: u32,
    ) -> Result<Reply, FrontendError> {
        let used = usize::try_from(len).unwrap_or(usize::MAX);
        if used > sent.room {
            return Err(FrontendError::Reply(format!("{len} bytes reported, with space for {}", sent.room)));
        }
        let mut bytes = vec![0; sent.room];
        memory.read_slice(&mut bytes, GuestAddress(sent.room_at))?;
        let rest = bytes.split_off(used);
        let rest_untouched = rest.iter().all(|byte| *byte == UNTOUCHED);
        Ok(Reply { used_len: len, bytes, rest_untouched })
    }
}

/// Returns the descriptors of `len` bytes at `at`, each of at most `descriptor_len_max` bytes.
fn descriptors(at: u64, len: usize, flags: u16, descriptor_len_max: usize) -> Vec<Descriptor> {
    (0..len)
        .step_by(descriptor_len_max.max(1))
        .map(|start| {
            let here = descriptor_len_max.min(len - start);
            Descriptor {
                address: at + start as u64,
                len: u32::try_from(here).unwrap_or(u32::MAX),
                flags,
                next: 0,
            }
        })
        .collect()
}

/// Converts a number of descriptors to 16 bits.
fn narrow(number: usize) -> Result<u16, FrontendError> {
    u16::try_from(number).map_err(|_wide| FrontendError::TooBig(number as u64))
}
