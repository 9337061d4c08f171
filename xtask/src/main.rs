//! The project's own commands: `cargo xtask demo | test | bench | surface | coherence | crash |
//! fuzz | guest | tidy`.
//!
//! Each command is one module. This file only reads the command line. A command fetches the
//! packages and tools that it needs by itself, through the `guest` module. `measure` starts the
//! program of the crate `pinhole-bench` for `bench`, `surface` and `coherence`, and that of
//! `pinhole-crash` for `crash`.

mod busy_loops;
mod demo;
mod fuzz;
mod guest;
mod measure;
mod retry;
mod suite;
mod suites;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pinhole_tests::command::{console, step, workspace};

/// Commands to try, check and measure Pinhole.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots a Linux guest on a shared directory and shows both sides.
    Demo(demo::DemoArguments),
    /// Runs all checks of the project, or one of them.
    Test(suite::TestArguments),
    /// Measures the speed of pinhole, of virtiofsd and of bare host calls.
    Bench(measure::MeasureArguments),
    /// Measures how much of the host each profile may reach, and how much it does reach.
    Surface(measure::MeasureArguments),
    /// Compares how pinhole and virtiofsd share one directory between several guests.
    Coherence(measure::MeasureArguments),
    /// Cuts the power at many moments of many programs: does a file server keep what is durable?
    Crash(measure::MeasureArguments),
    /// Runs the fuzz targets, starting from their seed corpora.
    Fuzz(fuzz::FuzzArguments),
    /// Checks rules that no lint checks: module dependencies, file lengths, links in documents.
    Tidy(tidy::TidyArguments),
    /// Fetches parts of the test guests into the folder .guest (default: base, qemu, userland).
    Guest(guest::GuestArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(arguments) => demo::main(&arguments),
        Command::Test(arguments) => suite::main(&arguments),
        Command::Bench(arguments) => measure::main(&measure::BENCH, &arguments),
        Command::Surface(arguments) => measure::main(&measure::SURFACE, &arguments),
        Command::Coherence(arguments) => measure::main(&measure::COHERENCE, &arguments),
        Command::Crash(arguments) => measure::main(&measure::CRASH, &arguments),
        Command::Fuzz(arguments) => fuzz::main(&arguments),
        Command::Tidy(arguments) => tidy::main(&arguments),
        Command::Guest(arguments) => guest::main(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::complain(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
