//! The supervisor: the process that stays outside the sandbox. Whoever started the daemon knows this process's number,
//! so it passes signals in and the end out, and does nothing else.

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

/// How the other process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Status(u8),
    /// By this signal.
    Signal(i32),
}

/// The supervisor before it gives up its rights.
#[derive(Debug)]
pub struct UnconfinedSupervisor {
    processes: Processes,
    /// Tells the serving process to go on.
    start: PipeWriter,
    filter: SupervisorFilter,
    facilities: Facilities,
}

impl UnconfinedSupervisor {
    pub(super) const fn new(
        processes: Processes,
        start: PipeWriter,
        filter: SupervisorFilter,
        facilities: Facilities,
    ) -> Self {
        Self { processes, start, filter, facilities }
    }

    /// The process that serves.
    pub const fn serving(&self) -> Pid {
        self.processes.serving
    }

    /// Gives up every right that the supervisor does not need, and makes it ready for signals. The serving process does
    /// not continue before [`Supervisor::watch`] tells it to, so no guest is served before this is done.
    ///
    /// # Errors
    /// What the host says; the other process has then been ended.
    pub fn confine(self) -> io::Result<Supervisor> {
        let Self { processes, start, filter, facilities } = self;
        match give_up(processes, &filter, facilities) {
            Ok(()) => Ok(Supervisor { processes, start }),
            Err(error) => {
                end(processes.serving);
                Err(error)
            }
        }
    }
}

fn give_up(processes: Processes, filter: &SupervisorFilter, facilities: Facilities) -> io::Result<()> {
    // To end the other process, which may have become another user.
    let mut kept = CapabilitySet::KILL;
    if facilities.contains(Facilities::SOCKET_NAME) {
        // To remove the socket from any folder.
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

/// Ends a process, which may be gone already.
fn end(process: Pid) {
    kill_process(process, Signal::KILL).unwrap_or_default();
}

/// The supervisor under its filter. It must not return from `main`: that takes system calls which the filter forbids.
#[derive(Debug)]
pub struct Supervisor {
    processes: Processes,
    start: PipeWriter,
}

impl Supervisor {
    /// Passes on SIGTERM and SIGINT until the other process ends; a second one ends it at once.
    ///
    /// # Errors
    /// What the host says; the other process has then been ended.
    pub fn watch(&self) -> io::Result<Ended> {
        let watched = self.until_it_ends();
        if watched.is_err() {
            end(self.processes.serving);
        }
        watched
    }

    fn until_it_ends(&self) -> io::Result<Ended> {
        match (&self.start).write_all(b"!") {
            // It has ended, as the first look will show.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
        }
        let serving = self.processes.serving;
        let mut asked = false;
        loop {
            // First a look: SIGCHLD may have come before it was blocked.
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
                // What ended it is what was sent here.
                return Ok(Ended::Signal(signal));
            }
        }
    }

    /// Ends this process as the other one ended. Where the signal does not end it, because this process is the first of a
    /// namespace of processes, it ends with 128 and the signal's number, as a shell would say it.
    pub fn end_as(&self, ended: Ended) -> ! {
        match ended {
            Ended::Status(code) => process::end(code),
            Ended::Signal(number) => {
                // Where either fails, the status below tells the signal.
                signals::unblock_signals(&[number]).unwrap_or_default();
                if let Some(signal) = Signal::from_named_raw(number) {
                    kill_process(self.processes.supervisor, signal).unwrap_or_default();
                }
                process::end(u8::try_from(number).unwrap_or_default().saturating_add(128));
            }
        }
    }
}

fn ended(child: Pid) -> io::Result<Option<Ended>> {
    let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? else { return Ok(None) };
    if let Some(signal) = status.terminating_signal() {
        // This is how it aborts (`process::abort`).
        let signal = if signal == SIGTRAP { SIGABRT } else { signal };
        return Ok(Some(Ended::Signal(signal)));
    }
    let code = status.exit_status().map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    Ok(code.map(Ended::Status))
}
