//! What these commands tell their user. The one place in this crate that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

use std::fmt::Display;

/// A line on standard output.
pub(crate) fn say(line: impl Display) {
    println!("{line}");
}

/// A line on standard error.
pub(crate) fn complain(line: impl Display) {
    eprintln!("{line}");
}
