//! Documents name only what exists, and each dependency has its line of reason.

use std::collections::BTreeSet;

use super::source::Source;
use super::{Fault, items};

/// Where each suite has its row.
const SUITES: &str = "docs/testing.md";

/// Where the reasons are.
const REASONS: &str = "docs/internals/dependencies.md";

pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let existing = existing(sources);
    let defined = items::all(sources);
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.is_document()) {
        for (number, line) in source.lines() {
            for target in links(line) {
                let place = resolve(&source.file, target);
                if !place.is_empty() && !existing.contains(place.as_str()) {
                    let what = format!("the link to {target} leads nowhere: there is no {place}");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
            for path in backticked(line).filter(|text| names_a_place(text, &existing)) {
                if !existing.contains(path.trim_end_matches('/')) {
                    let what = format!("`{path}` does not exist: name the file as it is now");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
            for item in backticked(line).filter_map(items::named) {
                if !defined.contains(item) {
                    let what = format!("`{item}` does not exist: name what does this now");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
        }
    }
    reasons(sources, &mut faults);
    suites(sources, &mut faults);
    faults
}

/// Every file, and every folder above one.
fn existing(sources: &[Source]) -> BTreeSet<&str> {
    let mut all = BTreeSet::new();
    for source in sources {
        all.insert(source.file.as_str());
        for (at, _) in source.file.match_indices('/') {
            all.extend(source.file.get(..at));
        }
    }
    all
}

/// The targets of `[text](target)` that lie in this project, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    local.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty())
}

fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// A path from the workspace's root: made of path characters, and starting with one of our folders.
fn names_a_place(text: &str, existing: &BTreeSet<&str>) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    // `target` and `.guest` are made by building; a single word may be anything.
    plain && text.split_once('/').is_some_and(|(top, rest)| !rest.is_empty() && existing.contains(top))
}

/// `target` as seen from the folder of `file`.
fn resolve(file: &str, target: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn reasons(sources: &[Source], faults: &mut Vec<Fault>) {
    let Some(manifest) = sources.iter().find(|source| source.file == "Cargo.toml") else {
        return;
    };
    let reasons =
        sources.iter().find(|source| source.file == REASONS).map_or("", |source| source.text.as_str());
    let mut section = "";
    for (number, line) in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['=', ' ']).next().unwrap_or_default();
        let ours = name == "pinhole" || name.starts_with("pinhole-");
        let dependency =
            section == "[workspace.dependencies]" && line.contains('=') && !line.starts_with('#');
        if dependency && !ours && !reasons.contains(&format!("| {name} |")) {
            let what = format!("{name} has no line in {REASONS}: say why it is here and who uses it");
            faults.push(Fault::new(&manifest.file, number, what));
        }
    }
}

/// Each integration suite has a row that says what it asks.
fn suites(sources: &[Source], faults: &mut Vec<Fault>) {
    let Some(document) = sources.iter().find(|source| source.file == SUITES) else {
        return;
    };
    let rows: Vec<&str> =
        document.text.lines().filter(|line| line.starts_with('|')).flat_map(backticked).collect();
    for source in sources {
        let name = match source.file.split('/').collect::<Vec<_>>().as_slice() {
            [_, "tests", file] => file.strip_suffix(".rs"),
            [_, "tests", folder, "main.rs"] => Some(*folder),
            _ => None,
        };
        if let Some(name) = name.filter(|name| !rows.contains(name)) {
            let what = format!("{name} has no row in {SUITES}: say what it asks");
            faults.push(Fault::new(&source.file, 1, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::new(file, text)).collect();
        check(&sources).into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn a_link_to_a_missing_file_is_named() {
        let text = "See [a](decisions/0001-a.md#why), [b](../README.md) and [web](https://example.org/x).";
        let all = faults(&[("docs/a.md", text), ("README.md", "")]);
        assert_eq!(all.len(), 1);
        assert!(all[0].contains("there is no docs/decisions/0001-a.md"));
    }

    #[test]
    fn a_backticked_path_must_exist_and_other_words_need_not() {
        let text = "`daemon/src/gone.rs`, `daemon/src/`, `a/b`, `cargo xtask test`, `/dev/fuse`";
        let all = faults(&[("README.md", text), ("daemon/src/lib.rs", "//! A.")]);
        assert_eq!(all, ["README.md:1: `daemon/src/gone.rs` does not exist: name the file as it is now"]);
    }

    #[test]
    fn an_item_that_is_gone_is_named() {
        let text = "`Ring::begin`, `Ring::spawn`, `std::fs`";
        let code = "//! A.\nimpl Ring {\n    fn begin() {}\n}\n";
        let all = faults(&[("docs/architecture.md", text), ("daemon/src/a.rs", code)]);
        assert_eq!(all, ["docs/architecture.md:1: `Ring::spawn` does not exist: name what does this now"]);
    }

    #[test]
    fn a_suite_without_a_row_is_named() {
        let rows = "| `a`, `b` | what |\n`c`";
        let files =
            ["daemon/tests/a.rs", "tests/tests/b/main.rs", "tests/tests/c.rs", "tests/tests/d/mod.rs"];
        let mut all = vec![("docs/testing.md", rows)];
        all.extend(files.map(|file| (file, "//! A.\n#![cfg(test)]\n")));
        assert_eq!(faults(&all), ["tests/tests/c.rs:1: c has no row in docs/testing.md: say what it asks"]);
    }

    #[test]
    fn a_dependency_without_a_reason_is_named() {
        let manifest = "[workspace.dependencies]\n# why\nlibc = \"1\"\nlog = \"1\"\n";
        let all = faults(&[("Cargo.toml", manifest), (REASONS, "| libc | calls | daemon |")]);
        assert_eq!(all.len(), 1);
        assert!(all[0].starts_with("Cargo.toml:4: log has no line"));
    }
}
