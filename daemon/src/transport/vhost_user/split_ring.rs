//! The two halves of one split ring in guest memory (virtio 1.3, 2.7.6 to 2.7.8).
//!
//! Only the queue thread takes from the available ring, so its half needs no lock. Several threads
//! give requests back, so the used half has a lock, taken once for each burst. Each value that the
//! guest writes is checked where it is read. An error stops only its queue.

use crate::transport::chain::DescriptorTable;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::{Error as QueueError, Queue, QueueT as _};
use vm_memory::{AtomicAccess, Bytes as _, GuestAddress, GuestMemoryMmap};

/// Bytes before the entries of each ring: flags and index.
const HEADER_LEN: u64 = 4;
/// Offset of the index in each ring, in bytes.
const INDEX_AT: u64 = 2;
/// Bytes of one entry of the available ring.
const AVAILABLE_LEN: u64 = 2;
/// Bytes of one entry of the used ring.
const USED_LEN: u64 = 8;

/// Reason why a ring can no longer be trusted. Only its queue stops.
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
}

/// The addresses of a ring, and the features that it uses. Valid while a queue thread serves the
/// ring.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    descriptors: u64,
    available: u64,
    used: u64,
    size: u16,
    event_idx: bool,
}

impl Layout {
    fn of(queue: &Queue) -> Self {
        Self {
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
        }
    }

    /// Returns the place of the entry with this running number. The crate makes sure that sizes are
    /// powers of two, at least 1.
    fn entry(self, ring: u64, entry_len: u64, number: Wrapping<u16>) -> Result<GuestAddress, RingError> {
        let place = u64::from(number.0 & self.size.wrapping_sub(1));
        at(ring, HEADER_LEN.saturating_add(place.saturating_mul(entry_len)))
    }

    /// Returns the place of `used_event`, with which the guest says when it wants an interrupt.
    fn used_event(self) -> Result<GuestAddress, RingError> {
        at(self.available, HEADER_LEN.saturating_add(AVAILABLE_LEN.saturating_mul(self.size.into())))
    }

    /// Returns the place of `avail_event`, with which the device says when it wants a kick.
    fn avail_event(self) -> Result<GuestAddress, RingError> {
        at(self.used, HEADER_LEN.saturating_add(USED_LEN.saturating_mul(self.size.into())))
    }
}

fn at(ring: u64, offset: u64) -> Result<GuestAddress, RingError> {
    ring.checked_add(offset).map(GuestAddress).ok_or(RingError::OutsideMemory)
}

/// Returns the last 16 bits. The running numbers of a ring have 16 bits.
const fn truncated(number: u64) -> u16 {
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn load(memory: &GuestMemoryMmap, address: GuestAddress, order: Ordering) -> Result<u16, RingError> {
    memory.load(address, order).map(u16::from_le).map_err(|error| QueueError::GuestMemory(error).into())
}

fn store<T: AtomicAccess>(
    memory: &GuestMemoryMmap,
    value: T,
    address: GuestAddress,
) -> Result<(), RingError> {
    memory.store(value, address, Ordering::Release).map_err(|error| QueueError::GuestMemory(error).into())
}

/// A request that was taken from the available ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingPlace {
    /// Index of its first descriptor.
    pub(super) head: u16,
    /// Number of requests that were taken before it since the thread began to serve the ring.
    /// Unlike the running numbers of the ring, it does not wrap.
    pub(super) number: u64,
}

/// The queue thread's half.
#[derive(Debug)]
pub(super) struct Available {
    layout: Layout,
    next: Wrapping<u16>,
    /// Requests taken since the thread began to serve the ring.
    taken: u64,
    /// Index up to which the guest had filled the ring at the last look.
    seen: Wrapping<u16>,
}

impl Available {
    /// Makes the half of a queue that no other thread uses now.
    pub(super) fn of(queue: &Queue) -> Self {
        let next = Wrapping(queue.next_avail());
        Self { layout: Layout::of(queue), next, taken: 0, seen: next }
    }

    /// Writes the index of the next request into the crate's queue.
    pub(super) fn note(&self, queue: &mut Queue) {
        queue.set_next_avail(self.next.0);
    }

    /// Returns the descriptors of the ring.
    pub(super) const fn table(&self) -> DescriptorTable {
        DescriptorTable { address: GuestAddress(self.layout.descriptors), count: self.layout.size }
    }

    /// Returns whether the ring has a request that was not taken.
    pub(super) fn has_more(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        if self.seen != self.next {
            return Ok(true);
        }
        self.look(memory)
    }

    fn look(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        self.seen = Wrapping(load(memory, at(self.layout.available, INDEX_AT)?, Ordering::Acquire)?);
        let Wrapping(pending) = self.seen - self.next;
        if pending > self.layout.size {
            return Err(RingError::TooManyAvailable { pending, size: self.layout.size });
        }
        Ok(pending > 0)
    }

