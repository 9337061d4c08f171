//! Histories of calls that several clients made at once. The checker finds an order of the calls,
//! each at a single moment between its call and its return, that explains every result
//! (linearizability; Herlihy and Wing, 1990).
//!
//! The algorithm of Wing and Gong (1993) tries each call that may come next. As Lowe proposes, the
//! checker remembers the states that it has visited. It uses no files and no clock. The history of
//! several objects can be explained if the calls of each object can be explained. So each object is
//! checked by itself.

pub mod length;
pub mod log;
pub mod names;
pub mod register;
pub mod reopened;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::Hash;

/// Model of an object that clients use: its first state, and the effect of each call.
pub trait Object: Clone + Eq + Hash {
    /// Call together with its result.
    type Call: Clone + fmt::Debug + Eq;

    /// Returns the object after the call, or `None` if the call cannot return that result.
    #[must_use]
    fn after(&self, call: &Self::Call) -> Option<Self>;

    /// Returns whether no other call shows an effect of this one. A history that has an explanation
    /// then also has one without this call.
    fn is_unseen(call: &Self::Call, others: &[&Self::Call]) -> bool;
}

/// Call that one client made, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made<C> {
    /// Client that made the call.
    pub client: usize,
    /// Time of the call.
    pub called: u64,
    /// Time of the return, or [`u64::MAX`] if the call has not returned. Such a call may have had
    /// its effect or not.
    pub returned: u64,
    /// The call and its result.
    pub call: C,
}

/// History without an explanation, reduced to its smallest form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<C>(pub Vec<Made<C>>);

impl<C: fmt::Debug> fmt::Display for Refused<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "no order explains these calls:")?;
        for Made { client, called, returned, call } in &self.0 {
            let until = if *returned == u64::MAX { "...".to_owned() } else { returned.to_string() };
            writeln!(out, "  client {client}  {called:>12} to {until:>12}  {call:?}")?;
        }
        Ok(())
    }
}

/// Checks that a history that begins with `first` has an explanation.
///
/// # Errors
/// [`Refused`]: the smallest part without an explanation.
pub fn check<O: Object>(first: &O, history: &[Made<O::Call>]) -> Result<(), Refused<O::Call>> {
    let mut history = history.to_vec();
    history.sort_by_key(|made| made.called);
    if is_explained(first, &history) { Ok(()) } else { Err(Refused(smallest(first, history))) }
}

/// Calls of a history that an order has placed: all before `first`, and some later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Placed {
    first: usize,
    beyond: BTreeSet<usize>,
}

impl Placed {
    /// Returns these calls and the call at `index`.
    fn with(&self, index: usize) -> Self {
        let mut next = self.clone();
        next.beyond.insert(index);
        while next.beyond.remove(&next.first) {
            next.first += 1;
        }
        next
    }

    /// Returns the calls that are not placed, in the order in which they were called.
    fn rest<'h, C>(&self, history: &'h [Made<C>]) -> impl Iterator<Item = (usize, &'h Made<C>)> {
        let rest = history.iter().enumerate().skip(self.first);
        rest.filter(|(index, _)| !self.beyond.contains(index))
    }
}

/// Returns whether some order of the calls explains all results. `history` is sorted by `called`.
fn is_explained<O: Object>(first: &O, history: &[Made<O::Call>]) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(Placed::default(), first.clone())];
    while let Some((placed, object)) = open.pop() {
        // A call that began after this moment comes after the call that returned then.
        let limit = placed.rest(history).map(|(_, made)| made.returned).min().unwrap_or(u64::MAX);
        if limit == u64::MAX {
            return true;
        }
        for (index, made) in placed.rest(history).take_while(|(_, made)| made.called <= limit) {
            if let Some(after) = object.after(&made.call) {
                let next = (placed.with(index), after);
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    false
}

/// Returns a part of a refused history that is refused too and cannot be made smaller. The function
/// leaves out the end of the history, and calls whose effect no other call saw. A correct history
/// stays correct without these.
fn smallest<O: Object>(first: &O, history: Vec<Made<O::Call>>) -> Vec<Made<O::Call>> {
    let mut ends: Vec<u64> = history.iter().map(|made| made.returned).collect();
    ends.sort_unstable();
    let until = |end: u64| -> Vec<Made<O::Call>> {
        let before = history.iter().filter(|made| made.called <= end).cloned();
        before
            .map(|made| Made { returned: if made.returned > end { u64::MAX } else { made.returned }, ..made })
            .collect()
    };
    let shortest = ends.into_iter().map(until).find(|part| !is_explained(first, part));
    let mut part = shortest.unwrap_or(history);
    loop {
        let without = |index: usize| -> Option<Vec<Made<O::Call>>> {
            let others: Vec<_> = part.iter().enumerate().filter(|(other, _)| *other != index).collect();
            let calls: Vec<_> = others.iter().map(|(_, made)| &made.call).collect();
            let unseen = O::is_unseen(&part.get(index)?.call, &calls);
            let rest: Vec<_> = others.into_iter().map(|(_, made)| made.clone()).collect();
            (unseen && !is_explained(first, &rest)).then_some(rest)
        };
        match (0..part.len()).find_map(without) {
            Some(rest) => part = rest,
            None => return part,
        }
    }
}

#[cfg(test)]
mod tests;
