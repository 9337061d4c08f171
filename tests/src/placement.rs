//! Runs each User-mode Linux guest on one CPU together with the daemons that serve it.
//!
//! An interrupt that arrives from another CPU while a User-mode Linux kernel goes idle is recorded,
//! but the guest sleeps until its next tick, up to 10 ms later. The faster a daemon answers, the
//! more often that happens. On one CPU it cannot happen: the daemon runs only while the guest does
//! not. Guests with several CPUs or queues (QEMU) are not pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The first process of each running daemon, by its socket.
static DAEMONS: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());

/// How many guests of this process run on each CPU.
static GUESTS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that the daemon started as process `id` listens on `socket`.
pub(crate) fn daemon_started(socket: &Path, id: u32) {
    lock(&DAEMONS).insert(socket.to_owned(), id);
}

/// Forgets the daemon `id`. A later daemon may have the same socket.
pub(crate) fn daemon_ended(socket: &Path, id: u32) {
    let mut daemons = lock(&DAEMONS);
    if daemons.get(socket) == Some(&id) {
        daemons.remove(socket);
    }
}

/// The CPU of one guest and its daemons. `drop` makes room for another guest.
#[derive(Debug)]
pub(crate) struct Placement {
    cpu: usize,
    allowed: CpuSet,
}

impl Placement {
    /// Takes the CPU with the fewest guests. If several have equally few, the first choice differs
    /// from process to process, so that suites with one guest each do not all use the first CPU.
    ///
    /// # Errors
    /// Errors of `sched_getaffinity(2)`.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let start = usize::try_from(std::process::id()).unwrap_or(0) % cpus.len().max(1);
        let mut guests = lock(&GUESTS);
        let in_turn = cpus.iter().cycle().skip(start).take(cpus.len()).copied();
        let least = in_turn.min_by_key(|cpu| guests.get(cpu).copied().unwrap_or(0));
        let cpu = least.ok_or_else(|| io::Error::other("no CPU is allowed"))?;
        *guests.entry(cpu).or_default() += 1;
        Ok(Self { cpu, allowed })
    }

    /// Returns a set that contains only this CPU.
    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(self.cpu);
        set
    }

    /// Starts `command` on this CPU. Everything that it starts runs there too.
    ///
    /// # Errors
    /// Fails if the command cannot be started.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // The child inherits the CPU from this thread. Setting it later would miss the threads that
        // the child has started by then.
        sched_setaffinity(None, &self.set())?;
        let child = command.spawn();
        sched_setaffinity(None, &self.allowed)?;
        child
    }

    /// Moves the daemon that listens on `socket` to this CPU, if this process has started it.
    ///
    /// # Errors
    /// Errors of `sched_setaffinity(2)`, except that a thread has ended.
    pub(crate) fn move_daemon(&self, socket: &Path) -> io::Result<()> {
        let Some(daemon) = lock(&DAEMONS).get(socket).copied() else { return Ok(()) };
        let mut moved = BTreeSet::new();
        // A thread that is started meanwhile inherits the CPU of the thread that starts it.
        loop {
            let new: Vec<u32> =
                threads_below(daemon).into_iter().filter(|thread| moved.insert(*thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
                match sched_setaffinity(thread, &self.set()) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        if let Some(guests) = lock(&GUESTS).get_mut(&self.cpu) {
            *guests = guests.saturating_sub(1);
        }
    }
}

/// Returns the threads of a process and of all processes that descend from it.
fn threads_below(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().filter_map(Result::ok);
    let threads: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let children = threads.iter().flat_map(|thread| {
        let list = fs::read_to_string(format!("/proc/{process}/task/{thread}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<u32>>()
    });
    let below: Vec<u32> = children.flat_map(threads_below).collect();
    threads.into_iter().chain(below).collect()
}
