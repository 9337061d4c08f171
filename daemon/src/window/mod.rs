//! The DAX window of one share: what the guest may map, what it has mapped, and what the front-end is still to do.
//!
//! A request about the window is planned here and carried out by the thread that talks to the front-end
//! ([`Attendance::attend`], on a thread of the transport). Nobody who serves requests waits for that thread: the request is
//! parked ([`super::Parked`]) and answered when its [`Pending`] is settled, or when its time is over. The plan of one
//! whose time is over goes on when the front-end answers after all, so that a late answer is never taken for that to
//! another message, and the window is of use again. No lock is held while the front-end takes its time; it may be waiting
//! for this daemon.

mod back_channel;
mod probe;

use crate::filesystem::{FileId, MapFile};
use crate::limits::{
    WINDOW_GRACE, WINDOW_PATIENCE, WINDOW_REQUESTS_MAX, WINDOW_THREADS_MAX, WINDOW_WAIT_MAX,
};
use crate::sync::event::EventCounter;
use pinhole_dax_cache::{
    Capabilities, DaxError, FrontEnd, Geometry, GeometryError, Mappings, Mode, Next, Wanted,
};
use pinhole_protocol::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

pub use back_channel::{Attendance, Message, Messenger};

/// log2 of the alignment that INIT tells: that of Linux's slots. A window of n slots then has n mappings at most.
pub(crate) const ALIGNMENT_SHIFT: u32 = pinhole_dax_cache::ALIGNMENT_SHIFT_MAX;

/// What the command line says of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes, a power of two.
    pub len: u64,
    /// Which files are offered to the guest for mapping.
    pub mode: Mode,
    /// Bytes from which on a file is worth it, for [`Mode::Auto`].
    pub threshold: u64,
}

/// Files of no guest's and of no share's, to find out with what a front-end maps: each as long as
/// [`Scratch::LEN`](ScratchFile::LEN).
#[derive(Debug)]
pub struct ScratchFile {
    /// Opened `O_RDWR`.
    pub writable: OwnedFd,
    /// The same, opened `O_RDONLY`.
    pub read_only: OwnedFd,
    /// Which it is. It lies where nobody finds a file by name.
    pub id: FileId,
}

impl ScratchFile {
    /// Bytes: a slot of Linux's and a page of the next one.
    pub const LEN: u64 = pinhole_dax_cache::SLOT_LEN + (1 << pinhole_dax_cache::ALIGNMENT_SHIFT_MIN);
}

/// The window of one share. Front-ends and guests come and go.
#[derive(Debug)]
pub struct Window {
    geometry: Geometry,
    settings: Settings,
    scratch: ScratchFile,
    state: Mutex<State>,
    /// Something in the state has changed that somebody may wait for.
    changed: Condvar,
    /// For those who wait for requests.
    wake: OnceLock<Arc<EventCounter>>,
    /// Requests that wait.
    pending: Arc<AtomicUsize>,
    /// The guest may map and there is a channel; beside the state because each LOOKUP asks.
    usable: AtomicBool,
    /// Threads that talk to a front-end, or wait for one that is long gone.
    threads: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// The present back channel.
    channel: Option<Channel>,
    /// Back channels that there have been.
    channels: u64,
    learnt: Learnt,
    table: Option<Mappings>,
    jobs: VecDeque<Job>,
    /// Which files the front-end has, or may have yet, by node.
    handed_out: BTreeMap<u64, FileId>,
    /// A job is being done.
    busy: bool,
    /// The node whose mapping is being made.
    at_work: Option<u64>,
    /// When the message was sent that is under way.
    sent: Option<Instant>,
    /// The guest has been told that it may map.
    open: bool,
    /// A trial was broken off, which may have left something in the first slot.
    trial_left: bool,
    /// INITs, DESTROYs and resets that there have been.
    turns: u64,
    /// Every queue has stopped: nothing may be sent.
    halted: bool,
    /// Queues that are being stopped, and since when there have been any.
    hurries: usize,
    hurried: Option<Instant>,
    /// Counts what somebody may wait for.
    events: u64,
}

/// A back channel, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel(u64);

/// A guest's time with the window, from INIT on, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// Another guest's turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superseded;

/// What is known of the front-end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Learnt {
    #[default]
    Nothing,
    /// It cannot be used.
    Unusable,
    Can(Capabilities),
}

/// Something for the thread that talks to the front-end.
#[derive(Debug)]
struct Job {
    task: Task,
    pending: Option<Arc<Pending>>,
}

#[derive(Debug)]
enum Task {
    Setup(Wanted, MapFiles),
    Remove(Vec<(u64, u64)>),
    /// Before a guest is told that it may map: learn what is not known, take out what is left of the last guest.
    Prepare,
    Clear,
}

