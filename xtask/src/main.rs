//! The project's own commands: `cargo xtask demo | test | bench | surface | coherence | fuzz |
//! guest | tidy`.
//!
//! Each command is one module. This file only reads the command line. A command fetches the
//! packages and tools that it needs by itself, through the `guest` module.

mod bench;
mod coherence;
mod console;
mod demo;
mod fuzz;
mod guest;
mod load;
mod retry;
mod step;
mod suite;
mod suites;
mod surface;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Demo(demo::Arguments),
    /// Runs all checks of the project, or one of them.
    Test(suite::Arguments),
    /// Measures the speed of pinhole, of virtiofsd and of bare host calls.
    Bench(bench::Arguments),
    /// Measures how much of the host each profile may reach, and how much it does reach.
    Surface(surface::Arguments),
    /// Compares how pinhole and virtiofsd share one directory between several guests.
    Coherence(coherence::Arguments),
    /// Runs the fuzz targets, starting from their seed corpora.
    Fuzz(fuzz::Arguments),
    /// Checks rules that no lint checks: module dependencies, file lengths, links in documents.
    Tidy(tidy::Arguments),
    /// Fetches parts of the test guests into the folder .guest (default: base, qemu, userland).
    Guest(guest::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(arguments) => demo::main(&arguments),
        Command::Test(arguments) => suite::main(&arguments),
        Command::Bench(arguments) => bench::main(&arguments),
        Command::Surface(arguments) => surface::main(&arguments),
        Command::Coherence(arguments) => coherence::main(&arguments),
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
