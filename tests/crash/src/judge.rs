//! The oracle: compares the crash states of a subject with those of the backing file system.

use std::fmt;

use crate::case::Case;
use crate::disk::states::CrashState;
use crate::facts::{Fact, Scope, common};
use crate::host::Run;
use crate::program::Program;
use crate::program::covered::unsynced;
use crate::record::{Left, Played};
use crate::snapshot::Snapshot;

/// Result of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All facts hold in all crash states.
    Held,
    /// A step ended differently than natively, so the results cannot be compared.
    NotComparable(Difference),
    /// A fact of the litmus file does not hold natively: the file is wrong for this file system.
    WrongLitmus(Violation),
    /// Facts that do not hold.
    Violated(Violation),
}

/// Step that ended differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The step.
    pub(crate) step: String,
    /// Its native outcome.
    pub(crate) native: String,
    /// Its outcome with the subject.
    pub(crate) subject: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`: {}, natively {}", self.step, self.subject, self.native)
    }
}

/// Crash state in which facts do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Number of steps up to the persistence operation. 0 is the start of the program.
    pub(crate) steps: usize,
    /// The crash state.
    pub(crate) state: CrashState,
    /// Broken facts, or the reason why the file system cannot be read.
    pub(crate) broken: Broken,
}

/// What is wrong with a crash state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Facts that do not hold.
    Facts(Vec<Fact>),
    /// The file system cannot be mounted or read.
    Unreadable(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Facts(facts) => {
                let facts: Vec<String> = crate::facts::joined(facts).iter().map(Fact::to_string).collect();
                out.write_str(&facts.join("; "))
            }
            Self::Unreadable(reason) => out.write_str(reason),
        }
    }
}

/// Facts that every crash state after a persistence operation must keep.
#[derive(Clone, Debug)]
pub(crate) struct Guarantee {
    /// Number of steps up to the persistence operation.
    pub(crate) steps: usize,
    /// The facts.
    pub(crate) facts: Vec<Fact>,
}

/// Returns what the backing file system guarantees after the start of a program and after each
/// persistence operation: the facts that hold in all crash states of all native runs.
pub(crate) fn guarantees(program: &Program, runs: &[&Run]) -> Vec<Guarantee> {
    let snapshots = || runs.iter().flat_map(|run| &run.left).filter_map(|left| left.found.as_ref().ok());
    let mut scope = Scope { paths: program.paths(), attributes: program.attributes(), ..Scope::default() };
    scope.paths.extend(snapshots().flat_map(|snapshot| snapshot.0.keys().cloned()));
    let Some(first) = runs.first() else { return Vec::new() };
    let points = first.played.acknowledged.iter().map(|point| point.steps);
    let of = |steps: usize| {
        scope.unsynced = unsynced(program, steps);
        let after = runs.iter().flat_map(|run| after(&run.played, &run.left, steps));
        Guarantee { steps, facts: common(&scope, after.collect::<Vec<_>>()) }
    };
    points.map(of).collect()
}

/// Returns the folders in the crash states that are possible after a number of steps.
fn after<'l>(played: &Played, left: &'l [Left], steps: usize) -> Vec<&'l Snapshot> {
    let moment = played.acknowledged.iter().find(|point| point.steps == steps).map(|point| point.moment);
    let possible = left.iter().filter(|left| moment.is_some_and(|moment| left.state.latest >= moment));
    possible.filter_map(|left| left.found.as_ref().ok()).collect()
}

/// Compares a run of a subject with native runs.
pub(crate) fn judge(case: &Case, native: &[&Run], run: &Run) -> Verdict {
    let Some(first) = native.first() else { return Verdict::Held };
    let promised = |steps: usize| case.holds_after(steps).cloned().collect();
    if let Some(violation) = native.iter().find_map(|run| violation(run, &promised)) {
        return Verdict::WrongLitmus(violation);
    }
    if let Some(difference) = difference(&case.program, &first.played, &run.played) {
        return Verdict::NotComparable(difference);
    }
    let guarantees = guarantees(&case.program, native);
    let facts = |steps: usize| {
        let here = guarantees.iter().filter(|guarantee| guarantee.steps == steps);
        let kept = here.flat_map(|guarantee| &guarantee.facts).filter(|fact| !case.may_differ(fact));
        kept.chain(case.holds_after(steps)).cloned().collect()
    };
    violation(run, &facts).map_or(Verdict::Held, Verdict::Violated)
}

/// Returns the first crash state in which a fact does not hold. `facts` are those after a number of
/// steps.
fn violation(run: &Run, facts: &dyn Fn(usize) -> Vec<Fact>) -> Option<Violation> {
    run.left.iter().find_map(|left| {
        // The last persistence operation before the power can have failed.
        let last = run.played.acknowledged.iter().rfind(|point| point.moment <= left.state.latest);
        let steps = last?.steps;
        let broken = match &left.found {
            Err(reason) => Broken::Unreadable(reason.clone()),
            Ok(snapshot) => {
                let mut broken: Vec<Fact> =
                    facts(steps).into_iter().filter(|fact| !fact.holds(snapshot)).collect();
                // A fact can be that of a litmus file, too.
                broken.sort_unstable();
                broken.dedup();
                if broken.is_empty() {
                    return None;
                }
                Broken::Facts(broken)
            }
        };
        Some(Violation { steps, state: left.state.clone(), broken })
    })
}

/// Returns the first step that ended differently.
fn difference(program: &Program, native: &Played, played: &Played) -> Option<Difference> {
    let outcomes = native.outcomes.iter().zip(&played.outcomes);
    let (step, (native, subject)) =
        program.steps.iter().zip(outcomes).find(|(_, (native, subject))| native != subject)?;
    let text = |outcome: &Option<String>| outcome.clone().unwrap_or_else(|| "success".to_owned());
    Some(Difference { step: step.to_string(), native: text(native), subject: text(subject) })
}
