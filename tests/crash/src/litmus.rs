//! Litmus files: a program for one guarantee, and the facts that it is about, as text.
//!
//!     # Title: what is guaranteed
//!     # Further comment: where the case comes from
//!     fs: ext4 xfs
//!     setup:
//!       write a 0 4096 o
//!     run:
//!       write a 0 4096 x
//!       fsync a
//!     holds:
//!       a bytes 0 4096 x
//!     may differ:
//!       a mode 644
//!
//! `fs` names the file systems on which the facts hold, all by default. `run` and `holds` may
//! repeat.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_tests::command::step::{Failure, Outcome};

use crate::case::{Case, Litmus};
use crate::program::Step;

/// Extension of litmus files.
const EXTENSION: &str = "litmus";

/// Section of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    None,
    Setup,
    Run,
    Holds,
    MayDiffer,
}

/// Reads a litmus file, or all of a folder in the order of their names.
///
/// # Errors
/// Fails with the file and line of the first mistake.
pub(crate) fn read(path: &Path) -> Outcome<Vec<Case>> {
    let mut files: Vec<PathBuf> = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(Failure::io(format!("cannot read {}", path.display())))?;
        files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        files.sort_unstable();
    }
    files.iter().map(|file| read_file(file)).collect()
}

fn read_file(path: &Path) -> Outcome<Case> {
    let text = fs::read_to_string(path).map_err(Failure::io(format!("cannot read {}", path.display())))?;
    let name = path.file_stem().unwrap_or_default().display().to_string();
    parse(&name, &text).map_err(|(line, what)| Failure::new(format!("{}:{line}: {what}", path.display())))
}

/// Parses a file. An error has the number of its line.
fn parse(name: &str, text: &str) -> Result<Case, (usize, String)> {
    let mut litmus = Litmus { name: name.to_owned(), ..Litmus::default() };
    let mut case = Case::default();
    let mut section = Section::None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            if litmus.title.is_empty() {
                comment.trim().clone_into(&mut litmus.title);
            }
        } else if !line.is_empty() {
            match header(line, &mut litmus) {
                Some(next) => section = next,
                None => add(line, section, &mut case, &mut litmus).map_err(|what| (number, what))?,
            }
        }
    }
    if case.program.steps.is_empty() {
        return Err((1, "the file has no program".to_owned()));
    }
    case.litmus = Some(litmus);
    Ok(case)
}

/// Reads the line that begins a section, or names file systems.
fn header(line: &str, litmus: &mut Litmus) -> Option<Section> {
    if let Some(names) = line.strip_prefix("fs:") {
        litmus.file_systems = names.split_whitespace().map(str::to_owned).collect();
        return Some(Section::None);
    }
    Some(match line {
        "setup:" => Section::Setup,
        "run:" => Section::Run,
        "holds:" => Section::Holds,
        "may differ:" => Section::MayDiffer,
        _ => return None,
    })
}

/// Adds a line of a section.
fn add(line: &str, section: Section, case: &mut Case, litmus: &mut Litmus) -> Result<(), String> {
    let program = &mut case.program;
    match section {
        Section::None => return Err(format!("`{line}` is in no section")),
        Section::Setup => program.setup.push(line.parse().map_err(|error| format!("{error}"))?),
        Section::Run => program.steps.push(line.parse().map_err(|error| format!("{error}"))?),
        Section::Holds => {
            let is_point = |step: &Step| step.operation.is_persistence();
            let steps = program.steps.iter().rposition(is_point).map_or(0, |last| last + 1);
            litmus.holds.push((steps, line.parse().map_err(|error| format!("{error}"))?));
        }
        Section::MayDiffer => litmus.may_differ.push(line.parse().map_err(|error| format!("{error}"))?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn facts_follow_the_last_persistence_operation() {
        let text = "# Title\n# More\nfs: ext4\nsetup:\n create a\nrun:\n fsync a\n rename a b\nholds:\n a or b\n\
                    run:\n fsync .\nholds:\n b exists\nmay differ:\n b mode 644\n";
        let case = parse("name", text).unwrap();
        let litmus = case.litmus.unwrap();
        assert_eq!(case.program.to_string(), "create a; run; fsync a; rename a b; fsync .");
        let holds: Vec<_> = litmus.holds.iter().map(|(steps, fact)| (*steps, fact.to_string())).collect();
        assert_eq!(holds, [(1, "a or b".to_owned()), (3, "b exists".to_owned())]);
        assert_eq!((litmus.title.as_str(), litmus.file_systems), ("Title", vec!["ext4".to_owned()]));
    }

    #[test]
    fn mistake_is_reported_with_its_line() {
        for (text, line) in
            [("run:\n jump\n", 2), ("create a\n", 1), ("run:\nsync\nholds:\na is\n", 4), ("", 1)]
        {
            assert_eq!(parse("name", text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn every_litmus_file_has_a_title_and_facts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("litmus");
        let cases = read(&folder).unwrap();
        let mut titles = BTreeSet::new();
        for case in cases {
            let litmus = case.litmus.as_ref().unwrap();
            assert!(!litmus.holds.is_empty(), "{}", litmus.name);
            assert!(litmus.title.len() > 20, "{}", litmus.name);
            assert!(titles.insert(litmus.title.clone()), "{} twice", litmus.title);
        }
        assert!(titles.len() >= 40, "{} files", titles.len());
    }
}
