//! One client thread: its ring, its slots, and the loop that is measured.
//!
//! A slot is memory for one request in flight: its message, its descriptors behind one indirect
//! descriptor as a Linux guest lays them out, its answer and its data. A request rewrites what
//! changed and nothing else.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use vm_memory::{Bytes as _, VolatileSlice};

use super::ask::{Ask, Data, ENOENT, ENTRY_LEN, Expect, Step};
use super::error::LoadError;
use super::machine::Machine;
use super::message::{HEADER_LEN, Message};
use super::ring::{Ring, RingState, SLOT_LEN, SLOTS, SLOTS_AT, Used};

/// Where a slot's parts lie in it.
const TABLE_AT: usize = 0x1000;
const ANSWER_AT: usize = 0x3000;
const LISTING_AT: usize = 0x4000;
const DATA_AT: usize = 0x1_0000;

/// Bytes of `fuse_out_header`.
const OUT_HEADER_LEN: usize = 16;

/// Bytes of a page of the guest.
const PAGE: usize = 4096;

/// Pages in a slot's data.
const PAGES: usize = 256;

/// Neighbours in a file are not neighbours in memory, as in a guest: each page lies so many pages
/// behind the last.
const PAGE_STRIDE: usize = 77;

const NEXT: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u16 = 4;

/// Latencies are recorded from 1 ns up to this, to three digits.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How a request is laid out in descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    arguments_len: usize,
    answer_len: usize,
    data: Data,
}

/// A request's memory and what was asked with it.
#[derive(Debug)]
struct Slot {
    at: usize,
    shape: Option<Shape>,
    ask: Ask,
    began: Instant,
}

/// When operations count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The warm-up is over.
    pub(super) begin: Instant,
    /// The last operation has begun.
    pub(super) end: Instant,
}

/// What one thread has measured.
#[derive(Debug)]
pub(super) struct Tally {
    /// Of each operation within the window, in ns.
    pub(super) latencies: Histogram<u64>,
    window: Window,
}

impl Tally {
    fn new(window: Window) -> Result<Self, LoadError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        let latencies = latencies.map_err(|error| LoadError::Memory(error.to_string()))?;
        Ok(Self { latencies, window })
    }

    /// An operation that ended now.
    fn count(&mut self, began: Instant, now: Instant) {
        if began >= self.window.begin && now <= self.window.end {
            self.latencies.saturating_record(nanoseconds(now.saturating_duration_since(began)));
        }
    }
}

/// An answer that was checked, where it lies.
pub(super) struct Reply<'p> {
    memory: &'p VolatileSlice<'p>,
    slot: usize,
    /// Bytes behind the header.
    pub(super) len: usize,
}

impl Reply<'_> {
    /// The number at `at` in the body.
    pub(super) fn u64(&self, at: usize) -> Result<u64, LoadError> {
        let at = self.slot + ANSWER_AT + OUT_HEADER_LEN + at;
        self.memory.read_obj(at).map(u64::from_le).map_err(LoadError::memory)
    }

    /// The number at `at` in a listing.
    pub(super) fn listed_u64(&self, at: usize) -> Result<u64, LoadError> {
        self.memory.read_obj(self.slot + LISTING_AT + at).map(u64::from_le).map_err(LoadError::memory)
    }

    /// The first bytes of a name in a listing.
    pub(super) fn listed_bytes(&self, at: usize) -> Result<[u8; 2], LoadError> {
        self.memory.read_obj(self.slot + LISTING_AT + at).map_err(LoadError::memory)
    }
}

/// One thread's part of a row.
pub(super) trait Play {
    /// Writes the first request of an operation in `slot`.
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError>;

    /// Takes the answer in `slot` and writes the operation's next request.
    fn next(&mut self, slot: usize, reply: &Reply<'_>, message: &mut Message) -> Result<Step, LoadError>;

    /// Whether operations in `slot` are measured.
    fn counts(&self, _slot: usize) -> bool {
        true
    }

    /// Nodes to forget, with their counts of lookups; the caller takes them.
    fn forgotten(&mut self) -> &mut Vec<(u64, u64)>;

    /// Gives back what was prepared.
    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError>;
}

/// One client thread's side of its ring.
pub(super) struct Player<'m> {
    /// The machine.
    pub(super) machine: &'m Machine,
    /// The message to be sent next.
    pub(super) message: Message,
    /// Nodes that were looked up in preparation, to be forgotten at the end.
    pub(super) known: Vec<(u64, u64)>,
    memory: VolatileSlice<'m>,
    base: u64,
    ring: Ring<'m>,
    slots: Vec<Slot>,
}

