//! The record of tests in which the kernel of a User-mode Linux guest panicked.
//!
//! That kernel dies by itself once in some dozens of boots. `cargo xtask test` names a file in
//! [`PANICS_VARIABLE`], reads it after a suite has failed, and runs a test that failed with such a
//! panic once more.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Names the file in which panics are recorded. Unset, none is.
pub const PANICS_VARIABLE: &str = "PINHOLE_GUEST_PANICS";

/// What a User-mode Linux kernel prints when it has failed by itself.
const MARKS: [&str; 2] = ["Kernel panic - not syncing", "bad: scheduling from the idle thread"];

/// Records that the guest of `test` panicked, if its kernel's log says so.
pub(super) fn record(test: &str, kernel_log: &str) {
    let Some(file) = std::env::var_os(PANICS_VARIABLE) else { return };
    let panicked = kernel_log.lines().find(|line| MARKS.iter().any(|mark| line.contains(mark)));
    if let Some(line) = panicked {
        // Where it cannot be recorded, the test is not run again: its failure stands.
        append(Path::new(&file), &format!("{test}\t{line}\n")).unwrap_or_default();
    }
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    // In one write: several processes append.
    File::options().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// The tests recorded in `file`. A file that does not exist has none.
///
/// # Errors
/// What `read(2)` returns.
pub fn panicked_tests(file: &Path) -> io::Result<Vec<String>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let tests = text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
    Ok(tests.collect())
}
