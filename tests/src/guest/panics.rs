//! The record of tests in which the kernel of a User-mode Linux guest panicked.
//!
//! One boot in some dozens ends with such a panic, without any fault of the daemon. `cargo xtask
//! test` sets [`PANICS_VARIABLE`] to the path of a file. After a suite has failed, it reads that
//! file and runs each failed test again whose guest panicked.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Environment variable with the file in which panics are recorded. If it is unset, panics are not
/// recorded.
pub const PANICS_VARIABLE: &str = "PINHOLE_GUEST_PANICS";

/// Texts that a User-mode Linux kernel prints when it fails by itself.
const MARKS: [&str; 2] = ["Kernel panic - not syncing", "bad: scheduling from the idle thread"];

/// Records that the guest of `test` panicked, if the log of its kernel shows that.
pub(super) fn record(test: &str, kernel_log: &str) {
    let Some(file) = std::env::var_os(PANICS_VARIABLE) else { return };
    let panicked = kernel_log.lines().find(|line| MARKS.iter().any(|mark| line.contains(mark)));
    if let Some(line) = panicked {
        // Ignore the result: a test whose panic is not recorded is not run again, and its failure
        // stands.
        append(Path::new(&file), &format!("{test}\t{line}\n")).unwrap_or_default();
    }
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    // One write, because several processes append.
    File::options().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// Returns the tests recorded in `file`, or an empty list if the file does not exist.
///
/// # Errors
/// Fails if the file cannot be opened or read, or is not UTF-8.
pub fn panicked_tests(file: &Path) -> io::Result<Vec<String>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let tests = text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
    Ok(tests.collect())
}
