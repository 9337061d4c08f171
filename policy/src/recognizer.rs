//! All wildcards of a policy as one finite automaton over the characters of a name.
//!
//! The automaton finds the wildcards that match a name in one step per character, however many
//! wildcards there are.

use crate::glob::{Component, Symbol};
use std::collections::{BTreeSet, HashMap};

/// Number of characters, from 0, whose range is in a table. A search finds the ranges of all other
/// symbols.
const ASCII: u32 = 128;

/// Maximum number of transitions (states times ranges), four bytes each. Hundreds of different
/// wildcards stay far below it.
const TRANSITIONS_MAX: usize = 1 << 21;

/// The index of a letter in [`Letters`](crate::letters::Letters).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Letter(pub(crate) usize);

impl Letter {
    /// The letter of a name that no component matches.
    pub(crate) const OTHER: Self = Self(0);
}

/// The error for wildcards that overlap in too many ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// An automaton that finds the letter of a name.
///
/// Its input is the range of each symbol. No wildcard tells the symbols of one range apart.
#[derive(Debug, Default)]
pub(crate) struct Recognizer {
    /// First symbol of each range except the first range, ascending.
    boundaries: Vec<u32>,
    /// Range of each ASCII character.
    ascii: Vec<usize>,
    /// Next state, by state and then by range.
    next: Vec<u32>,
    /// Letter of a name that ends in a state, by state.
    ends: Vec<Option<Letter>>,
}

impl Recognizer {
    /// Builds the automaton for wildcards and their indices. `letter` returns the letter of the
    /// names that match exactly the wildcards with these indices, in ascending order.
    ///
    /// # Errors
    /// [`TooMany`] if there would be more than `states_max` states, or too many transitions.
    pub(crate) fn new(
        wildcards: &[(usize, Component)],
        states_max: usize,
        letter: impl Fn(&[usize]) -> Option<Letter>,
    ) -> Result<Self, TooMany> {
        let mut boundaries = BTreeSet::new();
        for (_, component) in wildcards {
            component.add_range_boundaries(&mut boundaries);
        }
        boundaries.remove(&0);
        let symbols: Vec<Symbol> =
            [0].into_iter().chain(boundaries.iter().copied()).map(Symbol::of).collect();
        let mut recognizer = Self { boundaries: boundaries.into_iter().collect(), ..Self::default() };
        recognizer.ascii = (0..ASCII).map(|symbol| recognizer.search_range(symbol)).collect();
        let start: Vec<u64> = wildcards.iter().map(|(_, component)| component.start()).collect();
        let mut numbers = HashMap::from([(start.clone(), 0_u32)]);
        let mut states = vec![start];
        let mut explored = 0_usize;
        while let Some(state) = states.get(explored).cloned() {
            explored = explored.saturating_add(1);
            let matched = state.iter().zip(wildcards).filter(|(at, (_, component))| component.accepts(**at));
            recognizer.ends.push(letter(&matched.map(|(_, (index, _))| *index).collect::<Vec<_>>()));
            for symbol in &symbols {
                let step = |(at, (_, component)): (&u64, &(usize, Component))| component.step(*at, *symbol);
                let next: Vec<u64> = state.iter().zip(wildcards).map(step).collect();
                let next_number = u32::try_from(states.len()).map_err(|_large| TooMany)?;
                let number = *numbers.entry(next).or_insert_with_key(|next| {
                    states.push(next.clone());
                    next_number
                });
                recognizer.next.push(number);
            }
            if states.len() > states_max || recognizer.next.len() > TRANSITIONS_MAX {
                return Err(TooMany);
            }
        }
        Ok(recognizer)
    }

    /// Returns the letter of a name that is not a literal.
    pub(crate) fn letter(&self, name: &[u8]) -> Option<Letter> {
        let width = self.boundaries.len().saturating_add(1);
        let step = |state: u32, symbol: Symbol| {
            let row = usize::try_from(state).unwrap_or(usize::MAX).saturating_mul(width);
            self.next.get(row.saturating_add(self.range(symbol.number()))).copied()
        };
        let end = Symbol::all(name).try_fold(0, step)?;
        self.ends.get(usize::try_from(end).ok()?).copied().flatten()
    }

    /// Returns the index of the range of a symbol.
    fn range(&self, symbol: u32) -> usize {
        let from_table = usize::try_from(symbol).ok().and_then(|symbol| self.ascii.get(symbol));
        from_table.copied().unwrap_or_else(|| self.search_range(symbol))
    }

    /// Returns the index of the range of a symbol, by binary search.
    fn search_range(&self, symbol: u32) -> usize {
        self.boundaries.partition_point(|first| *first <= symbol)
    }
}
