//! Writes docs/measured/coherence.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pinhole_tests::sharing::{Question, Subject};

use crate::conditions::Conditions;
use crate::step::{Failure, Outcome};
use crate::table::Table;

/// The counts of a "yes", or the reason for a "no".
pub(super) type Answer = Result<String, String>;

/// A question, and the answer of each subject.
pub(super) struct QuestionRow {
    pub(super) question: &'static Question,
    pub(super) answers: Vec<Answer>,
}

/// Length of the longest reason on the page, in characters. The terminal shows whole reasons.
const REASON_MAX: usize = 160;

/// Titles of the columns.
const HEAD: [&str; 6] =
    ["question", "pinhole strict", "pinhole never", "pinhole auto", "virtiofsd never", "virtiofsd auto"];

/// Introduction of the page.
const HOW: &str =
    "Each question is tried with two User-mode Linux guests and one process of the host, at the same time
or in turns; each of them is a *client* below. Each guest has its own daemon, and all daemons share
one directory.
[Test harness](../internals/harness.md#several-guests) has the details.

- The questions are those of the test suite `guest::sharing`. pinhole must pass it where its cache
  mode promises the answer ([coherence](../use/coherence.md)). `never` is `strict` without shared
  mappings.
- virtiofsd runs as packaged, with `--cache=never` and with `--cache=auto`. In `never`, its option
  `--allow-mmap` would permit shared mappings.
- \"(yes)\" was the result in this run, but that mode of pinhole does not promise it.
- For a \"no\", the list below says what happened in this run.
";

/// Writes the page below `root`.
///
/// # Errors
/// Fails if the page cannot be written.
pub(super) fn write(rows: &[QuestionRow], conditions: &Conditions, root: &Path) -> Outcome {
    let folder = root.join("docs/measured");
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot create {}", folder.display())))?;
    let path = folder.join("coherence.md");
    let failed = Failure::io(format!("cannot write {}", path.display()));
    let text =
        text(rows, conditions).map_err(|error| Failure::new(format!("cannot create the page: {error}")))?;
    fs::write(&path, text).map_err(failed)
}

/// Returns a table with each question in words, and yes or no for each subject.
pub(super) fn table(rows: &[QuestionRow]) -> Table {
    let mut table = Table::new(&HEAD);
    for row in rows {
        let words = Subject::ALL.iter().zip(&row.answers).map(|(subject, answer)| {
            let luck = Subject::OWN.contains(subject) && !row.question.promised.by(*subject);
            match answer {
                Ok(_) if luck => "(yes)",
                Ok(_) => "yes",
                Err(_) => "**no**",
            }
        });
        table.row(std::iter::once(row.question.asks).chain(words).map(str::to_owned).collect());
    }
    table
}

/// Returns the text of the page.
fn text(rows: &[QuestionRow], conditions: &Conditions) -> Result<String, std::fmt::Error> {
    let mut text = format!(
        "# Several guests on one directory, {}\n\nDoes a guest see what other guests and the host do with \
         shared files? This page compares\nPinhole and virtiofsd. `cargo xtask coherence --write` writes it.\n\n\
         - host: {}\n- programs: {}\n\n{HOW}\n## Answers\n\n{}\n\n## Results by question\n",
        conditions.date,
        conditions.host,
        conditions.versions,
        table(rows).markdown()
    );
    for row in rows {
        writeln!(text, "\n`{}`: {}\n", row.question.name, row.question.asks)?;
        for (subject, answer) in Subject::ALL.iter().zip(&row.answers) {
            match answer {
                Ok(counted) => writeln!(text, "- {subject}: {}", shortened(counted))?,
                Err(why) => writeln!(text, "- {subject}: **no**, {}", shortened(why))?,
            }
        }
    }
    Ok(text)
}

/// Joins the lines of `words` to one line of limited length, for an item of a list.
fn shortened(words: &str) -> String {
    let line: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = line.join("; ");
    if line.chars().count() <= REASON_MAX {
        return line;
    }
    line.chars().take(REASON_MAX).chain(" ...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_one_line_that_ends() {
        assert_eq!(shortened("one\n\n  two"), "one; two");
        assert_eq!(shortened(&"x".repeat(200)).len(), REASON_MAX + 4);
    }

    #[test]
    fn each_subject_has_its_column() {
        let names: Vec<String> = Subject::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, HEAD[1..]);
    }
}
