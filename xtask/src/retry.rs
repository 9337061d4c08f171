//! Runs a test suite, and repeats tests that failed because the kernel of their guest panicked.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pinhole_tests::guest::{PANICS_VARIABLE, panicked_tests};

use crate::console::say;
use crate::step::{Failure, Outcome, cannot_start, ended};
use crate::workspace;

/// Selected tests of one suite.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) suite: String,
    /// Module or test, from the root of the suite. `None` selects all tests.
    pub(crate) path: Option<String>,
}

impl Selection {
    /// Returns the names of the selected tests. An empty list stands for all tests of the suite.
    ///
    /// # Errors
    /// Fails if the suite cannot be built, or if the path selects no test.
    fn tests(&self) -> Outcome<Vec<String>> {
        let Some(path) = &self.path else { return Ok(Vec::new()) };
        let mut command = test_command(&self.suite);
        command.args(["--", "--list", "--format=terse"]).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().map_err(cannot_start(&command))?;
        ended(&command, output.status, "")?;
        let tests = listed_below(path, &String::from_utf8_lossy(&output.stdout));
        if tests.is_empty() {
            let Self { suite, .. } = self;
            return Err(Failure::new(format!(
                "{suite} has no test {path} (`cargo test --workspace --test {suite} -- --list` shows all)"
            )));
        }
        Ok(tests)
    }
}

/// Returns a command that builds and runs one suite. The command selects the whole workspace: for a
/// single package, cargo would select other features and rebuild everything.
fn test_command(suite: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--test", suite]);
    command
}

/// Returns the tests in the output of `--list --format=terse` that are `path` itself or below it.
fn listed_below(path: &str, list: &str) -> Vec<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let is_below =
        |test: &&str| test.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    tests.filter(is_below).map(str::to_owned).collect()
}

/// File in which the harness records the tests whose guest kernel panicked.
#[derive(Debug)]
pub(crate) struct PanicFile(PathBuf);

impl PanicFile {
    /// Creates the file in the build folder, or empties it.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn new() -> Outcome<Self> {
        let path = workspace::target().join("guest-kernel-panics");
        std::fs::write(&path, "").map_err(Failure::io(format!("cannot write {}", path.display())))?;
        Ok(Self(path))
    }

    /// Returns the recorded tests, in the order of their panics.
    fn recorded(&self) -> Outcome<Vec<String>> {
        panicked_tests(&self.0).map_err(Failure::io(format!("cannot read {}", self.0.display())))
    }

    /// Runs the selected tests. If a User-mode Linux kernel panicked in each test that failed,
    /// those tests run once more. Returns the number of repeated tests, and the outcome.
    ///
    /// The outcome is an error if a test failed for another reason, or failed again.
    pub(crate) fn run_suite(&self, selection: &Selection) -> (usize, Outcome) {
        match selection.tests() {
            Ok(tests) => self.run_tests(&selection.suite, &tests),
            Err(failure) => (0, Err(failure)),
        }
    }

    /// Does the work of [`PanicFile::run_suite`]. An empty list of tests selects the whole suite.
    fn run_tests(&self, suite: &str, tests: &[String]) -> (usize, Outcome) {
        let recorded_before = self.recorded().map(|tests| tests.len());
        let (failed, outcome) = match self.run(suite, tests) {
            Ok(ran) => ran,
            Err(failure) => return (0, Err(failure)),
        };
        if outcome.is_ok() {
            return (0, outcome);
        }
        let panicked =
            recorded_before.and_then(|recorded_before| Ok(self.recorded()?.split_off(recorded_before)));
        let again = match panicked {
            Ok(panicked) if guest_panicked_in_all(&failed, &panicked) => failed,
            Ok(_) => return (0, outcome),
            Err(failure) => return (0, Err(failure)),
        };
        say(format!("a guest kernel panicked in {}: running these tests again", again.join(", ")));
        (again.len(), self.run(suite, &again).and_then(|(_, outcome)| outcome))
    }

    /// Runs `tests`, or the whole suite if the list is empty, and shows the output. Returns the
    /// tests that failed, and the outcome of the suite.
    fn run(&self, suite: &str, tests: &[String]) -> Outcome<(Vec<String>, Outcome)> {
        let mut command = test_command(suite);
        // Two tests at a time, for a host with two cores: with more, measured times mean nothing.
        command.args(["--", "--test-threads=2"]);
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        command.env(PANICS_VARIABLE, &self.0).stdin(Stdio::null()).stdout(Stdio::piped());
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

/// Returns whether a guest kernel panicked in each test that failed. Returns false if no test
/// failed: then the suite failed for another reason.
fn guest_panicked_in_all(failed: &[String], panicked: &[String]) -> bool {
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
    fn path_selects_a_test_or_the_tests_of_a_module() {
        let list = "dax::a: test\ndax::inner::b: test\nsharing_dax::a: test\ndaxen: test\nx: benchmark\n";
        assert_eq!(listed_below("dax", list), ["dax::a", "dax::inner::b"]);
        assert_eq!(listed_below("dax::a", list), ["dax::a"]);
        assert_eq!(listed_below("dax::", list), Vec::<String>::new());
        assert_eq!(listed_below("x", list), Vec::<String>::new());
    }

    #[test]
    fn only_tests_with_a_guest_panic_run_again() {
        let tests = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(guest_panicked_in_all(&tests(&["a"]), &tests(&["b", "a"])));
        assert!(
            !guest_panicked_in_all(&tests(&["a", "c"]), &tests(&["b", "a"])),
            "c failed for another reason"
        );
        assert!(!guest_panicked_in_all(&tests(&["a"]), &[]));
        assert!(!guest_panicked_in_all(&[], &tests(&["a"])), "the suite may not have been built");
    }
}
