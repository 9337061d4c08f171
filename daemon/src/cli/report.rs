//! The one place that writes to standard error and standard output outside the log.

use super::stderr;
use std::fmt::Display;
use std::io::{self, Write};

/// One line on standard error that is waited for at the other end, whatever the log level. A closed standard error is
/// nobody's problem; a full pipe is waited for, so this is only for a process that serves nobody yet.
pub(super) fn line(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// One line on standard error that says which program speaks.
pub(super) fn problem(text: impl Display) {
    drop(stderr::get().write_all(format!("pinhole: {text}\n").as_bytes()));
}

/// What was asked for on standard output.
///
/// # Errors
/// As write(2).
pub(super) fn answer(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}
