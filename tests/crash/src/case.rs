//! Cases: programs with what is known about them.

use crate::facts::Fact;
use crate::program::Program;

/// Program to play. A litmus file adds its name and facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    /// The program.
    pub(crate) program: Program,
    /// The litmus file. `None` for a generated program.
    pub(crate) litmus: Option<Litmus>,
}

/// What a litmus file says beside its program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Litmus {
    /// Name: that of the file.
    pub(crate) name: String,
    /// First line of the comment at the beginning of the file.
    pub(crate) title: String,
    /// File systems on which the facts hold, by name. Empty for all.
    pub(crate) file_systems: Vec<String>,
    /// Facts, each with the number of steps up to the persistence operation that it follows. It
    /// holds in all crash states after that operation and before the next one.
    pub(crate) holds: Vec<(usize, Fact)>,
    /// Facts that a server need not keep, although the backing file system does.
    pub(crate) may_differ: Vec<Fact>,
}

impl Case {
    /// Makes a case of a generated program.
    pub(crate) const fn generated(program: Program) -> Self {
        Self { program, litmus: None }
    }

    /// Returns whether the case is for a file system.
    pub(crate) fn is_for(&self, file_system: &str) -> bool {
        let names = self.litmus.as_ref().map(|litmus| &litmus.file_systems);
        names.is_none_or(|names| names.is_empty() || names.iter().any(|name| name == file_system))
    }

    /// Returns the facts of the litmus file that follow a persistence operation.
    pub(crate) fn holds_after(&self, steps: usize) -> impl Iterator<Item = &Fact> {
        let holds = self.litmus.iter().flat_map(|litmus| &litmus.holds);
        holds.filter(move |(after, _)| *after == steps).map(|(_, fact)| fact)
    }

    /// Returns whether a server need not keep a fact.
    pub(crate) fn may_differ(&self, fact: &Fact) -> bool {
        self.litmus.iter().flat_map(|litmus| &litmus.may_differ).any(|exempt| exempt.includes(fact))
    }
}
