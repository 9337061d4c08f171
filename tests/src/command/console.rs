//! Output of the commands to their user. No other module of the commands prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

use std::fmt::Display;

/// Prints a line to standard output.
pub fn say(line: impl Display) {
    println!("{line}");
}

/// Prints a line to standard error.
pub fn complain(line: impl Display) {
    eprintln!("{line}");
}
