//! Names as a policy tells them apart.
//!
//! Of a name, only matters which components of the rules' globs it matches. Such a set is a letter; there are finitely
//! many that any name can have, so that rules can be compared for all names at once.

use crate::glob::{Component, Symbol};
use crate::recognizer::Recognizer;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Index of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Letter(pub(crate) usize);

impl Letter {
    /// A name that no component matches.
    pub(crate) const OTHER: Self = Self(0);
}

/// Every letter that a name can have.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// Names that stand in a glob as they are.
    literals: HashMap<Vec<u8>, Letter>,
    /// The other components, with their indices.
    wildcards: Vec<(usize, Component)>,
    /// The same, to tell which of them match a name.
    recognizer: Recognizer,
    /// Letters of all other names.
    others: HashMap<Vec<usize>, Letter>,
    /// By letter: indices of the components matched, ascending.
    matched: Vec<Vec<usize>>,
}

/// The wildcards overlap in more ways than are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Combinations of positions within the wildcards that are followed. Some ten unlike wildcards reach a hundred.
const COMBINATIONS_MAX: usize = 4096;

impl Letters {
    /// Finds every letter for distinct components.
    ///
    /// # Errors
    /// [`TooMany`] combinations of wildcards.
    pub(crate) fn new(components: &[Component]) -> Result<Self, TooMany> {
        let mut letters = Self { matched: vec![Vec::new()], ..Self::default() };
        letters.others.insert(Vec::new(), Letter::OTHER);
        let with_wildcards = components.iter().enumerate().filter(|(_, one)| one.literal().is_none());
        letters.wildcards = with_wildcards.map(|(index, one)| (index, one.clone())).collect();
        let matching = components
            .iter()
            .filter(|one| one.literal().is_some_and(|name| !letters.wildcards_matching(&name).is_empty()));
        let matching: Vec<_> = matching.collect();
        // The recognizer's states are those of the combinations, without what literals add to them.
        let lens = matching.iter().filter_map(|one| one.literal()).map(|name| name.len().saturating_add(1));
        let states_max = COMBINATIONS_MAX.saturating_add(lens.sum());
        for matched in combinations(&letters.wildcards, &matching)? {
            let letter = Letter(letters.matched.len());
            if !letters.others.contains_key(&matched) {
                letters.matched.push(matched.clone());
                letters.others.insert(matched, letter);
            }
        }
        letters.recognizer =
            Recognizer::new(&letters.wildcards, states_max, |set| letters.others.get(set).copied())?;
        for (index, name) in components.iter().enumerate() {
            let Some(name) = name.literal() else { continue };
            let mut matched = letters.wildcards_matching(&name);
            matched.push(index);
            matched.sort_unstable();
            letters.literals.insert(name, Letter(letters.matched.len()));
            letters.matched.push(matched);
        }
        Ok(letters)
    }

    /// The letter of a name; `None` for what is no name.
    pub(crate) fn of(&self, name: &[u8]) -> Option<Letter> {
        match self.literals.get(name) {
            Some(letter) => Some(*letter),
            None if self.wildcards.is_empty() => Some(Letter::OTHER),
            None => self.recognizer.letter(name),
        }
    }

    /// How many there are; letters are the numbers below.
    pub(crate) const fn count(&self) -> usize {
        self.matched.len()
    }

    /// Whether names of a letter match the component of this index.
    pub(crate) fn matches(&self, letter: Letter, component: usize) -> bool {
        self.matched.get(letter.0).is_some_and(|matched| matched.binary_search(&component).is_ok())
    }

    fn wildcards_matching(&self, name: &[u8]) -> Vec<usize> {
        self.wildcards.iter().filter(|(_, one)| one.matches(name)).map(|(index, _)| *index).collect()
    }
}

