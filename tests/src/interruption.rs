//! Interrupts a process from outside: by a stop signal, by the cgroup freezer or by a tracer.
//!
//! Each of these makes every blocking system call of the process return early inside the kernel.
//! Depending on the call, the kernel then restarts it, continues it by `restart_syscall`, or lets
//! it return EINTR. The process notices nothing else.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child::wait_for_exit;

/// Longest wait until all threads have stopped, or until a tracer has attached or detached.
const LIMIT: Duration = Duration::from_secs(20);

/// Way to interrupt a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// SIGSTOP and SIGCONT.
    Stop,
    /// The freezer of cgroup v2: `docker pause`, `systemctl freeze`.
    Freeze,
    /// strace attaches to every thread (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`) and detaches again.
    Trace,
}

/// Interrupts one process, as often as a test calls [`Self::interrupt`].
#[derive(Debug)]
pub struct Interrupter {
    way: Interruption,
    process: u32,
    /// Exists for [`Interruption::Freeze`] only.
    freezer: Option<Freezer>,
}

impl Interrupter {
    /// Prepares to interrupt the process with the id `process`. For [`Interruption::Freeze`], moves
    /// the process to a cgroup of its own.
    ///
    /// # Errors
    /// Fails if the host has no cgroup v2 with a freezer, or does not permit to create a cgroup.
    /// The error names a command or a kernel version that helps.
    pub fn new(way: Interruption, process: u32) -> io::Result<Self> {
        let freezer = match way {
            Interruption::Freeze => Some(Freezer::around(process)?),
            Interruption::Stop | Interruption::Trace => None,
        };
        Ok(Self { way, process, freezer })
    }

    /// Interrupts all threads of the process once, and lets them continue.
    ///
    /// # Errors
    /// Fails if the process has ended, strace cannot start, or a step takes longer than `LIMIT`.
    pub fn interrupt(&self) -> io::Result<()> {
        match (self.way, &self.freezer) {
            (Interruption::Freeze, Some(freezer)) => freezer.freeze_and_thaw(),
            (Interruption::Trace, _) => trace(self.process),
            (Interruption::Stop | Interruption::Freeze, _) => stop_and_continue(self.process),
        }
    }
}

/// Stops a process by SIGSTOP, waits until all of its threads have stopped, and continues it.
fn stop_and_continue(process: u32) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    kill_process(pid, Signal::STOP)?;
    let stopped = wait_until("the process is stopped", || {
        every_thread(process, "State:", |state| state.starts_with('T') || state.starts_with('Z'))
    });
    kill_process(pid, Signal::CONT)?;
    stopped
}

/// Lets strace attach to all threads of a process and then detach from them.
fn trace(process: u32) -> io::Result<()> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=none", "-e", "signal=none", "-p"]).arg(process.to_string());
    let mut strace = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| {
        io::Error::other(format!("cannot start strace ({error}): run `apt-get install --yes strace`"))
    })?;
    let attached = wait_until("the process is traced", || {
        every_thread(process, "TracerPid:", |tracer| tracer.trim() != "0")
    });
    // At SIGINT, strace detaches from every thread and then ends.
    let pid = i32::try_from(strace.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    kill_process(pid, Signal::INT)?;
    let ended = wait_for_exit(&strace, Some(LIMIT))?;
    if !ended {
        strace.kill()?;
    }
    strace.wait()?;
    attached?;
    if ended { Ok(()) } else { Err(io::Error::other("strace does not detach")) }
}

/// Returns whether `holds` is true for every thread of the process. `holds` gets the value of the
/// line `name` in `/proc/PID/task/TID/status`.
fn every_thread(process: u32, name: &str, holds: impl Fn(&str) -> bool) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread without a status file has just ended.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        if !value.is_some_and(|value| holds(value.trim())) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until `holds` returns true, for at most [`LIMIT`]. The error names the condition `what`.
fn wait_until(what: &str, mut holds: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > LIMIT {
            return Err(io::Error::other(format!("not within {LIMIT:?}: {what}")));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Cgroup that contains only the interrupted process. `drop` moves the process to the parent cgroup
/// and removes this one.
#[derive(Debug)]
struct Freezer {
    folder: PathBuf,
    process: u32,
}

impl Freezer {
    /// Creates a cgroup and moves `process` to it.
    fn around(process: u32) -> io::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = table.lines().find(|line| line.contains(" - cgroup2 "));
        let root = mount.and_then(|line| line.split(' ').nth(4)).ok_or_else(|| {
            io::Error::other(
                "no cgroup v2 is mounted: run `mkdir -p /sys/fs/cgroup/unified && \
                 mount -t cgroup2 none /sys/fs/cgroup/unified` as root",
            )
        })?;
        let folder = PathBuf::from(root).join(format!("pinhole-{}-{process}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| {
            io::Error::other(format!("cannot make {} ({error}): run the tests as root", folder.display()))
        })?;
        let freezer = Self { folder, process };
        if !freezer.folder.join("cgroup.freeze").exists() {
            return Err(io::Error::other("no cgroup.freeze: the freezer of cgroup v2 needs Linux 5.2"));
        }
        fs::write(freezer.folder.join("cgroup.procs"), process.to_string())?;
        Ok(freezer)
    }

    /// Freezes the process and thaws it again, even if the kernel does not report it as frozen.
    fn freeze_and_thaw(&self) -> io::Result<()> {
        let frozen = self.set(true);
        self.set(false)?;
        frozen
    }

    /// Freezes or thaws the cgroup and waits until the kernel reports that state.
    fn set(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        wait_until(wanted, || {
            Ok(fs::read_to_string(self.folder.join("cgroup.events"))?.lines().any(|line| line == wanted))
        })
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Ignore the results: after the process has ended, it cannot be moved.
        drop(self.set(false));
        if let Some(above) = self.folder.parent() {
            drop(fs::write(above.join("cgroup.procs"), self.process.to_string()));
        }
        drop(fs::remove_dir(&self.folder));
    }
}
