//! The crash suite: does a file server keep what its guests were told is durable?
//! `cargo xtask crash` builds and starts this program.
//! [Crash suite](../../../docs/use/crash-suite.md) describes its use,
//! [decision 0017](../../../docs/decisions/0017-crash-suite.md) its design.
//!
//! | module | task |
//! |---|---|
//! | `args` | the command line |
//! | `program` | programs of file operations, and their text |
//! | `generate` | all short programs, and random ones |
//! | `drive` | carries them out: natively, or through a server |
//! | `disk` | records a disk and builds its crash states |
//! | `record`, `snapshot` | plays programs; reads what a crash state leaves |
//! | `facts`, `judge` | the oracle |
//! | `case`, `litmus` | programs with what is known about them; litmus files |
//! | `host`, `suite` | what a thread owns; many programs on several threads |
//! | `minimize` | confirms and shortens a violation |
//! | `rate`, `report`, `progress` | measures crash states; prints results; shows progress |

mod args;
mod case;
mod disk;
mod drive;
mod facts;
mod generate;
mod host;
mod judge;
mod litmus;
mod minimize;
mod program;
mod progress;
mod random;
mod rate;
mod record;
mod report;
mod snapshot;
mod suite;

use std::path::Path;
use std::process::ExitCode;

use args::CrashArguments;
use clap::{Parser, Subcommand};
use drive::subject::VIRTIOFSD;
use pinhole_tests::command::console;
use pinhole_tests::command::step::{Failure, Outcome};
use progress::Progress;
use suite::Plan;

/// Exit code if a violation was found.
const VIOLATED: u8 = 1;

/// Exit code if the suite could not run.
const FAILED: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    /// Load average of this host before the build
    #[arg(long, hide = true, value_name = "AVERAGE")]
    load_before: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cuts the power at many moments of many programs, and compares what a file server keeps with
    /// what the backing file system keeps. Ends with 1 for a violation and with 2 for an error.
    Crash(Box<CrashArguments>),
    /// Prints what the command needs.
    #[command(hide = true)]
    Needs {
        /// The command with its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Crash(arguments) => crash(&arguments),
        Command::Needs { words } => {
            console::say("part disks");
            if words.iter().any(|word| word.contains(VIRTIOFSD)) {
                console::say("part base");
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        console::complain(format!("error: {error}"));
        ExitCode::from(FAILED)
    })
}

fn crash(arguments: &CrashArguments) -> Outcome<ExitCode> {
    if arguments.rate {
        return rate::main(arguments).map(|()| ExitCode::SUCCESS);
    }
    let plan = Plan {
        kinds: arguments.fs.iter().map(|kind| kind.file_system()).collect(),
        subjects: arguments.subjects()?,
        cases: arguments.cases()?,
        bounds: arguments.bounds(),
        threads: arguments.threads(),
    };
    let mut progress = Progress::new(plan.len());
    let played = suite::play(&plan, |programs, results| progress.add(programs, results.findings.len()));
    drop(progress);
    let results = played.map_err(Failure::io("the suite cannot continue"))?;
    report::print(&plan, &results);
    write(arguments.json.as_deref(), || format!("{:#}\n", report::json(&plan, &results)))?;
    write(arguments.markdown.as_deref(), || report::markdown(&plan, &results))?;
    Ok(if !results.wrong.is_empty() {
        ExitCode::from(FAILED)
    } else if results.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(VIOLATED)
    })
}

/// Writes a report, if a file was named.
fn write(file: Option<&Path>, text: impl FnOnce() -> String) -> Outcome {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, text()).map_err(Failure::io(format!("cannot write {}", file.display())))
}
