//! The loop of one queue: take a request, serve it, give it back, and sleep when there is none.

use super::crew::Complaint;
use super::leases::{Leases, Waiting};
use super::parking::{Parking, Stay};
use super::poll::Poller;
use super::pool::{Pool, Postponed};
use super::request::{Fate, Refused, Taken};
use super::ring::{Burst, Job, Ring};
use super::sleep::Sleep;
use super::split_ring::{Available, Done, Place, RingError};
use crate::filesystem::FileSystem;
use crate::limits::{FORGET_NAP, LOCK_WAIT_LEN_MAX, LONG_REQUEST_LEN, SIGNAL_BATCH_MAX, THROTTLE_NAP_MAX};
use crate::session::{Effort, Pace, Parked, Repeat, Scratch, Session, StopCheck};
use crate::sync::clock;
use arrayvec::ArrayVec;
use pinhole_protocol::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

/// What one queue's worker needs.
#[derive(Debug)]
pub(super) struct Worker<F> {
    /// 0 is hiprio.
    pub(super) index: usize,
    pub(super) session: Arc<Session<F>>,
    /// The virtio features that the guest has acknowledged.
    pub(super) acked_features: Arc<AtomicU64>,
    /// Where requests go that would hold up the queue, unless it has no threads: then the queue waits for them.
    pub(super) pool: Arc<Pool>,
    /// Where requests go that wait for the front-end, or for a lock.
    pub(super) parking: Option<Arc<Parking>>,
    /// How long to look for more before it sleeps.
    pub(super) poll: Duration,
}

impl<F: FileSystem + 'static> Job for Worker<F> {
    fn run(&self, ring: &Arc<Ring>, available: &mut Available, sleep: &Sleep) -> Result<(), RingError> {
        ring.check()?;
        let indirect = self.acked_features.load(Ordering::Acquire) & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0;
        let scratch = if self.index == 0 { Scratch::express() } else { Scratch::default() };
        let (taken, leases, poller) = (Taken::default(), Leases::default(), Poller::new(self.poll));
        let mut turn = Turn {
            worker: self,
            ring,
            available,
            sleep,
            indirect,
            taken,
            held: None,
            is_closed: false,
            leases,
            scratch,
            poller,
        };
        let served = turn.serve_until_stopped();
        if served.is_ok() {
            ring.close_tail(turn.available.taken());
        }
        // Of a ring that broke nothing is put back, but what was taken is answered all the same.
        served.and(turn.wind_up())
    }

    fn starting(&self) {
        if let Some(window) = self.session.window() {
            window.resume();
        }
    }

    fn not_started(&self, ring: &Arc<Ring>) {
        self.pool.start_later(ring);
    }

    fn interrupt(&self) {
        self.pool.interrupt();
    }

    fn stopping(&self) {
        if let Some(window) = self.session.window() {
            window.begin_drain();
        }
    }

    fn taken_all(&self) {
        if let Some(parking) = &self.parking {
            parking.hurry(self.index);
        }
    }

    fn stopped(&self) {
        if let Some(parking) = &self.parking {
            parking.calm_down(self.index);
        }
        if let Some(window) = self.session.window() {
            window.end_drain();
        }
    }
}

/// A worker at work, and what it keeps from request to request.
struct Turn<'t, F> {
    worker: &'t Worker<F>,
    ring: &'t Arc<Ring>,
    available: &'t mut Available,
    sleep: &'t Sleep,
    indirect: bool,
    taken: Taken,
    /// A request that came too soon, or for which the pool has no time: the next to be served.
    held: Option<Held>,
    /// The pool has a request that is to be the last one taken until it is done.
    is_closed: bool,
    leases: Leases,
    scratch: Scratch,
    poller: Poller,
}

/// How a burst ended.
enum Ended {
    /// The ring is empty.
    Empty,
    /// There may be more.
    Full,
    /// The next request is not to be served yet.
    Held(Hold),
    /// The worker is to stop.
    Over,
}

/// What became of one request.
enum Step {
    /// It is to be given back with this used length.
    Done(u32),
    /// The pool has it.
    Elsewhere,
    /// It is not to be served yet; nothing was done.
    Held(Hold),
}

/// Why a request is not served yet.
enum Hold {
    /// The guest has gone on faster than its policy allows, by so much.
    Early(Duration),
    /// The pool has as much of this queue as it can finish in time. `None`: it has one that is to be the last.
    Busy(Option<Effort>),
    /// The pool has no room for one more of this many bytes of our memory.
    Full(usize),
}

