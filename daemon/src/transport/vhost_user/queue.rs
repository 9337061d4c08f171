//! The loop of one queue: take a request, serve it, give it back, and sleep when there is none.

use super::deferred::QueueDeferred;
use super::leases::{LeaseWait, Leases};
use super::offload::{OffloadService, Offloaded};
use super::queue_thread::Complaint;
use super::request::{QueueRequest, Unreadable};
use super::ring::{Burst, QueueJob, Ring};
use super::sleep::{PollBudget, Poller, Sleep};
use super::split_ring::{Available, Done, RingError, RingPlace};
use crate::filesystem::FileSystem;
use crate::limits::{FORGET_NAP, LOCK_WAIT_LEN_MAX, LONG_REQUEST_LEN, SIGNAL_BATCH_MAX};
use crate::session::{Deferred, Effort, Next, Pace, Pacing, Repeat, Scratch, Session, StopCheck};
use crate::sync::clock;
use arrayvec::ArrayVec;
use pinhole_protocol::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

/// One queue of the device.
#[derive(Debug)]
pub(super) struct Queue<F> {
    /// 0 is hiprio.
    pub(super) index: usize,
    pub(super) session: Arc<Session<F>>,
    /// The virtio features that the guest has acknowledged.
    pub(super) acked_features: Arc<AtomicU64>,
    /// Serves requests that would hold up the queue. Without a pool, the queue waits for them.
    pub(super) offload: Arc<OffloadService<F>>,
    /// How long the thread polls the ring before it sleeps.
    pub(super) poll: PollBudget,
}

impl<F: FileSystem + 'static> QueueJob for Queue<F> {
    fn run(&self, ring: &Arc<Ring>, available: &mut Available, sleep: &Sleep) -> Result<(), RingError> {
        ring.check()?;
        let indirect = self.acked_features.load(Ordering::Acquire) & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0;
        let scratch = if self.index == 0 { Scratch::express() } else { Scratch::default() };
        let (request, leases, poller) = (QueueRequest::default(), Leases::default(), Poller::new(self.poll));
        let mut queue_loop = QueueLoop {
            queue: self,
            ring,
            available,
            sleep,
            indirect,
            request,
            held: None,
            is_closed: false,
            leases,
            scratch,
            poller,
        };
        let served = queue_loop.serve_until_stopped();
        if served.is_ok() {
            ring.close_tail(queue_loop.available.taken());
        }
        // No request is put back into a broken ring, but all requests that were taken are answered.
        served.and(queue_loop.wind_up())
    }

    fn starting(&self) {
        if let Some(window) = self.session.window() {
            window.resume();
        }
    }

    fn not_started(&self, ring: &Arc<Ring>) {
        self.offload.start_later(ring);
    }

    fn interrupt(&self) {
        self.offload.interrupt();
    }

    fn stopping(&self) {
        self.offload.begin_stop();
    }

    fn taken_all(&self) {
        self.offload.hurry_deferred(self.index);
    }

    fn stopped(&self) {
        self.offload.end_stop(self.index);
    }
}

/// The loop of a queue thread, with the state that it keeps from request to request.
struct QueueLoop<'t, F> {
    queue: &'t Queue<F>,
    ring: &'t Arc<Ring>,
    available: &'t mut Available,
    sleep: &'t Sleep,
    indirect: bool,
    request: QueueRequest,
    /// A request that came too soon, or for which the pool has no time. It is served next.
    held: Option<HeldRequest>,
    /// The pool has a request after which no other is taken until it is done.
    is_closed: bool,
    leases: Leases,
    scratch: Scratch,
    poller: Poller,
}

/// End of a burst.
enum BurstEnd {
    /// The ring is empty.
    Empty,
    /// There may be more requests.
    Full,
    /// The next request must not be served yet.
    Held(Hold),
    /// The loop must stop.
    Over,
}

/// Result of serving one request.
enum Served {
    /// It is given back with this used length.
    Done(u32),
    /// It is in flight, or waits for a lease.
    Elsewhere,
    /// It must not be served yet. No part of it was carried out.
    Held(Hold),
}

/// Reason why a request is not served yet.
enum Hold {
    /// The guest has exceeded its speed limit, and waits for this time.
    Early(Duration),
    /// The pool has as many requests of this queue as it can finish in time. `None`: it has a
    /// request after which no other is taken.
    Busy(Option<Effort>),
    /// The pool has no room for one more request of this many bytes of the daemon's memory.
    Full(usize),
}

