//! Daemons under test as processes: `pinhole`, and `virtiofsd` for comparison.
//!
//! A daemon may be started confined, in a mount namespace where only the test's folder can be
//! written. So a build that resolves a name wrongly cannot reach the host's files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::child::wait_for_exit;
use crate::guest::{GuestError, Parts};
use crate::placement;

/// Line that both daemons print on standard error as soon as their socket exists.
const READY: &str = "Waiting for vhost-user socket connection";

/// Upper bound on the time until a daemon prints [`READY`].
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Interval between two reads of a daemon's standard error.
const LOOK: Duration = Duration::from_millis(10);

/// Error of the start, the run or the end of a daemon's process.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The binary could not be built.
    #[error("cannot build pinhole: `{command}` ended with {status}\n{stderr}")]
    Build {
        /// The command that failed.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Output of the command.
        stderr: String,
    },
    /// A program that a test needs does not exist.
    #[error("{path} is missing; run `{command}`", path = .path.display())]
    Missing {
        /// The program.
        path: PathBuf,
        /// The command that provides it.
        command: &'static str,
    },
    /// A part of the guest's packages is missing.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The daemon ended, or was not ready in time.
    #[error("{program} {outcome}; its standard error:\n{stderr}")]
    NotReady {
        /// Program of the daemon.
        program: String,
        /// What happened instead.
        outcome: String,
        /// Standard error of the daemon up to then.
        stderr: String,
    },
    /// A host operation of the harness itself failed.
    #[error("{what}: {source}")]
    Host {
        /// What the harness was doing.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl DaemonError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Returns the daemon's program: `PINHOLE_BIN`, or a debug build beside the running test, which is
/// built now if it is out of date.
///
/// # Errors
/// [`DaemonError::Build`] with what cargo printed.
pub fn pinhole_program() -> Result<PathBuf, DaemonError> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(named) = std::env::var_os("PINHOLE_BIN") {
        return Ok(PathBuf::from(named));
    }
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let profile = profile_folder()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "pinhole", "--bin", "pinhole"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = profile.parent() {
        command.arg("--target-dir").arg(target);
    }
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let outcome = command.output().map_err(DaemonError::host("cannot start cargo"))?;
    if !outcome.status.success() {
        return Err(DaemonError::Build {
            command: format!("{command:?}"),
            status: outcome.status,
            stderr: String::from_utf8_lossy(&outcome.stderr).into_owned(),
        });
    }
    Ok(BUILT.get_or_init(|| profile.join("pinhole")).clone())
}

/// Returns the folder of the running test's profile: `target/debug` for
/// `target/debug/deps/test-1234`.
fn profile_folder() -> Result<PathBuf, DaemonError> {
    let running = std::env::current_exe().map_err(DaemonError::host("cannot find the running test"))?;
    let folder = running.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_path_buf())
}

/// Daemon that has not started yet.
#[derive(Clone, Debug)]
pub struct Daemon {
    name: &'static str,
    program: Vec<PathBuf>,
    /// Option that names what is shared.
    share_option: &'static str,
    shared: PathBuf,
    arguments: Vec<String>,
    writable: Vec<PathBuf>,
    socket: Option<PathBuf>,
}

impl Daemon {
    /// Describes a `pinhole` that serves `shared`.
    ///
    /// # Errors
    /// As [`pinhole_program`].
    pub fn pinhole(shared: impl Into<PathBuf>) -> Result<Self, DaemonError> {
        Ok(Self::pinhole_at(pinhole_program()?, shared))
    }

    /// Describes a `pinhole` that serves the prepared image at `image`.
    ///
    /// # Errors
    /// As [`pinhole_program`].
    pub fn of_image(image: impl Into<PathBuf>) -> Result<Self, DaemonError> {
        Ok(Self::of_image_at(pinhole_program()?, image))
    }

    /// Describes a daemon with the `pinhole` at `program` that serves the prepared image at
    /// `image`.
    pub fn of_image_at(program: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Self {
        Self { share_option: "--prepared", ..Self::pinhole_at(program, image) }
    }

    /// Describes a daemon with the `pinhole` at `program` that serves `shared`.
    pub fn pinhole_at(program: impl Into<PathBuf>, shared: impl Into<PathBuf>) -> Self {
        Self::new("pinhole", vec![program.into()], shared.into())
    }

    /// Describes the packaged `virtiofsd` that serves `shared`, without its sandbox and its filter:
    /// for tests that inspect its process.
    ///
    /// # Errors
    /// [`DaemonError::Guest`] if the package has not been fetched.
    pub fn virtiofsd(shared: impl Into<PathBuf>) -> Result<Self, DaemonError> {
        Ok(Self::virtiofsd_sandboxed(shared)?.argument("--sandbox=none").argument("--seccomp=none"))
    }

    /// Describes the packaged `virtiofsd` with its defaults: namespaces, two processes, a filter.
    ///
    /// # Errors
    /// [`DaemonError::Guest`] if the package has not been fetched.
    pub fn virtiofsd_sandboxed(shared: impl Into<PathBuf>) -> Result<Self, DaemonError> {
        let tree = Parts::locate().base()?;
        let libraries = tree.join("usr/lib/x86_64-linux-gnu");
        let program = vec![
            libraries.join("ld-linux-x86-64.so.2"),
            PathBuf::from("--library-path"),
            libraries,
            tree.join("usr/libexec/virtiofsd"),
        ];
        Ok(Self::new("virtiofsd", program, shared.into()))
    }

    fn new(name: &'static str, program: Vec<PathBuf>, shared: PathBuf) -> Self {
        let share_option = "--shared-dir";
        Self {
            name,
            program,
            share_option,
            shared,
            arguments: Vec::new(),
            writable: Vec::new(),
            socket: None,
        }
    }

    /// Starts the daemon through another program with this command line, for example strace.
    #[must_use]
    pub fn under(mut self, before: impl IntoIterator<Item = PathBuf>) -> Self {
        self.program.splice(0..0, before);
        self
    }

    /// Adds an argument to the command line.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the daemon in a mount namespace where only `folder` and the daemon's own socket can
    /// be written. Call it again for more folders.
    #[must_use]
    pub fn confined_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.writable.push(folder.into());
        self
    }

