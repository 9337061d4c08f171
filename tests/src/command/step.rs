//! Child processes as steps of a command. A failure is described in one line.

use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// Reason why a command failed.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// Makes a failure from a message of one line. More lines may follow with the output of a tool.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Returns a function for `map_err` that puts `what` in front of an I/O error.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self(format!("{what}: {error}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Result of a step that can fail.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Runs `command` with its output on the user's terminal.
///
/// # Errors
/// Fails if the command does not start, or does not succeed.
pub fn run(command: &mut Command) -> Outcome {
    let status = command.stdin(Stdio::null()).status().map_err(cannot_start(command))?;
    ended(command, status, "")
}

/// Runs `command` and shows its output only if it fails.
///
/// # Errors
/// Fails if the command does not start, or does not succeed.
pub fn run_quietly(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().map_err(cannot_start(command))?;
    let printed =
        [output.stdout.as_slice(), output.stderr.as_slice()].map(|bytes| String::from_utf8_lossy(bytes));
    ended(command, output.status, &printed.concat())
}

/// Returns a function for `map_err` that says which program did not start.
pub fn cannot_start(command: &Command) -> impl FnOnce(io::Error) -> Failure {
    Failure::io(format!("cannot start {}", command.get_program().display()))
}

/// Converts the exit status of `command` to a result. A failure includes `printed`.
///
/// # Errors
/// Fails if the command did not succeed.
pub fn ended(command: &Command, status: ExitStatus, printed: &str) -> Outcome {
    if status.success() {
        return Ok(());
    }
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    Err(Failure::new(format!("`{}` ended with {status}\n{printed}", words.join(" "))))
}
