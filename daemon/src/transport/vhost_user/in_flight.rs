//! The requests of one queue that its thread has taken: how many are in flight outside of it, and
//! which can be put back.
//!
//! A request is in flight while it is in the pool or deferred. A stop of the ring waits for all
//! requests in flight that cannot be put back, and the VMM waits with it. So the pool gets only as
//! many as the host can finish in about a second, by the session's estimate ([`Effort`]). The next
//! long request stays in the available ring until some of them are done. A request that may take
//! longer than that (a FALLOCATE of gigabytes) is the last that its queue takes until it is done:
//! then it can be put back between any two of its steps.
//!
//! The requests behind a request that is held back wait too. If they were answered first, it could
//! no longer be put back. They wait about as long as the pool takes for the requests that it has.

use super::split_ring::RingPlace;
use crate::limits::BACKLOG_TIME_MAX;
use crate::session::Effort;
use std::time::Duration;

/// Counts the requests in flight of one queue.
#[derive(Debug, Default)]
pub(super) struct InFlightCounts {
    /// The generation of requests that begin now.
    present: MemoryGeneration,
    /// Requests that use the guest's memory, by generation.
    begun: [usize; 2],
    /// Requests in the pool that have not begun. They use no memory, so a change of memory does not
    /// wait for them.
    queued: usize,
    /// Deferred requests. They use no memory.
    deferred: usize,
    /// Requests that were passed to the pool and have not left it.
    offloaded: usize,
    /// Time that the host may take for the offloaded requests.
    time: Duration,
    /// Whether an offloaded request may take longer than the queue may wait. No request is taken
    /// after such a request until it is done.
    is_closed: bool,
    /// Whether the queue thread waits until an offloaded request is done.
    pub(super) is_awaited: bool,
}

/// Tells the memory that a request uses: the present one, or the one before the last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryGeneration(bool);

/// Stage of a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for a thread of the pool.
    Queued,
    /// It is being carried out, with this memory.
    Begun(MemoryGeneration),
    /// It waits for a lock, for the front-end or for a file system to be durable.
    Deferred,
}

impl InFlightCounts {
    pub(super) const fn is_empty(&self) -> bool {
        self.queued == 0 && self.deferred == 0 && matches!(self.begun, [0, 0])
    }

    /// Returns the number of deferred requests.
    pub(super) const fn deferred(&self) -> usize {
        self.deferred
    }

    /// Returns the stage of a request that uses the present memory.
    pub(super) const fn present(&self) -> Stage {
        Stage::Begun(self.present)
    }

    /// Counts a request that enters this stage.
    pub(super) const fn enter(&mut self, stage: Stage) {
        let count = self.count(stage);
        *count = count.saturating_add(1);
    }

    /// Counts a request that leaves this stage. Returns whether it was the last one.
    pub(super) const fn leave(&mut self, stage: Stage) -> bool {
        let count = self.count(stage);
        *count = count.saturating_sub(1);
        *count == 0
    }

    /// Begins a new generation for a change of memory. Returns the one that ends.
    pub(super) const fn change_memory(&mut self) -> MemoryGeneration {
        let ended = self.present;
        self.present = MemoryGeneration(!ended.0);
        ended
    }

    /// Returns whether any request uses the memory of that generation.
    pub(super) const fn uses(&self, generation: MemoryGeneration) -> bool {
        let [before, after] = self.begun;
        (if generation.0 { after } else { before }) > 0
    }

    /// Returns whether a change of memory waits for a request at this stage.
    pub(super) fn is_outdated(&self, stage: Stage) -> bool {
        matches!(stage, Stage::Begun(_)) && stage != self.present()
    }

    const fn count(&mut self, stage: Stage) -> &mut usize {
        let [before, after] = &mut self.begun;
        match stage {
            Stage::Queued => &mut self.queued,
            Stage::Begun(MemoryGeneration(false)) => before,
            Stage::Begun(MemoryGeneration(true)) => after,
            Stage::Deferred => &mut self.deferred,
        }
    }

    /// Returns whether the pool may get one more request of this effort. `None`: whether the queue
    /// thread may take any request.
    pub(super) fn has_room(&self, effort: Option<Effort>) -> bool {
        let fits = |effort: Effort| self.time.saturating_add(effort.time()) <= BACKLOG_TIME_MAX;
        !self.is_closed && effort.is_none_or(|effort| self.offloaded == 0 || fits(effort))
    }

    /// Counts a request that the pool gets.
    pub(super) fn offload(&mut self, effort: Effort) {
        self.offloaded = self.offloaded.saturating_add(1);
        self.time = self.time.saturating_add(effort.time());
        self.is_closed |= effort.is_interruptible();
    }

    /// Counts a request that has left the pool.
    pub(super) fn end_offload(&mut self, effort: Effort) {
        self.offloaded = self.offloaded.saturating_sub(1);
        self.time = self.time.saturating_sub(effort.time());
        // No request was taken after an interruptible one. So an interruptible one that ends is the
        // one that closed the queue.
        self.is_closed &= !effort.is_interruptible();
    }
}

/// The requests that were taken from one ring. Decides which of them can be put back when the queue
/// thread has stopped.
///
/// The front-end gets one index for a ring that is stopped, and starts the ring again from there:
/// all requests before it were answered, and all from it on are offered again. So a request can be
/// put back only if no later one was answered or will be answered. That is true of the last request
/// that was taken. When it is put back, that is true of the one before it, and so on, until one was
/// answered or is being carried out. The holder of requests that have not begun asks to put them
/// back, from the last one on. If that is refused for a request, the holder carries it out.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Requests that were taken and not put back. `None`: the queue thread may take more, so no
    /// request can be put back.
    taken: Option<u64>,
    /// The connection is over or the device is reset: the guest waits for no reply.
    is_abandoned: bool,
}

