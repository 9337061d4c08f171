//! A running guest: its output, waits with a time limit, and the end of all of its processes.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::error::GuestError;
use super::monitor::Monitor;
use super::panics;
use crate::child::wait_for_exit;
use crate::placement::Placement;

/// Texts of a kernel's log after which the results of the guest are worthless.
const FAILURES: [&str; 6] = [
    "Kernel panic - not syncing",
    "BUG: ",
    "kernel BUG at",
    "Oops",
    "general protection fault",
    "INFO: task ",
];

/// Interval between two reads of a guest's output.
const LOOK: Duration = Duration::from_millis(20);

/// Upper bound on the time until killed processes are gone.
const KILLED: Duration = Duration::from_secs(10);

/// Files of one guest in its work folder.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) channel: PathBuf,
    pub(super) output: PathBuf,
    pub(super) status: PathBuf,
    pub(super) kernel_log: PathBuf,
    pub(super) monitor: PathBuf,
}

impl Paths {
    pub(super) fn new(work: &Path) -> Self {
        let channel = work.join("channel");
        Self {
            output: channel.join("output"),
            status: channel.join("status"),
            kernel_log: work.join("kernel.log"),
            monitor: work.join("monitor"),
            channel,
        }
    }
}

/// Work folder of a guest and the files in it.
#[derive(Debug)]
pub(super) struct GuestFiles {
    pub(super) work: TempDir,
    pub(super) paths: Paths,
}

/// Result of a guest whose script has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Standard output and standard error of the script, unchanged.
    pub output: Vec<u8>,
    /// Exit code of the script. 125 if a share could not be mounted.
    pub exit_code: i32,
    /// Output of the kernel.
    pub kernel_log: String,
    /// Time from the start of the guest's process to its end.
    pub elapsed: Duration,
}

impl Finished {
    /// Returns the output as text, for assertions and messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Started guest. `drop` kills all of its processes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// CPU of a pinned guest, released when the guest has ended.
    placement: Option<Placement>,
    /// Test for which a panic of the kernel is recorded.
    test: Option<String>,
    work: TempDir,
    paths: Paths,
    /// Time limit. `None` for a guest on the user's terminal.
    limit: Option<Duration>,
    started: Instant,
    ended: Option<ExitStatus>,
}

impl Running {
    pub(super) fn new(
        child: Child,
        placement: Option<Placement>,
        GuestFiles { work, paths }: GuestFiles,
        limit: Option<Duration>,
    ) -> Self {
        Self { child, placement, test: None, work, paths, limit, started: Instant::now(), ended: None }
    }

    /// Records a panic of the guest's kernel for the test that runs on this thread.
    pub(super) fn recording_panics(mut self) -> Self {
        self.test = std::thread::current().name().map(str::to_owned);
        self
    }

    /// Returns the id of the guest's process on the host.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the guest's work folder on the host, which is removed together with this value.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Returns a host folder that a User-mode Linux guest sees as `/run/channel` of its userland. A
    /// test writes messages for the running guest there.
    pub fn channel(&self) -> &Path {
        &self.paths.channel
    }

    /// Connects to the monitor of a QEMU guest that was started with
    /// [`Guest::monitored`](super::Guest::monitored).
    ///
    /// # Errors
    /// [`GuestError::Host`].
    pub fn monitor(&self) -> Result<Monitor, GuestError> {
        Monitor::connect(&self.paths.monitor).map_err(GuestError::host("cannot reach QEMU's monitor"))
    }

    /// Returns the path of the file with the script's output, which grows while the script runs.
    pub fn output_path(&self) -> PathBuf {
        self.paths.output.clone()
    }

    /// Returns the output of the script up to now.
    pub fn output(&self) -> Vec<u8> {
        // The file does not exist before the first output.
        fs::read(&self.paths.output).unwrap_or_default()
    }