/// The descriptors that a SETUPMAPPING may need.
#[derive(Debug)]
pub(crate) struct MapFiles {
    /// For what is asked for.
    pub(crate) wanted: MapFile,
    /// `O_RDONLY`, to put back what was there before.
    pub(crate) restore: Option<MapFile>,
}

/// A request's outcome that is still to come.
#[derive(Debug)]
pub struct Pending {
    result: OnceLock<Result<(), DaxError>>,
    deadline: Instant,
    /// How many there are.
    count: Arc<AtomicUsize>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Pending {
    /// One more; `None` where there are too many.
    fn new(count: &Arc<AtomicUsize>) -> Option<Arc<Self>> {
        if count.fetch_add(1, Ordering::Relaxed) >= WINDOW_REQUESTS_MAX {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let now = Instant::now();
        let deadline = now.checked_add(WINDOW_WAIT_MAX).unwrap_or(now);
        Some(Arc::new(Self { result: OnceLock::new(), deadline, count: Arc::clone(count) }))
    }

    /// When nobody waits for it any longer, whatever the front-end does.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The first result counts; one that comes when nobody waits any longer is for nobody.
    fn settle(&self, result: Result<(), DaxError>) {
        self.result.set(result).unwrap_or_default();
    }
}

/// How to carry out a SETUPMAPPING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetupPlan {
    /// It is there already.
    There,
    /// The front-end is to map it.
    Map {
        /// To read and write.
        writable: bool,
        /// Where the host does not open it for that, to read.
        or_read_only: bool,
        /// A read-only mapping of the same is there, which is put back if this one is refused.
        restore: bool,
    },
}

/// Why there can be no window.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WindowError(#[from] GeometryError);

fn errno(error: DaxError) -> Errno {
    Errno::from_raw(error.errno())
}

impl Window {
    /// A window that no front-end has yet.
    ///
    /// # Errors
    /// Where there is none of that length.
    pub fn new(settings: Settings, scratch: ScratchFile) -> Result<Self, WindowError> {
        let geometry = Geometry::new(settings.len, ALIGNMENT_SHIFT)?;
        Ok(Self {
            geometry,
            settings,
            scratch,
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: OnceLock::new(),
            pending: Arc::default(),
            usable: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
        })
    }

    /// Bytes.
    pub const fn len(&self) -> u64 {
        self.geometry.window_len()
    }

    /// Never: it has a slot at least.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The file with which front-ends are tried out.
    pub const fn scratch(&self) -> &ScratchFile {
        &self.scratch
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under this lock is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits that something has changed.
    fn announce(&self, state: &mut State) {
        state.events = state.events.wrapping_add(1);
        self.changed.notify_all();
        if let Some(wake) = self.wake.get() {
            wake.notify();
        }
    }

    /// Sets the event that is notified whenever something changes that a request may wait for. Once.
    pub(crate) fn notify_through(&self, wake: &Arc<EventCounter>) {
        if self.wake.set(Arc::clone(wake)).is_err() {
            tracing::error!("a window was given to a second session");
        }
    }
}

// The life of the front-end and of its queues.
impl Window {
    /// There is a back channel now, which takes the place of one before. What that one's front-end has mapped is to be
    /// taken out by way of the new one. `None`: too many threads wait for front-ends that do not answer.
    pub fn connect(self: &Arc<Self>) -> Option<Attendance> {
        let mut state = self.lock();
        state.channels = state.channels.wrapping_add(1);
        let channel = Channel(state.channels);
        // What the old thread is at, it does not finish.
        (state.sent, state.busy, state.at_work) = (None, false, None);
        state.give_up_jobs();
        if state.learnt == Learnt::Unusable {
            state.learnt = Learnt::Nothing;
        }
        if state.table.is_some() {
            state.jobs.push_back(Job { task: Task::Clear, pending: None });
        }
        state.channel = None;
        let too_many = self.threads.load(Ordering::Relaxed) >= WINDOW_THREADS_MAX;
        let attendance = (!too_many).then(|| Attendance::new(Arc::clone(self), channel));
        state.channel = attendance.as_ref().map(|_| channel);
        self.announce(&mut state);
        attendance
    }

    /// The front-end is gone, and so are its mappings and all that was learnt of it.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        state.give_up_jobs();
        let (channels, turns, events) = (state.channels, state.turns, state.events);
        *state = State { channels, turns, events, ..State::default() };
        self.usable.store(false, Ordering::Relaxed);
        self.announce(&mut state);
    }

