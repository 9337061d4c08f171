//! Child processes as steps of a command: started with what they are for, their failure told in one line.

use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// Why a command of ours could not do its work.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure told in one line; more lines may follow for what a tool printed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// For `map_err`: an input/output error with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
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

/// The shorthand for everything that can fail here.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Runs `command` with its output on the user's terminal.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.stdin(Stdio::null()).status().map_err(cannot_start(command))?;
    ended(command, status, "")
}

/// Runs `command` silently; its output is shown only if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().map_err(cannot_start(command))?;
    let printed =
        [output.stdout.as_slice(), output.stderr.as_slice()].map(|bytes| String::from_utf8_lossy(bytes));
    ended(command, output.status, &printed.concat())
}

/// For `map_err`: why `command` does not run.
pub(crate) fn cannot_start(command: &Command) -> impl FnOnce(io::Error) -> Failure {
    Failure::io(format!("cannot start {}", command.get_program().display()))
}

/// What the end of `command` comes to; `printed` is shown if it failed.
pub(crate) fn ended(command: &Command, status: ExitStatus, printed: &str) -> Outcome {
    if status.success() {
        return Ok(());
    }
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    Err(Failure::new(format!("`{}` ended with {status}\n{printed}", words.join(" "))))
}
