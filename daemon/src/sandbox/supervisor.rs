//! The supervisor: the process that stays outside the sandbox. The starter of the daemon knows its
//! process id. So the supervisor passes signals in and the exit status out, and does nothing else.

use super::filter::{Processes, SupervisorFilter};
use crate::limits::SUPERVISOR_HEAP_LEN;
use crate::sys::{memory, process, signals};
use pinhole_policy::Facilities;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::CapabilitySet;
use signal_hook::consts::{SIGABRT, SIGCHLD, SIGINT, SIGTERM, SIGTRAP};
use std::io::{self, PipeWriter, Write as _};

/// The signals that the supervisor waits for.
const AWAITED: [i32; 3] = [SIGTERM, SIGINT, SIGCHLD];

/// The end of the serving process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServingExit {
    /// It exited with this status.
    Status(u8),
    /// This signal ended it.
    Signal(i32),
}

/// The supervisor before it has given up its rights.
#[derive(Debug)]
pub struct UnconfinedSupervisor {
    pub(super) processes: Processes,
    /// Tells the serving process to continue.
    pub(super) start: PipeWriter,
    pub(super) filter: SupervisorFilter,
}

impl UnconfinedSupervisor {
    /// Returns the id of the serving process.
    pub const fn serving(&self) -> Pid {
        self.processes.serving
    }

    /// Gives up all rights that the supervisor does not need, and makes it ready for signals. The
    /// serving process does not continue before [`Supervisor::watch`], so no guest is served
    /// before.
    ///
    /// # Errors
    /// The host's error; the serving process has then been killed.
    pub fn confine(self) -> io::Result<Supervisor> {
        let Self { processes, start, filter } = self;
        match give_up(processes, &filter) {
            Ok(()) => Ok(Supervisor { processes, start }),
            Err(error) => {
                kill(processes.serving);
                Err(error)
            }
        }
    }
}

fn give_up(processes: Processes, filter: &SupervisorFilter) -> io::Result<()> {
    // To signal the serving process, which may have become another user.
    let mut kept = CapabilitySet::KILL;
    if filter.facilities.contains(Facilities::SOCKET_NAME) {
        // To remove the socket from any directory.
        kept |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    }
    super::privileges::keep_only(kept)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    signals::block_signals(&AWAITED)?;
    signals::restore_default_actions(&AWAITED)?;
    memory::keep_free_memory(SUPERVISOR_HEAP_LEN);
    filter.install(processes)
}

/// Kills a process, which may be gone already.
fn kill(process: Pid) {
    kill_process(process, Signal::KILL).unwrap_or_default();
}

/// The supervisor behind its filter. It must not return from `main`: that takes system calls that
/// the filter forbids.
#[derive(Debug)]
pub struct Supervisor {
    processes: Processes,
    start: PipeWriter,
}

impl Supervisor {
    /// Passes on SIGTERM and SIGINT until the serving process ends. A second signal kills it.
    ///
    /// # Errors
    /// The host's error; the serving process has then been killed.
    pub fn watch(&self) -> io::Result<ServingExit> {
        let watched = self.until_it_ends();
        if watched.is_err() {
            kill(self.processes.serving);
        }
        watched
    }

    fn until_it_ends(&self) -> io::Result<ServingExit> {
        match (&self.start).write_all(b"!") {
            // The serving process has ended, which the loop below detects.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
        }
        let serving = self.processes.serving;
        let mut asked = false;
        loop {
            // Checked first, because SIGCHLD may have come before it was blocked.
            if let Some(ended) = ended(serving)? {
                return Ok(ended);
            }
            let signal = signals::take_signal(&AWAITED)?;
            if signal == SIGCHLD {
                continue;
            }
            let passed = if asked { Signal::KILL } else { Signal::TERM };
            asked = true;
            kill_process(serving, passed)?;
            if passed == Signal::KILL {
                waitpid(Some(serving), WaitOptions::empty())?;
                // The cause of its end is the signal that came here.
                return Ok(ServingExit::Signal(signal));
            }
        }
    }

    /// Ends this process as the serving process ended. A signal does not end the first process of a
    /// PID namespace: such a process exits with 128 plus the signal's number, as a shell would.
    pub fn end_as(&self, ended: ServingExit) -> ! {
        match ended {
            ServingExit::Status(code) => process::end(code),
            ServingExit::Signal(number) => {
                // If either fails, the status below reports the signal.
                signals::unblock_signals(&[number]).unwrap_or_default();
                if let Some(signal) = Signal::from_named_raw(number) {
                    kill_process(self.processes.supervisor, signal).unwrap_or_default();
                }
                process::end(u8::try_from(number).unwrap_or_default().saturating_add(128));
            }
        }
    }
}

fn ended(child: Pid) -> io::Result<Option<ServingExit>> {
    let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? else { return Ok(None) };
    if let Some(signal) = status.terminating_signal() {
        // The daemon's `abort` raises SIGTRAP (`process::abort`).
        let signal = if signal == SIGTRAP { SIGABRT } else { signal };
        return Ok(Some(ServingExit::Signal(signal)));
    }
    let code = status.exit_status().map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    Ok(code.map(ServingExit::Status))
}
