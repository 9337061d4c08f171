//! The DAX window of one share: its mappings, the rights of the guest, and the jobs of the
//! front-end.
//!
//! A request about the window is planned here. The thread of the back channel carries it out
//! ([`BackChannel::serve`]). No queue thread waits for that thread: the request is deferred, and it
//! is answered when its [`Pending`] is settled or its time is over. After that time, the plan still
//! goes on when the front-end replies. So a late reply is never taken for the reply to another
//! message, and the window can be used again. No lock is held while the front-end works, because it
//! may be waiting for this daemon.
//!
//! [`state::Peer`] is the state machine:
//!
//! | state | next state |
//! |---|---|
//! | `Absent` | `Probing` when a back channel is connected |
//! | `Probing` | `Ready` or `Unusable` when the probe for a guest's INIT is over |
//! | `Unusable` | `Probing` when another back channel is connected |
//! | `Ready` | `Ready` with another back channel |
//! | each of them | `Absent` when the channel breaks or the front-end disconnects |
//!
//! While a queue is being stopped, the window is draining: requests wait for [`WINDOW_GRACE`] at
//! most. When every queue has stopped, the window is halted and sends no message.

mod back_channel;
mod link;
mod pending;
mod probe;
mod state;

use crate::limits::WINDOW_GRACE;
use crate::sync::clock;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Condvar, Mutex};
use pending::errno;
use pinhole_dax_cache::{Capabilities, DaxError, Geometry, Mode, Wanted};
use pinhole_protocol::Errno;
use state::{Draining, WindowJob, WindowState, WindowTask};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::file_id::FileId;
pub use back_channel::BackChannel;
pub use link::{MapMessage, ShmemFrontEnd};
pub(crate) use pending::MapFiles;
pub use pending::Pending;
pub(crate) use state::GuestGeneration;

/// log2 of the alignment that INIT tells the guest: that of Linux's slots. So a window has at most
/// one mapping for each slot.
pub(crate) const ALIGNMENT_SHIFT: u32 = pinhole_dax_cache::ALIGNMENT_SHIFT_MAX;

/// Settings of the window from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of the window, and alignment of its mappings.
    pub geometry: Geometry,
    /// Files that are offered to the guest for mapping.
    pub mode: Mode,
    /// Minimum length of an offered file in bytes, for [`Mode::Auto`].
    pub threshold: u64,
}

/// File with which front-ends are probed. It belongs to no guest and no share, and is
/// [`LEN`](Self::LEN) bytes long.
#[derive(Debug)]
pub struct ScratchFile {
    /// Descriptor that was opened `O_RDWR`.
    pub writable: OwnedFd,
    /// Descriptor of the same file that was opened `O_RDONLY`.
    pub read_only: OwnedFd,
    /// Identity of the file, which has no name.
    pub id: FileId,
}

impl ScratchFile {
    /// Length in bytes: one of Linux's slots and one page.
    pub const LEN: u64 = pinhole_dax_cache::SLOT_LEN + (1 << pinhole_dax_cache::ALIGNMENT_SHIFT_MIN);
}

/// Window of one share, for all its front-ends and guests over time.
#[derive(Debug)]
pub struct Window {
    settings: Settings,
    scratch: ScratchFile,
    /// Each change under this lock is complete before anything can panic.
    state: Mutex<WindowState>,
    /// Notified when the state changes in a way that a thread may wait for.
    changed: Condvar,
    /// Notified at the same time, for deferred requests.
    wake: OnceLock<Arc<EventCounter>>,
    /// Number of requests that wait.
    pending: Arc<AtomicUsize>,
    /// Whether a guest may map. It is outside the lock because each LOOKUP reads it.
    usable: AtomicBool,
    /// Number of threads that serve a back channel, including those whose front-end is gone.
    threads: AtomicUsize,
}

/// How to carry out a SETUPMAPPING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetupPlan {
    /// The mapping exists already.
    There,
    /// The front-end has to map it.
    Map {
        /// Map it for reading and writing.
        writable: bool,
        /// If the host does not open the file for writing, a read-only mapping suffices.
        or_read_only: bool,
        /// A read-only mapping of the same range exists. It is restored if the new one is refused.
        restore: bool,
    },
}

