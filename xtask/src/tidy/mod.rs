//! `cargo xtask tidy`: checks rules of the project that no lint can check. Each fault is one line:
//! the file and line, the fault, and how to fix it.
//!
//! | module | subject |
//! |---|---|
//! | `source`, `scope`, `tokens` | parse files |
//! | `arrows` | which crate and module may depend on which |
//! | `shape` | lengths, file headers and forbidden words |
//! | `docs` | files and items that documents name |
//! | `pages` | anchors of links, length and first lines of pages |
//! | `prose`, `idioms` | width and words of comments and documents, the index of the documents |
//! | `items` | items that exist in the code |
//! | `modules` | which file uses which other file |
//! | `cycles`, `names` | import cycles, type names defined more than once |
//! | `calls`, `read_path` | which function calls which, the files that a READ passes |
//! | `fault` | a violation of a rule |
//! | `report` | figures about the shape of the code |

mod arrows;
mod calls;
mod cycles;
mod docs;
mod fault;
mod idioms;
mod items;
mod modules;
mod names;
mod pages;
mod prose;
mod read_path;
mod report;
mod scope;
mod shape;
pub(crate) mod source;
mod tokens;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::console::say;
use crate::step::{Failure, Outcome};
use crate::{suites, workspace};
use source::Source;

/// Options of `cargo xtask tidy`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TidyArguments {
    /// Print figures about the shape of the code before the faults.
    #[arg(long)]
    report: bool,
}

/// Runs all checks of the project and prints the faults.
pub(crate) fn main(arguments: &TidyArguments) -> Outcome {
    let sources = project_files(&workspace::root())?;
    let crates = modules::crates(&sources);
    if arguments.report {
        report::print(&sources, &crates);
    }
    let mut faults = Vec::new();
    faults.extend(arrows::check(&sources));
    faults.extend(arrows::check_files(&crates));
    faults.extend(cycles::check(&crates));
    faults.extend(names::check(&crates));
    faults.extend(shape::check(&sources));
    faults.extend(docs::check(&sources));
    faults.extend(pages::check(&sources));
    faults.extend(prose::check(&sources));
    faults.extend(read_path::check(&sources, &crates));
    faults.extend(docs::check_suite_rows(&sources, &suites::all()?));
    faults.sort();
    faults.dedup();
    for fault in &faults {
        say(fault);
    }
    if faults.is_empty() {
        say(format!("tidy: {} files, no faults", sources.len()));
        return Ok(());
    }
    Err(Failure::new(format!("tidy: {} faults", faults.len())))
}

/// Returns the text files of the project: those in git, and new ones that git does not ignore.
fn project_files(root: &Path) -> Outcome<Vec<Source>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(Failure::io("cannot start git"))?;
    if !listed.status.success() {
        return Err(Failure::new(format!(
            "`git ls-files` failed: {}",
            String::from_utf8_lossy(&listed.stderr)
        )));
    }
    let names = listed.stdout.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let mut sources = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        // A deleted file is listed until the deletion is committed. Files that are not text are
        // skipped.
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            sources.push(Source::new(name, &text));
        }
    }
    Ok(sources)
}
