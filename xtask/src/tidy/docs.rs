//! Checks documents (Markdown files). A file, function or other item that a document names must
//! exist. Each dependency and each test suite needs a row in its document.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::fault::Fault;
use super::items;
use super::source::Source;
use crate::suites::Suite;
use crate::workspace;

/// Document with a row for each test suite.
const SUITES: &str = "docs/internals/testing.md";

/// Document with a row for each dependency, which says why the project uses it.
const REASONS: &str = "docs/internals/dependencies.md";

/// Checks the links and names in all documents, and the rows of [`REASONS`].
pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let existing = existing(sources);
    let defined: BTreeSet<&str> =
        sources.iter().filter_map(Source::rust).flat_map(|rust| &rust.items).map(String::as_str).collect();
    let functions: BTreeSet<&str> =
        sources.iter().filter(|source| source.is_rust()).flat_map(|source| functions(&source.text)).collect();
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.is_document()) {
        for (number, line) in source.lines() {
            for target in links(line) {
                let place = resolve(&source.file, target);
                if !place.is_empty() && !existing.contains(place.as_str()) {
                    let what = format!("broken link to {target}: {place} does not exist");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
            for path in backticked(line).filter(|text| is_project_path(text, &existing)) {
                if !existing.contains(path.trim_end_matches('/')) {
                    let what = format!("`{path}` does not exist: use the current file name");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
            for name in backticked(line).filter(|text| is_test_name(text)) {
                if !functions.contains(name) {
                    let what = format!("no function has the name `{name}`: use the current name");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
            for item in backticked(line).filter_map(items::named) {
                if !defined.contains(item) {
                    let what = format!("`{item}` does not exist: use the current name");
                    faults.push(Fault::new(&source.file, number, what));
                }
            }
        }
    }
    reasons(sources, &mut faults);
    faults
}

/// Returns every file, and every folder that contains a file.
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

/// Returns the target of each link `[text](target)` in a line, without its anchor. Leaves out links
/// to web pages and mail addresses, and links that are only an anchor.
pub(super) fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    local.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty())
}

/// Returns each text in backticks in a line.
pub(super) fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Returns whether `text` must be the path of an existing file or folder, counted from the root of
/// the workspace. Such a text has only characters of file names and begins with a folder of the
/// project that is in git, then `/`. A path in `target` or `.guest` is not one.
fn is_project_path(text: &str, existing: &BTreeSet<&str>) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    plain && text.split_once('/').is_some_and(|(top, rest)| !rest.is_empty() && existing.contains(top))
}

/// Returns the names of all functions that the code `text` defines.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let names = text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, rest)| rest);
    names.map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap_or_default())
}

/// Returns whether `text` looks like the name of a test: five words or more in snake case.
fn is_test_name(text: &str) -> bool {
    let plain = text.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
    plain && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.matches('_').count() >= 4
}

/// Returns the path from the root of the workspace to `target`, the target of a link in `file`. A
/// target without a leading `/` begins at the folder of `file`.
pub(super) fn resolve(file: &str, target: &str) -> String {
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

/// Checks that each dependency of the workspace has a row in [`REASONS`].
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
            let what = format!(
                "{name} has no line in {REASONS}: add one with its reason and the crates that use it"
            );
            faults.push(Fault::new(&manifest.file, number, what));
        }
    }
}

