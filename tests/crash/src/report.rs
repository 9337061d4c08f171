//! Results as text for a terminal, as JSON and as Markdown.

use std::fmt::Write as _;

use pinhole_tests::command::console::say;
use serde_json::{Value, json};

use crate::drive::subject::Tested;
use crate::suite::{Finding, Plan, Results};

/// Version of the JSON form. It changes when a field changes its meaning or disappears.
const SCHEMA: u32 = 1;

/// Returns the name of a subject of the plan.
fn name(plan: &Plan, subject: usize) -> &str {
    plan.subjects.get(subject).map_or("", |tested| tested.name.as_str())
}

/// Prints the results of a run: a line for each file system and subject, then each violation.
pub(crate) fn print(plan: &Plan, results: &Results) {
    for ((kind, subject), counts) in &results.counts {
        say(format!(
            "{kind}, {}: {} held, {} violated, {} unconfirmed, {} not comparable, {} wrong",
            name(plan, *subject),
            counts.held,
            counts.violated,
            counts.unconfirmed,
            counts.not_comparable,
            counts.wrong
        ));
    }
    for ((subject, difference), count) in &results.differences {
        say(format!("not comparable, {}: {difference} ({count} programs)", name(plan, *subject)));
    }
    for wrong in &results.wrong {
        say(format!(
            "wrong on {}: {} says what is not so natively: {}",
            wrong.kind.name(),
            wrong.name,
            wrong.broken
        ));
    }
    for finding in &results.findings {
        say("");
        for (key, value) in lines(plan, finding) {
            say(format!("{key:<9} {value}"));
        }
    }
    let rate = results.rate;
    say(format!("{} crash states, {:.1} s of all threads", rate.states, rate.took.as_secs_f64()));
}

/// Returns what is known about a violation: what it breaks, and the line that plays it again.
fn lines(plan: &Plan, finding: &Finding) -> Vec<(&'static str, String)> {
    let Finding { kind, subject, case, violation } = finding;
    let after = violation.steps.checked_sub(1).and_then(|last| case.program.steps.get(last));
    let after = after.map_or_else(|| "the start".to_owned(), |step| format!("`{step}`"));
    let mut lines = vec![("VIOLATED", format!("{} on {}, after {after}", name(plan, *subject), kind.name()))];
    if let Some(litmus) = &case.litmus {
        lines.push(("litmus", format!("{}: {}", litmus.name, litmus.title)));
    }
    lines.push(("program", case.program.to_string()));
    lines.push(("broken", violation.broken.to_string()));
    lines.push(("state", violation.state.to_string()));
    lines.push(("replay", replay(plan, finding)));
    lines
}

/// Returns the command line that plays a violation again.
fn replay(plan: &Plan, finding: &Finding) -> String {
    let option = plan.subjects.get(finding.subject).map_or("", |tested| tested.option.as_str());
    let what = match &finding.case.litmus {
        Some(litmus) => format!("--litmus tests/crash/litmus/{}.litmus", litmus.name),
        None => format!("--program '{}'", finding.case.program),
    };
    format!("cargo xtask crash --fs {} {option} {what}", finding.kind.name())
}

/// Returns the results as JSON.
pub(crate) fn json(plan: &Plan, results: &Results) -> Value {
    let counts = results.counts.iter().map(|((kind, subject), counts)| {
        json!({
            "file_system": kind,
            "subject": name(plan, *subject),
            "held": counts.held,
            "violated": counts.violated,
            "unconfirmed": counts.unconfirmed,
            "not_comparable": counts.not_comparable,
            "wrong": counts.wrong,
        })
    });
    let violations = results.findings.iter().map(|finding| {
        json!({
            "file_system": finding.kind.name(),
            "subject": name(plan, finding.subject),
            "litmus": finding.case.litmus.as_ref().map(|litmus| &litmus.name),
            "program": finding.case.program.to_string(),
            "steps": finding.violation.steps,
            "broken": finding.violation.broken.to_string(),
            "state": finding.violation.state.to_string(),
            "replay": replay(plan, finding),
        })
    });
    let differences = results.differences.iter().map(|((subject, step), count)| {
        json!({ "subject": name(plan, *subject), "step": step, "programs": count })
    });
    json!({
        "schema": SCHEMA,
        "seed": plan.bounds.seed,
        "crash_states_per_program": plan.bounds.states,
        "crash_states": results.rate.states,
        "results": counts.collect::<Vec<_>>(),
        "violations": violations.collect::<Vec<_>>(),
        "not_comparable": differences.collect::<Vec<_>>(),
    })
}