impl Window {
    /// Makes a window without a front-end.
    pub fn new(settings: Settings, scratch: ScratchFile) -> Self {
        Self {
            settings,
            scratch,
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: OnceLock::new(),
            pending: Arc::default(),
            usable: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
        }
    }

    /// Returns the length in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.settings.geometry.window_len()
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Wakes every thread that waits for a change.
    ///
    /// Must follow each change that a thread waits for, and each change after which a guest may no
    /// longer map.
    fn announce(&self, state: &WindowState) {
        self.usable.store(state.peer.open().is_some(), Ordering::Relaxed);
        self.changed.notify_all();
        if let Some(wake) = self.wake.get() {
            wake.notify();
        }
    }

    /// Sets the event that is notified when a deferred request may have its outcome. Must be called
    /// only once.
    pub(crate) fn notify_through(&self, wake: &Arc<EventCounter>) {
        if self.wake.set(Arc::clone(wake)).is_err() {
            tracing::error!("a window was given to a second session");
        }
    }
}

/// Events of the front-end and its queues.
impl Window {
    /// Forgets the front-end and its mappings, because both are gone.
    pub fn disconnect(&self) {
        let mut state = self.state.lock();
        state.give_up_jobs();
        state.forget_front_end();
        self.announce(&state);
    }

    /// Notes that a queue is being stopped. Its stop waits for the requests that were taken from
    /// it, and the front-end may be unable to reply until then.
    pub fn begin_drain(&self) {
        let mut state = self.state.lock();
        if let Some(draining) = &mut state.draining {
            draining.queues = draining.queues.saturating_add(1);
        } else {
            state.draining = Some(Draining { queues: 1, since: clock::now() });
            self.announce(&state);
        }
    }

    /// Notes that the queue has been stopped.
    pub fn end_drain(&self) {
        let mut state = self.state.lock();
        if let Some(draining) = &mut state.draining {
            draining.queues = draining.queues.saturating_sub(1);
        }
        state.draining = state.draining.filter(|draining| draining.queues > 0);
    }

    /// Notes that every queue has been stopped. From now on no message is sent. Waits a short time
    /// for the reply to the last message.
    pub fn halt(&self) {
        let until = clock::now().checked_add(WINDOW_GRACE);
        let mut state = self.state.lock();
        state.is_halted = true;
        drop(self.changed.wait_while(state, until, |state| state.sent().is_some()));
    }

    /// Notes that a queue is served again.
    pub fn resume(&self) {
        self.state.lock().is_halted = false;
    }
}

/// Sessions of the guest.
impl Window {
    /// Prepares the window for the INIT of a guest that wants to map: removes the mappings of the
    /// previous guest, and probes the front-end if it is unknown. Returns `None` if there can be no
    /// window.
    pub(crate) fn prepare(&self) -> Option<(GuestGeneration, Arc<Pending>)> {
        let mut state = self.state.lock();
        let generation = self.begin_generation(&mut state);
        if !state.peer.may_serve() || state.is_overdue() {
            return None;
        }
        let pending = Pending::new(&self.pending)?;
        state.jobs.push_back(WindowJob { task: WindowTask::Prepare, pending: Some(Arc::clone(&pending)) });
        self.announce(&state);
        Some((generation, pending))
    }

    /// Lets the guest map after the preparation. Returns `None` if the preparation failed.
    ///
    /// # Errors
    /// EIO if another guest's INIT, DESTROY or reset came since.
    pub(crate) fn open(&self, generation: GuestGeneration) -> Result<Option<Capabilities>, Errno> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return Err(Errno::EIO);
        }
        let is_prepared =
            state.is_at_rest() && state.mappings.as_ref().is_some_and(|mappings| !mappings.is_gone());
        let Some(ready) = state.peer.ready_mut().filter(|_| is_prepared) else { return Ok(None) };
        ready.is_open = true;
        self.usable.store(true, Ordering::Relaxed);
        Ok(Some(ready.capabilities))
    }

    /// Removes the mappings of a guest that is gone or will not map. No request waits for that.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        self.begin_generation(&mut state);
        if state.mappings.as_ref().is_some_and(|mappings| mappings.taken() > 0) {
            state.jobs.push_back(WindowJob { task: WindowTask::Clear, pending: None });
            self.announce(&state);
        }
    }

    /// Returns whether a guest may map.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Begins the generation of another guest. The previous guest can no longer map, and its
    /// requests end.
    fn begin_generation(&self, state: &mut WindowState) -> GuestGeneration {
        if let Some(ready) = state.peer.ready_mut() {
            ready.is_open = false;
        }
        state.give_up_jobs();
        state.generation.0 = state.generation.0.wrapping_add(1);
        self.announce(state);
        state.generation
    }
}

