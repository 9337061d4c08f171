//! The loop of one queue: take a request, serve it, give it back, and sleep when there is none.

use super::crew::Complaint;
use super::leases::{Leases, Waiting};
use super::parking::{Parking, Stay};
use super::poll::Poller;
use super::pool::{Pool, Postponed};
use super::request::{Fate, Refused, Taken};
use super::ring::{Burst, Job, Ring};
use super::sleep::Sleep;
use super::split_ring::{Available, Done, RingError};
use crate::host::FileSystem;
use crate::limits::{FORGET_NAP, LOCK_WAIT_LEN_MAX, LONG_REQUEST_LEN, SIGNAL_BATCH_MAX, THROTTLE_NAP_MAX};
use crate::session::{Pace, Parked, Scratch, Session};
use arrayvec::ArrayVec;
use pinhole_protocol::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
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
            leases,
            scratch,
            poller,
        };
        // What came before the first kick, or while there was no worker, is served at once.
        while turn.serve_available()? && sleep.until_kicked(turn.leases.next())? {}
        turn.give_up_leased()
    }

    fn starting(&self) {
        if let Some(window) = self.session.window() {
            window.resume();
        }
    }

    fn not_started(&self, ring: &Arc<Ring>) {
        self.pool.start_later(ring);
    }

    fn stopped(&self) {
        if let Some(parking) = &self.parking {
            parking.calm_down(self.index);
        }
        if let Some(window) = self.session.window() {
            window.calm_down();
        }
    }

    fn stopping(&self) {
        if let Some(parking) = &self.parking {
            parking.hurry(self.index);
        }
        if let Some(window) = self.session.window() {
            window.hurry();
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
    /// The head of a request that came too soon: the next to be served.
    held: Option<u16>,
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
    /// The guest has to wait so long before the next request is served.
    Held(Duration),
    /// The worker is to stop.
    Over,
}

/// What became of one request.
enum Step {
    /// It is to be given back with this used length.
    Done(u32),
    /// The pool has it.
    Elsewhere,
    /// It comes too soon, by so much; nothing was done.
    Early(Duration),
}

/// Requests of a burst that are served and not yet given back.
type Batch = ArrayVec<Done, SIGNAL_BATCH_MAX>;

impl<F: FileSystem + 'static> Turn<'_, F> {
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
                    Ended::Held(owed) => self.sit_out(owed),
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
            if self.sleep.is_over() || Instant::now() >= until {
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
            // What was held has left the available ring, so it is served also where the worker is to stop.
            let waited = self.held.take();
            if waited.is_none() && self.sleep.is_over() {
                return Ok(Ended::Over);
            }
            let next = match waited {
                Some(_) => waited,
                None => self.available.next_head(burst.ram())?,
            };
            let Some(head) = next else { return Ok(Ended::Empty) };
            match self.serve_one(burst, (head, waited.is_some()), batch)? {
                Step::Done(len) => batch.push(Done { head, len }),
                Step::Elsewhere => {}
                Step::Early(owed) => {
                    self.held = Some(head);
                    return Ok(Ended::Held(owed));
                }
            }
        }
        Ok(Ended::Full)
    }

    /// Waits, in no burst, until the guest has paid for what it had, or the worker is to stop.
    fn sit_out(&self, owed: Duration) {
        let until = Instant::now().checked_add(owed);
        while !self.sleep.is_over() {
            let left =
                until.map_or(THROTTLE_NAP_MAX, |until| until.saturating_duration_since(Instant::now()));
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

    /// Serves the request at `head`; one that has waited is not asked to wait again.
    fn serve_one(
        &mut self,
        burst: &Burst<'_>,
        (head, has_waited): (u16, bool),
        batch: &mut Batch,
    ) -> Result<Step, RingError> {
        let memory = burst.memory();
        if let Err(why) = self.taken.read(memory, self.available.table(), head, self.indirect) {
            self.refused(head, &why);
            return Ok(Step::Done(0));
        }
        let owed = self.worker.session.owed(self.taken.message());
        if !owed.is_zero() && !has_waited {
            return Ok(Step::Early(owed));
        }
        if self.taken.len() > LONG_REQUEST_LEN {
            self.give_back(burst, batch)?;
        }
        let pace = if self.worker.pool.has_threads() { Pace::Now } else { Pace::Patient };
        match self.taken.serve(&self.worker.session, memory, pace, &mut self.scratch) {
            Fate::Answered(len) => Ok(Step::Done(len)),
            Fate::WouldWait if self.worker.pool.has_threads() => {
                let taken = std::mem::take(&mut self.taken);
                self.postpone(burst, (taken, head), batch)
            }
            Fate::Leased if self.leases.have_room(self.ring.room_for_leased(self.indirect)) => {
                self.leases.add(Waiting::new(std::mem::take(&mut self.taken), head));
                Ok(Step::Elsewhere)
            }
            Fate::Leased => Ok(Step::Done(self.refuse(burst, &self.taken, Errno::EAGAIN))),
            Fate::Parked(parked) => Ok(self.park(burst, parked, head)),
            // Who may wait is answered; were it not, this is how it is given back.
            Fate::WouldWait => Ok(Step::Done(0)),
        }
    }

    /// Hands a request over to the pool, which may have no room for a while.
    fn postpone(
        &self,
        burst: &Burst<'_>,
        (taken, head): (Taken, u16),
        batch: &mut Batch,
    ) -> Result<Step, RingError> {
        self.give_back(burst, batch)?;
        let (memory, deferral) = (burst.shared_memory(), self.ring.defer());
        let queue = self.worker.index;
        self.worker.pool.submit(Postponed { taken, head, queue, memory, deferral });
        Ok(Step::Elsewhere)
    }

    fn refuse(&self, burst: &Burst<'_>, taken: &Taken, errno: Errno) -> u32 {
        taken.refuse((&self.worker.session, burst.memory()), errno)
    }

    /// Tries requests again that wait for a lease, where it is time.
    fn serve_leased(&mut self) -> Result<(), RingError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let (burst, mut batch, now) = (self.ring.begin(), Batch::new(), Instant::now());
        while let Some(waiting) = self.leases.take_due(now) {
            if batch.is_full() {
                self.give_back(&burst, &mut batch)?;
            }
            let (session, memory, scratch) = (&self.worker.session, burst.memory(), &mut self.scratch);
            let head = waiting.head;
            let step = match waiting.taken.serve(session, memory, Pace::Now, scratch) {
                Fate::Answered(len) => Step::Done(len),
                Fate::Leased if waiting.is_over() => {
                    Step::Done(self.refuse(&burst, &waiting.taken, Errno::EAGAIN))
                }
                Fate::Leased => {
                    self.leases.put_back(waiting);
                    Step::Elsewhere
                }
                Fate::WouldWait => self.postpone(&burst, (waiting.taken, head), &mut batch)?,
                // No request that opens a file waits for anything else.
                Fate::Parked(_) => Step::Done(self.refuse(&burst, &waiting.taken, Errno::EIO)),
            };
            if let Step::Done(len) = step {
                batch.push(Done { head, len });
            }
        }
        self.give_back(&burst, &mut batch)
    }

    /// Answers those that still wait when the worker stops: none of them has begun. To ESTALE Linux looks the path up again
    /// and opens or truncates what it finds, so its program notices nothing.
    fn give_up_leased(&mut self) -> Result<(), RingError> {
        let (burst, mut batch) = (self.ring.begin(), Batch::new());
        while let Some(waiting) = self.leases.take() {
            if batch.is_full() {
                self.give_back(&burst, &mut batch)?;
            }
            let len = self.refuse(&burst, &waiting.taken, Errno::ESTALE);
            batch.push(Done { head: waiting.head, len });
        }
        self.give_back(&burst, &mut batch)
    }

    /// Lets a request wait. One that may wait for long does so only while the ring has room for others: who has the
    /// lock must still get his requests through.
    fn park(&mut self, burst: &Burst<'_>, parked: Parked, head: u16) -> Step {
        let Worker { parking, session, index, .. } = self.worker;
        let Some(parking) = parking else { return Step::Done(0) };
        if parked.gives_way().is_some() && !self.has_room_aside() {
            let refused = Err(Errno::ENOLCK);
            let len = self.taken.settle((session, burst.memory()), &parked, refused, &mut self.scratch);
            return Step::Done(len);
        }
        let taken = std::mem::take(&mut self.taken).without_message();
        let deferral = self.ring.set_aside();
        parking.park(Stay { parked, taken, head, queue: *index, deferral });
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
