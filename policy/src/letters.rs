//! The alphabet of the path rules: names, as far as the rules tell them apart.
//!
//! The only relevant fact about a name is which components of the rules' globs it matches. Such a
//! set of components is a letter. There are finitely many letters, so rules can be compared for all
//! names at once.

use crate::glob::{Component, Symbol};
use crate::recognizer::{Letter, Recognizer, TooMany};
use std::collections::{BTreeSet, HashMap, HashSet};

/// All letters of names, for one set of path rules.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// Letters of the components without wildcards, by name.
    literals: HashMap<Vec<u8>, Letter>,
    /// Components with wildcards, and their indices.
    wildcards: Vec<(usize, Component)>,
    /// Finds the letter of a name that is not a literal.
    recognizer: Recognizer,
    /// Letters of names that are not literals, by the indices of the matched components.
    others: HashMap<Vec<usize>, Letter>,
    /// Indices of the matched components by letter, ascending.
    matched: Vec<Vec<usize>>,
}

/// Maximum number of combinations of positions in the wildcards. About ten different wildcards have
/// a hundred combinations.
const COMBINATIONS_MAX: usize = 4096;

impl Letters {
    /// Computes the letters for these components, all of which are different.
    ///
    /// # Errors
    /// [`TooMany`] if the wildcards have too many combinations.
    pub(crate) fn new(components: &[Component]) -> Result<Self, TooMany> {
        let mut letters = Self { matched: vec![Vec::new()], ..Self::default() };
        letters.others.insert(Vec::new(), Letter::OTHER);
        let with_wildcards =
            components.iter().enumerate().filter(|(_, component)| component.literal().is_none());
        letters.wildcards = with_wildcards.map(|(index, component)| (index, component.clone())).collect();
        let literals_of_wildcards = components.iter().filter(|component| {
            component.literal().is_some_and(|name| !letters.wildcards_matching(&name).is_empty())
        });
        let literals_of_wildcards: Vec<_> = literals_of_wildcards.collect();
        // The recognizer tracks the same positions as `combinations`, but no literals. So it has at
        // most as many states.
        let literals = literals_of_wildcards.iter().filter_map(|component| component.literal());
        let lens = literals.map(|name| name.len().saturating_add(1));
        let states_max = COMBINATIONS_MAX.saturating_add(lens.sum());
        for matched in combinations(&letters.wildcards, &literals_of_wildcards)? {
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

    /// Returns the letter of a name, or `None` if no valid name has these bytes.
    pub(crate) fn of(&self, name: &[u8]) -> Option<Letter> {
        match self.literals.get(name) {
            Some(letter) => Some(*letter),
            None if self.wildcards.is_empty() => Some(Letter::OTHER),
            None => self.recognizer.letter(name),
        }
    }

    /// Returns the number of letters. Each index below that number is a letter.
    pub(crate) const fn count(&self) -> usize {
        self.matched.len()
    }

    /// Returns whether names with this letter match the component with this index.
    pub(crate) fn matches(&self, letter: Letter, component: usize) -> bool {
        self.matched.get(letter.0).is_some_and(|matched| matched.binary_search(&component).is_ok())
    }

    /// Returns the indices of the wildcards that a name matches, ascending.
    fn wildcards_matching(&self, name: &[u8]) -> Vec<usize> {
        let matching = self.wildcards.iter().filter(|(_, component)| component.matches(name));
        matching.map(|(index, _)| *index).collect()
    }
}

/// Returns every set of wildcards that some name matches, except for names that are literals.
///
/// The search follows all wildcards in parallel, character by character. One character stands for
/// each range of characters that no component tells apart.
fn combinations(
    wildcards: &[(usize, Component)],
    literals: &[&Component],
) -> Result<BTreeSet<Vec<usize>>, TooMany> {
    let symbols = symbols(wildcards.iter().map(|(_, component)| component).chain(literals.iter().copied()));
    let names: HashSet<Vec<Symbol>> = literals
        .iter()
        .filter_map(|component| component.literal())
        .map(|name| Symbol::all(&name).collect())
        .collect();
    let beginnings: HashSet<&[Symbol]> =
        names.iter().flat_map(|name| (0..=name.len()).filter_map(|len| name.get(..len))).collect();
    // The second part is the text that has been read, as long as a literal begins with that text.
    let start =
        (wildcards.iter().map(|(_, component)| component.start()).collect::<Vec<_>>(), Some(Vec::new()));
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut matched_sets = BTreeSet::new();
    while let Some((at, read)) = open.pop() {
        for symbol in &symbols {
            let step = |(at, (_, component)): (&u64, &(usize, Component))| component.step(*at, *symbol);
            let next: Vec<u64> = at.iter().zip(wildcards).map(step).collect();
            let longer = read.as_ref().map(|read: &Vec<Symbol>| [read.as_slice(), &[*symbol]].concat());
            let longer = longer.filter(|longer| beginnings.contains(longer.as_slice()));
            if !longer.as_ref().is_some_and(|name| names.contains(name)) {
                let ends = next.iter().zip(wildcards).filter(|(at, (_, component))| component.accepts(**at));
                matched_sets.insert(ends.map(|(_, (index, _))| *index).collect());
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
    Ok(matched_sets)
}

/// Returns one symbol of each range that the components treat alike, except for NUL and the slash,
/// which no name contains.
fn symbols<'c>(components: impl Iterator<Item = &'c Component>) -> Vec<Symbol> {
    const NUL: u32 = 0;
    const SLASH: u32 = 0x2f;
    let mut boundaries = BTreeSet::from([NUL, NUL + 1, SLASH, SLASH + 1]);
    for component in components {
        component.add_range_boundaries(&mut boundaries);
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
    fn letters_are_exactly_the_sets_that_names_match() {
        // The letters: none, a*, *b, both, and the literal, which a* matches too.
        let some = letters(&["a*", "*b", "abc"]);
        assert_eq!(some.count(), 5);
        let matched = |name: &[u8]| some.matched[some.of(name).unwrap().0].clone();
        assert_eq!(matched(b"abc"), [0, 2]);
        assert_eq!(matched(b"abb"), [0, 1]);
        assert_eq!(matched(b"b"), [1]);
        assert!(matched(b"x").is_empty());
    }

    #[test]
    fn components_that_exclude_each_other_share_no_letter() {
        assert_eq!(letters(&["a*", "b*"]).count(), 3);
        assert_eq!(letters(&["[a-m]", "[k-z]"]).count(), 4);
    }

    #[test]
    fn set_that_only_literals_match_adds_no_other_letter() {
        // The letters: none, [ab] for b, and a.
        assert_eq!(letters(&["[ab]", "a"]).count(), 3);
        // The letters: none, a, and b.
        assert_eq!(letters(&["[ab]", "a", "b"]).count(), 3);
        // The letters: none, both wildcards (ab), the first (bb), the second (abc), and a.
        assert_eq!(letters(&["[ab]?", "a*", "a"]).count(), 5);
    }

    #[test]
    fn lookup_of_a_letter_tries_no_single_wildcard() {
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
    fn wildcard_for_every_name_leaves_the_other_letter_unused() {
        let some = letters(&["?*"]);
        assert_eq!(some.count(), 2);
        assert_ne!(some.of(b"a"), Some(Letter::OTHER));
    }
}
