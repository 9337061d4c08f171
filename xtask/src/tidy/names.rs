//! Finds type names that a crate defines more than once.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::modules::Crate;

/// Returns a fault for each type name that a crate defines more than once.
pub(super) fn check(crates: &[Crate<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for repeated in repeated(crates) {
        let [(first, first_line), .., (file, line)] = repeated.places.as_slice() else { continue };
        let what = format!("{} is also a type at {first}:{first_line}: rename one of the two", repeated.name);
        faults.push(Fault::new(file, *line, what));
    }
    faults
}

/// Name that stands for more than one type of a crate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated<'s> {
    pub(super) name: &'s str,
    /// File and line of each definition.
    pub(super) places: Vec<(&'s str, usize)>,
}

/// Returns the repeated names of all crates: structs, enums, unions, traits and type aliases in
/// product code. Names of different crates may be the same.
pub(super) fn repeated<'s>(crates: &[Crate<'s>]) -> Vec<Repeated<'s>> {
    let mut all = Vec::new();
    for one in crates {
        let mut places: BTreeMap<&'s str, Vec<(&'s str, usize)>> = BTreeMap::new();
        for (file, item) in one.items().filter(|(_, item)| item.is_type) {
            places.entry(&item.name).or_default().push((file, item.line));
        }
        let repeated = places.into_iter().filter(|(_, places)| places.len() > 1);
        all.extend(repeated.map(|(name, places)| Repeated { name, places }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::modules;
    use super::super::source::Source;
    use super::*;

    #[test]
    fn names_repeat_within_a_crate_only() {
        let sources = [
            Source::new("a/src/lib.rs", "mod b;\nstruct Twice;\nstruct Once;\nfn f() {}\n"),
            Source::new("a/src/b.rs", "type Twice = u8;\nfn f() {}\n#[cfg(test)]\nstruct Once;\n"),
            Source::new("c/src/lib.rs", "struct Once;\n"),
        ];
        let crates = modules::crates(&sources);
        let all = repeated(&crates);
        let places = vec![("a/src/lib.rs", 2), ("a/src/b.rs", 1)];
        assert_eq!(all, [Repeated { name: "Twice", places }]);
        let fault = "a/src/b.rs:1: Twice is also a type at a/src/lib.rs:2: rename one of the two";
        assert_eq!(check(&crates).iter().map(ToString::to_string).collect::<Vec<_>>(), [fault]);
    }
}
