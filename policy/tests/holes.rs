//! Does docs/holes.md name the host calls of the table, each for a kind of thread that makes it, and no others?
#![cfg(test)]

use pinhole_policy::host_calls::{ANSWERED, Row, Threads, every_row};
use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../docs/holes.md");

const SERVING: Threads = Threads::WORKER.union(Threads::OFFLOAD);

/// The calls that the sections with these headings name: single words in backticks.
fn named(headings: &[&str]) -> BTreeSet<&'static str> {
    let sections =
        DOCUMENT.split("\n## ").filter(|section| headings.iter().any(|heading| section.starts_with(heading)));
    let sections: Vec<_> = sections.collect();
    assert_eq!(sections.len(), headings.len(), "there is a section for each of {headings:?}");
    let quoted = sections.iter().flat_map(|section| section.split('`').skip(1).step_by(2));
    let is_call = |text: &&str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    quoted.filter(is_call).collect()
}

fn rows() -> impl Iterator<Item = &'static Row> {
    every_row().chain(ANSWERED)
}

fn calls_of(threads: Threads) -> BTreeSet<&'static str> {
    rows().filter(|row| row.threads.intersects(threads)).map(|row| row.call).collect()
}

#[test]
fn every_call_that_is_named_has_a_row_for_such_a_thread() {
    for (headings, threads) in [
        (&["What one operation asks", "What such a thread asks"][..], SERVING),
        (&["What the other threads ask"], Threads::CONTROL),
        (&["What the supervisor asks"], Threads::SUPERVISOR),
    ] {
        let invented: Vec<_> = named(headings).difference(&calls_of(threads)).copied().collect();
        assert_eq!(invented, [""; 0], "named under {headings:?}, with no row of {threads:?}");
    }
}

#[test]
fn every_row_is_named_where_its_threads_are() {
    let serving = named(&["What one operation asks", "What such a thread asks"]);
    let control = named(&["What the other threads ask"]);
    let supervisor = named(&["What the supervisor asks"]);
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