/// Requests of the guest.
impl Window {
    /// Returns how to carry out a SETUPMAPPING. `may_write`: the guest may have a writable mapping
    /// of the node.
    ///
    /// # Errors
    /// EINVAL for an impossible mapping, EIO if the window is closed, EOPNOTSUPP if this front-end
    /// would map with more rights than the guest may have.
    pub(crate) fn plan(&self, wanted: &Wanted, may_write: bool) -> Result<SetupPlan, Errno> {
        let read_only = Wanted { writable: false, ..*wanted };
        self.settings.geometry.mapping(wanted).map_err(errno)?;
        let state = self.state.lock();
        let (Some(capabilities), Some(mappings)) = (state.peer.open(), &state.mappings) else {
            return Err(Errno::EIO);
        };
        // A job that has not ended may remove the mapping.
        if state.is_at_rest() && mappings.holds(wanted).map_err(errno)? {
            return Ok(SetupPlan::There);
        }
        let writable = capabilities.map_writable(wanted.writable, may_write).ok_or(Errno::EOPNOTSUPP)?;
        let or_read_only = !wanted.writable && capabilities.read_only_descriptors;
        let restore = writable && mappings.holds(&read_only).map_err(errno)?;
        Ok(SetupPlan::Map { writable, or_read_only, restore })
    }

    /// Submits a mapping.
    ///
    /// # Errors
    /// EIO if the window is closed, or the front-end does not reply.
    pub(crate) fn set_up(&self, wanted: Wanted, files: MapFiles) -> Result<Arc<Pending>, Errno> {
        let (node, id) = (wanted.node, files.wanted.id());
        let mut state = self.state.lock();
        let pending = self.submit_to(&mut state, WindowTask::Setup(wanted, files))?;
        state.hand_out(node, id);
        Ok(pending)
    }

    /// Returns whether the front-end may have mapped this file.
    pub fn has_handed_out(&self, file: FileId) -> bool {
        self.scratch.id == file || self.state.lock().has_handed_out(file)
    }

    /// Notes a file as handed out, for tests.
    #[cfg(test)]
    pub(crate) fn note_handed_out(&self, node: u64, file: FileId) {
        self.state.lock().hand_out(node, file);
    }

    /// Submits the removal of mappings, each with its window offset and length.
    ///
    /// # Errors
    /// As for [`Window::set_up`].
    pub(crate) fn remove(&self, entries: Vec<(u64, u64)>) -> Result<Arc<Pending>, Errno> {
        self.submit_to(&mut self.state.lock(), WindowTask::Remove(entries))
    }

    fn submit_to(&self, state: &mut WindowState, task: WindowTask) -> Result<Arc<Pending>, Errno> {
        if state.peer.open().is_none() || state.is_overdue() {
            return Err(Errno::EIO);
        }
        let pending = Pending::new(&self.pending).ok_or(Errno::EIO)?;
        state.jobs.push_back(WindowJob { task, pending: Some(Arc::clone(&pending)) });
        self.announce(state);
        Ok(pending)
    }
}

/// Outcomes of requests.
impl Window {
    /// Returns when the time of a request is over, by the present state.
    pub(crate) fn time_of(&self, pending: &Pending) -> Instant {
        self.state.lock().until(pending.deadline())
    }

    /// Returns the outcome of a request, or `None` while it must still wait. Its time is over if
    /// the front-end has not replied for too long, or if too many requests were before it.
    pub fn outcome(&self, pending: &Pending) -> Option<Result<(), Errno>> {
        if pending.result().is_none() && self.state.lock().until(pending.deadline()) <= clock::now() {
            // If its job has not begun, it is not carried out.
            pending.settle(Err(DaxError::Gone));
        }
        pending.result().map(|result| result.map_err(errno))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::window as window_for_tests;
