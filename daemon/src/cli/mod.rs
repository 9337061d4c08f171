//! The command line: `Args` (as typed) -> `Config` (checked) -> built objects.
//!
//! Only [`build`] touches the host. [`main`] returns an exit code, and reports a failure in one
//! line.

pub mod args;
mod build;
mod capabilities;
mod compat;
pub mod config;
mod confine;
mod descriptors;
pub mod error;
mod group;
mod help;
pub mod inspect;
pub mod log;
mod offer;
pub mod policy;
pub mod prepare;
pub mod prepared_args;
mod report;
pub mod sandbox_args;
mod signals;
mod stderr;
mod syslog;
mod usage;

use args::Cli;
use clap::Parser;
use config::Config;
use std::ffi::OsString;
use std::process::ExitCode;

/// The exit code for a wrong command line.
const USAGE: u8 = 2;

/// Runs the program with these words, the first of which is its name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            report::problem(usage::one_line(&error));
            return ExitCode::from(USAGE);
        }
        // clap returns --help and --version as errors. A reader may close the pipe early.
        Err(asked) => return if asked.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
    };
    let config = match Config::new(cli) {
        Ok(config) => config,
        Err(error) => {
            report::problem(format_args!("{error}; see --help"));
            return ExitCode::from(USAGE);
        }
    };
    match build::run(config) {
        Ok(code) => code,
        Err(error) => {
            report::problem(&error);
            if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}