/// Returns the results as Markdown: a table of all programs, one of the litmus files, and the
/// violations.
pub(crate) fn markdown(plan: &Plan, results: &Results) -> String {
    let mut out = String::from("# Crash suite\n\n## Programs\n\n");
    out.push_str("| file system | subject | held | violated | unconfirmed | not comparable |\n");
    out.push_str("|---|---|---:|---:|---:|---:|\n");
    for ((kind, subject), counts) in &results.counts {
        let (held, violated) = (counts.held, counts.violated);
        // Writing to a string cannot fail.
        writeln!(
            out,
            "| {kind} | `{}` | {held} | {violated} | {} | {} |",
            name(plan, *subject),
            counts.unconfirmed,
            counts.not_comparable
        )
        .unwrap_or_default();
    }
    litmus_table(plan, results, &mut out);
    if !results.findings.is_empty() {
        out.push_str("\n## Violations\n");
    }
    for finding in &results.findings {
        out.push('\n');
        for (key, value) in lines(plan, finding) {
            writeln!(out, "    {key:<9} {value}").unwrap_or_default();
        }
    }
    out
}

/// Adds a table with a row for each litmus file, and a column for each subject and file system.
fn litmus_table(plan: &Plan, results: &Results, out: &mut String) {
    let titles = plan.cases.iter().filter_map(|case| case.litmus.as_ref());
    let columns: Vec<(usize, &Tested, &str)> = plan
        .subjects
        .iter()
        .enumerate()
        .flat_map(|(index, tested)| plan.kinds.iter().map(move |kind| (index, tested, kind.name())))
        .collect();
    let mut is_first = true;
    for litmus in titles {
        if std::mem::take(&mut is_first) {
            let names: Vec<String> =
                columns.iter().map(|(_, tested, kind)| format!("`{}` {kind}", tested.name)).collect();
            let rule = "---|".repeat(columns.len());
            writeln!(out, "\n## Guarantees\n\n| guarantee | {} |\n|---|{rule}", names.join(" | "))
                .unwrap_or_default();
        }
        let cell = |(subject, _, kind): &(usize, &Tested, &str)| {
            let key = (litmus.name.clone(), *kind, *subject);
            results.litmus.iter().find(|(known, _)| **known == key).map_or("not applicable", |(_, text)| text)
        };
        let cells: Vec<&str> = columns.iter().map(cell).collect();
        writeln!(out, "| {} (`{}`) | {} |", litmus.title, litmus.name, cells.join(" | ")).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::disk::log::Moment;
    use crate::disk::states::{Bounds, CrashState};
    use crate::drive::subject::Subject;
    use crate::judge::{Broken, Violation};
    use pinhole_tests::disk_faults::FileSystem;

    #[test]
    fn violation_has_a_line_that_plays_it_again() {
        let case = Case::generated("create a; run; unlink a; fsync .".parse().unwrap());
        let plan = Plan {
            kinds: vec![FileSystem::Ext4],
            subjects: vec![Tested::new("name", "--mount 'x {dir}'", Subject::Native)],
            cases: vec![case.clone()],
            bounds: Bounds { states: 3, seed: 4 },
            threads: 1,
        };
        let state = CrashState { prefix: Moment(1), later: vec![2], latest: Moment(3) };
        let broken = Broken::Facts(vec!["a absent".parse().unwrap()]);
        let violation = Violation { steps: 2, state, broken };
        let finding = Finding { kind: FileSystem::Ext4, subject: 0, case, violation };
        let results = Results { findings: vec![finding], ..Results::default() };
        let json = json(&plan, &results);
        let line =
            "cargo xtask crash --fs ext4 --mount 'x {dir}' --program 'create a; run; unlink a; fsync .'";
        assert_eq!(json["violations"][0]["replay"], line);
        assert!(markdown(&plan, &results).contains(line));
    }
}