    /// A queue is being stopped, and whoever stops it waits for the requests that were taken from it: the front-end may
    /// be unable to answer for as long.
    pub fn hurry(&self) {
        let mut state = self.lock();
        state.hurries = state.hurries.saturating_add(1);
        if state.hurried.is_none() {
            state.hurried = Some(Instant::now());
            self.announce(&mut state);
        }
    }

    /// It has been stopped.
    pub fn calm_down(&self) {
        let mut state = self.lock();
        state.hurries = state.hurries.saturating_sub(1);
        if state.hurries == 0 {
            state.hurried = None;
        }
    }

    /// Every queue has been stopped: no message is sent from now on, and the one under way is waited for, but not for
    /// long.
    pub fn halt(&self) {
        let until = Instant::now().checked_add(WINDOW_GRACE);
        let mut state = self.lock();
        state.halted = true;
        while state.sent.is_some() {
            let left = until.map_or(WINDOW_GRACE, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A queue is to be served again.
    pub fn resume(&self) {
        self.lock().halted = false;
    }
}

// The life of the guest.
impl Window {
    /// INIT of a guest that wants to map: everything of the guest before is taken out, and the front-end is asked what it
    /// can do, if that is not known. `None`: there is nothing to wait for and nothing to be had.
    pub(crate) fn prepare(&self) -> Option<(Turn, Arc<Pending>)> {
        let mut state = self.lock();
        let turn = self.turn(&mut state);
        if state.channel.is_none() || state.learnt == Learnt::Unusable || state.is_overdue() {
            return None;
        }
        let pending = Pending::new(&self.pending)?;
        state.jobs.push_back(Job { task: Task::Prepare, pending: Some(Arc::clone(&pending)) });
        self.announce(&mut state);
        Some((turn, pending))
    }

    /// After the preparation: lets the guest map, if it can.
    ///
    /// # Errors
    /// Where another guest's turn has come since.
    pub(crate) fn open(&self, turn: Turn) -> Result<Option<Capabilities>, Superseded> {
        let mut state = self.lock();
        if state.turns != turn.0 {
            return Err(Superseded);
        }
        let prepared = !state.busy && state.jobs.is_empty();
        let usable = state.channel.is_some() && state.table.as_ref().is_some_and(|table| !table.is_gone());
        match state.learnt {
            Learnt::Can(capabilities) if usable && prepared => {
                state.open = true;
                self.usable.store(true, Ordering::Relaxed);
                Ok(Some(capabilities))
            }
            Learnt::Can(_) | Learnt::Nothing | Learnt::Unusable => Ok(None),
        }
    }

    /// The guest has gone, or will not map: what it has mapped is taken out, and nobody waits for that.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        self.turn(&mut state);
        if state.table.as_ref().is_some_and(|table| table.taken() > 0) {
            state.jobs.push_back(Job { task: Task::Clear, pending: None });
            self.announce(&mut state);
        }
    }

    /// Whether a guest may map and somebody does it for him.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Another guest's turn: the one before maps no more, and what it waits for is not done.
    fn turn(&self, state: &mut State) -> Turn {
        state.open = false;
        self.usable.store(false, Ordering::Relaxed);
        state.give_up_jobs();
        state.turns = state.turns.wrapping_add(1);
        self.announce(state);
        Turn(state.turns)
    }
}

// The guest's requests.
impl Window {
    /// How a SETUPMAPPING can be done for a guest that may have, or may not have, a writable mapping of the node.
    ///
    /// # Errors
    /// EINVAL for what no mapping can be; EIO where the window is closed; EOPNOTSUPP where this front-end would make of it
    /// more than the guest may have.
    pub(crate) fn plan(&self, wanted: &Wanted, may_write: bool) -> Result<SetupPlan, Errno> {
        let read_only = Wanted { writable: false, ..*wanted };
        self.geometry.mapping(wanted).map_err(errno)?;
        let state = self.lock();
        let (Learnt::Can(capabilities), Some(table), true) = (state.learnt, &state.table, state.open) else {
            return Err(Errno::EIO);
        };
        // Behind what is still to be done it may not be there any more.
        if !state.busy && state.jobs.is_empty() && table.holds(wanted).map_err(errno)? {
            return Ok(SetupPlan::There);
        }
        let writable = capabilities.map_writable(wanted.writable, may_write).ok_or(Errno::EOPNOTSUPP)?;
        let or_read_only = !wanted.writable && capabilities.read_only_descriptors;
        let restore = writable && table.holds(&read_only).map_err(errno)?;
        Ok(SetupPlan::Map { writable, or_read_only, restore })
    }

    /// Has a mapping made.
    ///
    /// # Errors
    /// EIO where the window is closed, or the front-end does not answer anyhow.
    pub(crate) fn set_up(&self, wanted: Wanted, files: MapFiles) -> Result<Arc<Pending>, Errno> {
        let (node, id) = (wanted.node, files.wanted.id());
        let mut state = self.lock();
        let pending = self.submit_to(&mut state, Task::Setup(wanted, files))?;
        state.hand_out(node, id);
        Ok(pending)
    }

    /// Whether the front-end may have this file mapped.
    pub fn has_handed_out(&self, file: FileId) -> bool {
        self.scratch.id == file || self.lock().handed_out.values().any(|known| *known == file)
    }

    /// As if it had been, for tests of what comes of that.
    #[cfg(test)]
    pub(crate) fn note_handed_out(&self, node: u64, file: FileId) {
        self.lock().hand_out(node, file);
    }

    /// Has mappings taken out: window offset and length of each entry.
    ///
    /// # Errors
    /// As for [`Window::set_up`].
    pub(crate) fn remove(&self, entries: Vec<(u64, u64)>) -> Result<Arc<Pending>, Errno> {
        self.submit_to(&mut self.lock(), Task::Remove(entries))
    }

    fn submit_to(&self, state: &mut State, task: Task) -> Result<Arc<Pending>, Errno> {
        if !state.open || state.channel.is_none() || state.is_overdue() {
            return Err(Errno::EIO);
        }
        let pending = Pending::new(&self.pending).ok_or(Errno::EIO)?;
        state.jobs.push_back(Job { task, pending: Some(Arc::clone(&pending)) });
        self.announce(state);
        Ok(pending)
    }
}

// Who waits for outcomes.
impl Window {
    /// A mark of this moment, for [`Window::wait`].
    #[cfg(test)]
    pub(crate) fn events(&self) -> u64 {
        self.lock().events
    }

    /// Waits until something has happened since `seen`, at most until the time of requests is over that wait until
    /// `deadline`; without one, for as long as it takes.
    #[cfg(test)]
    pub(crate) fn wait(&self, seen: u64, deadline: Option<Instant>) {
        let mut state = self.lock();
        while state.events == seen {
            let Some(deadline) = deadline else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = state.until(deadline).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// When the time of a request is over, as things stand.
    pub(crate) fn time_of(&self, pending: &Pending) -> Instant {
        self.lock().until(pending.deadline)
    }

    /// What became of a request, or that its time is over: the front-end owes an answer for too long, or there were too many
    /// before it.
    pub fn outcome(&self, pending: &Pending) -> Option<Result<(), Errno>> {
        if pending.result.get().is_none() && self.lock().until(pending.deadline) <= Instant::now() {
            // What has not been begun is then not done either.
            pending.settle(Err(DaxError::Gone));
        }
        pending.result.get().map(|result| result.map_err(errno))
    }
}

impl State {
    /// When the time of a request with this deadline is over, as things stand. Where nothing is under way, a message may be
    /// sent at any moment.
    fn until(&self, deadline: Instant) -> Instant {
        let later = |since: Instant, patience| since.checked_add(patience).unwrap_or(deadline);
        let answer = later(self.sent.unwrap_or_else(Instant::now), WINDOW_PATIENCE);
        let hurry = self.hurried.map_or(deadline, |hurried| later(hurried, WINDOW_GRACE));
        deadline.min(answer).min(hurry)
    }

    /// Whether a message has been under way for longer than anybody waits.
    fn is_overdue(&self) -> bool {
        self.sent.is_some_and(|sent| sent.elapsed() >= WINDOW_PATIENCE)
    }

    /// What has not been begun is not done any more.
    fn give_up_jobs(&mut self) {
        for job in self.jobs.drain(..) {
            if let Some(pending) = job.pending {
                pending.settle(Err(DaxError::Cleared));
            }
        }
    }

    /// Notes a file before its descriptor can be handed out, and forgets those that are not there any more, when there are
    /// many.
    fn hand_out(&mut self, node: u64, file: FileId) {
        let held = self.table.as_ref().map_or(0, Mappings::taken).saturating_add(WINDOW_REQUESTS_MAX);
        if self.handed_out.len() >= held.saturating_mul(2) {
            let jobs = self.jobs.iter().filter_map(|job| match &job.task {
                Task::Setup(wanted, _) => Some(wanted.node),
                Task::Remove(_) | Task::Prepare | Task::Clear => None,
            });
            let wanted: BTreeSet<u64> = jobs.chain(self.at_work).collect();
            let table = self.table.as_ref();
            let is_there = |node: u64| table.is_some_and(|table| table.may_hold(node));
            self.handed_out.retain(|node, _| wanted.contains(node) || is_there(*node));
        }
        self.handed_out.insert(node, file);
    }

    fn clear(&mut self) -> Option<Next> {
        self.table.as_mut().map(|table| table.clear(FrontEnd::StillMaps))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::window as window_for_tests;
