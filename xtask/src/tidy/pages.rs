//! Checks the pages of the documentation: anchors of links, length and first lines. Also checks
//! that comments name only pages that exist.

use std::collections::{BTreeMap, BTreeSet};

use super::docs::resolve;
use super::fault::Fault;
use super::prose::{GENERATED, prose};
use super::source::Source;

/// Folder of the pages.
const PAGES: &str = "docs/";

/// Largest number of lines of a page that a person wrote.
const LINES_MAX: usize = 250;

/// Returns the faults of all pages, and of comments that name pages.
pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let documents = || sources.iter().filter(|source| source.is_document());
    let headings: BTreeMap<&str, BTreeSet<String>> =
        documents().map(|page| (page.file.as_str(), anchors(page))).collect();
    for page in documents() {
        for (number, line) in prose(page) {
            for (target, anchor) in anchored(line) {
                let place = if target.is_empty() { page.file.clone() } else { resolve(&page.file, target) };
                // The module `docs` reports a missing file.
                if headings.get(place.as_str()).is_some_and(|all| !all.contains(anchor)) {
                    let what = format!("dead anchor #{anchor}: {place} has no such heading");
                    faults.push(Fault::new(&page.file, number, what));
                }
            }
        }
        let generated = GENERATED.iter().any(|folder| page.file.starts_with(folder));
        if page.file.starts_with(PAGES) && !generated {
            shape(page, &mut faults);
        }
    }
    for source in sources.iter().filter(|source| source.is_rust()) {
        comments(source, &headings, &mut faults);
    }
    faults
}

/// Checks that a page is short, and that a paragraph below its title says what the page answers.
fn shape(page: &Source, faults: &mut Vec<Fault>) {
    let lines = page.text.lines().count();
    if lines > LINES_MAX {
        let what = format!("{lines} lines, limit {LINES_MAX} for a page: split it by question");
        faults.push(Fault::new(&page.file, 1, what));
    }
    let mut top = page.text.lines();
    let titled = top.next().is_some_and(|line| line.starts_with("# ")) && top.next() == Some("");
    let answers = top.next().is_some_and(|line| line.starts_with(|c: char| c.is_alphanumeric()));
    if !(titled && answers) {
        let what = "begin with `# Title`, an empty line, and a paragraph that says what the page answers";
        faults.push(Fault::new(&page.file, 1, what));
    }
}

/// Checks that comments name only pages that exist.
fn comments(source: &Source, pages: &BTreeMap<&str, BTreeSet<String>>, faults: &mut Vec<Fault>) {
    for (number, line) in prose(source) {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && !"._-/".contains(c));
        for page in words.filter(|word| word.starts_with(PAGES) && word.rsplit('.').next() == Some("md")) {
            if !pages.contains_key(page) {
                let what = format!("{page} does not exist: use the current file name");
                faults.push(Fault::new(&source.file, number, what));
            }
        }
    }
}

/// Returns the target and the anchor of each link within this project that has an anchor.
fn anchored(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).filter_map(|target| target.split_once('#'))
}

/// Returns the anchors of all headings of a page. If a heading repeats an earlier one, `-1`
/// follows its anchor, then `-2`, and so on.
fn anchors(page: &Source) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (_, line) in prose(page) {
        let Some(heading) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else { continue };
        let Some(text) = heading.strip_prefix(' ') else { continue };
        let anchor = anchor(text);
        let again = (1..).map(|count: usize| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|name| !all.contains(name));
        all.extend(free);
    }
    all
}

/// Returns the anchor that GitHub gives a heading: letters in lower case, `-` for a space, and no
/// other punctuation than `-` and `_`.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::faults_of;
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        faults_of(check, files)
    }

    #[test]
    fn anchor_without_a_heading_is_a_fault() {
        let page = "# A\n\nSee [one](#o_trunc-of-a-program), [two](b.md#b), [three](b.md#c), [four](#a-1).\n\
                    \n## O_TRUNC of a `program`\n\n```\n# Not a heading\n```\n\n[no](#not-a-heading)\n\n# A\n";
        let all = faults(&[("docs/a.md", page), ("docs/b.md", "# B\n\nText.\n")]);
        let fault = |line: u8, anchor: &str, file: &str| {
            format!("docs/a.md:{line}: dead anchor #{anchor}: {file} has no such heading")
        };
        assert_eq!(all, [fault(3, "c", "docs/b.md"), fault(11, "not-a-heading", "docs/a.md")]);
    }

    #[test]
    fn long_page_is_a_fault_unless_a_command_writes_it() {
        let long = format!("# A\n\nText.\n{}", "\n".repeat(LINES_MAX));
        let all = faults(&[("docs/a.md", &long), ("docs/measured/a.md", &long), ("README.md", &long)]);
        assert_eq!(all, ["docs/a.md:1: 253 lines, limit 250 for a page: split it by question"]);
    }

    #[test]
    fn page_without_a_paragraph_below_its_title_is_a_fault() {
        for text in ["Text.\n", "# A\n", "# A\n\n## B\n", "# A\n\n| table |\n", "# A\n\n    code\n"] {
            assert_eq!(faults(&[("docs/a.md", text)]).len(), 1, "{text:?}");
        }
        assert_eq!(faults(&[("docs/a.md", "# A\n\nWhat is A?\n")]), Vec::<String>::new());
    }

    #[test]
    fn comment_names_only_pages_that_exist() {
        let code = "//! See docs/a.md and (docs/b.md).\nconst PAGE: &str = \"docs/c.md\";\n";
        let all = faults(&[("docs/a.md", "# A\n\nText.\n"), ("daemon/src/a.rs", code)]);
        assert_eq!(all, ["daemon/src/a.rs:1: docs/b.md does not exist: use the current file name"]);
    }
}
