//! The measurements of Pinhole: `bench` (speed), `surface` (reach into the host) and `coherence`
//! (behavior of several guests), beside virtiofsd and bare host calls.
//!
//! `cargo xtask bench | surface | coherence` builds this program and `pinhole` into one folder and
//! starts it. If a measurement needs a process that acts as a guest, this program starts itself
//! again with a hidden command.
//!
//! | module | task |
//! |---|---|
//! | `bench`, `surface`, `coherence` | one command each |
//! | `load` | the load generator of `bench` |
//! | `conditions`, `run_folder` | host and programs of a run; folder for its files |
//! | `table` | tables for terminals and documents |
//! | `needs` | names what a command needs, for `xtask` to fetch |
//! | `programs` | finds the programs of a measurement |

mod bench;
mod coherence;
mod conditions;
mod load;
mod needs;
mod programs;
mod run_folder;
mod surface;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pinhole_tests::command::{console, step, workspace};

/// Measures Pinhole beside virtiofsd and bare host calls.
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
    /// Measures the speed of pinhole, of virtiofsd and of bare host calls.
    Bench(bench::BenchArguments),
    /// Measures how much of the host each profile may reach, and how much it does reach.
    Surface(surface::SurfaceArguments),
    /// Compares how pinhole and virtiofsd share one directory between several guests.
    Coherence(coherence::CoherenceArguments),
    /// Prints what a command with these options needs.
    #[command(hide = true)]
    Needs {
        /// The command with its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Acts as a guest at the socket of a vhost-user-fs daemon, as fast as it can, and reports the
    /// figures.
    #[command(hide = true)]
    Load(load::command::LoadArguments),
    /// Acts as a guest that sends each request a few times, then requests of a hostile guest.
    #[command(hide = true, subcommand)]
    SurfaceLoad(surface::player::SurfaceLoadArguments),
    /// Acts as a guest and its VMM that map a file through the DAX window.
    #[command(hide = true)]
    DaxGuest(bench::dax::guest::DaxGuestArguments),
    /// Acts as two guests that lock one file.
    #[command(hide = true)]
    LockGuests(bench::locks::guests::LockGuestsArguments),
}

fn main() -> ExitCode {
    let Arguments { load_before, command } = Arguments::parse();
    let load = load_before.unwrap_or_else(conditions::load);
    let outcome = match command {
        Command::Bench(arguments) => bench::main(&arguments, &load),
        Command::Surface(arguments) => surface::main(&arguments, &load),
        Command::Coherence(arguments) => coherence::main(&arguments, &load),
        Command::Needs { words } => {
            print_needs(words);
            Ok(())
        }
        Command::Load(arguments) => load::command::main(arguments),
        Command::SurfaceLoad(arguments) => surface::player::main(&arguments),
        Command::DaxGuest(arguments) => bench::dax::guest::main(&arguments),
        Command::LockGuests(arguments) => bench::locks::guests::main(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::complain(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints the needs of a command, one a line. Prints nothing for wrong options: the command itself
/// reports them.
fn print_needs(words: Vec<OsString>) {
    let name = OsString::from("cargo xtask");
    let Ok(Arguments { command, .. }) = Arguments::try_parse_from(std::iter::once(name).chain(words)) else {
        return;
    };
    let needs = match command {
        Command::Bench(arguments) => arguments.needs(),
        Command::Surface(arguments) => arguments.needs(),
        Command::Coherence(_) => coherence::NEEDS,
        Command::Needs { .. }
        | Command::Load(_)
        | Command::SurfaceLoad(_)
        | Command::DaxGuest(_)
        | Command::LockGuests(_) => &[],
    };
    for need in needs {
        console::say(need);
    }
}
