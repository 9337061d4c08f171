//! The thread that talks to the front-end: one job after the other, one message after the other.

use super::probe::{self, LOG, Usable};
use super::{Channel, Job, Learnt, MapFiles, State, Task, Window};
use pinhole_dax_cache::{
    Action, DaxError, Failure, FrontEnd, Mapping, Mappings, Next, Overlap, SLOT_LEN, WindowRange,
};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// What a `SHMEM_MAP` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Bytes from the window's start.
    pub window_offset: u64,
    /// Bytes from the file's start.
    pub file_offset: u64,
    /// Bytes.
    pub len: u64,
    /// Mapped for reading and writing.
    pub writable: bool,
}

/// The front-end's end of a back channel. Each call waits for the answer, for as long as that takes.
pub trait Messenger {
    /// `SHMEM_MAP`.
    ///
    /// # Errors
    /// [`Failure`].
    fn map(&self, message: &Message, file: BorrowedFd<'_>) -> Result<(), Failure>;

    /// `SHMEM_UNMAP` of what was mapped with `window_offset` and `len`.
    ///
    /// # Errors
    /// [`Failure`].
    fn unmap(&self, window_offset: u64, len: u64) -> Result<(), Failure>;
}

impl From<&Mapping> for Message {
    fn from(mapping: &Mapping) -> Self {
        Self {
            window_offset: mapping.range().offset(),
            file_offset: mapping.file_offset(),
            len: mapping.range().len(),
            writable: mapping.writable(),
        }
    }
}

/// Why nothing more is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silent {
    /// The channel is not the present one any more, or of no use: who talks through it is to end.
    Replaced,
    /// Every queue has stopped: nothing may be sent until one is served again.
    Halted,
}

/// A channel and who talks through it. Nothing is sent that may not be.
pub(crate) struct Line<'l, M> {
    pub(crate) window: &'l Window,
    pub(crate) channel: Channel,
    pub(crate) front_end: &'l M,
}

/// The right and the duty of one thread to talk through a back channel.
#[derive(Debug)]
pub struct Attendance {
    window: Arc<Window>,
    channel: Channel,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.window.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Attendance {
    pub(super) fn new(window: Arc<Window>, channel: Channel) -> Self {
        window.threads.fetch_add(1, Ordering::Relaxed);
        Self { window, channel }
    }

    /// Carries out what is to be done, until the channel is not the present one any more.
    pub fn attend(self, front_end: &impl Messenger) {
        let window = &*self.window;
        let line = Line { window, channel: self.channel, front_end };
        while let Some(job) = window.next(self.channel) {
            let carried_out = line.carry_out(&job.task);
            let result = carried_out.as_ref().map_or(Err(DaxError::Cleared), |result| *result);
            if let Err(error) = result {
                tracing::debug!(%error, "DAX window");
            }
            window.done(self.channel, job, result);
            if carried_out == Err(Silent::Replaced) {
                return;
            }
        }
    }
}

impl Window {
    fn next(&self, channel: Channel) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.channel != Some(channel) {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                if job.is_given_up() {
                    continue;
                }
                state.busy = true;
                state.at_work = match &job.task {
                    Task::Setup(wanted, _) => Some(wanted.node),
                    Task::Remove(_) | Task::Prepare | Task::Clear => None,
                };
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The job is done, as far as it could be. Who waits for it hears of that when the next one can be done.
    /// By then its place among [`WINDOW_REQUESTS_MAX`](crate::limits::WINDOW_REQUESTS_MAX) is held by none but them.
    fn done(&self, channel: Channel, job: Job, result: Result<(), DaxError>) {
        let Job { task, pending } = job;
        // Closing files may take long: not under the lock.
        drop(task);
        let mut state = self.lock();
        if let Some(pending) = pending {
            pending.settle(result);
        }
        if state.channel == Some(channel) {
            (state.busy, state.at_work) = (false, None);
        }
        self.announce(&mut state);
    }
}

impl Job {
    /// Nobody waits for the mapping any more, and the guest was told that it has none.
    fn is_given_up(&self) -> bool {
        let over = self.pending.as_ref().is_some_and(|pending| pending.result.get().is_some());
        over && matches!(self.task, Task::Setup(..))
    }
}

impl<M: Messenger> Line<'_, M> {
    fn carry_out(&self, task: &Task) -> Result<Result<(), DaxError>, Silent> {
        match task {
            Task::Setup(wanted, files) => self.follow(|table| table.setup(wanted), Some(files)),
            Task::Remove(entries) => self.follow(|table| table.remove(entries.iter().copied()), None),
            Task::Clear => self.clear(),
            Task::Prepare => {
                let known = self.state(|state| state.learnt != Learnt::Nothing)?;
                if known { self.clear() } else { self.learn() }
            }
        }
    }