impl<'m> Player<'m> {
    /// On the request ring `index`, 1 being the first.
    pub(super) fn new(
        machine: &'m Machine,
        index: usize,
        state: &'m mut RingState,
    ) -> Result<Self, LoadError> {
        let (memory, base) = machine.memory(index)?;
        let slot = |number| Slot {
            at: SLOTS_AT + number * SLOT_LEN,
            shape: None,
            ask: Ask::none(),
            began: Instant::now(),
        };
        Ok(Self {
            machine,
            message: Message::new(PAGE),
            known: Vec::new(),
            memory,
            base,
            ring: Ring::new(memory, state),
            slots: (0..SLOTS).map(slot).collect(),
        })
    }

    /// Sends the message in slot 0 and waits for the answer; while nothing else is in flight.
    pub(super) fn ask(&mut self, ask: Ask) -> Result<Reply<'_>, LoadError> {
        self.submit(0, ask)?;
        self.ring.publish()?;
        let used = self.ring.wait()?;
        let Self { slots, memory, .. } = self;
        check(slots, memory, used)
    }

    /// Fills the data of every slot, so that no page is touched for the first time while it is
    /// measured.
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

    /// Forgets what was looked up in preparation.
    pub(super) fn forget_known(&mut self) -> Result<(), LoadError> {
        self.machine.forget(&mut self.known)
    }

    /// The measured loop: `play` keeps its slots in flight until the window closes.
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
                    Step::Send(ask) => self.submit(given.head, ask)?,
                    Step::Done => {
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
                self.machine.forget(forgotten)?;
            }
        }
        Ok(tally)
    }

    fn begin(&mut self, play: &mut dyn Play, number: usize) -> Result<(), LoadError> {
        let ask = play.begin(number, &mut self.message)?;
        if let Some(slot) = self.slots.get_mut(number) {
            slot.began = Instant::now();
        }
        self.submit(number, ask)
    }

    /// Writes the message into the slot and offers it.
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
        let shape = Shape { arguments_len, answer_len: ask.answer_len, data: ask.data };
        // What the device wrote last must not be taken for the next answer.
        self.memory.write_obj(0_u64, slot.at + ANSWER_AT).map_err(LoadError::memory)?;
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

/// Writes a slot's descriptors in the order of a Linux guest: header, arguments, data; answer's
/// header, answer, data.
fn lay_out(memory: &VolatileSlice<'_>, base: u64, slot: usize, shape: Shape) -> Result<usize, LoadError> {
    let (out, into) = match shape.data {
        Data::None | Data::Listing(_) => (0, 0),
        Data::Out(len) => (len, 0),
        Data::In(len) => (0, len),
    };
    let listing = if let Data::Listing(len) = shape.data { len } else { 0 };
    let answer = slot + ANSWER_AT;
    let front = [(slot, HEADER_LEN, 0), (slot + HEADER_LEN, shape.arguments_len, 0)];
    let back = [
        (answer, OUT_HEADER_LEN, WRITE),
        (answer + OUT_HEADER_LEN, shape.answer_len, WRITE),
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
    // The last one has no next.
    let last = slot + TABLE_AT + 16 * count - 4;
    let flags: u16 = memory.load(last, Ordering::Relaxed).map_err(LoadError::memory)?;
    memory.store(flags & !1_u16.to_le(), last, Ordering::Relaxed).map_err(LoadError::memory)?;
    Ok(count)
}

fn pages(slot: usize, len: usize, flags: u64) -> impl Iterator<Item = (usize, usize, u64)> {
    (0..len.div_ceil(PAGE)).map(move |number| {
        let at = slot + DATA_AT + (number * PAGE_STRIDE % PAGES) * PAGE;
        (at, PAGE.min(len - number * PAGE), flags)
    })
}

/// What is true of an answer: it is one, its length is the used length, and it is as long as
/// expected.
fn check<'p>(slots: &[Slot], memory: &'p VolatileSlice<'p>, used: Used) -> Result<Reply<'p>, LoadError> {
    let slot = slots.get(used.head);
    let slot = slot.ok_or_else(|| LoadError::Device(format!("gave back {}", used.head)))?;
    let answer = slot.at + ANSWER_AT;
    let len: u32 = memory.read_obj(answer).map_err(LoadError::memory)?;
    let error: i32 = memory.read_obj(answer + 4).map_err(LoadError::memory)?;
    let (len, errno) = (u32::from_le(len), -i32::from_le(error));
    if len != used.len {
        return Err(LoadError::Device(format!("{} bytes used for an answer of {len}", used.len)));
    }
    let len = usize::try_from(len).unwrap_or(0).saturating_sub(OUT_HEADER_LEN);
    let right = match slot.ask.expect {
        Expect::Body(expected) => errno == 0 && len == expected,
        Expect::AtMost(most) => errno == 0 && len <= most,
        // A negative entry is an answer too.
        Expect::Missing => errno == ENOENT || (errno == 0 && len == ENTRY_LEN),
    };
    if !right {
        return Err(LoadError::Answer { errno, len, expected: slot.ask.expect });
    }
    Ok(Reply { memory, slot: slot.at, len })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