impl Tail {
    /// Notes that the queue thread has stopped after it has taken `taken` requests.
    pub(super) const fn close(&mut self, taken: u64) {
        self.taken = Some(taken);
    }

    /// Gives up all requests that have not begun: the guest is gone.
    pub(super) const fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    pub(super) const fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    /// Puts back a request that was taken and not answered. Returns false if it must be carried
    /// out.
    pub(super) fn put_back(&mut self, place: RingPlace) -> bool {
        if self.is_abandoned {
            return true;
        }
        let is_last = self.taken.is_some_and(|taken| place.number.checked_add(1) == Some(taken));
        if is_last {
            self.taken = Some(place.number);
        }
        is_last
    }

    /// Returns the number of requests that stay taken, once the queue thread has stopped without an
    /// error.
    pub(super) const fn taken(&self) -> Option<u64> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LONG_ALLOCATION_LEN;
    use proptest::prelude::*;

    fn effort(ms: u64) -> Effort {
        Effort::for_tests(Duration::from_millis(ms), false)
    }

    #[test]
    fn pool_gets_one_second_of_work_or_one_request() {
        let mut counts = InFlightCounts::default();
        let long = effort(5000);
        assert!(counts.has_room(Some(long)), "an idle pool takes anything");
        counts.offload(long);
        assert!(!counts.has_room(Some(effort(1))) && counts.has_room(None));
        counts.end_offload(long);
        let mut begun = 0;
        while counts.has_room(Some(effort(20))) {
            counts.offload(effort(20));
            begun += 1;
        }
        assert_eq!(begun, 50);
        counts.end_offload(effort(20));
        assert!(counts.has_room(Some(effort(20))) && !counts.has_room(Some(effort(21))));
    }

    #[test]
    fn a_request_that_may_take_longer_is_the_last() {
        let mut counts = InFlightCounts::default();
        let last = Effort::for_tests(Duration::from_nanos(LONG_ALLOCATION_LEN), true);
        counts.offload(effort(1));
        counts.offload(last);
        assert!(!counts.has_room(None) && !counts.has_room(Some(effort(1))));
        counts.end_offload(effort(1));
        assert!(!counts.has_room(None));
        counts.end_offload(last);
        assert!(counts.has_room(None));
    }

    #[test]
    fn a_change_of_memory_waits_only_for_requests_before_it() {
        let mut counts = InFlightCounts::default();
        let before = counts.present();
        for stage in [Stage::Queued, Stage::Deferred, before] {
            counts.enter(stage);
            assert!(!counts.is_outdated(stage));
        }
        let ended = counts.change_memory();
        let after = counts.present();
        counts.enter(after);
        assert!(counts.uses(ended) && counts.is_outdated(before));
        assert!(![after, Stage::Queued, Stage::Deferred].into_iter().any(|stage| counts.is_outdated(stage)));
        assert!(counts.leave(before) && !counts.uses(ended));
        assert!(!counts.is_empty());
        assert!([after, Stage::Queued, Stage::Deferred].into_iter().all(|stage| counts.leave(stage)));
        assert!(counts.is_empty());
    }

    const fn place(number: u64) -> RingPlace {
        RingPlace { head: 0, number }
    }

    #[test]
    fn requests_are_put_back_from_the_last_on() {
        let mut tail = Tail::default();
        assert!(!tail.put_back(place(2)), "the queue thread may take more");
        tail.close(3);
        assert!(!tail.put_back(place(1)));
        assert!(tail.put_back(place(2)));
        assert!(!tail.put_back(place(2)), "a request is put back once");
        assert!(tail.put_back(place(1)));
        assert_eq!(tail.taken(), Some(1));
    }

    #[test]
    fn requests_of_a_guest_that_is_gone_are_given_up() {
        let mut tail = Tail::default();
        tail.abandon();
        assert!(tail.put_back(place(7)) && tail.put_back(place(0)));
        assert_eq!(tail.taken(), None);
    }

    proptest! {
        /// The ring holds requests that were answered, that have begun, and that have not begun, in
        /// any order. Exactly the requests after the index are put back, and none of these is
        /// answered.
        #[test]
        fn every_request_is_answered_or_after_the_index(
            begun in proptest::collection::vec(any::<bool>(), 0..40),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..80),
        ) {
            let mut tail = Tail::default();
            tail.close(begun.len() as u64);
            let mut unbegun: Vec<u64> = (0u64..).zip(&begun).filter(|(_, begun)| !**begun).map(|(n, _)| n).collect();
            let mut put_back = Vec::new();
            // Requests are offered in any order and more than once. A refused request is carried
            // out.
            for index in order {
                if unbegun.is_empty() { break; }
                let at = index.index(unbegun.len());
                if tail.put_back(place(unbegun[at])) {
                    put_back.push(unbegun.remove(at));
                }
            }
            let taken = tail.taken().unwrap();
            put_back.sort_unstable();
            prop_assert_eq!(put_back, (taken..begun.len() as u64).collect::<Vec<_>>());
            prop_assert!((0u64..).zip(&begun).all(|(number, begun)| !*begun || number < taken));
        }
    }
}
