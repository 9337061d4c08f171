//! The process that stays outside: it was started by somebody who holds its number, so it passes signals in and the end
//! out, and does nothing else.

use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::CapabilitySet;
use signal_hook::consts::{SIGABRT, SIGCHLD, SIGINT, SIGTERM, SIGTRAP};
use signal_hook::iterator::Signals;
use std::io::{self, PipeWriter};

/// How the other process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Status(u8),
    /// By this signal.
    Signal(i32),
}

/// Waits for the process that serves.
#[derive(Debug)]
pub struct Keeper {
    child: Pid,
    /// Closed when signals are listened to.
    listens: PipeWriter,
}

impl Keeper {
    pub(super) const fn of(child: Pid, listens: PipeWriter) -> Self {
        Self { child, listens }
    }

    /// The number of the process that serves.
    pub const fn serving(&self) -> Pid {
        self.child
    }

    /// Passes on SIGTERM and SIGINT until the other process ends; a second one ends it at once.
    ///
    /// # Errors
    /// What the host says; the other process has then been ended.
    pub fn watch(self) -> io::Result<Ended> {
        let Self { child, listens } = self;
        let watched = until_it_ends(child, listens);
        if watched.is_err() {
            // It may be gone already.
            kill_process(child, Signal::KILL).unwrap_or_default();
        }
        watched
    }
}

fn until_it_ends(child: Pid, listens: PipeWriter) -> io::Result<Ended> {
    // Enough to remove the socket from any folder, if this is root, and to end the other process, which may have become
    // another user.
    let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::KILL;
    super::privileges::keep_only(kept)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD])?;
    drop(listens);
    let mut asked = false;
    // It may have ended before anybody listened.
    if let Some(ended) = ended(child)? {
        return Ok(ended);
    }
    for signal in signals.forever() {
        if signal == SIGCHLD {
            if let Some(ended) = ended(child)? {
                return Ok(ended);
            }
            continue;
        }
        let passed = if asked { Signal::KILL } else { Signal::TERM };
        asked = true;
        kill_process(child, passed)?;
        if passed == Signal::KILL {
            waitpid(Some(child), WaitOptions::empty())?;
            // What ended it is what was sent here.
            return Ok(Ended::Signal(signal));
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn ended(child: Pid) -> io::Result<Option<Ended>> {
    let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? else { return Ok(None) };
    if let Some(signal) = status.terminating_signal() {
        // This is how it aborts (`unshare::abort`).
        let signal = if signal == SIGTRAP { SIGABRT } else { signal };
        return Ok(Some(Ended::Signal(signal)));
    }
    let code = status.exit_status().map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    Ok(code.map(Ended::Status))
}
