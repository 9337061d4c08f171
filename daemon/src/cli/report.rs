//! The one place that writes to standard error and standard output outside the log.

use super::stderr;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes to standard error a line that another program waits for, at every log level. A closed
/// standard error is no error. A full pipe blocks, so only a process that does not serve yet calls
/// this.
pub(super) fn line(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Writes one line to standard error that begins with the name of this program.
pub(super) fn problem(text: impl Display) {
    drop(stderr::get().write_all(format!("pinhole: {text}\n").as_bytes()));
}

/// Writes an answer to standard output.
///
/// # Errors
/// The errors of write(2).
pub(super) fn answer(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}
