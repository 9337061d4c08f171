//! A violation of a rule of tidy.

use std::fmt;

/// Violation of a rule, at a line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    file: String,
    line: usize,
    /// What is wrong, and how to fix it.
    what: String,
}

impl Fault {
    /// Returns a fault of `file`, a path from the root of the workspace. Lines count from 1.
    pub(super) fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file, self.line, self.what)
    }
}
