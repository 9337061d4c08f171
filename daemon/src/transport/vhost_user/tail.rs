//! Which requests can be put back into the available ring when its worker has ended.
//!
//! Of a ring that is stopped the front-end gets one index, and starts the ring again from there: everything before it has
//! been answered, everything from it on is offered again. So a request can only be put back while no later one has been
//! answered, or will be. That is the case for the last one taken; once that is put back, for the one before it; and so on,
//! until there is one that has been answered or is being carried out. Whoever holds a request that has not begun asks for
//! it to be put back, from the last one on, and carries it out where that is refused.

use super::split_ring::Place;

/// The end of what was taken from one ring.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Requests that have been taken and not put back. `None`: the worker may take more, so none can be put back.
    taken: Option<u64>,
    /// The connection is over or the device is reset: the guest waits for no answer.
    is_abandoned: bool,
}

impl Tail {
    /// A worker that has taken so many requests has ended.
    pub(super) const fn close(&mut self, taken: u64) {
        self.taken = Some(taken);
    }

    /// The guest is gone: whatever has not begun is given up.
    pub(super) const fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    pub(super) const fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    /// Puts a request back that was taken and not answered. False: it is to be carried out.
    pub(super) fn put_back(&mut self, place: Place) -> bool {
        if self.is_abandoned {
            return true;
        }
        let is_last = self.taken.is_some_and(|taken| place.number.checked_add(1) == Some(taken));
        if is_last {
            self.taken = Some(place.number);
        }
        is_last
    }

    /// How many requests stay taken, once the worker has ended as it should.
    pub(super) const fn taken(&self) -> Option<u64> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn place(number: u64) -> Place {
        Place { head: 0, number }
    }

    #[test]
    fn only_the_last_one_is_put_back_and_then_the_one_before_it() {
        let mut tail = Tail::default();
        assert!(!tail.put_back(place(2)), "the worker may take more");
        tail.close(3);
        assert!(!tail.put_back(place(1)));
        assert!(tail.put_back(place(2)));
        assert!(!tail.put_back(place(2)), "a request is put back once");
        assert!(tail.put_back(place(1)));
        assert_eq!(tail.taken(), Some(1));
    }

    #[test]
    fn of_a_guest_that_is_gone_everything_is_given_up() {
        let mut tail = Tail::default();
        tail.abandon();
        assert!(tail.put_back(place(7)) && tail.put_back(place(0)));
        assert_eq!(tail.taken(), None);
    }

    proptest! {
        /// Requests that are answered, that have begun and are answered later, and that have not begun, in any order: what is
        /// put back is exactly what stands behind the index, and nothing behind it is answered.
        #[test]
        fn every_request_is_answered_or_stands_behind_the_index(
            begun in proptest::collection::vec(any::<bool>(), 0..40),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..80),
        ) {
            let mut tail = Tail::default();
            tail.close(begun.len() as u64);
            let mut unbegun: Vec<u64> = (0u64..).zip(&begun).filter(|(_, begun)| !**begun).map(|(n, _)| n).collect();
            let mut put_back = Vec::new();
            // Whoever asks, asks in any order and more than once; what is refused for good is carried out.
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