    /// Sets the path of the socket, for tests where another daemon has listened there before.
    #[must_use]
    pub fn at(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = Some(socket.into());
        self
    }

    /// Starts the daemon and waits until it listens. Its socket lies in a new folder, unless
    /// [`Daemon::at`] has set another path.
    ///
    /// # Errors
    /// [`DaemonError::NotReady`] with its standard error, or the reason why it could not be
    /// started.
    pub fn start(self) -> Result<Serving, DaemonError> {
        let work = work_folder()?;
        let log = work.path().join("stderr");
        let stderr = File::create(&log).map_err(DaemonError::host("cannot make the daemon's log"))?;
        let mut serving = self.spawn(work, stderr.into())?;
        serving.wait_for_log(READY, READY_LIMIT)?;
        Ok(serving)
    }

    /// Starts the daemon with this standard error, and does not wait until the daemon listens.
    /// [`Serving::stderr`] then returns nothing.
    ///
    /// # Errors
    /// Fails if the daemon cannot be started.
    pub fn start_with_stderr(self, stderr: impl Into<Stdio>) -> Result<Serving, DaemonError> {
        self.spawn(work_folder()?, stderr.into())
    }

    /// Starts the daemon, measures the time from before the start until its ready line, and ends
    /// it. The ready line comes through a pipe: [`Daemon::start`] polls a log file, which would add
    /// to the time.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn time_to_ready(self) -> Result<Duration, DaemonError> {
        let (mut said, stderr) = io::pipe().map_err(DaemonError::host("cannot make a pipe"))?;
        let began = Instant::now();
        let serving = self.spawn(work_folder()?, stderr.into())?;
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(READY) {
            let left = READY_LIMIT.saturating_sub(began.elapsed());
            let mut piece = [0; 4096];
            let len = match wait_readable(&said, left) {
                Ok(true) => {
                    said.read(&mut piece).map_err(DaemonError::host("cannot read from the daemon"))?
                }
                Ok(false) => 0,
                Err(error) => return Err(DaemonError::host("cannot wait for the daemon")(error)),
            };
            if len == 0 {
                let outcome = format!("had not printed `{READY}` after {:?}", began.elapsed());
                let stderr = String::from_utf8_lossy(&text).into_owned();
                return Err(DaemonError::NotReady { program: serving.name.to_owned(), outcome, stderr });
            }
            text.extend(piece.iter().take(len));
        }
        Ok(began.elapsed())
    }

    /// Starts the process, with its socket in `work`.
    fn spawn(self, work: TempDir, stderr: Stdio) -> Result<Serving, DaemonError> {
        let log = work.path().join("stderr");
        let socket = self.socket.clone().unwrap_or_else(|| work.path().join("socket"));
        let mut command = self.command(work.path())?;
        command
            .arg(self.share_option)
            .arg(&self.shared)
            .arg("--socket-path")
            .arg(&socket)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0);
        let child = command.spawn().map_err(DaemonError::host("cannot start the daemon"))?;
        placement::daemon_started(&socket, child.id());
        Ok(Serving { name: self.name, child, socket, log, _work: work, ended: None })
    }

    /// Returns the command that starts the daemon: directly, or in a mount namespace in which only
    /// the writable folders and `work` can be written.
    fn command(&self, work: &Path) -> Result<Command, DaemonError> {
        let (program, arguments) = self.program.split_first().ok_or_else(|| DaemonError::Host {
            what: "no program to start",
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        if self.writable.is_empty() {
            let mut command = Command::new(program);
            command.args(arguments);
            return Ok(command);
        }
        let mut command = Command::new(confined_program()?);
        for folder in self.writable.iter().map(PathBuf::as_path).chain([work]) {
            command.arg("--writable").arg(folder);
        }
        command.arg("--").arg(program).args(arguments);
        Ok(command)
    }
}

/// Makes the folder for a daemon's socket and its standard error.
fn work_folder() -> Result<TempDir, DaemonError> {
    let work = tempfile::Builder::new().prefix("pinhole-daemon-").tempdir();
    work.map_err(DaemonError::host("cannot make the daemon's work folder"))
}

/// Returns whether `from` can be read, or is at its end, within `limit`.
fn wait_readable(from: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    Ok(rustix::event::poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&limit))? > 0)
}