/// A request that was taken and is the next to be served.
#[derive(Clone, Copy)]
struct HeldRequest {
    place: RingPlace,
    /// It has waited for as long as the speed limits say.
    has_paid: bool,
}

/// A request that was taken and has not begun when the loop stops.
enum Unbegun {
    Pooled(Offloaded),
    Leased(LeaseWait),
}

impl Unbegun {
    const fn place(&self) -> RingPlace {
        match self {
            Self::Pooled(offloaded) => offloaded.place,
            Self::Leased(wait) => wait.place,
        }
    }

    /// Returns whether it can be carried out from its beginning, although a part of it may be done.
    const fn may_begin_again(&self) -> bool {
        match self {
            Self::Pooled(offloaded) => offloaded.may_begin_again,
            Self::Leased(_) => true,
        }
    }
}

/// Requests of a burst that were served and not yet given back.
type Batch = ArrayVec<Done, SIGNAL_BATCH_MAX>;

impl<F: FileSystem + 'static> QueueLoop<'_, F> {
    /// Serves until the loop must stop. Requests that came before the first kick, or while no
    /// thread served the queue, are served at once.
    fn serve_until_stopped(&mut self) -> Result<(), RingError> {
        while self.serve_available()? && self.sleep.until_kicked(self.leases.next())? {}
        Ok(())
    }

    /// Serves until the ring is empty or the loop must stop. Returns true if the ring is empty:
    /// then the guest has been asked to kick for its next request. Returns false if the loop must
    /// stop.
    fn serve_available(&mut self) -> Result<bool, RingError> {
        self.available.refuse_kicks(self.ring.begin().ram())?;
        loop {
            loop {
                self.serve_leased()?;
                match self.serve_burst()? {
                    BurstEnd::Over => return Ok(false),
                    BurstEnd::Full => {}
                    BurstEnd::Held(Hold::Early(owed)) => self.throttle(owed),
                    // Requests that wait for leases are not tried again before there is room. That
                    // would need a wait with a time limit, whose system calls the filter of a queue
                    // thread forbids.
                    BurstEnd::Held(Hold::Busy(effort)) => self.ring.wait_for_room(effort, self.sleep),
                    BurstEnd::Held(Hold::Full(bytes)) => {
                        self.queue.offload.wait_for_room(bytes, || self.sleep.is_over());
                    }
                    BurstEnd::Empty => break,
                }
            }
            if self.poll()? {
                continue;
            }
            let burst = self.ring.begin();
            if !self.available.ask_for_kicks(burst.ram())? {
                return Ok(true);
            }
            self.available.refuse_kicks(burst.ram())?;
        }
    }

    /// Polls the ring before the guest is asked to kick, if [`Poller`] says so. Returns whether a
    /// request has come.
    fn poll(&mut self) -> Result<bool, RingError> {
        if self.queue.index == 0 {
            return self.gather();
        }
        let Some(looks) = self.poller.drained() else { return Ok(false) };
        let burst = self.ring.begin();
        for _ in 0..looks {
            if self.available.has_more(burst.ram())? {
                self.poller.found();
                return Ok(true);
            }
            if self.sleep.is_over() {
                break;
            }
            std::hint::spin_loop();
        }
        self.poller.missed();
        Ok(false)
    }

    /// Waits for [`FORGET_NAP`] for more FORGETs, for which no program waits. So a guest that
    /// forgets one file after another (under `--cache strict`, each that it closes) needs no kick
    /// and no interrupt for each. Returns whether a request has come.
    fn gather(&mut self) -> Result<bool, RingError> {
        if self.sleep.is_over() {
            return Ok(false);
        }
        self.sleep.nap(FORGET_NAP);
        self.available.has_more(self.ring.begin().ram())
    }

    /// Serves up to [`SIGNAL_BATCH_MAX`] requests with the same view of the guest's memory, and
    /// gives them back together. The number is limited because the first request waits for the
    /// last, and a change of memory waits for all.
    fn serve_burst(&mut self) -> Result<BurstEnd, RingError> {
        let burst = self.ring.begin();
        let mut batch = Batch::new();
        let ended = self.fill(&burst, &mut batch);
        // Give back after an error of the ring too: the requests before the error were answered.
        self.give_back(&burst, &mut batch)?;
        ended
    }

