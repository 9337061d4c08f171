//! A suite of tests as a step, and once more those tests in which only the guest's own kernel panicked.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use pinhole_tests::guest::{PANICS_VARIABLE, panicked_tests};

use crate::console::say;
use crate::step::{Failure, Outcome, cannot_start, ended};
use crate::workspace;

/// The file in which the harness records tests whose guest's kernel panicked.
#[derive(Debug)]
pub(crate) struct Panics(PathBuf);

impl Panics {
    /// In the build folder, empty.
    ///
    /// # Errors
    /// Where it cannot be emptied.
    pub(crate) fn new() -> Outcome<Self> {
        let path = workspace::target().join("guest-kernel-panics");
        std::fs::write(&path, "").map_err(Failure::io(format!("cannot write {}", path.display())))?;
        Ok(Self(path))
    }

    fn tests(&self) -> Outcome<Vec<String>> {
        panicked_tests(&self.0).map_err(Failure::io(format!("cannot read {}", self.0.display())))
    }

    /// Runs a suite by `cargo test` with `words`. Where tests failed and a User-mode Linux kernel panicked in each of
    /// them, those tests run once more. Returns how many.
    ///
    /// # Errors
    /// A test that failed otherwise, or that failed again.
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
        say(format!("the guest's own kernel panicked in {}: once more", again.join(", ")));
        let words = [words, &again, &["--exact".to_owned()]].concat();
        (again.len(), self.run(&words).and_then(|(_, outcome)| outcome))
    }

    /// Runs `cargo` with `words`, shows what it prints, and returns the tests that failed.
    fn run(&self, words: &[String]) -> Outcome<(Vec<String>, Outcome)> {
        let mut command = workspace::cargo();
        command.args(words).env(PANICS_VARIABLE, &self.0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_start(&command))?;
        let mut failed = Vec::new();
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
            let line = line.map_err(Failure::io("cannot read what a suite prints"))?;
            failed.extend(failed_test(&line));
            say(line);
        }
        let status = child.wait().map_err(Failure::io("cannot wait for a suite"))?;
        Ok((failed, ended(&command, status, "")))
    }
}

/// The name in `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<String> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned)
}

/// Whether a guest's kernel panicked in each test that failed. Where none is named, the suite failed otherwise.
fn to_run_again(failed: &[String], panicked: &[String]) -> bool {
    !failed.is_empty() && failed.iter().all(|test| panicked.contains(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_is_read_from_its_line() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b".to_owned()));
        for line in ["test a::b ... ok", "test result: FAILED. 1 passed", "    a::b", ""] {
            assert_eq!(failed_test(line), None, "{line}");
        }
    }

    #[test]
    fn only_tests_with_a_guest_panic_run_again() {
        let tests = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(to_run_again(&tests(&["a"]), &tests(&["b", "a"])));
        assert!(!to_run_again(&tests(&["a", "c"]), &tests(&["b", "a"])), "c failed by itself");
        assert!(!to_run_again(&tests(&["a"]), &[]));
        assert!(!to_run_again(&[], &tests(&["a"])), "the suite was not built, for one");
    }
}
