//! The code path of a READ, as docs/internals/architecture.md describes it.

use std::collections::BTreeSet;

use super::docs::backticked;
use super::source::Source;

/// Page with the description.
const PAGE: &str = "docs/internals/architecture.md";

/// Heading of the description.
const HEADING: &str = "## Path of a READ";

/// Folder whose files count.
const FOLDER: &str = "daemon/src/";

/// Returns the files of the daemon that the description names.
pub(super) fn files(sources: &[Source]) -> BTreeSet<&str> {
    let page = sources.iter().find(|source| source.file == PAGE);
    let text = page.map_or("", |page| page.text.as_str());
    let section = text.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    section.flat_map(backticked).filter(|name| name.starts_with(FOLDER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_section_count_once() {
        let text = "`daemon/src/a.rs`\n## Path of a READ\n\n1. `daemon/src/b.rs`, `A::b`\n\
                    2. `daemon/src/b.rs`, `daemon/src/c.rs`, `protocol/src/d.rs`\n## Next\n`daemon/src/e.rs`\n";
        let sources = [Source::new(PAGE, text)];
        assert_eq!(files(&sources), BTreeSet::from(["daemon/src/b.rs", "daemon/src/c.rs"]));
    }
}
