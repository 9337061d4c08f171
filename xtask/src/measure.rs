//! `cargo xtask bench | surface | coherence | crash`: builds the program of the crate
//! `pinhole-bench` or `pinhole-crash`, fetches the parts that it needs, and starts it.
//!
//! That program reads the options of these commands and prints their help. It has a crate of its
//! own, so that `cargo xtask demo` does not compile it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::console::complain;
use crate::guest::{Part, ensure, ensure_program};
use crate::step::{Failure, Outcome, cannot_start, ended, run};
use crate::workspace;

/// Profile of the build that only prints help: the fastest build.
const HELP_PROFILE: &str = "xtask";

/// Options that the program reads.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct MeasureArguments {
    /// Options of this command; `--help` lists them
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// Command that a program of its own carries out.
#[derive(Debug)]
pub(crate) struct Measurement {
    name: &'static str,
    /// Name of the package and of its program.
    package: &'static str,
    /// Profile with which pinhole and the load generators are built.
    profile: &'static str,
}

/// The command `bench`: measures speed.
pub(crate) const BENCH: Measurement =
    Measurement { name: "bench", package: "pinhole-bench", profile: "release" };

/// The command `surface`: measures how much of the host a daemon reaches. The profile `demo` makes
/// the same system calls as a release build, in half the build time.
pub(crate) const SURFACE: Measurement =
    Measurement { name: "surface", package: "pinhole-bench", profile: "demo" };

/// The command `coherence`: compares behavior. It has the profile of [`SURFACE`].
pub(crate) const COHERENCE: Measurement =
    Measurement { name: "coherence", package: "pinhole-bench", profile: "demo" };

/// The command `crash`: cuts the power. It has the profile of [`SURFACE`].
pub(crate) const CRASH: Measurement =
    Measurement { name: "crash", package: "pinhole-crash", profile: "demo" };

/// Builds and starts the program. Returns only if that fails: the program replaces this process.
pub(crate) fn main(measurement: &Measurement, arguments: &MeasureArguments) -> Outcome {
    let options = &arguments.options;
    if options.iter().any(|option| option == "--help" || option == "-h") {
        build(HELP_PROFILE, &[measurement.package])?;
        return start(measurement.program(HELP_PROFILE).arg(measurement.name).args(options));
    }
    // Read before the build, because the build would count as load.
    let load = host_load();
    complain(format!("building pinhole and {}", measurement.package));
    build(measurement.profile, &["pinhole", measurement.package])?;
    let program = || measurement.program(measurement.profile);
    fetch_needs(program().args(["needs", measurement.name]).args(options))?;
    start(program().arg("--load-before").arg(load).arg(measurement.name).args(options))
}

/// Builds packages, each with a program of the same name.
fn build(profile: &str, packages: &[&str]) -> Outcome {
    let mut command = workspace::cargo();
    command.args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        command.args(["--package", package, "--bin", package]);
    }
    run(&mut command)
}

impl Measurement {
    /// Returns a command that starts the program that was built with `profile`.
    fn program(&self, profile: &str) -> Command {
        Command::new(workspace::target().join(profile).join(self.package))
    }
}

/// Runs `command`, which prints the needs of the measurement, and fetches them.
///
/// Each need is one line, as `Need` in tests/bench/src/needs.rs prints it: `part NAME` for a part
/// of the test guests, or `program NAME` for a program of this host.
fn fetch_needs(command: &mut Command) -> Outcome {
    let output = command.output().map_err(cannot_start(command))?;
    ended(command, output.status, &String::from_utf8_lossy(&output.stderr))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut parts = Vec::new();
    for line in printed.lines() {
        match line.split_once(' ') {
            Some(("part", name)) => parts.push(Part::named(name).ok_or_else(|| unknown_need(line))?),
            Some(("program", name)) => ensure_program(name)?,
            Some(_) | None => return Err(unknown_need(line)),
        }
    }
    ensure(&parts)
}

/// Returns the error for a line that names no known need.
fn unknown_need(need: &str) -> Failure {
    Failure::new(format!("the program needs `{need}`, which is unknown"))
}

/// Replaces this process by `command`, so that the user sees only its output and its exit code.
fn start(command: &mut Command) -> Outcome {
    let error = command.exec();
    Err(cannot_start(command)(error))
}

/// Returns the load average of the last minute, or `unknown`.
fn host_load() -> String {
    let all = std::fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    all.split(' ').next().unwrap_or("unknown").to_owned()
}
