//! All wildcards of a policy as one finite automaton over the characters of a name, so that telling which of them match
//! takes one step for each character, however many wildcards there are.

use crate::glob::{Component, Symbol};
use crate::letters::{Letter, TooMany};
use std::collections::{BTreeSet, HashMap};

/// Characters that are looked up in a table; the others are searched for.
const ASCII: u32 = 128;

/// States times stretches of characters at most, four bytes each. Hundreds of unlike wildcards stay far below.
const TRANSITIONS_MAX: usize = 1 << 21;

/// Tells the letter of a name.
#[derive(Debug, Default)]
pub(crate) struct Recognizer {
    /// The first symbols of the stretches within which no wildcard tells symbols apart, but for the first stretch.
    boundaries: Vec<u32>,
    /// The stretch of each ASCII character.
    ascii: Vec<usize>,
    /// By state and, within it, by stretch.
    next: Vec<u32>,
    /// By state: the letter of a name that ends there.
    ends: Vec<Option<Letter>>,
}

impl Recognizer {
    /// One for these wildcards with their indices; `letter` knows the letter of a set of indices, ascending.
    ///
    /// # Errors
    /// [`TooMany`] states, or states for too many characters.
    pub(crate) fn new(
        wildcards: &[(usize, Component)],
        states_max: usize,
        letter: impl Fn(&[usize]) -> Option<Letter>,
    ) -> Result<Self, TooMany> {
        let mut boundaries = BTreeSet::new();
        for (_, one) in wildcards {
            one.boundaries(&mut boundaries);
        }
        boundaries.remove(&0);
        let symbols: Vec<Symbol> =
            [0].into_iter().chain(boundaries.iter().copied()).map(Symbol::of).collect();
        let mut found = Self { boundaries: boundaries.into_iter().collect(), ..Self::default() };
        found.ascii = (0..ASCII).map(|symbol| found.search(symbol)).collect();
        let start: Vec<u64> = wildcards.iter().map(|(_, one)| one.start()).collect();
        let mut numbers = HashMap::from([(start.clone(), 0_u32)]);
        let mut states = vec![start];
        let mut read = 0_usize;
        while let Some(state) = states.get(read).cloned() {
            read = read.saturating_add(1);
            let matched = state.iter().zip(wildcards).filter(|(at, (_, one))| one.accepts(**at));
            found.ends.push(letter(&matched.map(|(_, (index, _))| *index).collect::<Vec<_>>()));
            for symbol in &symbols {
                let step = |(at, (_, one)): (&u64, &(usize, Component))| one.step(*at, *symbol);
                let next: Vec<u64> = state.iter().zip(wildcards).map(step).collect();
                let fresh = u32::try_from(states.len()).map_err(|_large| TooMany)?;
                let number = *numbers.entry(next).or_insert_with_key(|next| {
                    states.push(next.clone());
                    fresh
                });
                found.next.push(number);
            }
            if states.len() > states_max || found.next.len() > TRANSITIONS_MAX {
                return Err(TooMany);
            }
        }
        Ok(found)
    }

    /// The letter of a name that is none of the literals.
    pub(crate) fn letter(&self, name: &[u8]) -> Option<Letter> {
        let width = self.boundaries.len().saturating_add(1);
        let step = |state: u32, symbol: Symbol| {
            let row = usize::try_from(state).unwrap_or(usize::MAX).saturating_mul(width);
            self.next.get(row.saturating_add(self.stretch(symbol.number()))).copied()
        };
        let end = Symbol::all(name).try_fold(0, step)?;
        self.ends.get(usize::try_from(end).ok()?).copied().flatten()
    }

    fn stretch(&self, symbol: u32) -> usize {
        let known = usize::try_from(symbol).ok().and_then(|symbol| self.ascii.get(symbol));
        known.copied().unwrap_or_else(|| self.search(symbol))
    }

    fn search(&self, symbol: u32) -> usize {
        self.boundaries.partition_point(|first| *first <= symbol)
    }
}
