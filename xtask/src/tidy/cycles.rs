//! Finds import cycles: files that use one another, directly or through other files.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Fault;
use super::modules::{Crate, Use};

/// Returns a fault for each import cycle.
pub(super) fn check(crates: &[Crate<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for cycle in find(crates) {
        let Some(used) = cycle.uses.first() else { continue };
        let files: Vec<_> = cycle.files.into_iter().collect();
        let what = format!(
            "import cycle of {}: move what they share to another file (`cargo xtask tidy --report` shows the imports)",
            files.join(", ")
        );
        faults.push(Fault::new(used.from, used.line, what));
    }
    faults
}

/// Files that all use one another, directly or through other files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle<'s> {
    pub(super) files: BTreeSet<&'s str>,
    /// The uses among these files.
    pub(super) uses: Vec<Use<'s>>,
}

/// Returns the import cycles of the crates.
pub(super) fn find<'s>(crates: &[Crate<'s>]) -> Vec<Cycle<'s>> {
    let mut cycles: Vec<Cycle<'_>> = Vec::new();
    for uses in crates.iter().map(Crate::uses) {
        for cycle in cycles_among(&uses) {
            // Two suites may contain the same module.
            if !cycles.iter().any(|known| known.files == cycle.files) {
                cycles.push(cycle);
            }
        }
    }
    cycles
}

/// Returns the import cycles of one crate. Two files are in the same cycle if each reaches the
/// other.
fn cycles_among<'s>(uses: &[Use<'s>]) -> Vec<Cycle<'s>> {
    let targets = by_file(uses);
    let reached: BTreeMap<&'s str, BTreeSet<&'s str>> =
        uses.iter().map(|used| (used.from, reachable(used.from, &targets))).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut cycles = Vec::new();
    for (file, others) in &reached {
        if !others.contains(file) || done.contains(file) {
            continue;
        }
        let back = |other: &&&str| reached.get(**other).is_some_and(|all| all.contains(file));
        let files: BTreeSet<&'s str> = others.iter().filter(back).copied().collect();
        done.extend(&files);
        let inner = uses.iter().filter(|used| files.contains(used.from) && files.contains(used.to));
        cycles.push(Cycle { uses: inner.cloned().collect(), files });
    }
    cycles
}

/// Returns the files that each file uses directly.
pub(super) fn by_file<'s>(uses: &[Use<'s>]) -> BTreeMap<&'s str, BTreeSet<&'s str>> {
    let mut targets: BTreeMap<&str, BTreeSet<&'s str>> = BTreeMap::new();
    for used in uses {
        targets.entry(used.from).or_default().insert(used.to);
    }
    targets
}

/// Returns the files that `start` uses, directly or through other files.
pub(super) fn reachable<'s>(start: &str, targets: &BTreeMap<&str, BTreeSet<&'s str>>) -> BTreeSet<&'s str> {
    let mut found = BTreeSet::new();
    let mut next = vec![start];
    while let Some(file) = next.pop() {
        for target in targets.get(file).into_iter().flatten() {
            if found.insert(*target) {
                next.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::modules;
    use super::super::source::Source;
    use super::*;

    #[test]
    fn files_that_use_each_other_are_a_cycle() {
        let sources = [
            Source::new("a/src/lib.rs", "mod b;\nmod c;\nmod d;\nuse b::B;\npub struct Root;\n"),
            Source::new("a/src/b.rs", "use crate::c::C;\npub struct B;\n"),
            Source::new("a/src/c.rs", "use crate::d::D;\npub struct C;\n"),
            Source::new("a/src/d.rs", "use crate::b::B;\npub struct D;\n"),
        ];
        let crates = modules::crates(&sources);
        let cycles = find(&crates);
        assert_eq!(cycles.len(), 1);
        assert_eq!(cycles[0].files, BTreeSet::from(["a/src/b.rs", "a/src/c.rs", "a/src/d.rs"]));
        assert_eq!(cycles[0].uses.len(), 3);
        let faults = check(&crates);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with("a/src/b.rs:1: import cycle of a/src/b.rs, a/src/c.rs"));
    }

    #[test]
    fn one_direction_is_no_cycle() {
        let sources = [
            Source::new("a/src/lib.rs", "mod b;\nmod c;\nuse b::B;\nuse c::C;\n"),
            Source::new("a/src/b.rs", "use crate::c::C;\npub struct B;\n"),
            Source::new("a/src/c.rs", "pub struct C;\n"),
        ];
        assert_eq!(find(&modules::crates(&sources)), []);
    }
}