    fn fill(&mut self, burst: &Burst<'_>, batch: &mut Batch) -> Result<BurstEnd, RingError> {
        for _ in 0..SIGNAL_BATCH_MAX {
            if self.sleep.is_over() {
                return Ok(BurstEnd::Over);
            }
            if self.is_closed && !self.ring.has_room(None) {
                return Ok(BurstEnd::Held(Hold::Busy(None)));
            }
            self.is_closed = false;
            let next = match self.held.take() {
                None => self
                    .available
                    .next_request(burst.ram())?
                    .map(|place| HeldRequest { place, has_paid: false }),
                held => held,
            };
            let Some(next @ HeldRequest { place, has_paid }) = next else { return Ok(BurstEnd::Empty) };
            match self.serve_one(burst, next, batch)? {
                Served::Done(len) => batch.push(Done { head: place.head, len }),
                Served::Elsewhere => {}
                Served::Held(why) => {
                    let has_paid = has_paid || matches!(why, Hold::Early(_));
                    self.held = Some(HeldRequest { place, has_paid });
                    return Ok(BurstEnd::Held(why));
                }
            }
        }
        Ok(BurstEnd::Full)
    }

    /// Waits for `owed`, the time by which the guest has exceeded its speed limit, or until the
    /// loop must stop. It is called outside of bursts.
    fn throttle(&self, owed: Duration) {
        self.sleep.nap(owed);
    }

    fn give_back(&self, burst: &Burst<'_>, batch: &mut Batch) -> Result<(), RingError> {
        if batch.is_empty() {
            return Ok(());
        }
        let given = self.ring.give_back(burst.ram(), batch);
        batch.clear();
        given
    }

    /// Serves a request. A request that has waited for speed limits does not wait for them again.
    fn serve_one(
        &mut self,
        burst: &Burst<'_>,
        HeldRequest { place, has_paid }: HeldRequest,
        batch: &mut Batch,
    ) -> Result<Served, RingError> {
        let (session, memory) = (&self.queue.session, burst.memory());
        let read = self.request.read(memory, self.available.table(), place.head, self.indirect);
        let owed = session.owed(self.request.opcode());
        if !owed.is_zero() && !has_paid {
            return Ok(Served::Held(Hold::Early(owed)));
        }
        if let Err(why) = read {
            session.count_unread();
            self.log_unreadable(place.head, &why);
            return Ok(Served::Done(0));
        }
        if self.request.len() > LONG_REQUEST_LEN {
            self.give_back(burst, batch)?;
        }
        let pool_serves = self.queue.offload.has_pool();
        let (ring, sleep) = (self.ring, self.sleep);
        // The request is the last one taken, so it can be put back.
        let asked = |repeat| ring.is_abandoned() || (repeat == Repeat::Harmless && sleep.is_over());
        let pace = if pool_serves { Pace::Now } else { Pace::Patient };
        let pacing = Pacing { pace, stop: StopCheck::once(&asked) };
        match self.request.serve(session, memory, pacing, &mut self.scratch) {
            Next::Done(len) => Ok(Served::Done(len)),
            Next::Offload(effort) if pool_serves => self.offload_if_room(burst, (place, effort), batch),
            Next::Retry if self.leases.have_room(self.ring.room_for_leased(self.indirect)) => {
                self.leases.add(LeaseWait::new(std::mem::take(&mut self.request), place));
                Ok(Served::Elsewhere)
            }
            Next::Retry => Ok(Served::Done(self.request.refuse(session, memory, Errno::EAGAIN))),
            Next::Deferred(deferred) => Ok(self.defer(burst, deferred, place)),
            Next::Stopped => Ok(Served::Held(Hold::Busy(None))),
            // Unreachable: a patient request is answered. It would be given back empty.
            Next::Offload(_) => Ok(Served::Done(0)),
        }
    }

    /// Passes the request that was read last to the pool, if the pool has time and room for it.
    fn offload_if_room(
        &mut self,
        burst: &Burst<'_>,
        (place, effort): (RingPlace, Effort),
        batch: &mut Batch,
    ) -> Result<Served, RingError> {
        if !self.ring.has_room(Some(effort)) {
            return Ok(Served::Held(Hold::Busy(Some(effort))));
        }
        let request = std::mem::take(&mut self.request);
        if let Some(request) = self.offload(burst, (request, place, effort), batch)? {
            return Ok(Served::Held(Hold::Full(request.footprint())));
        }
        self.is_closed = effort.is_interruptible();
        Ok(Served::Elsewhere)
    }

    /// Passes a request to the pool, or returns it if the pool has no room. This does not wait for
    /// room, because a change of memory waits for the burst.
    fn offload(
        &self,
        burst: &Burst<'_>,
        (request, place, effort): (QueueRequest, RingPlace, Effort),
        batch: &mut Batch,
    ) -> Result<Option<QueueRequest>, RingError> {
        self.give_back(burst, batch)?;
        let offloaded = Offloaded {
            request,
            place,
            queue: self.queue.index,
            in_flight: self.ring.offload(effort),
            is_urgent: false,
            reached: None,
            may_begin_again: true,
        };
        Ok(self.queue.offload.submit(offloaded).map(|offloaded| offloaded.request))
    }