/// A request that was taken and is the next to be served.
#[derive(Clone, Copy)]
struct Held {
    place: Place,
    /// It has waited for as long as the speed limits ask.
    has_paid: bool,
}

/// A request that was taken and has not begun when its worker ends.
enum Unbegun {
    Pooled(Postponed),
    Leased(Waiting),
}

impl Unbegun {
    const fn place(&self) -> Place {
        match self {
            Self::Pooled(postponed) => postponed.place,
            Self::Leased(waiting) => waiting.place,
        }
    }

    /// Whether it can be carried out from its beginning, though a part of it may be done.
    const fn may_begin_anew(&self) -> bool {
        match self {
            Self::Pooled(postponed) => postponed.may_begin_anew,
            Self::Leased(_) => true,
        }
    }
}

/// Requests of a burst that are served and not yet given back.
type Batch = ArrayVec<Done, SIGNAL_BATCH_MAX>;

impl<F: FileSystem + 'static> Turn<'_, F> {
    /// Serves until the worker is to stop. What came before the first kick, or while there was no worker, is served at once.
    fn serve_until_stopped(&mut self) -> Result<(), RingError> {
        while self.serve_available()? && self.sleep.until_kicked(self.leases.next())? {}
        Ok(())
    }

    /// Serves until the ring is empty and the guest has been asked to kick for what comes next (true), or the worker
    /// is to stop (false).
    fn serve_available(&mut self) -> Result<bool, RingError> {
        self.available.refuse_kicks(self.ring.begin().ram())?;
        loop {
            self.poller.came();
            loop {
                self.serve_leased()?;
                match self.serve_burst()? {
                    Ended::Over => return Ok(false),
                    Ended::Full => {}
                    Ended::Held(Hold::Early(owed)) => self.sit_out(owed),
                    Ended::Held(Hold::Busy(effort)) => {
                        self.ring.wait_for_room(effort, self.leases.next(), self.sleep);
                    }
                    Ended::Held(Hold::Full(bytes)) => {
                        self.worker.pool.wait_for_room(bytes, self.leases.next(), || self.sleep.is_over());
                    }
                    Ended::Empty => break,
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

    /// Looks for more once again before the guest is asked to kick, where that is worth it; true: something has come.
    fn poll(&mut self) -> Result<bool, RingError> {
        if self.worker.index == 0 {
            return self.gather();
        }
        let Some(until) = self.poller.drained() else { return Ok(false) };
        let burst = self.ring.begin();
        while !self.available.has_more(burst.ram())? {
            if self.sleep.is_over() || clock::now() >= until {
                self.poller.missed();
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        Ok(true)
    }

    /// Lets what nobody waits for come together: a guest that forgets one file after the other (each that it closes, under
    /// `--cache strict`) need not kick for each, nor be interrupted. True: something has come.
    fn gather(&mut self) -> Result<bool, RingError> {
        if self.sleep.is_over() {
            return Ok(false);
        }
        std::thread::park_timeout(FORGET_NAP);
        self.available.has_more(self.ring.begin().ram())
    }

    /// Serves a number of requests in one memory, and gives them back together: the first of a burst does not wait
    /// for the last of a long one, and who takes memory away waits for no more than these.
    fn serve_burst(&mut self) -> Result<Ended, RingError> {
        let burst = self.ring.begin();
        let mut batch = Batch::new();
        let ended = self.fill(&burst, &mut batch);
        // Also where the ring broke: what was answered before, was answered.
        self.give_back(&burst, &mut batch)?;
        ended
    }

    fn fill(&mut self, burst: &Burst<'_>, batch: &mut Batch) -> Result<Ended, RingError> {
        for _ in 0..SIGNAL_BATCH_MAX {
            if self.sleep.is_over() {
                return Ok(Ended::Over);
            }
            if self.is_closed && !self.ring.has_room(None) {
                return Ok(Ended::Held(Hold::Busy(None)));
            }
            self.is_closed = false;
            let next = match self.held.take() {
                None => {
                    self.available.next_request(burst.ram())?.map(|place| Held { place, has_paid: false })
                }
                held => held,
            };
            let Some(next @ Held { place, has_paid }) = next else { return Ok(Ended::Empty) };
            match self.serve_one(burst, next, batch)? {
                Step::Done(len) => batch.push(Done { head: place.head, len }),
                Step::Elsewhere => {}
                Step::Held(why) => {
                    let has_paid = has_paid || matches!(why, Hold::Early(_));
                    self.held = Some(Held { place, has_paid });
                    return Ok(Ended::Held(why));
                }
            }
        }
        Ok(Ended::Full)
    }

    /// Waits, in no burst, until the guest has paid for what it had, or the worker is to stop.
    fn sit_out(&self, owed: Duration) {
        let until = clock::now().checked_add(owed);
        while !self.sleep.is_over() {
            let left = until.map_or(THROTTLE_NAP_MAX, |until| until.saturating_duration_since(clock::now()));
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left.min(THROTTLE_NAP_MAX));
        }
    }

    fn give_back(&self, burst: &Burst<'_>, batch: &mut Batch) -> Result<(), RingError> {
        if batch.is_empty() {
            return Ok(());
        }
        let given = self.ring.give_back(burst.ram(), batch);
        batch.clear();
        given
    }

    /// Serves a request; one that has paid is not asked to wait again.
    fn serve_one(
        &mut self,
        burst: &Burst<'_>,
        Held { place, has_paid }: Held,
        batch: &mut Batch,
    ) -> Result<Step, RingError> {
        let memory = burst.memory();
        let read = self.taken.read(memory, self.available.table(), place.head, self.indirect);
        let owed = self.worker.session.owed(self.taken.message());
        if !owed.is_zero() && !has_paid {
            return Ok(Step::Held(Hold::Early(owed)));
        }
        if let Err(why) = read {
            self.worker.session.count_unread();
            self.refused(place.head, &why);
            return Ok(Step::Done(0));
        }
        if self.taken.len() > LONG_REQUEST_LEN {
            self.give_back(burst, batch)?;
        }
        let pool_serves = self.worker.pool.has_threads();
        let (ring, sleep) = (self.ring, self.sleep);
        // It is the last one taken, so it can be put back.
        let asked = |repeat| ring.is_abandoned() || (repeat == Repeat::Harmless && sleep.is_over());
        let terms = (if pool_serves { Pace::Now } else { Pace::Patient }, StopCheck::once(&asked));
        match self.taken.serve(&self.worker.session, memory, terms, &mut self.scratch) {
            Fate::Answered(len) => Ok(Step::Done(len)),
            Fate::WouldWait if pool_serves => self.postpone_taken(burst, place, batch),
            Fate::Leased if self.leases.have_room(self.ring.room_for_leased(self.indirect)) => {
                self.leases.add(Waiting::new(std::mem::take(&mut self.taken), place));
                Ok(Step::Elsewhere)
            }
            Fate::Leased => Ok(Step::Done(self.refuse(burst, &self.taken, Errno::EAGAIN))),
            Fate::Parked(parked) => Ok(self.park(burst, parked, place)),
            Fate::Stopped => Ok(Step::Held(Hold::Busy(None))),
            // Unreachable: a patient request is answered. It would be given back empty.
            Fate::WouldWait => Ok(Step::Done(0)),
        }
    }

    /// Hands the request that was read last over to the pool, if that has time for it.
    fn postpone_taken(
        &mut self,
        burst: &Burst<'_>,
        place: Place,
        batch: &mut Batch,
    ) -> Result<Step, RingError> {
        let effort = self.taken.effort(&self.worker.session, burst.memory());
        if !self.ring.has_room(Some(effort)) {
            return Ok(Step::Held(Hold::Busy(Some(effort))));
        }
        let taken = std::mem::take(&mut self.taken);
        if let Some(taken) = self.postpone(burst, (taken, place, effort), batch)? {
            return Ok(Step::Held(Hold::Full(taken.footprint())));
        }
        self.is_closed = effort.is_interruptible();
        Ok(Step::Elsewhere)
    }

    /// Hands a request over to the pool. `Some`: that has no room. It is not waited for here, because a change of memory waits
    /// for the burst.
    fn postpone(
        &self,
        burst: &Burst<'_>,
        (taken, place, effort): (Taken, Place, Effort),
        batch: &mut Batch,
    ) -> Result<Option<Taken>, RingError> {
        self.give_back(burst, batch)?;
        let (deferral, queue) = (self.ring.defer(effort), self.worker.index);
        let postponed = Postponed {
            taken,
            place,
            queue,
            deferral,
            is_urgent: false,
            reached: None,
            may_begin_anew: true,
        };
        Ok(self.worker.pool.submit(postponed).map(|postponed| postponed.taken))
    }

    fn refuse(&self, burst: &Burst<'_>, taken: &Taken, errno: Errno) -> u32 {
        taken.refuse((&self.worker.session, burst.memory()), errno)
    }

    /// Tries requests again that wait for a lease, where it is time.
    fn serve_leased(&mut self) -> Result<(), RingError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let (burst, mut batch, now) = (self.ring.begin(), Batch::new(), clock::now());
        while let Some(waiting) = self.leases.take_due(now) {
            if batch.is_full() {
                self.give_back(&burst, &mut batch)?;
            }
            let (session, memory, scratch) = (&self.worker.session, burst.memory(), &mut self.scratch);
            let place = waiting.place;
            let step = match waiting.taken.serve(session, memory, (Pace::Now, StopCheck::NEVER), scratch) {
                Fate::Answered(len) => Step::Done(len),
                Fate::Leased if waiting.is_over() => {
                    Step::Done(self.refuse(&burst, &waiting.taken, Errno::EAGAIN))
                }
                Fate::Leased => {
                    self.leases.put_back(waiting);
                    Step::Elsewhere
                }
                Fate::WouldWait => {
                    let effort = waiting.taken.effort(session, memory);
                    let (taken, waits) = waiting.split();
                    if let Some(taken) = self.postpone(&burst, (taken, place, effort), &mut batch)? {
                        self.leases.put_back(waits.joined(taken));
                    }
                    Step::Elsewhere
                }
                // No request that opens a file waits for anything else.
                Fate::Parked(_) | Fate::Stopped => {
                    Step::Done(self.refuse(&burst, &waiting.taken, Errno::EIO))
                }
            };
            if let Step::Done(len) = step {
                batch.push(Done { head: place.head, len });
            }
        }
        self.give_back(&burst, &mut batch)
    }

    /// The worker is to stop: puts back into the available ring what has not begun, from the last request on, and sees to it
    /// that the rest is answered. Of that, requests that wait for a lease are answered ESTALE: Linux looks the path up again
    /// and opens or truncates what it finds, so its program notices nothing.
    fn wind_up(&mut self) -> Result<(), RingError> {
        // It is the last one taken.
        if let Some(held) = self.held.take() {
            self.ring.put_back(held.place);
        }
        let pooled = self.worker.pool.withdraw(self.worker.index).into_iter().map(Unbegun::Pooled);
        let mut unbegun: Vec<_> =
            pooled.chain(self.leases.take_all().into_iter().map(Unbegun::Leased)).collect();
        unbegun.sort_by_key(|unbegun| unbegun.place().number);
        while unbegun.pop_if(|last| last.may_begin_anew() && self.ring.put_back(last.place())).is_some() {}
        let (burst, mut batch, mut urgent) = (self.ring.begin(), Batch::new(), Vec::new());
        for unbegun in unbegun {
            match unbegun {
                Unbegun::Pooled(postponed) => urgent.push(postponed),
                Unbegun::Leased(waiting) => {
                    if batch.is_full() {
                        self.give_back(&burst, &mut batch)?;
                    }
                    let len = self.refuse(&burst, &waiting.taken, Errno::ESTALE);
                    batch.push(Done { head: waiting.place.head, len });
                }
            }
        }
        self.worker.pool.hurry(urgent);
        self.give_back(&burst, &mut batch)
    }

    /// Lets a request wait. One that may wait for long does so only while the ring has room for others: who has the
    /// lock must still get his requests through.
    fn park(&mut self, burst: &Burst<'_>, parked: Parked, place: Place) -> Step {
        let Worker { parking, session, index, .. } = self.worker;
        let Some(parking) = parking else { return Step::Done(0) };
        if parked.gives_way().is_some() && !self.has_room_aside() {
            let refused = Err(Errno::ENOLCK);
            let len = self.taken.settle((session, burst.memory()), &parked, refused, &mut self.scratch);
            return Step::Done(len);
        }
        let taken = std::mem::take(&mut self.taken).without_message();
        let deferral = self.ring.set_aside();
        parking.park(Stay { parked, taken, place, queue: *index, deferral });
        Step::Elsewhere
    }

    fn has_room_aside(&self) -> bool {
        self.ring.has_room_aside(self.indirect) && self.taken.chain_footprint() <= LOCK_WAIT_LEN_MAX
    }

    fn refused(&self, head: u16, why: &Refused) {
        if let Some(suppressed) = self.ring.may_log(Complaint::Request) {
            tracing::warn!(queue = self.worker.index, head, suppressed, "request refused: {why}");
        }
    }
}
