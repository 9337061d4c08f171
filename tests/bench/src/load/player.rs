//! One client thread: its ring, its slots, and the measured loop.
//!
//! A slot is the memory of one request in flight: message, descriptors, reply and data. The
//! descriptors are indirect, in the layout of a Linux guest. A request writes only what differs
//! from the last one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use vm_memory::{Bytes as _, VolatileSlice};

use super::ask::{Ask, Data, ENOENT, ENOSYS, ENTRY_LEN, Expect, NextStep, OPENED_LEN};
use super::error::LoadError;
use super::message::{HEADER_LEN, Message};
use super::ring::{Ring, RingState, SLOT_LEN, SLOTS, SLOTS_AT, Used};
use super::vmm::Vmm;

/// Offset of the descriptors in a slot, in bytes. The message comes before.
const TABLE_AT: usize = 0x1000;

/// Offset of the reply, in bytes.
const REPLY_AT: usize = 0x3000;

/// Offset of a listing, in bytes.
const LISTING_AT: usize = 0x4000;

/// Offset of the data, in bytes.
const DATA_AT: usize = 0x1_0000;

/// Length of `fuse_out_header`, in bytes.
const OUT_HEADER_LEN: usize = 16;

/// Page size of the guest, in bytes.
const PAGE: usize = 4096;

/// Number of pages in the data of a slot.
const PAGES: usize = 256;

/// Distance of successive pages of data, in pages. As in a guest, neighbors in a file are not
/// neighbors in memory.
const PAGE_STRIDE: usize = 77;

/// Flag of a descriptor that another one follows (`VIRTQ_DESC_F_NEXT`).
const NEXT: u64 = 1;

/// Flag of a descriptor that the device writes (`VIRTQ_DESC_F_WRITE`).
const WRITE: u64 = 2;

/// Flag of a descriptor that refers to a table (`VIRTQ_DESC_F_INDIRECT`).
const INDIRECT: u16 = 4;

/// Largest latency that is recorded, in ns.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Layout of a request in descriptors. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    arguments_len: usize,
    reply_len: usize,
    data: Data,
}

/// Memory of a request, and the reply that it expects.
#[derive(Debug)]
struct Slot {
    /// Offset in the memory of the ring, in bytes.
    at: usize,
    /// Layout of the last request. The descriptors of an equal layout stay.
    shape: Option<Shape>,
    ask: Ask,
    /// Begin of the operation.
    began: Instant,
}

/// Time in which operations count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// End of the warm-up.
    pub(super) begin: Instant,
    /// End of the measurement: later operations do not begin.
    pub(super) end: Instant,
}

/// Figures of one thread.
#[derive(Debug)]
pub(super) struct Tally {
    /// Latencies of the operations within the window, in ns.
    pub(super) latencies: Histogram<u64>,
    window: Window,
}

impl Tally {
    /// Starts without operations.
    fn new(window: Window) -> Result<Self, LoadError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        let latencies = latencies.map_err(|error| LoadError::Memory(error.to_string()))?;
        Ok(Self { latencies, window })
    }

    /// Counts an operation that began at `began` and ended at `now`, if both are in the window.
    fn count(&mut self, began: Instant, now: Instant) {
        if began >= self.window.begin && now <= self.window.end {
            self.latencies.saturating_record(nanoseconds(now.saturating_duration_since(began)));
        }
    }
}

/// Checked reply, in guest memory.
pub(super) struct Reply<'p> {
    memory: &'p VolatileSlice<'p>,
    slot: usize,
    /// Length after the header, in bytes.
    pub(super) len: usize,
}

impl Reply<'_> {
    /// Returns the number at offset `at` of the body.
    pub(super) fn u64(&self, at: usize) -> Result<u64, LoadError> {
        let at = self.slot + REPLY_AT + OUT_HEADER_LEN + at;
        self.memory.read_obj(at).map(u64::from_le).map_err(LoadError::memory)
    }

    /// Returns whether this reply to OPEN or OPENDIR lets the guest open files by itself.
    pub(super) const fn is_open_needless(&self) -> bool {
        self.len == 0
    }

    /// Returns the number at offset `at` of a listing.
    pub(super) fn listed_u64(&self, at: usize) -> Result<u64, LoadError> {
        self.memory.read_obj(self.slot + LISTING_AT + at).map(u64::from_le).map_err(LoadError::memory)
    }

    /// Returns the first two bytes of the name at offset `at` of a listing.
    pub(super) fn listed_bytes(&self, at: usize) -> Result<[u8; 2], LoadError> {
        self.memory.read_obj(self.slot + LISTING_AT + at).map_err(LoadError::memory)
    }
}

/// Operations of a row, as one thread performs them.
pub(super) trait Play {
    /// Writes the first request of an operation in `slot`.
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError>;

