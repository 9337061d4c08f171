//! The project's own commands: `cargo xtask demo | test | bench | surface | coherence | fuzz | guest | tidy`.
//!
//! Each is one module; this file only reads the command line. What a command needs from outside (packages, tools)
//! it fetches itself, by the `guest` module.

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
mod surface;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows a directory shared with a real Linux guest.
    Demo(demo::Arguments),
    /// Runs every check of the project.
    Test(suite::Arguments),
    /// Measures pinhole beside virtiofsd and beside bare host calls.
    Bench(bench::Arguments),
    /// Measures the size of the hole: what each profile may ask of the host, and what it reaches.
    Surface(surface::Arguments),
    /// Asks pinhole and virtiofsd what several guests on one directory see of one another.
    Coherence(coherence::Arguments),
    /// Runs the fuzz targets from their seed corpora.
    Fuzz(fuzz::Arguments),
    /// Checks what lints cannot see: the arrows between parts, lengths, headers, names in docs.
    Tidy,
    /// Fetches the pieces of the test guests into the git-ignored folder .guest.
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
        Command::Tidy => tidy::main(),
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
