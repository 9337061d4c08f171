//! Results as text for a terminal.

use pinhole_tests::command::console::say;

use crate::program::Program;
use crate::suite::{Finding, Plan, Results};

/// Prints the results of a run: a line for each file system and subject, then each violation.
pub(crate) fn print(plan: &Plan, results: &Results) {
    for ((kind, subject), counts) in &results.counts {
        let name = plan.subjects.get(*subject).map_or("", |tested| tested.name.as_str());
        say(format!(
            "{kind}, {name}: {} held, {} violated, {} unconfirmed, {} not comparable",
            counts.held, counts.violated, counts.unconfirmed, counts.not_comparable
        ));
    }
    for ((subject, difference), count) in &results.differences {
        let name = plan.subjects.get(*subject).map_or("", |tested| tested.name.as_str());
        say(format!("not comparable, {name}: {difference} ({count} programs)"));
    }
    for finding in &results.findings {
        violation(plan, finding);
    }
    let seconds = results.rate.took.as_secs_f64();
    say(format!("{} crash states in {seconds:.1} s of all threads", results.rate.states));
}

/// Prints a violation: what it breaks, and the line that plays it again.
fn violation(plan: &Plan, finding: &Finding) {
    let Finding { kind, subject, program, violation } = finding;
    let Some(tested) = plan.subjects.get(*subject) else { return };
    let after = violation.steps.checked_sub(1).and_then(|last| program.steps.get(last));
    let after = after.map_or_else(|| "the start".to_owned(), |step| format!("`{step}`"));
    say(format!("\nVIOLATED: {} on {}, after {after}", tested.name, kind.name()));
    say(format!("  program: {program}"));
    say(format!("  broken:  {}", violation.broken));
    say(format!("  state:   {}", violation.state));
    say(format!("  replay:  {}", replay(&tested.option, kind.name(), program)));
}

/// Returns the command line that plays a program again.
pub(crate) fn replay(option: &str, kind: &str, program: &Program) -> String {
    format!("cargo xtask crash --fs {kind} {option} --program '{program}'")
}