    /// Takes the reply in `slot` and writes the next request of the operation.
    fn next(&mut self, slot: usize, reply: &Reply<'_>, message: &mut Message) -> Result<NextStep, LoadError>;

    /// Returns whether operations in `slot` are measured.
    fn counts(&self, _slot: usize) -> bool {
        true
    }

    /// Returns the node ids to forget now, with their lookup counts. The caller empties the list.
    fn forgotten(&mut self) -> &mut Vec<(u64, u64)>;

    /// Releases the handles and node ids of the preparation.
    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError>;
}

/// Client thread with its ring.
pub(super) struct Player<'m> {
    /// The VMM.
    pub(super) vmm: &'m Vmm,
    /// Next message to send.
    pub(super) message: Message,
    /// Node ids that were looked up in preparation, with their counts, to forget at the end.
    pub(super) known: Vec<(u64, u64)>,
    memory: VolatileSlice<'m>,
    base: u64,
    ring: Ring<'m>,
    slots: Vec<Slot>,
}

impl<'m> Player<'m> {
    /// Prepares the thread for the request ring `index`, which counts from 1.
    pub(super) fn new(vmm: &'m Vmm, index: usize, state: &'m mut RingState) -> Result<Self, LoadError> {
        let (memory, base) = vmm.memory(index)?;
        let slot = |number| Slot {
            at: SLOTS_AT + number * SLOT_LEN,
            shape: None,
            ask: Ask::none(),
            began: Instant::now(),
        };
        Ok(Self {
            vmm,
            message: Message::new(PAGE),
            known: Vec::new(),
            memory,
            base,
            ring: Ring::new(memory, state),
            slots: (0..SLOTS).map(slot).collect(),
        })
    }

    /// Sends the message in slot 0 and waits for the reply. No other request may be in flight.
    pub(super) fn ask(&mut self, ask: Ask) -> Result<Reply<'_>, LoadError> {
        self.submit(0, ask)?;
        self.ring.publish()?;
        let used = self.ring.wait()?;
        let Self { slots, memory, .. } = self;
        check(slots, memory, used)
    }

    /// Writes to the data of every slot, so that no page is touched for the first time during the
    /// measurement.
    pub(super) fn touch(&self) -> Result<(), LoadError> {
        let page = [0x5a_u8; PAGE];
        for slot in &self.slots {
            for number in 0..PAGES {
                let at = slot.at + DATA_AT + number * PAGE;
                self.memory.write_slice(&page, at).map_err(LoadError::memory)?;
            }
        }
        Ok(())
    }

    /// Forgets the node ids that were looked up in preparation.
    pub(super) fn forget_known(&mut self) -> Result<(), LoadError> {
        self.vmm.forget(&mut self.known)
    }

    /// Runs the measured loop: `play` keeps `depth` slots in flight until the window ends.
    pub(super) fn run(
        &mut self,
        play: &mut dyn Play,
        depth: usize,
        window: Window,
    ) -> Result<Tally, LoadError> {
        let mut tally = Tally::new(window)?;
        for number in 0..depth {
            self.begin(play, number)?;
        }
        self.ring.publish()?;
        let mut in_flight = depth;
        while in_flight > 0 {
            let mut used = Some(self.ring.wait()?);
            while let Some(given) = used {
                let reply = check(&self.slots, &self.memory, given)?;
                match play.next(given.head, &reply, &mut self.message)? {
                    NextStep::Send(ask) => self.submit(given.head, ask)?,
                    NextStep::Done => {
                        let now = Instant::now();
                        let began = self.slots.get(given.head).map(|slot| slot.began);
                        if let Some(began) = began.filter(|_| play.counts(given.head)) {
                            tally.count(began, now);
                        }
                        if now < window.end {
                            self.begin(play, given.head)?;
                        } else {
                            in_flight -= 1;
                        }
                    }
                }
                used = self.ring.take()?;
            }
            self.ring.publish()?;
            let forgotten = play.forgotten();
            if !forgotten.is_empty() {
                self.vmm.forget(forgotten)?;
            }
        }
        Ok(tally)
    }

    /// Begins the next operation in slot `number`.
    fn begin(&mut self, play: &mut dyn Play, number: usize) -> Result<(), LoadError> {
        let ask = play.begin(number, &mut self.message)?;
        if let Some(slot) = self.slots.get_mut(number) {
            slot.began = Instant::now();
        }
        self.submit(number, ask)
    }

    /// Writes the message into the slot and offers it to the device.
    fn submit(&mut self, number: usize, ask: Ask) -> Result<(), LoadError> {
        let missing = || LoadError::Device(format!("no slot {number}"));
        let slot = self.slots.get_mut(number).ok_or_else(missing)?;
        slot.ask = ask;
        if let Data::Out(len) = ask.data {
            self.message.payload(len);
        }
        let bytes = self.message.finish();
        self.memory.write_slice(bytes, slot.at).map_err(LoadError::memory)?;
        let arguments_len = bytes.len() - HEADER_LEN;
        let shape = Shape { arguments_len, reply_len: ask.reply_len, data: ask.data };
        // The last reply in this slot must not look like the next one.
        self.memory.write_obj(0_u64, slot.at + REPLY_AT).map_err(LoadError::memory)?;
        let head = u16::try_from(number).map_err(|_wide| missing())?;
        if slot.shape != Some(shape) {
            slot.shape = Some(shape);
            let count = lay_out(&self.memory, self.base, slot.at, shape)?;
            let len = u32::try_from(count * 16).unwrap_or(u32::MAX);
            self.ring.describe(head, self.base + (slot.at + TABLE_AT) as u64, len, INDIRECT)?;
        }
        self.ring.offer(head)
    }
}

