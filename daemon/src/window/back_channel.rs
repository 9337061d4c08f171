//! The thread of a back channel: it carries out one job at a time and sends one message at a time.

use super::Window;
use super::link::{Interrupted, Link, MapMessage, SendResult, ShmemFrontEnd};
use super::pending::MapFiles;
use super::probe::{self, LOG};
use super::state::{Channel, Peer, Ready, WindowJob, WindowState, WindowTask, Work};
use crate::limits::WINDOW_THREADS_MAX;
use pinhole_dax_cache::{Action, DaxError, Failure, FrontEnd, Mapping, Mappings, Next, Overlap, SLOT_LEN};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One back channel, for the thread that serves it.
#[derive(Debug)]
pub struct BackChannel {
    window: Arc<Window>,
    channel: Channel,
}

impl Drop for BackChannel {
    fn drop(&mut self) {
        self.window.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackChannel {
    /// Carries out jobs until the channel is replaced or breaks.
    pub fn serve(self, front_end: &impl ShmemFrontEnd) {
        let window = &*self.window;
        let link = Link { window, channel: self.channel, front_end };
        while let Some(job) = window.next_job(self.channel) {
            let done = link.carry_out(&job.task);
            let result = done.as_ref().map_or(Err(DaxError::Cleared), |result| *result);
            if let Err(error) = result {
                tracing::debug!(%error, "a job of the DAX window failed");
            }
            window.end_job(self.channel, job, result);
            if done == Err(Interrupted::Replaced) {
                return;
            }
        }
    }
}

impl Window {
    /// Replaces the back channel. The mappings of the front-end behind the old one are removed
    /// through the new one. Returns `None` if too many threads wait for front-ends that do not
    /// reply.
    pub fn connect(self: &Arc<Self>) -> Option<BackChannel> {
        let mut state = self.state.lock();
        state.newest.0 = state.newest.0.wrapping_add(1);
        // The old thread does not finish its job.
        state.work = None;
        state.give_up_jobs();
        if state.mappings.is_some() {
            state.jobs.push_back(WindowJob { task: WindowTask::Clear, pending: None });
        }
        let too_many = self.threads.load(Ordering::Relaxed) >= WINDOW_THREADS_MAX;
        let channel = if too_many {
            state.peer = Peer::Absent;
            None
        } else {
            let channel = state.newest;
            state.peer.connect(channel);
            self.threads.fetch_add(1, Ordering::Relaxed);
            Some(BackChannel { window: Arc::clone(self), channel })
        };
        self.announce(&state);
        channel
    }

    fn next_job(&self, channel: Channel) -> Option<WindowJob> {
        let mut state = self.state.lock();
        loop {
            if state.peer.channel() != Some(channel) {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                if job.is_given_up() {
                    continue;
                }
                state.work = Some(Work { node: job.task.node(), sent: None });
                return Some(job);
            }
            state = self.changed.wait(state);
        }
    }

    /// Settles a job. The next job may begin before the request of this one has its result.
    fn end_job(&self, channel: Channel, job: WindowJob, result: Result<(), DaxError>) {
        let WindowJob { task, pending } = job;
        // Closing files may take long, so the lock is not held meanwhile.
        drop(task);
        let mut state = self.state.lock();
        if let Some(pending) = pending {
            pending.settle(result);
        }
        if state.peer.channel() == Some(channel) {
            state.work = None;
        }
        self.announce(&state);
    }
}

impl WindowJob {
    /// Returns whether no request waits for the mapping any longer. The guest then has an error for
    /// it, so the mapping must not be made.
    fn is_given_up(&self) -> bool {
        let is_over = self.pending.as_ref().is_some_and(|pending| pending.result().is_some());
        is_over && matches!(self.task, WindowTask::Setup(..))
    }
}

impl<M: ShmemFrontEnd> Link<'_, M> {
    fn carry_out(&self, task: &WindowTask) -> SendResult<DaxError> {
        match task {
            WindowTask::Setup(wanted, files) => self.follow(|table| table.setup(wanted), Some(files)),
            WindowTask::Remove(entries) => self.follow(|table| table.remove(entries.iter().copied()), None),
            WindowTask::Clear => self.clear(),
            WindowTask::Prepare => {
                let is_known = self.state(|state| !matches!(state.peer, Peer::Probing(_)))?;
                if is_known { self.clear() } else { self.probe() }
            }
        }
    }

    /// Removes every mapping.
    ///
    /// A front-end that refuses overlaps knows its mappings. If it refuses a removal, the mapping
    /// does not exist: QEMU drops all mappings when the device is reset.
    fn clear(&self) -> SendResult<DaxError> {
        let begin = |state: &mut WindowState| Some(state.mappings.as_mut()?.clear(FrontEnd::StillMaps));
        let Some(next) = self.state(begin)? else { return Ok(Ok(())) };
        let cleared = self.go_on(next, None)?;
        self.state(|state| {
            let overlap = state.peer.ready_mut().map(|ready| ready.capabilities.overlap);
            let dropped_all = overlap == Some(Overlap::Refused) && !state.is_halted;
            match (&mut state.mappings, cleared) {
                (Some(mappings), Err(DaxError::Refused)) if dropped_all => {
                    drop(mappings.clear(FrontEnd::DroppedAll));
                    Ok(())
                }
                (Some(_) | None, cleared) => cleared,
            }
        })
    }

    fn probe(&self) -> SendResult<DaxError> {
        if self.state(|state| std::mem::replace(&mut state.has_probe_mapping, true))? {
            // Ignore the result: the slot may have been empty.
            self.unmap(0, SLOT_LEN)?.unwrap_or_default();
        }
        let found = probe::run(self)?;
        let geometry = self.window.settings.geometry;
        self.state(|state| {
            state.has_probe_mapping = false;
            match found {
                Ok(capabilities) => {
                    state.mappings = Some(Mappings::new(geometry, &capabilities, usize::MAX));
                    state.peer = Peer::Ready(self.channel, Ready { capabilities, is_open: false });
                    Ok(())
                }
                Err(why) => {
                    if let Some(suppressed) = LOG.pass() {
                        tracing::warn!(suppressed, "no DAX with this front-end: {why}");
                    }
                    state.peer = Peer::Unusable(self.channel);
                    Err(DaxError::Refused)
                }
            }
        })
    }

    fn follow(
        &self,
        begin: impl FnOnce(&mut Mappings) -> Next,
        files: Option<&MapFiles>,
    ) -> SendResult<DaxError> {
        match self.state(|state| state.mappings.as_mut().map(begin))? {
            Some(next) => self.go_on(next, files),
            None => Ok(Err(DaxError::Gone)),
        }
    }

    /// Carries out a plan to its end. No lock is held while the front-end handles a message.
    fn go_on(&self, mut next: Next, files: Option<&MapFiles>) -> SendResult<DaxError> {
        loop {
            match next {
                Next::Finished(result) => return Ok(result),
                Next::Send(step) => {
                    let result = match step.action() {
                        Action::Map(mapping) => match files.and_then(|files| files.message(&mapping)) {
                            Some((message, file)) => unless_halted(self.map(&message, file))?,
                            None => Err(Failure::Refused),
                        },
                        Action::Unmap(range) => unless_halted(self.unmap(range.offset(), range.len()))?,
                    };
                    let complete = |table: &mut Mappings| table.complete(step, result);
                    let after = self.state(|state| state.mappings.as_mut().map(complete))?;
                    let Some(after) = after else { return Ok(Err(DaxError::Gone)) };
                    next = after;
                }
            }
        }
    }
}

/// Treats a message that was not sent as refused, because it had no effect either.
fn unless_halted(result: SendResult<Failure>) -> SendResult<Failure> {
    if result == Err(Interrupted::Halted) { Ok(Err(Failure::Refused)) } else { result }
}

impl MapFiles {
    /// Returns the message for a mapping, with a descriptor that has exactly the rights of the
    /// mapping. Only the descriptor limits the rights of the front-end. `None`: there is no such
    /// descriptor, or no file of the host is that long.
    fn message(&self, mapping: &Mapping) -> Option<(MapMessage, BorrowedFd<'_>)> {
        let files = [Some(&self.wanted), self.restore.as_ref()];
        let file = files.into_iter().flatten().find(|file| file.is_writable() == mapping.writable())?;
        let message = MapMessage::from(mapping);
        let file_offset = message.file_offset.checked_add(file.first_byte())?;
        Some((MapMessage { file_offset, ..message }, file.as_fd()))
    }
}