    /// Returns the number of requests that were taken since the thread began to serve the ring.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Puts back all requests after the first `taken`. They were not given back, so their entries
    /// in the available ring are unchanged: the guest has no free descriptor with which to
    /// overwrite one.
    pub(super) const fn go_back_to(&mut self, taken: u64) {
        let back = self.taken.saturating_sub(taken);
        self.taken = self.taken.saturating_sub(back);
        self.next.0 = self.next.0.wrapping_sub(truncated(back));
    }

    /// Takes the next request.
    pub(super) fn next_request(&mut self, memory: &GuestMemoryMmap) -> Result<Option<RingPlace>, RingError> {
        if !self.has_more(memory)? {
            return Ok(None);
        }
        let Layout { available, size, .. } = self.layout;
        let entry = self.layout.entry(available, AVAILABLE_LEN, self.next)?;
        // The guest has written this entry: it is below the index that was read before.
        let head = load(memory, entry, Ordering::Relaxed)?;
        if head >= size {
            return Err(RingError::HeadOutOfRange { head, size });
        }
        let number = self.taken;
        self.next += 1;
        self.taken = self.taken.saturating_add(1);
        Ok(Some(RingPlace { head, number }))
    }

    /// Asks the guest not to kick. With EVENT_IDX it kicks once each time that it is asked to, so
    /// there is nothing to do.
    pub(super) fn refuse_kicks(&self, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        if self.layout.event_idx {
            return Ok(());
        }
        self.set_flags(memory, VRING_USED_F_NO_NOTIFY)
    }

    /// Asks the guest to kick for its next request. Returns whether one has come meanwhile, perhaps
    /// without a kick.
    pub(super) fn ask_for_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        if self.layout.event_idx {
            store(memory, self.next.0.to_le(), self.layout.avail_event()?)?;
        } else {
            self.set_flags(memory, 0)?;
        }
        // The guest must see this before the ring is read again. Otherwise each side could wait for
        // the other.
        fence(Ordering::SeqCst);
        self.has_more(memory)
    }

    fn set_flags(&self, memory: &GuestMemoryMmap, flags: u32) -> Result<(), RingError> {
        let narrow = u16::try_from(flags).unwrap_or(0);
        store(memory, narrow.to_le(), GuestAddress(self.layout.used))
    }
}

/// A request to be given back: its first descriptor, and the number of bytes that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// Index of its first descriptor.
    pub(super) head: u16,
    /// Number of bytes that were written.
    pub(super) len: u32,
}

/// The half for giving requests back.
#[derive(Debug, Default)]
pub(super) struct Used {
    layout: Layout,
    next: Wrapping<u16>,
    /// Index up to which the guest was interrupted, or did not ask for an interrupt.
    told: Wrapping<u16>,
}

impl Used {
    /// Makes the half of a queue that no other thread uses now.
    pub(super) fn of(queue: &Queue) -> Self {
        let next = Wrapping(queue.next_used());
        Self { layout: Layout::of(queue), next, told: next }
    }

    /// Writes the index of the next used entry into the crate's queue.
    pub(super) fn note(&self, queue: &mut Queue) {
        queue.set_next_used(self.next.0);
    }

    /// Gives requests back with one new index. Returns whether the guest wants an interrupt for
    /// them.
    pub(super) fn give_back(&mut self, memory: &GuestMemoryMmap, done: &[Done]) -> Result<bool, RingError> {
        for Done { head, len } in done {
            let entry = self.layout.entry(self.layout.used, USED_LEN, self.next)?;
            // Little endian: the head's 32 bits first. The index, stored after them, publishes
            // them.
            let bytes = u64::from(*head) | u64::from(*len) << 32;
            memory.write_obj(bytes.to_le(), entry).map_err(QueueError::GuestMemory)?;
            self.next += 1;
        }
        store(memory, self.next.0.to_le(), at(self.layout.used, INDEX_AT)?)?;
        self.wants_interrupt(memory)
    }

    fn wants_interrupt(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        let before = std::mem::replace(&mut self.told, self.next);
        // The guest must see the index before its request for an interrupt is read. Otherwise each
        // side could wait for the other.
        fence(Ordering::SeqCst);
        if self.layout.event_idx {
            let event = Wrapping(load(memory, self.layout.used_event()?, Ordering::Relaxed)?);
            return Ok(self.next - event - Wrapping(1) < self.next - before);
        }
        let flags = load(memory, GuestAddress(self.layout.available), Ordering::Relaxed)?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 8;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;

    fn queue(event_idx: bool, from: u16) -> (GuestMemoryMmap, Queue) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_next_avail(from);
        queue.set_next_used(from);
        (memory, queue)
    }

    fn put(memory: &GuestMemoryMmap, address: u64, value: u16) {
        memory.write_obj(value.to_le(), GuestAddress(address)).unwrap();
    }

    fn get(memory: &GuestMemoryMmap, address: u64) -> u16 {
        u16::from_le(memory.read_obj(GuestAddress(address)).unwrap())
    }

    /// Offers the request at descriptor `head` as the one with this running number.
    fn offer(memory: &GuestMemoryMmap, number: u16, head: u16) {
        put(memory, AVAILABLE + 4 + 2 * u64::from(number % SIZE), head);
        put(memory, AVAILABLE + 2, number.wrapping_add(1));
    }

