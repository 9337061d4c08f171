//! Writes docs/measured/prepared.md.

use std::fs;
use std::path::Path;

use super::images::MKFS_OPTIONS;
use crate::conditions::Conditions;
use crate::step::{Failure, Outcome};
use crate::table::Table;

/// Writes the page below `root`.
///
/// # Errors
/// Fails if the page cannot be written.
pub(super) fn write(results: &(Table, String), conditions: &Conditions, root: &Path) -> Outcome {
    let folder = root.join("docs/measured");
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot create {}", folder.display())))?;
    let path = folder.join("prepared.md");
    fs::write(&path, text(results, conditions))
        .map_err(Failure::io(format!("cannot write {}", path.display())))
}

/// Returns the text of the page.
fn text((table, met): &(Table, String), conditions: &Conditions) -> String {
    format!(
        "# Prepared images, {}\n\n\
         How large is a prepared image, how long does it take to make one, and how fast is it served? The\n\
         aims are those of the project.\n\n    \
         cargo xtask bench --prepared --write     # measures, and writes this page\n\n\
         - host: {}\n- programs: {}\n- {met}\n\n{}\n\n{}",
        conditions.date,
        conditions.host,
        conditions.versions,
        table.markdown(),
        HOW.replace("{MKFS_OPTIONS}", MKFS_OPTIONS)
    )
}

/// Explanation of the rows.
const HOW: &str =
    "\"prepared\" is pinhole with the image, \"pinhole\" and \"virtiofsd\" serve the directory that the image
was made of. A ratio compares two figures of the same turn; \"median\", \"smallest\" and \"largest\" are
those of all turns. `mkfs.erofs` runs with `{MKFS_OPTIONS}`. It does not wait
for the disk, and `pinhole prepare` does, so the page has the time with an fsync of its image too.
[Benchmarks](../internals/benchmarks.md#prepared-rows) explains each row.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_the_command_and_the_table() {
        let mut table = Table::new(&["row", "median"]);
        table.row(vec!["prepare: time".to_owned(), "1.5".to_owned()]);
        let word = String::from("x");
        let conditions = Conditions { date: word.clone(), host: word.clone(), versions: word };
        let text = text(&(table, "aims: 1 of 2 met".to_owned()), &conditions);
        assert!(text.contains("cargo xtask bench --prepared --write"));
        assert!(text.contains(MKFS_OPTIONS) && !text.contains('{'), "{text}");
        assert!(text.contains("- aims: 1 of 2 met\n\n| row | median |\n"), "{text}");
    }
}
