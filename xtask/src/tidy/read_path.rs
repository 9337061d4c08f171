//! The code path of a READ, as docs/internals/architecture.md describes it.
//!
//! The description names files and functions. Each file of the daemon that it names is a file of
//! the path. These rules ensure that the description leaves out no file:
//!
//! - The file of each named function is named too.
//! - Each named function except the first is called by another named function. A function that
//!   stands between two named functions is therefore named.
//! - A named function calls no function of the daemon in another file, except in files of the path
//!   and in those of `OFF_PATH`. A call counts only if one file alone defines a function of that
//!   name, and if the imports lead to that file.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Call, Function};
use super::cycles;
use super::docs::backticked;
use super::fault::Fault;
use super::items;
use super::modules::Crate;
use super::source::Source;

/// Page with the description.
const PAGE: &str = "docs/internals/architecture.md";

/// Heading of the description.
const HEADING: &str = "## Path of a READ";

/// Folder of the daemon. Only its files count.
const FOLDER: &str = "daemon/src/";

/// Largest number of lines of the description.
const LINES_MAX: usize = 25;

/// Largest number of files of the daemon on the path.
const FILES_MAX: usize = 20;

/// Files that functions of the path call, and why they are not on the path of a READ.
const OFF_PATH: [(&str, &str); 4] = [
    ("daemon/src/passthrough/resolve.rs", "the errno of a failed call"),
    ("daemon/src/session/effort.rs", "the time that a request takes in the offload pool"),
    ("daemon/src/session/waiters.rs", "INTERRUPT"),
    ("daemon/src/transport/vhost_user/leases.rs", "requests that meet a lease of a host process"),
];

/// Methods that types of the standard library have too. Their names do not tell which function is
/// called.
const COMMON_METHODS: [&str; 8] = ["get", "insert", "len", "map", "next", "push", "remove", "take"];

/// Returns the files of the daemon that the description names.
pub(super) fn files(sources: &[Source]) -> BTreeSet<&str> {
    let named = section(sources).into_iter().flat_map(|(_, line)| backticked(line));
    named.filter(|name| name.starts_with(FOLDER)).collect()
}

/// Returns the lines of the description with their numbers in the page.
fn section(sources: &[Source]) -> Vec<(usize, &str)> {
    let Some(page) = sources.iter().find(|source| source.file == PAGE) else { return Vec::new() };
    let section = page.lines().skip_while(|(_, line)| *line != HEADING).skip(1);
    section.take_while(|(_, line)| !line.starts_with("## ")).collect()
}

/// Function that the description names.
struct Named<'s> {
    /// Line of the page that names it.
    line: usize,
    file: &'s str,
    function: &'s Function,
}

/// Checks that the description leaves out no file.
pub(super) fn check(sources: &[Source], crates: &[Crate<'_>]) -> Vec<Fault> {
    let files = files(sources);
    let product: Vec<(&str, &Function)> = product(sources).collect();
    let named = named(sources, &product);
    let mut faults = Vec::new();
    let lines = section(sources);
    if lines.len() > LINES_MAX || files.len() > FILES_MAX {
        let what = format!(
            "a READ is described in {} lines and {} files, limits {LINES_MAX} and {FILES_MAX}",
            lines.len(),
            files.len()
        );
        faults.push(Fault::new(PAGE, lines.first().map_or(1, |(number, _)| *number), what));
    }
    for (position, one) in named.iter().enumerate() {
        let path = one.function.path();
        if one.file.starts_with(FOLDER) && !files.contains(one.file) {
            let what = format!("{path} is in {}: name this file too", one.file);
            faults.push(Fault::new(PAGE, one.line, what));
        }
        let is_called = || {
            let others = named.iter().filter(|other| !std::ptr::eq(other.function, one.function));
            others.flat_map(|other| &other.function.calls).any(|call| may_call(call, one.function))
        };
        if position > 0 && !is_called() {
            let what = format!("no function that is named here calls {path}: name the functions between");
            faults.push(Fault::new(PAGE, one.line, what));
        }
    }
    check_calls(&named, &files, &product, crates, &mut faults);
    faults
}

/// Returns the functions of product code with their files.
fn product(sources: &[Source]) -> impl Iterator<Item = (&str, &Function)> {
    let product = sources.iter().filter(|source| !source.is_test_code());
    product.flat_map(|source| {
        let functions = source.rust().into_iter().flat_map(|rust| &rust.functions);
        functions.map(|function| (source.file.as_str(), function))
    })
}

/// Returns the functions of types that the description names, in the order of the description.
fn named<'s>(sources: &'s [Source], product: &[(&'s str, &'s Function)]) -> Vec<Named<'s>> {
    let mut found: Vec<Named<'_>> = Vec::new();
    for (line, text) in section(sources) {
        for item in backticked(text).filter_map(items::named) {
            for (file, function) in product.iter().filter(|(_, function)| function.path() == item) {
                if !found.iter().any(|known| std::ptr::eq(known.function, *function)) {
                    found.push(Named { line, file, function });
                }
            }
        }
    }
    found
}

