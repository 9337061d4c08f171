//! Checks prose: the width and the words of comments and documents, the names of tests, and the
//! index of the documents.

use std::collections::BTreeSet;

use super::docs::{links, resolve};
use super::fault::Fault;
use super::idioms;
use super::source::Source;

/// Largest number of columns of a line of prose.
const COLUMNS_MAX: usize = 100;

/// Largest number of words in the name of a test.
const TEST_WORDS_MAX: usize = 10;

/// Pages that a command writes.
pub(super) const GENERATED: [&str; 1] = ["docs/measured/"];

/// Words for persons and metaphors for technical parts, each with its remedy. A word in quotes or
/// backticks is permitted.
const WORDS: [(&str, &str); 13] = [
    ("anybody", PERSON),
    ("crew", "the threads of one kind are queue threads or the offload pool"),
    ("foreman", "name the thread"),
    ("herself", PERSON),
    ("himself", PERSON),
    ("learnt", "name the fact"),
    ("nobody", PERSON),
    ("road", "a path of code is a path"),
    ("somebody", PERSON),
    ("walls", "the layers of isolation are the sandbox"),
    ("who", PERSON),
    ("whoever", PERSON),
    ("whom", PERSON),
];

/// Remedy for a word for a person.
const PERSON: &str = "name the thread, the request, the guest or the host";

/// Folder of the documents.
const DOCS: &str = "docs/";

/// Index of the documents.
const INDEX: &str = "docs/README.md";

/// Returns the faults in the prose of all files.
pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        if GENERATED.iter().any(|folder| source.file.starts_with(folder)) {
            continue;
        }
        let lines = prose(source);
        for &(number, line) in &lines {
            width(source, number, line, &mut faults);
            words(source, number, line, &mut faults);
        }
        idioms::check(source, &lines, &mut faults);
        test_names(source, &mut faults);
    }
    index(sources, &mut faults);
    faults
}

/// Returns the lines of prose with their numbers: the comments of a Rust file, or a document
/// without its code blocks.
pub(super) fn prose(source: &Source) -> Vec<(usize, &str)> {
    if source.is_rust() {
        return source.lines().filter(|(_, line)| line.trim_start().starts_with("//")).collect();
    }
    if !source.is_document() {
        return Vec::new();
    }
    let mut in_block = false;
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block && !line.starts_with("    ") {
            found.push((number, line));
        }
    }
    found
}

/// Checks the width of a line of prose. Rows of tables are exempt, and so are lines without a
/// space: an address or a path cannot be broken.
fn width(source: &Source, number: usize, line: &str, faults: &mut Vec<Fault>) {
    let columns = line.chars().count();
    let text = line.trim_start().trim_start_matches(['/', '!', '-', '#', '>', ' ']);
    if columns > COLUMNS_MAX && !line.starts_with('|') && text.contains(' ') {
        let what = format!("{columns} columns, limit {COLUMNS_MAX} for prose: wrap the text");
        faults.push(Fault::new(&source.file, number, what));
    }
}

/// Adds a fault for each word of [`WORDS`] in a line.
fn words(source: &Source, number: usize, line: &str, faults: &mut Vec<Fault>) {
    // Every second piece is in quotes.
    let outside: String = line.split(['`', '"']).step_by(2).collect::<Vec<_>>().join(" ");
    for word in outside.split(|c: char| !c.is_alphabetic()) {
        let word = word.to_lowercase();
        if let Some((_, remedy)) = WORDS.iter().find(|(forbidden, _)| *forbidden == word) {
            faults.push(Fault::new(&source.file, number, format!("\"{word}\" in prose: {remedy}")));
        }
    }
}

/// Checks that the name of each test is short enough to be read at a glance.
fn test_names(source: &Source, faults: &mut Vec<Fault>) {
    if !source.is_rust() {
        return;
    }
    let mut is_test = false;
    for (number, line) in source.lines() {
        let line = line.trim_start();
        is_test |= line == "#[test]";
        let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && !line.starts_with("//")) else {
            continue;
        };
        is_test = false;
        let name = rest.split('(').next().unwrap_or(rest);
        let count = name.split('_').count();
        if count > TEST_WORDS_MAX {
            let what = format!("{name} has {count} words, limit {TEST_WORDS_MAX} for a test: shorten it");
            faults.push(Fault::new(&source.file, number, what));
        }
    }
}

/// Checks that each document is linked from docs/README.md or from the README.md of a folder below
/// docs/.
fn index(sources: &[Source], faults: &mut Vec<Fault>) {
    let pages = || sources.iter().filter(|source| source.is_document() && source.file.starts_with(DOCS));
    if !pages().any(|page| page.file == INDEX) {
        return;
    }
    let indexes = pages().filter(|page| page.file.ends_with("README.md"));
    let linked: BTreeSet<String> = indexes
        .flat_map(|page| page.text.lines().flat_map(links).map(|target| resolve(&page.file, target)))
        .collect();
    for page in pages().filter(|page| page.file != INDEX && !linked.contains(&page.file)) {
        let what = format!("no index links this page: add it to {INDEX}");
        faults.push(Fault::new(&page.file, 1, what));
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::faults_of;
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        faults_of(check, files)
    }

    #[test]
    fn comment_and_paragraph_have_at_most_100_columns() {
        let wide = "a ".repeat(50);
        let comment = format!("// {}\n// {wide}\nfn f() {{ /* {wide} */ }}\n", "b".repeat(120));
        let all = faults(&[("policy/src/a.rs", &comment)]);
        assert_eq!(all, ["policy/src/a.rs:2: 103 columns, limit 100 for prose: wrap the text"]);
        let page = format!("- {wide}\n| {wide} |\n\n    {wide}\n```\n{wide}\n```\n");
        assert_eq!(faults(&[("README.md", &page)]).len(), 1);
    }

    #[test]
    fn unquoted_word_for_a_person_is_a_fault() {
        let text = "// Nobody waits.\n// Not \"nobody\", not `nobody`.\nlet nobody = 1;\n";
        let all = faults(&[("policy/src/a.rs", text)]);
        assert_eq!(all, [format!("policy/src/a.rs:1: \"nobody\" in prose: {PERSON}")]);
    }

    #[test]
    fn test_name_has_at_most_ten_words() {
        let test_of =
            |name: &str| format!("#[test]\n#[should_panic]\nfn {name}() {{\n    fn {name}_x() {{}}\n}}\n");
        let (short, long) = ("a_".repeat(9) + "b", "a_".repeat(10) + "b");
        let source = format!("{}{}fn {long}_c() {{}}\n", test_of(&short), test_of(&long));
        let fault = format!("policy/src/a.rs:8: {long} has 11 words, limit 10 for a test: shorten it");
        assert_eq!(faults(&[("policy/src/a.rs", &source)]), [fault]);
    }

    #[test]
    fn generated_pages_are_exempt() {
        let nobody = "nobody\n";
        let pages = [("docs/measured/surface.md", nobody), ("docs/use/dax.md", nobody)];
        assert_eq!(faults(&pages), [format!("docs/use/dax.md:1: \"nobody\" in prose: {PERSON}"),]);
    }

    #[test]
    fn page_that_no_index_links_is_a_fault() {
        let all = faults(&[
            (INDEX, "[a](use/a.md) [decisions](decisions/README.md)"),
            ("docs/use/a.md", ""),
            ("docs/use/b.md", "[a](a.md)"),
            ("docs/decisions/README.md", "[one](0001.md)"),
            ("docs/decisions/0001.md", ""),
        ]);
        assert_eq!(all, ["docs/use/b.md:1: no index links this page: add it to docs/README.md"]);
    }
}
