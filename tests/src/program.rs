//! The real `pinhole` binary with a command line of the test: run to its end, or left running.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::child::wait_for_exit;
use crate::daemon::{DaemonError, pinhole_program};

/// Upper bound on the time of a command that ends by itself, and on the wait for a line.
const LIMIT: Duration = Duration::from_secs(20);
/// Interval between two reads of a log.
const LOOK: Duration = Duration::from_millis(10);

/// Result of a command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code. `None` if a signal or the time limit ended the command.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Running command. `drop` kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    logs: TempDir,
    ended: Option<ExitStatus>,
}

/// Returns the command `pinhole` with these arguments. It has not been started.
///
/// # Errors
/// As [`pinhole_program`].
pub fn pinhole(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command, DaemonError> {
    let mut command = Command::new(pinhole_program()?);
    command.args(arguments);
    Ok(command)
}

/// Runs a command to its end.
///
/// # Errors
/// [`DaemonError`] if it cannot be started.
pub fn run(command: &mut Command) -> Result<Ended, DaemonError> {
    let mut program = Program::start(command)?;
    let status = program.wait(LIMIT)?;
    let code = status.and_then(|status| status.code());
    Ok(Ended { code, stdout: program.text("stdout"), stderr: program.text("stderr") })
}

impl Program {
    /// Starts a command.
    ///
    /// # Errors
    /// [`DaemonError::Host`].
    pub fn start(command: &mut Command) -> Result<Self, DaemonError> {
        let mut started = || -> io::Result<Self> {
            let logs = tempfile::Builder::new().prefix("pinhole-program-").tempdir()?;
            let child = command
                .stdin(Stdio::null())
                .stdout(File::create(logs.path().join("stdout"))?)
                .stderr(File::create(logs.path().join("stderr"))?)
                .spawn()?;
            Ok(Self { child, logs, ended: None })
        };
        started().map_err(|source| DaemonError::Host { what: "cannot start the program", source })
    }

    /// Returns the content of the log `name` up to now: "stdout" or "stderr".
    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.logs.path().join(name)).unwrap_or_default()).into_owned()
    }

    /// Returns the process id, for reads of /proc.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns standard error up to now.
    pub fn stderr(&self) -> String {
        self.text("stderr")
    }

    /// Waits until standard error contains `text`.
    ///
    /// # Errors
    /// [`DaemonError::NotReady`] if the command ends before that, or if 20 seconds pass.
    pub fn wait_for(&mut self, text: &str) -> Result<(), DaemonError> {
        let started = Instant::now();
        while !self.stderr().contains(text) {
            let ended = self.wait(LOOK)?;
            if (ended.is_some() || started.elapsed() > LIMIT) && !self.stderr().contains(text) {
                return Err(DaemonError::NotReady {
                    program: "pinhole".to_owned(),
                    outcome: format!("did not print `{text}` ({ended:?})"),
                    stderr: self.stderr(),
                });
            }
        }
        Ok(())
    }

    /// Waits until the command ends, for at most `limit`. Returns `None` if it still runs.
    ///
    /// # Errors
    /// [`DaemonError::Host`].
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, DaemonError> {
        let failed = |source| DaemonError::Host { what: "cannot wait for the program", source };
        if self.ended.is_none() && wait_for_exit(&self.child, Some(limit)).map_err(failed)? {
            self.ended = Some(self.child.wait().map_err(failed)?);
        }
        Ok(self.ended)
    }

    /// Sends `signal`, waits for at most 20 seconds and returns the exit code. Returns `None` if
    /// the command still runs or a signal has ended it.
    ///
    /// # Errors
    /// [`DaemonError::Host`].
    pub fn end_by(&mut self, signal: Signal) -> Result<Option<i32>, DaemonError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), None) = (pid, self.ended) {
            rustix::process::kill_process(pid, signal).map_err(|error| DaemonError::Host {
                what: "cannot signal the program",
                source: error.into(),
            })?;
        }
        Ok(self.wait(LIMIT)?.and_then(|status| status.code()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended.is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