/// Returns the program of [`Daemon::confined_to`], which cargo builds together with the integration
/// tests.
///
/// # Errors
/// [`DaemonError::Missing`].
pub fn confined_program() -> Result<PathBuf, DaemonError> {
    let path = profile_folder()?.join("confined");
    if path.exists() {
        return Ok(path);
    }
    Err(DaemonError::Missing { path, command: "cargo build --package pinhole-tests --bins" })
}

/// Memory of the processes of a daemon, as proportional set size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All memory in KiB, without shared memory, which is that of the guest.
    pub pss_kib: u64,
    /// The part that is not pages of files, in KiB.
    pub anonymous_kib: u64,
}

/// Daemon that listens. `drop` kills it.
#[derive(Debug)]
pub struct Serving {
    name: &'static str,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    _work: TempDir,
    ended: Option<ExitStatus>,
}

impl Serving {
    /// Returns the vhost-user socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the file with its standard error, beside the socket.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns the id of the process that was started. All other processes of the daemon descend
    /// from it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the id of the serving process, for reads of /proc. With a sandbox it differs from
    /// [`Serving::id`].
    pub fn serving_id(&self) -> u32 {
        serving_id(self.child.id())
    }

    /// Returns the memory of the daemon's processes.
    ///
    /// # Errors
    /// [`DaemonError::Host`], for example if the daemon has ended.
    pub fn memory(&self) -> Result<Memory, DaemonError> {
        let mut sum = Memory { pss_kib: 0, anonymous_kib: 0 };
        for process in BTreeSet::from([self.id(), self.serving_id()]) {
            let what = "cannot read the memory of the daemon";
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
            let rollup = rollup.map_err(DaemonError::host(what))?;
            let field = |name: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
                number.ok_or_else(|| DaemonError::host(what)(io::ErrorKind::InvalidData.into()))
            };
            sum.pss_kib += field("Pss:")?.saturating_sub(field("Pss_Shmem:")?);
            sum.anonymous_kib += field("Pss_Anon:")?;
        }
        Ok(sum)
    }

    /// Returns the standard error of the daemon up to now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the daemon has printed `text` on standard error.
    ///
    /// # Errors
    /// [`DaemonError::NotReady`] if the daemon ends before that, or if `limit` passes.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<(), DaemonError> {
        let started = Instant::now();
        while !self.stderr().contains(text) {
            let outcome = if self.wait_at_most(LOOK)?.is_some() {
                if self.stderr().contains(text) {
                    return Ok(());
                }
                format!("ended ({})", self.ended.map(|status| status.to_string()).unwrap_or_default())
            } else if started.elapsed() > limit {
                format!("had not printed `{text}` after {limit:?}")
            } else {
                continue;
            };
            return Err(DaemonError::NotReady {
                program: self.name.to_owned(),
                outcome,
                stderr: self.stderr(),
            });
        }
        Ok(())
    }

    /// Waits until the daemon ends, for at most `limit`. Returns `None` if it still runs.
    ///
    /// # Errors
    /// [`DaemonError::Host`].
    pub fn wait_at_most(&mut self, limit: Duration) -> Result<Option<ExitStatus>, DaemonError> {
        if self.ended.is_none() {
            let what = "cannot wait for the daemon";
            if wait_for_exit(&self.child, Some(limit)).map_err(DaemonError::host(what))? {
                self.ended = Some(self.child.wait().map_err(DaemonError::host(what))?);
            }
        }
        Ok(self.ended)
    }

    /// Sends `signal` to the daemon, which must not have been reaped.
    ///
    /// # Errors
    /// [`DaemonError::Host`].
    pub fn signal(&self, signal: Signal) -> Result<(), DaemonError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        match pid {
            Some(pid) if self.ended.is_none() => rustix::process::kill_process(pid, signal)
                .map_err(|error| DaemonError::host("cannot signal the daemon")(error.into())),
            Some(_) | None => Err(DaemonError::Host {
                what: "the daemon has already ended",
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

/// Returns the id of the serving process of a daemon that was started as process `id`. It is the
/// only child of that process, or that process itself if it has no child.
pub fn serving_id(id: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(id)
}

impl Drop for Serving {
    fn drop(&mut self) {
        placement::daemon_ended(&self.socket, self.child.id());
        if self.ended.is_none() {
            // Kills the group too, because a sandbox may have a second process. The child leads the
            // group and has not been reaped, so no other process has its number.
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                // Ignore the result: the group may be empty.
                rustix::process::kill_process_group(group, Signal::KILL).unwrap_or_default();
            }
            // Ignore the result: the process may just have ended. In both cases it is reaped.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