/// Every set of wildcards that some name matches which is none of the literals: all are followed at once, character by
/// character, with one character for each stretch of characters that none of them tells apart.
fn combinations(
    wildcards: &[(usize, Component)],
    literals: &[&Component],
) -> Result<BTreeSet<Vec<usize>>, TooMany> {
    let symbols = symbols(wildcards.iter().map(|(_, one)| one).chain(literals.iter().copied()));
    let names: HashSet<Vec<Symbol>> =
        literals.iter().filter_map(|one| one.literal()).map(|name| Symbol::all(&name).collect()).collect();
    let beginnings: HashSet<&[Symbol]> =
        names.iter().flat_map(|name| (0..=name.len()).filter_map(|len| name.get(..len))).collect();
    // What has been read, as long as a literal begins with it.
    let start = (wildcards.iter().map(|(_, one)| one.start()).collect::<Vec<_>>(), Some(Vec::new()));
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut found = BTreeSet::new();
    while let Some((at, read)) = open.pop() {
        for symbol in &symbols {
            let step = |(at, (_, one)): (&u64, &(usize, Component))| one.step(*at, *symbol);
            let next: Vec<u64> = at.iter().zip(wildcards).map(step).collect();
            let longer = read.as_ref().map(|read: &Vec<Symbol>| [read.as_slice(), &[*symbol]].concat());
            let longer = longer.filter(|longer| beginnings.contains(longer.as_slice()));
            if !longer.as_ref().is_some_and(|name| names.contains(name)) {
                let ends = next.iter().zip(wildcards).filter(|(at, (_, one))| one.accepts(**at));
                found.insert(ends.map(|(_, (index, _))| *index).collect());
            }
            let next = (next, longer);
            if seen.insert(next.clone()) {
                open.push(next);
            }
            if seen.len() > COMBINATIONS_MAX.saturating_add(beginnings.len()) {
                return Err(TooMany);
            }
        }
    }
    Ok(found)
}

/// One symbol of each stretch that a name can hold.
fn symbols<'c>(components: impl Iterator<Item = &'c Component>) -> Vec<Symbol> {
    const NUL: u32 = 0;
    const SLASH: u32 = 0x2f;
    let mut boundaries = BTreeSet::from([NUL, NUL + 1, SLASH, SLASH + 1]);
    for one in components {
        one.boundaries(&mut boundaries);
    }
    boundaries.into_iter().filter(|first| *first != NUL && *first != SLASH).map(Symbol::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::{Glob, Segment};

    fn letters(names: &[&str]) -> Letters {
        let component = |name: &&str| match Glob::parse(&format!("/{name}")).unwrap().segments() {
            [Segment::Name(component)] => component.clone(),
            other => panic!("{other:?}"),
        };
        Letters::new(&names.iter().map(component).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_set_that_a_name_can_match_is_a_letter_and_no_other() {
        // Nothing, a*, *b, both; and the literal, which a* matches too.
        let some = letters(&["a*", "*b", "abc"]);
        assert_eq!(some.count(), 5);
        let matched = |name: &[u8]| some.matched[some.of(name).unwrap().0].clone();
        assert_eq!(matched(b"abc"), [0, 2]);
        assert_eq!(matched(b"abb"), [0, 1]);
        assert_eq!(matched(b"b"), [1]);
        assert!(matched(b"x").is_empty());
    }

    #[test]
    fn what_no_name_can_match_together_is_no_letter() {
        assert_eq!(letters(&["a*", "b*"]).count(), 3);
        assert_eq!(letters(&["[a-m]", "[k-z]"]).count(), 4);
    }

    #[test]
    fn a_set_that_only_literals_match_is_no_letter_of_other_names() {
        // Nothing, [ab] of b; and a.
        assert_eq!(letters(&["[ab]", "a"]).count(), 3);
        // Nothing, a, b.
        assert_eq!(letters(&["[ab]", "a", "b"]).count(), 3);
        // Nothing, both (ab), the first alone (bb), the second alone (abc); and a.
        assert_eq!(letters(&["[ab]?", "a*", "a"]).count(), 5);
    }

    #[test]
    fn names_are_told_apart_without_asking_each_wildcard() {
        use crate::glob::STEPS;
        let globs: Vec<String> = (0..24).map(|number| format!("*.ext{number}")).collect();
        let mut globs: Vec<&str> = globs.iter().map(String::as_str).collect();
        globs.extend(["a?[0-9]*", "[!a-z]x", "\u{e4}*", "plain"]);
        let some = letters(&globs);
        let names: [&[u8]; 12] = [
            b"a",
            b"plain",
            b"some.ext7",
            b"b.ext1.ext23",
            b"ax5.ext0",
            b"Ax",
            b"ax",
            "\u{e4}.ext3".as_bytes(),
            b"\xe4",
            b"\xff\xfe.ext5",
            "a\u{1f600}7".as_bytes(),
            &[b'a'; 255],
        ];
        for name in names {
            let before = STEPS.get();
            let letter = some.of(name).unwrap();
            assert_eq!(STEPS.get(), before, "steps through single wildcards for {name:?}");
            let matched = some.matched[letter.0].iter().copied().filter(|index| globs[*index] != "plain");
            assert_eq!(matched.collect::<Vec<_>>(), some.wildcards_matching(name), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_everything_matches_still_has_a_letter_beside_the_other() {
        let some = letters(&["?*"]);
        assert_eq!(some.count(), 2);
        assert_ne!(some.of(b"a"), Some(Letter::OTHER));
    }
}
