//! All programs of one or two operations, each followed by a persistence operation or durable by
//! itself; and parts and samples of them. The bounds follow B3 and ACE (Mohan et al., OSDI 2018):
//! few operations, few names, and persistence only of what the operations name.

use std::num::NonZero;
use std::str::FromStr;

use super::names::can_succeed;
use super::operations::{DURABLE, OPERATIONS, SETUP, persistence};
use crate::program::{Operation, Program, Step};
use crate::random::Random;

/// Part of all programs: the `index`-th of `count` parts, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    index: usize,
    count: NonZero<usize>,
}

impl Shard {
    fn contains(self, number: usize) -> bool {
        number % self.count == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=NonZero::<usize>::get(count)).contains(&index) => {
                Ok(Self { index, count })
            }
            Some(_) | None => Err(format!("{text} is not I/N with I from 1 to N")),
        }
    }
}

/// Choice among all programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    /// Part of the programs.
    pub(crate) shard: Shard,
    /// Number of programs to choose from that part, at random. `None` for all.
    pub(crate) sample: Option<usize>,
    /// Number that determines the sample.
    pub(crate) seed: u64,
}

/// Returns the programs of exactly `depth` operations: 1 or 2.
pub(crate) fn programs(depth: u8, selection: Selection) -> Vec<Program> {
    let setup = parsed(SETUP.split(';'));
    let (operations, durable) = (parsed(OPERATIONS), parsed(DURABLE));
    let mut chosen = Chosen { selection, random: Random::new(selection.seed), seen: 0, programs: Vec::new() };
    let mut add = |steps: &[&Operation]| chosen.offer(|| program(&setup, steps));
    if depth == 1 {
        each_end(&[], &operations, &durable, &mut add);
        return chosen.programs;
    }
    for first in &operations {
        each_end(&[first], &operations, &durable, &mut add);
        for middle in persistence(&[first]) {
            each_end(&[first, &middle], &operations, &durable, &mut add);
        }
    }
    for first in &durable {
        each_end(&[first], &operations, &durable, &mut add);
    }
    chosen.programs
}

fn parsed<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<Operation> {
    // A unit test checks that each text is an operation.
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// Calls `add` with each program that begins with some operations, has one more, and is durable at
/// the end.
fn each_end(
    begin: &[&Operation],
    operations: &[Operation],
    durable: &[Operation],
    add: &mut impl FnMut(&[&Operation]),
) {
    for last in operations {
        let steps: Vec<&Operation> = begin.iter().copied().chain([last]).collect();
        for end in persistence(&steps) {
            add(&steps.iter().copied().chain([&end]).collect::<Vec<_>>());
        }
    }
    for last in durable {
        add(&begin.iter().copied().chain([last]).collect::<Vec<_>>());
    }
}

fn program(setup: &[Operation], steps: &[&Operation]) -> Program {
    let step = |operation: &&Operation| Step { guest: 1, operation: (*operation).clone() };
    Program { setup: setup.to_vec(), steps: steps.iter().map(step).collect() }
}

/// Programs that a selection contains.
struct Chosen {
    selection: Selection,
    random: Random,
    /// Number of programs of the shard so far.
    seen: usize,
    programs: Vec<Program>,
}

impl Chosen {
    /// Takes a program if it is in the selection. A sample is a reservoir: each program has the
    /// same chance.
    fn offer(&mut self, make: impl FnOnce() -> Program) {
        let program = make();
        if !can_succeed(&program) {
            return;
        }
        let number = self.seen;
        self.seen += 1;
        if !self.selection.shard.contains(number) {
            return;
        }
        match self.selection.sample {
            Some(sample) if self.programs.len() >= sample => {
                let index = self.random.below(number / self.selection.shard.count + 1);
                if let Some(place) = self.programs.get_mut(index) {
                    *place = program;
                }
            }
            Some(_) | None => self.programs.push(program),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(depth: u8, shard: &str, sample: Option<usize>) -> Vec<Program> {
        programs(depth, Selection { shard: shard.parse().unwrap(), sample, seed: 3 })
    }

    #[test]
    fn every_text_of_the_tables_is_an_operation() {
        assert_eq!(parsed(OPERATIONS).len(), OPERATIONS.len());
        assert_eq!(parsed(DURABLE).len(), DURABLE.len());
        assert_eq!(parsed(SETUP.split(';')).len(), SETUP.split(';').count());
        assert!(parsed(DURABLE).iter().all(Operation::is_persistence));
    }

    #[test]
    fn depth_one_has_each_operation_and_ends_durable() {
        let all = all(1, "1/1", None);
        assert!((200..1000).contains(&all.len()), "{}", all.len());
        assert!(all.iter().all(|program| program.steps.last().unwrap().operation.is_persistence()));
        for operation in parsed(OPERATIONS) {
            assert!(all.iter().any(|program| program.steps[0].operation == operation), "{operation}");
        }
    }

    #[test]
    fn shards_divide_the_programs_of_depth_two() {
        let whole = all(2, "1/1", None);
        assert!((50_000..500_000).contains(&whole.len()), "{}", whole.len());
        let mut parts: Vec<Program> =
            ["1/3", "2/3", "3/3"].iter().flat_map(|shard| all(2, shard, None)).collect();
        assert_eq!(parts.len(), whole.len());
        parts.sort_unstable();
        parts.dedup();
        let mut whole = whole;
        whole.sort_unstable();
        whole.dedup();
        assert_eq!(parts, whole);
    }

    #[test]
    fn sample_is_spread_and_repeatable() {
        let sample = all(2, "2/7", Some(100));
        assert_eq!(sample, all(2, "2/7", Some(100)));
        assert_eq!(sample.len(), 100);
        let firsts: std::collections::BTreeSet<_> =
            sample.iter().map(|program| program.steps[0].operation.clone()).collect();
        assert!(firsts.len() > 20, "{firsts:?}");
    }

    #[test]
    fn wrong_shard_is_an_error() {
        for text in ["0/3", "4/3", "1/0", "1", "a/b", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