/// Writes the descriptors of a slot in the order of a Linux guest: header, arguments, data, then
/// the header, arguments and data of the reply. Returns their number.
fn lay_out(memory: &VolatileSlice<'_>, base: u64, slot: usize, shape: Shape) -> Result<usize, LoadError> {
    let (out, into) = match shape.data {
        Data::None | Data::Listing(_) => (0, 0),
        Data::Out(len) => (len, 0),
        Data::In(len) => (0, len),
    };
    let listing = if let Data::Listing(len) = shape.data { len } else { 0 };
    let reply_at = slot + REPLY_AT;
    let front = [(slot, HEADER_LEN, 0), (slot + HEADER_LEN, shape.arguments_len, 0)];
    let back = [
        (reply_at, OUT_HEADER_LEN, WRITE),
        (reply_at + OUT_HEADER_LEN, shape.reply_len, WRITE),
        (slot + LISTING_AT, listing, WRITE),
    ];
    let pieces = front.into_iter().chain(pages(slot, out, 0)).chain(back).chain(pages(slot, into, WRITE));
    let mut count = 0;
    for (at, len, flags) in pieces.filter(|(_, len, _)| *len > 0) {
        let place = slot + TABLE_AT + 16 * count;
        count += 1;
        let first = base + at as u64;
        let second = len as u64 | (flags | NEXT) << 32 | (count as u64) << 48;
        memory.write_obj(first.to_le(), place).map_err(LoadError::memory)?;
        memory.write_obj(second.to_le(), place + 8).map_err(LoadError::memory)?;
    }
    // The last descriptor has no successor.
    let last = slot + TABLE_AT + 16 * count - 4;
    let flags: u16 = memory.load(last, Ordering::Relaxed).map_err(LoadError::memory)?;
    memory.store(flags & !1_u16.to_le(), last, Ordering::Relaxed).map_err(LoadError::memory)?;
    Ok(count)
}

/// Returns the pages with the data of a slot: offset, length and flags of each.
fn pages(slot: usize, len: usize, flags: u64) -> impl Iterator<Item = (usize, usize, u64)> {
    (0..len.div_ceil(PAGE)).map(move |number| {
        let at = slot + DATA_AT + (number * PAGE_STRIDE % PAGES) * PAGE;
        (at, PAGE.min(len - number * PAGE), flags)
    })
}

/// Checks the errno and the length of a reply, and that its length is the used length.
fn check<'p>(slots: &[Slot], memory: &'p VolatileSlice<'p>, used: Used) -> Result<Reply<'p>, LoadError> {
    let slot = slots.get(used.head);
    let slot = slot
        .ok_or_else(|| LoadError::Device(format!("returned descriptor {}, which has no slot", used.head)))?;
    let reply_at = slot.at + REPLY_AT;
    let len: u32 = memory.read_obj(reply_at).map_err(LoadError::memory)?;
    let error: i32 = memory.read_obj(reply_at + 4).map_err(LoadError::memory)?;
    let (len, errno) = (u32::from_le(len), -i32::from_le(error));
    if len != used.len {
        return Err(LoadError::Device(format!("{} bytes used for a reply of {len}", used.len)));
    }
    let len = usize::try_from(len).unwrap_or(0).saturating_sub(OUT_HEADER_LEN);
    let right = match slot.ask.expect {
        Expect::Body(expected) => errno == 0 && len == expected,
        Expect::AtMost(most) => errno == 0 && len <= most,
        // A negative entry is also a valid reply.
        Expect::Missing => errno == ENOENT || (errno == 0 && len == ENTRY_LEN),
        Expect::Opened => (errno == 0 && len == OPENED_LEN) || errno == ENOSYS,
    };
    if !right {
        return Err(LoadError::Reply { errno, len, expected: slot.ask.expect });
    }
    Ok(Reply { memory, slot: slot.at, len })
}

/// Converts a time to nanoseconds.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