    /// Takes everything out. A front-end that keeps books of what it has mapped refuses to take out only what is not there:
    /// it has dropped all by itself, as QEMU does when the device is reset.
    fn clear(&self) -> Result<Result<(), DaxError>, Silent> {
        let Some(next) = self.state(State::clear)? else { return Ok(Ok(())) };
        let cleared = self.go_on(next, None)?;
        self.state(|state| {
            let keeps_books = matches!(state.learnt, Learnt::Can(can) if can.overlap == Overlap::Refused);
            match (&mut state.table, cleared) {
                (Some(table), Err(DaxError::Refused)) if keeps_books && !state.halted => {
                    drop(table.clear(FrontEnd::DroppedAll));
                    Ok(())
                }
                (Some(_) | None, cleared) => cleared,
            }
        })
    }

    fn learn(&self) -> Result<Result<(), DaxError>, Silent> {
        if self.state(|state| std::mem::replace(&mut state.trial_left, true))? {
            // Whether there was something, is all one.
            self.unmap_at(0, SLOT_LEN)?.unwrap_or_default();
        }
        let learnt = probe::learn(self)?;
        let geometry = self.window.geometry;
        self.state(|state| {
            state.trial_left = false;
            match learnt {
                Ok(Usable(capabilities)) => {
                    state.table = Some(Mappings::new(geometry, &capabilities, usize::MAX));
                    state.learnt = Learnt::Can(capabilities);
                    Ok(())
                }
                Err(why) => {
                    if let Some(suppressed) = LOG.pass() {
                        tracing::warn!(suppressed, "no DAX with this front-end: {why}");
                    }
                    state.learnt = Learnt::Unusable;
                    Err(DaxError::Refused)
                }
            }
        })
    }

    fn follow(
        &self,
        begin: impl FnOnce(&mut Mappings) -> Next,
        files: Option<&MapFiles>,
    ) -> Result<Result<(), DaxError>, Silent> {
        match self.state(|state| state.table.as_mut().map(begin))? {
            Some(next) => self.go_on(next, files),
            None => Ok(Err(DaxError::Gone)),
        }
    }

    /// Follows a plan to its end, without a lock while the front-end has a step to do.
    fn go_on(&self, mut next: Next, files: Option<&MapFiles>) -> Result<Result<(), DaxError>, Silent> {
        loop {
            match next {
                Next::Finished(result) => return Ok(result),
                Next::Send(step) => {
                    let result = match step.action() {
                        Action::Map(mapping) => match files.and_then(|files| files.of(&mapping)) {
                            Some(file) => unless_halted(self.map(&Message::from(&mapping), file))?,
                            None => Err(Failure::Refused),
                        },
                        Action::Unmap(range) => unless_halted(self.unmap(range))?,
                    };
                    let done = |table: &mut Mappings| table.complete(step, result);
                    let Some(after) = self.state(|state| state.table.as_mut().map(done))? else {
                        return Ok(Err(DaxError::Gone));
                    };
                    next = after;
                }
            }
        }
    }

    pub(crate) fn map(&self, message: &Message, file: BorrowedFd<'_>) -> Result<Result<(), Failure>, Silent> {
        self.tell(|front_end| front_end.map(message, file))
    }

    fn unmap(&self, range: WindowRange) -> Result<Result<(), Failure>, Silent> {
        self.unmap_at(range.offset(), range.len())
    }

    pub(crate) fn unmap_at(&self, offset: u64, len: u64) -> Result<Result<(), Failure>, Silent> {
        self.tell(|front_end| front_end.unmap(offset, len))
    }

    /// Sends one message, if it may be sent, and waits for the answer.
    fn tell(&self, message: impl FnOnce(&M) -> Result<(), Failure>) -> Result<Result<(), Failure>, Silent> {
        let may = self.state(|state| {
            state.sent = (!state.halted).then(Instant::now);
            !state.halted
        })?;
        if !may {
            return Err(Silent::Halted);
        }
        let result = message(self.front_end);
        self.state(|state| {
            state.sent = None;
            if result == Err(Failure::Gone) {
                // Nothing that it says later could be told from an answer to something else.
                state.learnt = Learnt::Unusable;
                state.channel = None;
                state.give_up_jobs();
                self.window.usable.store(false, Ordering::Relaxed);
            }
            self.window.announce(state);
        })?;
        Ok(result)
    }

    /// Looks at the state, or changes it, while the channel is the present one.
    pub(crate) fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, Silent> {
        let mut state = self.window.lock();
        if state.channel == Some(self.channel) { Ok(change(&mut state)) } else { Err(Silent::Replaced) }
    }
}

/// What was not sent was not done, and that is all that a refusal says.
fn unless_halted(told: Result<Result<(), Failure>, Silent>) -> Result<Result<(), Failure>, Silent> {
    if told == Err(Silent::Halted) { Ok(Err(Failure::Refused)) } else { told }
}

impl MapFiles {
    /// A descriptor with exactly the rights of the mapping: it is all that holds the front-end to them.
    fn of(&self, mapping: &Mapping) -> Option<BorrowedFd<'_>> {
        let files = [Some(&self.wanted), self.restore.as_ref()];
        let fits = files.into_iter().flatten().find(|file| file.is_writable() == mapping.writable());
        fits.map(AsFd::as_fd)
    }
}
