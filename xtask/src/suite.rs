//! `cargo xtask test`: runs every check of the project, one after another. After a failed check,
//! the next one still runs.

use std::process::Command;
use std::time::{Duration, Instant};

use pinhole_tests::guest::Parts;

use crate::busy_loops::BusyLoops;
use crate::console::say;
use crate::guest::{Part, ensure, ensure_program};
use crate::retry::{PanicFile, Selection};
use crate::step::{Failure, Outcome, run};
use crate::suites::{self, Needs, Suite};
use crate::{fuzz, tidy, workspace};

/// Selects checks, repetitions and load.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Run only these checks, or modules of suites, separated by commas (`--list` shows the names)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Run each check this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    times: u16,
    /// Run this many busy loops beside the tests, at normal priority
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    busy: u16,
    /// List the names of the checks and run none
    #[arg(long)]
    list: bool,
}

/// Check of the project, with a name for `--only`.
#[derive(Debug, Clone)]
struct Check {
    name: String,
    needs: Needs,
    action: Action,
}

/// Work of a check.
#[derive(Debug, Clone)]
enum Action {
    /// Runs `cargo` with these arguments. They run no tests.
    Cargo(Vec<String>),
    /// Runs the tests in the sources of all packages.
    Unit,
    /// Runs the selected tests of one suite. Tests that fail because a guest kernel panicked run
    /// once more.
    Suite(Selection),
    /// Runs `cargo xtask tidy`.
    Tidy,
    /// Runs cargo-deny, which checks licenses and sources of dependencies.
    Deny,
    /// Runs the fuzz targets for a fixed number of inputs.
    Fuzz,
}

impl Action {
    /// Returns whether the action runs code of the project, beside which busy loops make sense.
    const fn runs_tests(&self) -> bool {
        match self {
            Self::Unit | Self::Suite(_) | Self::Fuzz => true,
            Self::Cargo(_) | Self::Tidy | Self::Deny => false,
        }
    }
}

/// Runs the selected checks and prints a summary.
pub(crate) fn main(arguments: &TestArguments) -> Outcome {
    let suites = suites::all()?;
    if arguments.list {
        names(&suites).iter().for_each(say);
        return Ok(());
    }
    let all = checks(&suites);
    let chosen = if arguments.only.is_empty() {
        all
    } else {
        arguments.only.iter().map(|name| choose(name, &all, &suites)).collect::<Outcome<_>>()?
    };
    let panic_file = PanicFile::new()?;
    let (mut rows, mut retried) = (Vec::new(), 0);
    for check in &chosen {
        let mut row = Row { name: &check.name, passed: 0, times: arguments.times, took: Duration::ZERO };
        for time in 1..=arguments.times {
            let repetition =
                if arguments.times > 1 { format!(", {time} of {}", arguments.times) } else { String::new() };
            say(format!("\n== {}{repetition}", check.name));
            let began = Instant::now();
            let programs = check.needs.programs.iter().try_for_each(|program| ensure_program(program));
            let outcome = programs.and_then(|()| ensure(&check.needs.parts)).and_then(|()| {
                let _busy_loops =
                    BusyLoops::start(if check.action.runs_tests() { arguments.busy } else { 0 });
                perform(&check.action, (&panic_file, &mut retried))
            });
            match outcome {
                Ok(()) => row.passed += 1,
                Err(failure) => say(format!("{} failed: {failure}", check.name)),
            }
            row.took += began.elapsed();
        }
        rows.push(row);
    }
    summarize(&rows, retried)
}

/// Row of the summary: the results of all repetitions of one check.
struct Row<'c> {
    name: &'c str,
    /// Number of repetitions that passed.
    passed: u16,
    /// Number of repetitions.
    times: u16,
    /// Time of all repetitions together.
    took: Duration,
}

impl Row<'_> {
    /// Returns whether every repetition passed.
    const fn is_passed(&self) -> bool {
        self.passed == self.times
    }
}

