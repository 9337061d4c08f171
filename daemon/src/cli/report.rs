//! The one place that writes to standard error and standard output outside the log.

use std::fmt::Display;
use std::io::{self, Write};

/// One line on standard error, whatever the log level. A closed standard error is nobody's problem.
pub(super) fn line(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// One line on standard error that says which program speaks.
pub(super) fn problem(text: impl Display) {
    line(format_args!("pinhole: {text}"));
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
