//! The contents that a loss of power may leave on a disk: for each moment, all writes up to the
//! last flush and any of the later ones.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use super::log::{Entry, Log, Moment};

/// Content of the disk after a loss of power: all entries before `prefix`, and the entries of
/// `later`, which were written but not flushed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CrashState {
    /// Moment up to which all writes are on the disk.
    pub(crate) prefix: Moment,
    /// Indexes of later writes that are on the disk, in ascending order.
    pub(crate) later: Vec<usize>,
    /// Latest moment at which the power can have failed.
    pub(crate) latest: Moment,
}

impl fmt::Display for CrashState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the first {} requests to the disk", self.prefix.0)?;
        if !self.later.is_empty() {
            let later: Vec<String> = self.later.iter().map(|index| (index + 1).to_string()).collect();
            write!(out, ", and later writes {}", later.join(", "))?;
        }
        write!(out, "; the power failed before request {}", self.latest.0 + 1)
    }
}

/// Bound on the crash states of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Largest number of states.
    pub(crate) states: usize,
    /// Number that selects the subsets if there are more of them.
    pub(crate) seed: u64,
}

/// Returns the crash states from a moment to another one, the most telling first: those that lose
/// everything that was not flushed at each of the moments `acknowledged`; the last state; prefixes,
/// evenly spread; then subsets of the writes between two flushes, where one write is lost or one is
/// kept.
pub(crate) fn states(
    log: &Log,
    span: &RangeInclusive<Moment>,
    acknowledged: &[Moment],
    bounds: Bounds,
) -> Vec<CrashState> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    let mut add = |state: CrashState| {
        let state = simplest(log, state);
        if found.len() < bounds.states && known.insert(state.clone()) {
            found.push(state);
        }
    };
    let whole = |prefix: Moment| CrashState {
        prefix,
        later: Vec::new(),
        latest: next_flush(log, prefix, *span.end()),
    };
    for moment in acknowledged {
        add(whole(log.durable_at(*moment)));
    }
    add(whole(*span.end()));
    let from = log.durable_at(*span.start());
    let prefixes: Vec<Moment> = (from.0..=span.end().0).map(Moment).collect();
    for prefix in spread(&prefixes, bounds.states / 2) {
        add(whole(prefix));
    }
    let mut partial = subsets(log, from, *span.end());
    shuffle(&mut partial, bounds.seed);
    partial.into_iter().for_each(add);
    found
}

/// Returns the form of a state that all states with the same content share, except for the latest
/// moment: later writes directly after the prefix belong to it, and so do flushes.
fn simplest(log: &Log, mut state: CrashState) -> CrashState {
    let directly =
        state.later.iter().zip(state.prefix.0..).take_while(|(write, next)| *write == next).count();
    state.later.drain(..directly);
    state.prefix.0 += directly;
    if state.later.is_empty() {
        while log.between(state.prefix, Moment(state.prefix.0 + 1)) == [Entry::Flush] {
            state.prefix.0 += 1;
            state.latest = next_flush(log, state.prefix, log.now());
        }
    }
    state
}

/// Returns at most `count` elements, evenly spread, with the first and the last one.
fn spread(all: &[Moment], count: usize) -> Vec<Moment> {
    if all.len() <= count {
        return all.to_vec();
    }
    let last = all.len() - 1;
    let steps = count.saturating_sub(1).max(1);
    (0..=steps).filter_map(|step| all.get(last * step / steps).copied()).collect()
}

/// Returns the latest moment at which the disk can have lost everything after `prefix`: the next
/// flush is not answered before it.
fn next_flush(log: &Log, prefix: Moment, end: Moment) -> Moment {
    let later = log.between(prefix, end);
    later.iter().position(|entry| *entry == Entry::Flush).map_or(end, |next| Moment(prefix.0 + next))
}

/// Returns, for each group of writes between two flushes, the states that lose one write of the
/// group, and those that keep one.
fn subsets(log: &Log, from: Moment, to: Moment) -> Vec<CrashState> {
    let mut found = Vec::new();
    let mut start = from;
    while start < to {
        let end = next_flush(log, start, to);
        let group: Vec<usize> = (start.0..end.0).collect();
        let of = |later: Vec<usize>| CrashState { prefix: start, later, latest: end };
        if group.len() > 1 {
            for lost in &group {
                found.push(of(group.iter().copied().filter(|write| write != lost).collect()));
            }
        }
        if group.len() > 2 {
            found.extend(group.iter().map(|kept| of(vec![*kept])));
        }
        start = Moment(end.0 + 1);
    }
    found
}

/// Reorders a list by a seed.
fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut random = crate::random::Random::new(seed);
    for last in (1..list.len()).rev() {
        list.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let mut log = Log::default();
        for entry in text.chars() {
            log.push(match entry {
                '|' => Entry::Flush,
                _ => Entry::Write { at: 0, bytes: Box::from([1]) },
            });
        }
        log
    }

    #[test]
    fn state_at_an_acknowledgement_loses_all_unflushed_writes() {
        let log = log("ab|cd|ef");
        let bounds = Bounds { states: 1, seed: 0 };
        let span = Moment(3)..=Moment(8);
        let found = states(&log, &span, &[Moment(5)], bounds);
        assert_eq!(found, [CrashState { prefix: Moment(3), later: vec![], latest: Moment(5) }]);
    }

    #[test]
    fn subsets_stay_between_two_flushes() {
        let log = log("ab|cde|f");
        let found = subsets(&log, Moment(0), Moment(8));
        let later: Vec<_> = found.iter().map(|state| (state.prefix.0, state.later.clone())).collect();
        let expected = [
            (0, vec![1]),
            (0, vec![0]),
            (3, vec![4, 5]),
            (3, vec![3, 5]),
            (3, vec![3, 4]),
            (3, vec![3]),
            (3, vec![4]),
            (3, vec![5]),
        ];
        assert_eq!(later, expected);
    }

    #[test]
    fn states_with_the_same_content_are_one_state() {
        let log = log("ab|cd|");
        let found = states(&log, &(Moment(0)..=Moment(6)), &[Moment(3)], Bounds { states: 99, seed: 0 });
        let contents: Vec<_> = found.iter().map(|state| (state.prefix.0, state.later.clone())).collect();
        let expected =
            [(3, vec![]), (6, vec![]), (0, vec![]), (1, vec![]), (4, vec![]), (0, vec![1]), (3, vec![4])];
        assert_eq!(contents.len(), expected.len());
        assert!(expected.iter().all(|state| contents.contains(state)), "{contents:?}");
        assert!(found.iter().all(|state| state.latest.0 >= state.prefix.0), "{found:?}");
    }

    #[test]
    fn bound_on_the_number_of_states_holds() {
        let log = log("abcd|efgh|ijkl|");
        for states_max in 1..30 {
            let bounds = Bounds { states: states_max, seed: 1 };
            let found = states(&log, &(Moment(0)..=Moment(15)), &[Moment(5), Moment(10)], bounds);
            assert!(found.len() <= states_max, "{states_max}");
        }
    }
}