    /// Takes the next request and returns its first descriptor.
    fn head(available: &mut Available, memory: &GuestMemoryMmap) -> Option<u16> {
        available.next_request(memory).unwrap().map(|place| place.head)
    }

    #[test]
    fn requests_put_back_are_taken_again_in_order() {
        let (memory, queue) = queue(true, u16::MAX - 1);
        let mut available = Available::of(&queue);
        for (number, head) in [(u16::MAX - 1, 5), (u16::MAX, 6), (0, 7)] {
            offer(&memory, number, head);
        }
        let places = [5, 6, 7].map(|head| RingPlace { head, number: u64::from(head) - 5 });
        for _ in 0..2 {
            for place in places {
                assert_eq!(available.next_request(&memory).unwrap(), Some(place));
            }
            assert_eq!(available.taken(), 3);
            available.go_back_to(0);
        }
        assert_eq!(head(&mut available, &memory), Some(5));
        let mut noted = Queue::new(SIZE).unwrap();
        available.note(&mut noted);
        assert_eq!((available.taken(), noted.next_avail()), (1, u16::MAX));
    }

    #[test]
    fn requests_are_taken_in_order_when_the_numbers_wrap() {
        let (memory, queue) = queue(true, u16::MAX - 1);
        put(&memory, AVAILABLE + 2, u16::MAX - 1);
        let mut available = Available::of(&queue);
        assert_eq!(head(&mut available, &memory), None);
        for number in [u16::MAX - 1, u16::MAX, 0, 1] {
            offer(&memory, number, number % SIZE);
            assert_eq!(head(&mut available, &memory), Some(number % SIZE));
            assert_eq!(head(&mut available, &memory), None);
        }
        let mut noted = Queue::new(SIZE).unwrap();
        available.note(&mut noted);
        assert_eq!(noted.next_avail(), 2);
    }

    #[test]
    fn an_index_or_head_out_of_range_is_an_error() {
        let (memory, queue) = queue(true, 0);
        put(&memory, AVAILABLE + 2, SIZE + 1);
        let error = Available::of(&queue).next_request(&memory).unwrap_err();
        assert!(matches!(error, RingError::TooManyAvailable { pending: 9, size: SIZE }));
        offer(&memory, 0, SIZE);
        let error = Available::of(&queue).next_request(&memory).unwrap_err();
        assert!(matches!(error, RingError::HeadOutOfRange { head: SIZE, size: SIZE }));
    }

    #[test]
    fn a_burst_has_one_index_and_one_interrupt() {
        let (memory, queue) = queue(true, u16::MAX);
        let mut used = Used::of(&queue);
        // The guest wants an interrupt for the third request from here.
        put(&memory, AVAILABLE + 4 + 2 * u64::from(SIZE), 1);
        let done = |head| Done { head, len: 100 + u32::from(head) };
        assert!(!used.give_back(&memory, &[done(1), done(2)]).unwrap());
        assert_eq!(get(&memory, USED + 2), 1);
        assert!(used.give_back(&memory, &[done(3)]).unwrap());
        assert!(!used.give_back(&memory, &[done(4)]).unwrap(), "the guest was told already");
        let first: [u32; 2] = memory.read_obj(GuestAddress(USED + 4 + 8 * 7)).unwrap();
        let second: [u32; 2] = memory.read_obj(GuestAddress(USED + 4)).unwrap();
        assert_eq!((first.map(u32::from_le), second.map(u32::from_le)), ([1, 101], [2, 102]));
        let mut noted = Queue::new(SIZE).unwrap();
        used.note(&mut noted);
        assert_eq!(noted.next_used(), 3);
    }

    #[test]
    fn a_guest_without_event_idx_uses_flags() {
        let (memory, queue) = queue(false, 0);
        let mut used = Used::of(&queue);
        assert!(used.give_back(&memory, &[Done { head: 0, len: 0 }]).unwrap());
        put(&memory, AVAILABLE, 1);
        assert!(!used.give_back(&memory, &[Done { head: 1, len: 0 }]).unwrap());
        let mut available = Available::of(&queue);
        available.refuse_kicks(&memory).unwrap();
        assert_eq!(get(&memory, USED), 1);
        assert!(!available.ask_for_kicks(&memory).unwrap());
        assert_eq!(get(&memory, USED), 0);
    }

    #[test]
    fn a_request_before_the_ask_for_kicks_is_not_lost() {
        let (memory, queue) = queue(true, 5);
        put(&memory, AVAILABLE + 2, 5);
        let mut available = Available::of(&queue);
        assert!(!available.ask_for_kicks(&memory).unwrap());
        assert_eq!(get(&memory, USED + 4 + 8 * u64::from(SIZE)), 5, "avail_event");
        offer(&memory, 5, 3);
        assert!(available.ask_for_kicks(&memory).unwrap());
        assert_eq!(head(&mut available, &memory), Some(3));
    }
}