/// Checks that each test suite has a row in [`SUITES`], and so does each of its modules that has
/// tests.
pub(super) fn check_suite_rows(sources: &[Source], suites: &[Suite]) -> Vec<Fault> {
    let Some(document) = sources.iter().find(|source| source.file == SUITES) else {
        return Vec::new();
    };
    let rows: Vec<&str> =
        document.text.lines().filter(|line| line.starts_with('|')).flat_map(backticked).collect();
    let named = suites.iter().flat_map(|suite| {
        let modules = suite.modules.iter();
        let modules = modules.map(|module| (format!("{}::{}", suite.name, module.name), &module.source));
        std::iter::once((suite.name.clone(), &suite.source)).chain(modules)
    });
    let missing = named.filter(|(name, _)| !rows.contains(&name.as_str()));
    let fault = |(name, source): (String, &PathBuf)| {
        let what = format!("{name} has no row in {SUITES}: add one that says what it tests");
        Fault::new(&workspace::within(source).to_string_lossy(), 1, what)
    };
    missing.map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::faults_of;
    use super::*;
    use crate::suites::{Module, Needs};

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        faults_of(check, files)
    }

    #[test]
    fn link_to_a_missing_file_is_a_fault() {
        let text = "See [a](decisions/0001-a.md#why), [b](../README.md) and [web](https://example.org/x).";
        let all = faults(&[("docs/a.md", text), ("README.md", "")]);
        assert_eq!(all.len(), 1);
        assert!(all[0].contains("docs/decisions/0001-a.md does not exist"));
    }

    #[test]
    fn path_in_backticks_must_exist_and_other_words_need_not() {
        let text = "`daemon/src/gone.rs`, `daemon/src/`, `a/b`, `cargo xtask test`, `/dev/fuse`";
        let all = faults(&[("README.md", text), ("daemon/src/lib.rs", "//! A.")]);
        assert_eq!(all, ["README.md:1: `daemon/src/gone.rs` does not exist: use the current file name"]);
    }

    #[test]
    fn missing_item_is_a_fault() {
        let text = "`Ring::begin`, `Ring::spawn`, `std::fs`";
        let code = "//! A.\nimpl Ring {\n    fn begin() {}\n}\n";
        let all = faults(&[("docs/a.md", text), ("daemon/src/a.rs", code)]);
        assert_eq!(all, ["docs/a.md:1: `Ring::spawn` does not exist: use the current name"]);
    }

    #[test]
    fn missing_test_is_a_fault() {
        let text = "`no_reply_is_ever_lost`, `no_reply_is_sent_twice`, `a_b_c_d`, `_raw_spin_unlock_irq_x`";
        let code = "//! A.\n    #[test]\n    fn no_reply_is_ever_lost() {}\n";
        let all = faults(&[("docs/a.md", text), ("daemon/src/a.rs", code)]);
        assert_eq!(
            all,
            ["docs/a.md:1: no function has the name `no_reply_is_sent_twice`: use the current name"]
        );
    }

    #[test]
    fn suite_or_module_without_a_row_is_a_fault() {
        let suite = |name: &str, modules: &[&str]| {
            let source = |file: &str| workspace::root().join("tests/tests").join(name).join(file);
            let module = |name: &&str| Module {
                name: (*name).to_owned(),
                source: source(&format!("{name}.rs")),
                needs: Needs::default(),
            };
            let modules = modules.iter().map(module).collect();
            Suite { name: name.to_owned(), source: source("main.rs"), modules, needs: Needs::default() }
        };
        let suites = [suite("a", &["x", "y"]), suite("b", &[]), suite("c", &[])];
        let document = Source::new(SUITES, "| `a`, `b` | what |\n| `a::x` | what |\n`c`, `a::y`");
        let all: Vec<_> =
            check_suite_rows(&[document], &suites).into_iter().map(|fault| fault.to_string()).collect();
        let what = |name: &str| format!("{name} has no row in {SUITES}: add one that says what it tests");
        let expected = [("tests/tests/a/y.rs", "a::y"), ("tests/tests/c/main.rs", "c")]
            .map(|(file, name)| format!("{file}:1: {}", what(name)));
        assert_eq!(all, expected);
    }

    #[test]
    fn dependency_without_a_reason_is_a_fault() {
        let manifest = "[workspace.dependencies]\n# why\nlibc = \"1\"\nlog = \"1\"\n";
        let all = faults(&[("Cargo.toml", manifest), (REASONS, "| libc | calls | daemon |")]);
        assert_eq!(all.len(), 1);
        assert!(all[0].starts_with("Cargo.toml:4: log has no line"));
    }
}
