//! Confirms a violation by playing its program again, alone, and removes what it does not need.

use std::io;

use crate::case::Case;
use crate::disk::states::Bounds;
use crate::drive::subject::Subject;
use crate::host::Host;
use crate::judge::{Verdict, Violation, judge};
use crate::program::Program;

/// Number of native runs that a confirmed violation contradicts.
const NATIVE_RUNS: usize = 3;

/// Number of native crash states for each crash state of the subject.
const NATIVE_STATES: usize = 4;

/// Plays a program again, alone, with several native runs. Returns its violation, if there is one.
///
/// # Errors
/// Fails if the subject does not start or end.
pub(crate) fn confirm(
    host: &mut Host,
    subject: &Subject,
    case: &Case,
    bounds: Bounds,
) -> io::Result<Option<Violation>> {
    contradicted(host, subject, case, (bounds, NATIVE_RUNS))
}

/// Plays a program with so many native runs and returns its violation, if it is violated.
///
/// # Errors
/// Fails if the subject does not start or end.
fn contradicted(
    host: &mut Host,
    subject: &Subject,
    case: &Case,
    (bounds, native_runs): (Bounds, usize),
) -> io::Result<Option<Violation>> {
    let alone = std::slice::from_ref(&case.program);
    let run = host.run(subject, alone, bounds)?;
    let mut native = Vec::new();
    for seed in (bounds.seed..).take(native_runs) {
        // More crash states than the subject's, and others: a fact that holds natively only by
        // chance is found out.
        let bounds = Bounds { states: bounds.states * NATIVE_STATES, seed };
        native.extend(host.run(&Subject::Native, alone, bounds)?);
    }
    let native: Vec<_> = native.iter().collect();
    Ok(run.first().and_then(|run| match judge(case, &native, run) {
        Verdict::Violated(violation) => Some(violation),
        Verdict::Held | Verdict::NotComparable(_) | Verdict::WrongLitmus(_) => None,
    }))
}

/// Removes operations from a program while it is still violated. Returns the shortest program that
/// was found, and its violation.
///
/// # Errors
/// Fails if the subject does not start or end.
pub(crate) fn minimize(
    host: &mut Host,
    subject: &Subject,
    whole: (Program, Violation),
    bounds: Bounds,
) -> io::Result<(Program, Violation)> {
    let (mut program, _) = whole.clone();
    let mut index = 0;
    while let Some(shorter) = without(&program, index) {
        // A setup that fails without the removed operation is no program.
        match contradicted(host, subject, &Case::generated(shorter.clone()), (bounds, 1)) {
            Ok(Some(_still)) => program = shorter,
            Ok(None) | Err(_) => index += 1,
        }
    }
    match confirm(host, subject, &Case::generated(program.clone()), bounds)? {
        Some(still) => Ok((program, still)),
        // One native run was too few for a removal.
        None => Ok(whole),
    }
}

/// Returns the program without one operation: steps are counted first, from the last one.
fn without(program: &Program, index: usize) -> Option<Program> {
    let mut shorter = program.clone();
    let (steps, setup) = (program.steps.len(), program.setup.len());
    if index < steps {
        shorter.steps.remove(steps - 1 - index);
    } else if index < steps + setup {
        shorter.setup.remove(steps + setup - 1 - index);
    } else {
        return None;
    }
    Some(shorter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_removed_once() {
        let program: Program = "create a; create b; run; unlink a; fsync .".parse().unwrap();
        let shorter: Vec<String> =
            (0..5).filter_map(|index| without(&program, index)).map(|program| program.to_string()).collect();
        let expected = [
            "create a; create b; run; unlink a",
            "create a; create b; run; fsync .",
            "create a; run; unlink a; fsync .",
            "create b; run; unlink a; fsync .",
        ];
        assert_eq!(shorter, expected);
    }
}