    /// Returns the output of the kernel up to now.
    pub fn kernel_log(&self) -> String {
        let bytes = fs::read(&self.paths.kernel_log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits until the script has printed `text`.
    ///
    /// # Errors
    /// [`GuestError::TimeLimit`], or [`GuestError::NoExitCode`] if the guest ends first.
    pub fn wait_for_output(&mut self, text: &str) -> Result<(), GuestError> {
        while !contains(&self.output(), text.as_bytes()) {
            if self.past_limit() {
                return Err(self.time_limit());
            }
            if self.wait_at_most(LOOK)? && !contains(&self.output(), text.as_bytes()) {
                return Err(self.no_exit_code());
            }
        }
        Ok(())
    }

    /// Waits until the guest ends, for at most its time limit, and returns its result.
    ///
    /// # Errors
    /// As [`Guest::run`](super::Guest::run).
    pub fn wait(mut self) -> Result<Finished, GuestError> {
        let remaining = self.limit.map(|limit| limit.saturating_sub(self.started.elapsed()));
        let ended =
            wait_for_exit(&self.child, remaining).map_err(GuestError::host("cannot wait for the guest"))?;
        if !ended {
            self.kill();
            return Err(self.time_limit());
        }
        let elapsed = self.started.elapsed();
        self.kill();
        let kernel_log = self.kernel_log();
        if let Some(line) = kernel_log.lines().find(|line| FAILURES.iter().any(|mark| line.contains(mark))) {
            return Err(GuestError::Kernel { line: line.to_owned(), kernel_log });
        }
        let status = fs::read_to_string(&self.paths.status).unwrap_or_default();
        match status.trim().parse() {
            Ok(exit_code) => Ok(Finished { output: self.output(), exit_code, kernel_log, elapsed }),
            Err(_not_a_number) => Err(self.no_exit_code()),
        }
    }

    /// Ends the guest at once, as a power failure or a killed VMM would.
    pub fn kill(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if self.limit.is_some() {
            // The child leads its own group and has not been reaped, so no other process has its
            // number.
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                // Ignore the result: the group may be empty.
                rustix::process::kill_process_group(group, Signal::KILL).unwrap_or_default();
                wait_until_gone(self.child.id());
            }
        }
        // Ignore the result: the child may have ended.
        drop(self.child.kill());
        self.ended = Some(self.child.wait().unwrap_or_else(|_gone| ExitStatus::from_raw(0)));
        self.placement = None;
        if let Some(test) = self.test.take() {
            panics::record(&test, &self.kernel_log());
        }
    }

    /// Returns whether the time limit has passed.
    fn past_limit(&self) -> bool {
        self.limit.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// Waits until the guest's process ends, for at most `time`. Returns whether it has ended.
    fn wait_at_most(&self, time: Duration) -> Result<bool, GuestError> {
        wait_for_exit(&self.child, Some(time)).map_err(GuestError::host("cannot wait for the guest"))
    }

    /// Kills the guest and returns the error of a time limit that passed.
    fn time_limit(&mut self) -> GuestError {
        self.kill();
        GuestError::TimeLimit {
            limit: self.limit.unwrap_or_default(),
            output: String::from_utf8_lossy(&self.output()).into_owned(),
            kernel_log: self.kernel_log(),
        }
    }

    /// Kills the guest and returns the error of a guest without an exit code.
    fn no_exit_code(&mut self) -> GuestError {
        self.kill();
        GuestError::NoExitCode {
            status: self.ended.map(|status| status.to_string()).unwrap_or_default(),
            output: String::from_utf8_lossy(&self.output()).into_owned(),
            kernel_log: self.kernel_log(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until all processes of a killed group have ended. User-mode Linux has dozens of them. A
/// zombie has ended; only its parent can reap it.
fn wait_until_gone(group: u32) {
    let began = Instant::now();
    while began.elapsed() < KILLED && has_living_member(group) {
        let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        // A poll without descriptors is a sleep. If it is interrupted, it is a shorter one.
        rustix::event::poll(&mut [], Some(&look)).unwrap_or_default();
    }
}

/// Returns whether a process of `group` is alive, from `proc_pid_stat(5)`: state and group are the
/// first and the third field after the name.
fn has_living_member(group: u32) -> bool {
    let wanted = group.to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut descriptions =
        processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    descriptions.any(|line| {
        let mut fields = line.rsplit(')').next().unwrap_or_default().split_whitespace();
        let state = fields.next();
        fields.nth(1) == Some(wanted.as_str()) && !matches!(state, Some("Z" | "X"))
    })
}

/// Returns whether `haystack` contains `needle`.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}