    /// Tries requests again that wait for a lease, if it is time.
    fn serve_leased(&mut self) -> Result<(), RingError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let (burst, mut batch, now) = (self.ring.begin(), Batch::new(), clock::now());
        while let Some(wait) = self.leases.take_due(now) {
            if batch.is_full() {
                self.give_back(&burst, &mut batch)?;
            }
            let (session, memory) = (&self.queue.session, burst.memory());
            let place = wait.place;
            let pacing = Pacing { pace: Pace::Now, ..Pacing::PATIENT };
            let len = match wait.request.serve(session, memory, pacing, &mut self.scratch) {
                Next::Done(len) => len,
                Next::Retry if wait.is_over() => wait.request.refuse(session, memory, Errno::EAGAIN),
                Next::Retry => {
                    self.leases.put_back(wait);
                    continue;
                }
                Next::Offload(effort) => {
                    let LeaseWait { request, since, .. } = wait;
                    if let Some(request) = self.offload(&burst, (request, place, effort), &mut batch)? {
                        self.leases.put_back(LeaseWait { request, place, since, due: since });
                    }
                    continue;
                }
                // Unreachable: no request that opens a file waits for anything else.
                Next::Deferred(_) | Next::Stopped => wait.request.refuse(session, memory, Errno::EIO),
            };
            batch.push(Done { head: place.head, len });
        }
        self.give_back(&burst, &mut batch)
    }

    /// Ends the loop. Puts requests that have not begun back into the available ring, from the last
    /// one on, until one cannot be put back. The others are answered: those of the pool as urgent
    /// ones, and those that wait for a lease with ESTALE. After ESTALE Linux looks the path up
    /// again and opens or truncates the file that it finds, so the program in the guest notices
    /// nothing.
    fn wind_up(&mut self) -> Result<(), RingError> {
        // The held request is the last one taken.
        if let Some(held) = self.held.take() {
            self.ring.put_back(held.place);
        }
        let pooled = self.queue.offload.withdraw(self.queue.index).into_iter().map(Unbegun::Pooled);
        let mut unbegun: Vec<_> =
            pooled.chain(self.leases.take_all().into_iter().map(Unbegun::Leased)).collect();
        unbegun.sort_by_key(|unbegun| unbegun.place().number);
        while unbegun.pop_if(|last| last.may_begin_again() && self.ring.put_back(last.place())).is_some() {}
        let (burst, mut batch, mut urgent) = (self.ring.begin(), Batch::new(), Vec::new());
        for unbegun in unbegun {
            match unbegun {
                Unbegun::Pooled(offloaded) => urgent.push(offloaded),
                Unbegun::Leased(wait) => {
                    if batch.is_full() {
                        self.give_back(&burst, &mut batch)?;
                    }
                    let len = wait.request.refuse(&self.queue.session, burst.memory(), Errno::ESTALE);
                    batch.push(Done { head: wait.place.head, len });
                }
            }
        }
        self.queue.offload.hurry(urgent);
        self.give_back(&burst, &mut batch)
    }

    /// Defers a request. A request that may wait for long is deferred only while the ring has room
    /// for others, because the requests of the owner of the lock must still get through.
    fn defer(&mut self, burst: &Burst<'_>, deferred: Deferred, place: RingPlace) -> Served {
        let Queue { offload, session, index, .. } = self.queue;
        if deferred.refusal().is_some() && !self.has_room_to_defer() {
            let (memory, refused) = (burst.memory(), Err(Errno::ENOLCK));
            let len = self.request.answer_deferred((session, memory), &deferred, refused, &mut self.scratch);
            return Served::Done(len);
        }
        let request = std::mem::take(&mut self.request).without_message();
        let in_flight = self.ring.defer();
        offload.defer(QueueDeferred { deferred, request, place, queue: *index, in_flight });
        Served::Elsewhere
    }

    fn has_room_to_defer(&self) -> bool {
        self.ring.has_room_to_defer(self.indirect) && self.request.chain_footprint() <= LOCK_WAIT_LEN_MAX
    }

    fn log_unreadable(&self, head: u16, why: &Unreadable) {
        if let Some(suppressed) = self.ring.may_log(Complaint::Request) {
            tracing::warn!(queue = self.queue.index, head, suppressed, "request refused: {why}");
        }
    }
}
