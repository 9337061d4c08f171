//! Runs a test suite, and repeats tests that failed because the kernel of their guest panicked.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use pinhole_tests::guest::{PANICS_VARIABLE, panicked_tests};

use crate::console::say;
use crate::step::{Failure, Outcome, cannot_start, ended};
use crate::workspace;

/// File in which the test harness records tests whose guest kernel panicked.
#[derive(Debug)]
pub(crate) struct Panics(PathBuf);

impl Panics {
    /// Creates the file in the build folder, or empties it.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn new() -> Outcome<Self> {
        let path = workspace::target().join("guest-kernel-panics");
        std::fs::write(&path, "").map_err(Failure::io(format!("cannot write {}", path.display())))?;
        Ok(Self(path))
    }

    fn tests(&self) -> Outcome<Vec<String>> {
        panicked_tests(&self.0).map_err(Failure::io(format!("cannot read {}", self.0.display())))
    }

    /// Runs a suite by `cargo` with `words`. If a User-mode Linux kernel panicked in each test that
    /// failed, those tests run once more. Returns the number of repeated tests, and the outcome.
    ///
    /// The outcome is an error if a test failed for another reason, or failed again.
    pub(crate) fn run_suite(&self, words: &[String]) -> (usize, Outcome) {
        let known = self.tests().map(|tests| tests.len());
        let (failed, outcome) = match self.run(words) {
            Ok(ran) => ran,
            Err(failure) => return (0, Err(failure)),
        };
        if outcome.is_ok() {
            return (0, outcome);
        }
        let panicked = known.and_then(|known| Ok(self.tests()?.split_off(known)));
        let again = match panicked {
            Ok(panicked) if to_run_again(&failed, &panicked) => failed,
            Ok(_) => return (0, outcome),
            Err(failure) => return (0, Err(failure)),
        };
        say(format!("the guest kernel panicked in {}; running this again", again.join(", ")));
        let words = [words, &again, &["--exact".to_owned()]].concat();
        (again.len(), self.run(&words).and_then(|(_, outcome)| outcome))
    }

    /// Runs `cargo` with `words`, shows its output, and returns the tests that failed.
    fn run(&self, words: &[String]) -> Outcome<(Vec<String>, Outcome)> {
        let mut command = workspace::cargo();
        command.args(words).env(PANICS_VARIABLE, &self.0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_start(&command))?;
        let mut failed = Vec::new();
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
            let line = line.map_err(Failure::io("cannot read the output of a test suite"))?;
            failed.extend(failed_test(&line));
            say(line);
        }
        let status = child.wait().map_err(Failure::io("cannot wait for a test suite"))?;
        Ok((failed, ended(&command, status, "")))
    }
}

/// Returns the name in `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<String> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned)
}

/// Returns whether a guest kernel panicked in each test that failed. An empty list means that the
/// suite failed for another reason.
fn to_run_again(failed: &[String], panicked: &[String]) -> bool {
    !failed.is_empty() && failed.iter().all(|test| panicked.contains(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_test_is_read_from_its_line() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b".to_owned()));
        for line in ["test a::b ... ok", "test result: FAILED. 1 passed", "    a::b", ""] {
            assert_eq!(failed_test(line), None, "{line}");
        }
    }

    #[test]
    fn only_tests_with_a_guest_panic_run_again() {
        let tests = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(to_run_again(&tests(&["a"]), &tests(&["b", "a"])));
        assert!(!to_run_again(&tests(&["a", "c"]), &tests(&["b", "a"])), "c failed for another reason");
        assert!(!to_run_again(&tests(&["a"]), &[]));
        assert!(!to_run_again(&[], &tests(&["a"])), "the suite may not have been built");
    }
}