/// Prints the summary.
///
/// # Errors
/// Fails if a check failed.
fn summarize(rows: &[Row<'_>], retried: usize) -> Outcome {
    say("\n== summary");
    for row in rows {
        let verdict = if row.is_passed() { "ok" } else { "FAILED" };
        let repetition =
            if row.times > 1 { format!(" ({} of {})", row.passed, row.times) } else { String::new() };
        say(format!("{verdict:<6} {:>7.1} s  {}{repetition}", row.took.as_secs_f64(), row.name));
    }
    let failed: Vec<_> = rows.iter().filter(|row| !row.is_passed()).map(|row| row.name).collect();
    say(format!("guest kernel panics retried: {retried}"));
    say(format!("checks: {} passed, {} failed", rows.len() - failed.len(), failed.len()));
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", failed.join(", ")))) }
}

/// Returns all checks. Quick checks come first, so that a developer learns of a fault early.
fn checks(suites: &[Suite]) -> Vec<Check> {
    let check = |name: &str, parts: &[Part], action: Action| Check {
        name: name.to_owned(),
        needs: Needs { parts: parts.to_vec(), programs: Vec::new() },
        action,
    };
    let cargo = |words: &str| Action::Cargo(words.split(' ').map(str::to_owned).collect());
    let mut all = vec![
        check("fmt", &[], cargo("fmt --all --check")),
        check("tidy", &[], Action::Tidy),
        check("clippy", &[], cargo("clippy --workspace --all-targets -- -D warnings")),
        check("deny", &[Part::Tools], Action::Deny),
        // All suites in one build: a build for each suite would leave a core idle.
        check("build", &[], cargo("test --workspace --lib --bins --tests --no-run")),
        check("unit", &[Part::Base], Action::Unit),
    ];
    all.extend(suites.iter().map(|suite| Check {
        name: suite.name.clone(),
        needs: suite.needs_of(None),
        action: Action::Suite(Selection { suite: suite.name.clone(), path: None }),
    }));
    all.push(check("fuzz", &[Part::Tools], Action::Fuzz));
    all
}

/// Returns the names that `--only` takes: all checks, and `SUITE::MODULE` after each suite.
fn names(suites: &[Suite]) -> Vec<String> {
    let with_modules = |check: &Check| {
        let suite = suites.iter().find(|suite| suite.name == check.name);
        let modules = suite.into_iter().flat_map(|suite| &suite.modules);
        let below = modules.map(|module| format!("{}::{}", check.name, module.name));
        std::iter::once(check.name.clone()).chain(below).collect::<Vec<_>>()
    };
    checks(suites).iter().flat_map(with_modules).collect()
}

/// Returns the check that `--only` names: one of `all`, or a module or test of a suite.
fn choose(name: &str, all: &[Check], suites: &[Suite]) -> Outcome<Check> {
    let unknown = || {
        Failure::new(format!(
            "--only: there is no check `{name}` (`cargo xtask test --list` shows the names)"
        ))
    };
    let (first, path) = name.split_once("::").map_or((name, None), |(first, path)| (first, Some(path)));
    let check = all.iter().find(|check| check.name == first).ok_or_else(unknown)?;
    let Some(path) = path else { return Ok(check.clone()) };
    let suite = suites.iter().find(|suite| suite.name == first).ok_or_else(unknown)?;
    let module = path.split("::").next().unwrap_or_default();
    // A suite in one file has no modules: its path is a test, which `Selection` looks up.
    if !suite.modules.is_empty() && !suite.modules.iter().any(|known| known.name == module) {
        return Err(unknown());
    }
    let selection = Selection { suite: first.to_owned(), path: Some(path.to_owned()) };
    Ok(Check { name: name.to_owned(), needs: suite.needs_of(Some(module)), action: Action::Suite(selection) })
}

/// Runs a check once. Adds to `retried` the number of tests that ran again after a guest kernel
/// panic.
fn perform(action: &Action, (panic_file, retried): (&PanicFile, &mut usize)) -> Outcome {
    match action {
        Action::Cargo(words) => run(workspace::cargo().args(words)),
        Action::Unit => {
            run(workspace::cargo().args(["test", "--workspace", "--lib", "--bins", "--no-fail-fast"]))
        }
        Action::Suite(selection) => {
            let (again, outcome) = panic_file.run_suite(selection);
            *retried += again;
            outcome
        }
        Action::Tidy => tidy::main(&tidy::TidyArguments::default()),
        Action::Deny => {
            let deny = Parts::locate().tool("cargo-deny").map_err(|error| Failure::new(error.to_string()))?;
            // Advisories need a database from outside the package registries;
            // docs/internals/dependencies.md has the command.
            run(Command::new(deny)
                .current_dir(workspace::root())
                .args(["check", "bans", "licenses", "sources"]))
        }
        Action::Fuzz => fuzz::main(&fuzz::FuzzArguments::as_check()),
    }
}