/// Returns whether the names permit that a call reaches a function.
fn may_call(call: &Call, function: &Function) -> bool {
    let owner = call.is_method || call.owner == function.owner;
    call.name == function.name && owner
}

/// Adds a fault for each call of a named function into a file that the description does not name.
fn check_calls(
    named: &[Named<'_>],
    files: &BTreeSet<&str>,
    product: &[(&str, &Function)],
    crates: &[Crate<'_>],
    faults: &mut Vec<Fault>,
) {
    let uses: Vec<_> = crates.iter().flat_map(Crate::uses).collect();
    let imported = cycles::by_file(&uses);
    let mut by_name: BTreeMap<&str, Vec<(&str, &Function)>> = BTreeMap::new();
    for (file, function) in product {
        by_name.entry(&function.name).or_default().push((file, function));
    }
    for one in named.iter().filter(|one| one.file.starts_with(FOLDER)) {
        let reachable = cycles::reachable(one.file, &imported);
        for call in one.function.calls.iter().filter(|call| !COMMON_METHODS.contains(&call.name.as_str())) {
            let candidates = by_name.get(call.name.as_str()).into_iter().flatten();
            let fits = candidates.filter(|(_, function)| {
                may_call(call, function) && (!call.is_method || function.owner.is_some())
            });
            let reached =
                fits.map(|(file, _)| *file).filter(|file| *file == one.file || reachable.contains(file));
            let reached: BTreeSet<&str> = reached.collect();
            let [file] = reached.into_iter().collect::<Vec<_>>()[..] else { continue };
            let known = file == one.file
                || files.contains(file)
                || !file.starts_with(FOLDER)
                || OFF_PATH.iter().any(|(listed, _)| *listed == file);
            if !known {
                let what = format!(
                    "{} calls {} in {file}, which the description of a READ in {PAGE} does not name",
                    one.function.path(),
                    call.name
                );
                faults.push(Fault::new(one.file, call.line, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::modules;
    use super::*;

    #[test]
    fn files_of_the_section_count_once() {
        let text = "`daemon/src/a.rs`\n## Path of a READ\n\n1. `daemon/src/b.rs`, `A::b`\n\
                    2. `daemon/src/b.rs`, `daemon/src/c.rs`, `protocol/src/d.rs`\n## Next\n`daemon/src/e.rs`\n";
        let sources = [Source::new(PAGE, text)];
        assert_eq!(files(&sources), BTreeSet::from(["daemon/src/b.rs", "daemon/src/c.rs"]));
    }

    fn faults(text: &str) -> Vec<String> {
        let page = format!("{HEADING}\n{text}\n");
        let sources = [
            Source::new(PAGE, &page),
            Source::new("daemon/src/lib.rs", "mod a; mod b; mod c; mod d;"),
            Source::new("daemon/src/a.rs", "use crate::b::B; impl A { fn run(&self) { B::serve(); } }"),
            Source::new(
                "daemon/src/b.rs",
                "use crate::{c::C, d}; struct B; impl B { fn serve() { C.read(); d::count(); } }",
            ),
            Source::new("daemon/src/c.rs", "pub struct C; impl C { fn read(&self) { x.len() } }"),
            Source::new("daemon/src/d.rs", "pub fn count() {}"),
        ];
        check(&sources, &modules::crates(&sources)).into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn description_with_every_file_has_no_faults() {
        let text = "`A::run` (`daemon/src/a.rs`) `B::serve` (`daemon/src/b.rs`) `daemon/src/d.rs`\n\
                    `C::read` (`daemon/src/c.rs`)";
        assert_eq!(faults(text), [""; 0]);
    }

    #[test]
    fn long_description_is_a_fault() {
        let text = format!("`A::run` (`daemon/src/a.rs`) `daemon/src/b.rs`{}", "\n".repeat(26));
        let what = "a READ is described in 27 lines and 2 files, limits 25 and 20";
        assert_eq!(faults(&text), [format!("{PAGE}:2: {what}")]);
    }

    #[test]
    fn function_between_must_be_named() {
        let text = "`A::run` (`daemon/src/a.rs`)\n`C::read` (`daemon/src/c.rs`)\n`daemon/src/b.rs`";
        let what = "no function that is named here calls C::read: name the functions between";
        assert_eq!(faults(text), [format!("{PAGE}:3: {what}")]);
    }

    #[test]
    fn files_of_named_functions_and_calls_must_be_named() {
        let text = "`A::run` (`daemon/src/a.rs`)\n`B::serve` `daemon/src/c.rs`";
        let named = format!("{PAGE}:3: B::serve is in daemon/src/b.rs: name this file too");
        let missing = format!("which the description of a READ in {PAGE} does not name");
        let calls = [
            "daemon/src/a.rs:1: A::run calls serve in daemon/src/b.rs",
            "daemon/src/b.rs:1: B::serve calls count in daemon/src/d.rs",
        ];
        let [first, second] = calls.map(|call| format!("{call}, {missing}"));
        assert_eq!(faults(text), [named, first, second]);
    }
}
