//! `cargo xtask tidy --report`: figures about the shape of the code.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::Crate;
use super::source::Source;
use super::{cycles, names, read_path};
use crate::console::say;

/// Folder whose lines are counted for each module.
const DAEMON: &str = "daemon";

/// Prints the report.
pub(super) fn print(sources: &[Source], crates: &[Crate<'_>]) {
    for line in lines(sources, crates) {
        say(line);
    }
}

/// Returns the lines of the report.
fn lines(sources: &[Source], crates: &[Crate<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    let path = read_path::files(sources);
    lines.push(format!("Files on the READ path: {}", path.len()));
    lines.extend(path.iter().map(|file| format!("  {file}")));
    let rust = sources.iter().filter(|source| source.is_rust());
    let largest = rust.map(|source| (source.lines().count(), source.file.as_str())).max();
    lines.extend(largest.map(|(count, file)| format!("Largest file: {file}, {count} lines")));
    add_cycle_lines(&cycles::find(crates), &mut lines);
    let repeated = names::repeated(crates);
    lines.push(format!("Type names defined more than once: {}", repeated.len()));
    for repeated in &repeated {
        let places: Vec<_> = repeated.places.iter().map(|(file, line)| format!("{file}:{line}")).collect();
        lines.push(format!("  {}: {}", repeated.name, places.join(", ")));
    }
    lines.push("Lines of product code, without tests, comments and empty lines:".to_owned());
    for (module, count) in product_lines(sources, crates) {
        lines.push(format!("  {count:>6} {module}"));
    }
    lines
}

/// Adds the lines about each import cycle: its files, and one line for each pair of files of which
/// one imports the other. This line has the place of the first import and the number of further
/// imports.
fn add_cycle_lines(cycles: &[cycles::Cycle<'_>], lines: &mut Vec<String>) {
    lines.push(format!("Import cycles: {}", cycles.len()));
    for cycle in cycles {
        lines.push(format!("  {} files:", cycle.files.len()));
        lines.extend(cycle.files.iter().map(|file| format!("    {file}")));
        let mut pairs: BTreeMap<_, (usize, usize, &str)> = BTreeMap::new();
        for used in &cycle.uses {
            let entry = pairs.entry((used.from, used.to)).or_insert((used.line, 0, &used.path));
            entry.1 += 1;
        }
        for ((from, to), (line, count, path)) in pairs {
            let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            lines.push(format!("    {from}:{line} -> {to} ({path}{more})"));
        }
    }
}

/// Returns the number of lines of product code of each crate and of each module of the daemon.
fn product_lines(sources: &[Source], crates: &[Crate<'_>]) -> BTreeMap<String, usize> {
    // `Crate::files` leaves out a file that only modules for tests declare.
    let product: BTreeSet<&str> = crates.iter().flat_map(Crate::files).collect();
    let mut lines = BTreeMap::new();
    for source in sources.iter().filter(|source| product.contains(source.file.as_str())) {
        let parts: Vec<_> = source.file.split('/').collect();
        let [folder, "src", module, ..] = parts.as_slice() else { continue };
        let count = source.product_lines();
        if count > 0 {
            *lines.entry(format!("{folder}/")).or_default() += count;
            if *folder == DAEMON {
                let slash = if parts.len() > 3 { "/" } else { "" };
                *lines.entry(format!("{folder}/src/{module}{slash}")).or_default() += count;
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::modules;
    use super::*;

    #[test]
    fn report_has_every_figure() {
        let sources = [
            Source::new("daemon/src/lib.rs", "//! A.\nmod a;\nmod b;\n#[cfg(test)]\nmod c;\n"),
            Source::new("daemon/src/c.rs", "fn f() {}\n"),
            Source::new(
                "daemon/src/a/mod.rs",
                "use crate::b::B;\npub struct A;\n#[cfg(test)]\nmod tests {}\n",
            ),
            Source::new("daemon/src/b.rs", "use crate::a::A;\nuse crate::a::C;\npub struct B(A);\n"),
        ];
        let expected = [
            "Files on the READ path: 0",
            "Largest file: daemon/src/lib.rs, 5 lines",
            "Import cycles: 1",
            "  2 files:",
            "    daemon/src/a/mod.rs",
            "    daemon/src/b.rs",
            "    daemon/src/a/mod.rs:1 -> daemon/src/b.rs (crate::b::B)",
            "    daemon/src/b.rs:1 -> daemon/src/a/mod.rs (crate::a::A)",
            "Type names defined more than once: 0",
            "Lines of product code, without tests, comments and empty lines:",
            "       7 daemon/",
            "       2 daemon/src/a/",
            "       3 daemon/src/b.rs",
            "       2 daemon/src/lib.rs",
        ];
        assert_eq!(lines(&sources, &modules::crates(&sources)), expected);
    }
}
