//! Does docs/internals/host-calls.md name exactly the host calls of the table, each in the section
//! of the threads that make it?
#![cfg(test)]

use pinhole_policy::host_calls::{ANSWERED, CallRow, Threads, every_row};
use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../docs/internals/host-calls.md");

const SERVING: Threads = Threads::QUEUE.union(Threads::OFFLOAD);

/// Headings of the sections about threads that serve requests.
const SERVING_SECTIONS: &[&str] = &["Calls for operations", "Calls of serving threads"];
/// Headings of the sections about control threads.
const CONTROL_SECTIONS: &[&str] = &["Calls of control threads"];
/// Headings of the sections about the supervisor.
const SUPERVISOR_SECTIONS: &[&str] = &["Calls of the supervisor"];

/// Returns the calls that the sections with these headings name: single words in backticks.
fn named(headings: &[&str]) -> BTreeSet<&'static str> {
    let sections =
        DOCUMENT.split("\n## ").filter(|section| headings.iter().any(|heading| section.starts_with(heading)));
    let sections: Vec<_> = sections.collect();
    assert_eq!(sections.len(), headings.len(), "each of {headings:?} must have a section");
    let quoted = sections.iter().flat_map(|section| section.split('`').skip(1).step_by(2));
    let is_call = |text: &&str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    quoted.filter(is_call).collect()
}

/// Returns every row, also the rows of calls that a filter answers with an errno.
fn rows() -> impl Iterator<Item = &'static CallRow> {
    every_row().chain(ANSWERED)
}

/// Returns the names of the calls of these kinds of threads.
fn calls_of(threads: Threads) -> BTreeSet<&'static str> {
    rows().filter(|row| row.threads.intersects(threads)).map(|row| row.call).collect()
}

#[test]
fn every_named_call_has_a_row_for_its_threads() {
    for (headings, threads) in [
        (SERVING_SECTIONS, SERVING),
        (CONTROL_SECTIONS, Threads::CONTROL),
        (SUPERVISOR_SECTIONS, Threads::SUPERVISOR),
    ] {
        let unknown: Vec<_> = named(headings).difference(&calls_of(threads)).copied().collect();
        assert_eq!(unknown, [""; 0], "named under {headings:?}, but {threads:?} have no row");
    }
}

#[test]
fn every_row_is_named_in_the_section_of_its_threads() {
    let serving = named(SERVING_SECTIONS);
    let control = named(CONTROL_SECTIONS);
    let supervisor = named(SUPERVISOR_SECTIONS);
    for row in rows() {
        let section = if row.threads.intersects(SERVING) {
            &serving
        } else if row.threads.intersects(Threads::CONTROL) {
            &control
        } else {
            &supervisor
        };
        assert!(section.contains(row.call), "{} of {:?}: {}", row.call, row.threads, row.why);
    }
}
