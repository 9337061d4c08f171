//! `cargo xtask test`: runs every check of the project, one after another. After a failed check,
//! the next one still runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pinhole_tests::guest::Pieces;

use crate::console::say;
use crate::guest::{Part, ensure, ensure_program};
use crate::load::Load;
use crate::retry::Panics;
use crate::step::{Failure, Outcome, run};
use crate::{fuzz, tidy, workspace};

/// Selects checks, repetitions and load.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only these checks, separated by commas (`--list` shows the names)
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

struct Check {
    name: String,
    needs: Vec<Part>,
    action: Action,
}

enum Action {
    /// Runs `cargo` with these words, without tests.
    Cargo(Vec<String>),
    /// Runs `cargo test` for packages or suites that boot no guest.
    Tests(Vec<String>),
    /// Runs `cargo test` for one suite. The kernel of a guest may panic once.
    Suite(Vec<String>),
    Tidy,
    Deny,
    Fuzz,
}

impl Action {
    const fn runs_tests(&self) -> bool {
        match self {
            Self::Tests(_) | Self::Suite(_) | Self::Fuzz => true,
            Self::Cargo(_) | Self::Tidy | Self::Deny => false,
        }
    }
}

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    let all = checks(&workspace::root());
    if arguments.list {
        for check in &all {
            say(&check.name);
        }
        return Ok(());
    }
    if let Some(name) = arguments.only.iter().find(|name| !all.iter().any(|check| check.name == **name)) {
        return Err(Failure::new(format!(
            "--only: there is no check `{name}` (`cargo xtask test --list` shows the names)"
        )));
    }
    let is_chosen = |check: &&Check| arguments.only.is_empty() || arguments.only.contains(&check.name);
    let panics = Panics::new()?;
    let (mut rows, mut retried) = (Vec::new(), 0);
    for check in all.iter().filter(is_chosen) {
        let mut row = Row { name: &check.name, passed: 0, times: arguments.times, took: Duration::ZERO };
        for time in 1..=arguments.times {
            let of_times =
                if arguments.times > 1 { format!(", {time} of {}", arguments.times) } else { String::new() };
            say(format!("\n== {}{of_times}", check.name));
            let began = Instant::now();
            let programs = programs(&check.name).iter().try_for_each(|program| ensure_program(program));
            let outcome = programs.and_then(|()| ensure(&check.needs)).and_then(|()| {
                let _load = Load::start(if check.action.runs_tests() { arguments.busy } else { 0 });
                perform(&check.action, (&panics, &mut retried))
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

/// Result of one check.
struct Row<'c> {
    name: &'c str,
    passed: u16,
    times: u16,
    took: Duration,
}

impl Row<'_> {
    const fn is_passed(&self) -> bool {
        self.passed == self.times
    }
}

fn summarize(rows: &[Row<'_>], retried: usize) -> Outcome {
    say("\n== summary");
    for row in rows {
        let verdict = if row.is_passed() { "ok" } else { "FAILED" };
        let of_times =
            if row.times > 1 { format!(" ({} of {})", row.passed, row.times) } else { String::new() };
        say(format!("{verdict:<6} {:>7.1} s  {}{of_times}", row.took.as_secs_f64(), row.name));
    }
    let failed: Vec<_> = rows.iter().filter(|row| !row.is_passed()).map(|row| row.name).collect();
    say(format!("guest kernel panics retried: {retried}"));
    say(format!("checks: {} passed, {} failed", rows.len() - failed.len(), failed.len()));
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", failed.join(", ")))) }
}

/// Returns all checks. Quick checks come first, so that a developer learns of a fault early.
fn checks(root: &Path) -> Vec<Check> {
    let cargo = |name: &str, needs: &[Part], words: &str| Check {
        name: name.to_owned(),
        needs: needs.to_vec(),
        action: Action::Cargo(words.split(' ').map(str::to_owned).collect()),
    };
    let tests = |name: &str, words: String| Check {
        name: name.to_owned(),
        needs: vec![Part::Base],
        action: Action::Tests(words.split(' ').map(str::to_owned).collect()),
    };
    let mut all = vec![
        cargo("fmt", &[], "fmt --all --check"),
        Check { name: "tidy".to_owned(), needs: Vec::new(), action: Action::Tidy },
        cargo("clippy", &[], "clippy --workspace --all-targets -- -D warnings"),
        Check { name: "deny".to_owned(), needs: vec![Part::Tools], action: Action::Deny },
        // All suites in one build: sixty builds of one suite each would leave a core idle.
        cargo("build", &[], "test --workspace --lib --bins --tests --no-run"),
        tests("unit", "test --workspace --lib --bins --no-fail-fast".to_owned()),
    ];
    // Always the whole workspace: for a single package, cargo selects other features and rebuilds
    // all.
    for package in ["protocol", "policy", "dax-cache", "daemon"] {
        for suite in suites(&root.join(package).join("tests")) {
            all.push(tests(&suite, format!("test --workspace --test {suite}")));
        }
    }
    for suite in suites(&root.join("tests/tests")) {
        // Two tests at a time, for a machine with two cores: with more, measured times mean
        // nothing.
        let words = format!("test --workspace --test {suite} -- --test-threads=2");
        let words = words.split(' ').map(str::to_owned).collect();
        all.push(Check { needs: needs(&suite).to_vec(), name: suite, action: Action::Suite(words) });
    }
    all.push(Check { name: "fuzz".to_owned(), needs: vec![Part::Tools], action: Action::Fuzz });
    all
}

/// Returns the parts that a suite of the tests package needs. The name tells which suites boot
/// guests.
fn needs(suite: &str) -> &'static [Part] {
    if suite.contains("guest") || suite.contains("lifecycle") {
        &[Part::Base, Part::Qemu, Part::Userland]
    } else if suite.contains("conformance") {
        &[Part::Base, Part::Userland, Part::Tools]
    } else if matches!(suite, "power_loss" | "submounts") {
        &[Part::Base, Part::Userland, Part::Disks]
    } else if matches!(suite, "disk_errors" | "durability") {
        &[Part::Base, Part::Disks]
    } else {
        &[Part::Base]
    }
}

/// Returns the host programs that a suite starts.
fn programs(suite: &str) -> &'static [&'static str] {
    match suite {
        "crashes" | "denied" | "durability" | "host_calls" | "limits" | "sockets" | "stops" | "submounts"
        | "system_calls" => &["strace"],
        "leases" | "guest_leases" | "loads" => &["perl"],
        _ => &[],
    }
}

/// Returns the names of the suites in `folder`, sorted. A suite is a file or a folder with a
/// `main.rs`. A missing folder has no suites.
fn suites(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_file = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    let mut names: Vec<String> = entries
        .filter(|path| is_file(path) || path.join("main.rs").is_file())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn perform(action: &Action, (panics, retried): (&Panics, &mut usize)) -> Outcome {
    match action {
        Action::Cargo(words) | Action::Tests(words) => run(workspace::cargo().args(words)),
        Action::Suite(words) => {
            let (again, outcome) = panics.run_suite(words);
            *retried += again;
            outcome
        }
        Action::Tidy => tidy::main(&tidy::Arguments::default()),
        Action::Deny => {
            let deny =
                Pieces::locate().tool("cargo-deny").map_err(|error| Failure::new(error.to_string()))?;
            // Advisories need a database from outside the package registries;
            // docs/internals/dependencies.md has the command.
            run(Command::new(deny)
                .current_dir(workspace::root())
                .args(["check", "bans", "licenses", "sources"]))
        }
        Action::Fuzz => fuzz::main(&fuzz::Arguments::among_tests()),
    }
}
