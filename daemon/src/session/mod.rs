//! One request from bytes to answer: decode, state, gate, operate, answer.
//!
//! [`Session::serve`] is the road; [`dispatch`](self) takes each operation through the gate to the host.

mod accesses;
mod dax;
mod dispatch;
mod effort;
mod ioctl;
mod locks;
mod options;
mod parked;
mod rate;
mod slot;
mod state;
mod throttle;

use crate::filesystem::{Caller, FileSystem, Paced, errno_of};
use crate::io_vectors::IoVectors;
use crate::limits::REPLY_BUFFER_KEPT;
use crate::log_budget;
use crate::sync::event::EventCounter;
#[cfg(test)]
pub(crate) use crate::window::window_for_tests;
use crate::window::{Generation, Window};
use dax::Terms;
use locks::Waiters;
use pinhole_policy::{Access, Denied, Policy};
use pinhole_protocol::{
    DecodeError, Dialect, Errno, Header, InitFlags, InitRequest, Negotiated, NodeId, Opcode, OpenFlags,
    Operation, Reply, Request, Unique, Write,
};
use state::{Lane, SharedState, State};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use throttle::Throttle;

pub use crate::filesystem::{Pace, Repeat, StopCheck};
pub use effort::Effort;
pub use locks::LockMode;
pub use options::Options;
pub use parked::Parked;
pub use slot::{Body, ReplySlot, Sink, SlotCounters};
pub use throttle::is_forget;

/// Where `unique` stands in `fuse_in_header`.
const UNIQUE_AT: std::ops::Range<usize> = 8..16;

/// What one connection's guest talks to.
#[derive(Debug)]
pub struct Session<F> {
    filesystem: Arc<F>,
    wake: Arc<EventCounter>,
    policy: Policy,
    options: Options,
    window: Option<Arc<Window>>,
    waiters: Arc<Waiters>,
    state: SharedState,
    counters: SlotCounters,
    throttle: Throttle,
    /// Panics in requests, for the log.
    panics: log_budget::Source,
}

/// What one serving thread keeps from request to request.
#[derive(Debug)]
pub struct Scratch {
    /// The reply body, encoded or as the host produced it.
    body: Vec<u8>,
    lane: Lane,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { body: Vec::new(), lane: Lane::next() }
    }
}

/// What became of a request.
#[derive(Debug)]
#[must_use = "a request that would wait has not been answered"]
pub enum Served<S> {
    /// It was answered.
    Done,
    /// It would have to wait for the host, and its pace forbids that: nothing was done, and it is to be served again.
    WouldWait(S),
    /// Another process of the host has a lease on the file, and its pace forbids to wait: nothing was done, and it is to
    /// be served again a little later, with [`Pace::Now`].
    Leased(S),
    /// It waits for the front-end, for a lock or for a file system to be durable, and holds no thread of ours meanwhile.
    /// Its answer goes by [`Session::settle`].
    Parked(Parked),
    /// It ended between two of its steps, as its [`StopCheck`] said, and has not been answered. It may be served again, from
    /// its beginning.
    Stopped(S),
}

/// How far a request has come before its reply.
enum Performed {
    /// There is no header to which anything could be replied.
    NoHeader,
    /// See [`Served::WouldWait`].
    WouldWait,
    /// See [`Served::Parked`].
    Parked(Parked),
    /// See [`Served::Leased`].
    Leased,
    /// See [`Served::Stopped`].
    Stopped,
    /// It was carried out or refused.
    Finished {
        outcome: Result<Outcome, Errno>,
        /// See [`is_silent`].
        is_silent: bool,
    },
}

/// What an operation came to, as far as the answer goes.
enum Outcome {
    /// A body stands in [`Scratch::body`].
    Body,
    /// So many bytes stand in the guest's own buffers.
    InPlace(usize),
    /// Nothing is answered.
    Silence,
    /// Nothing is answered yet.
    Parked(Parked),
}

impl<F: FileSystem> Session<F> {
    /// Makes a session over a file system. It serves nothing before the guest's INIT.
    ///
    /// `wake` is notified when a deferred request may have its result; the file system notifies it
    /// too.
    pub fn new(filesystem: Arc<F>, wake: Arc<EventCounter>, policy: Policy, options: Options) -> Self {
        Self {
            filesystem,
            wake,
            throttle: Throttle::new(policy.limits()),
            policy,
            options,
            window: None,
            waiters: Arc::default(),
            state: SharedState::default(),
            counters: SlotCounters::default(),
            panics: log_budget::Source::new(),
        }
    }

    /// The same with a window.
    #[must_use]
    pub fn with_window(self, window: Arc<Window>) -> Self {
        window.notify_through(self.wake_event());
        Self { window: Some(window), ..self }
    }

    /// The DAX window, if the share has one.
    pub const fn window(&self) -> Option<&Arc<Window>> {
        self.window.as_ref()
    }

    /// Whether requests may come to [`Served::Parked`].
    pub fn may_park(&self) -> bool {
        self.window.is_some() || self.policy.reach().intersects(Access::LOCK.union(Access::FSYNC))
    }

    /// Answers that did not go as they should.
    pub const fn counters(&self) -> &SlotCounters {
        &self.counters
    }

    /// Whether an INIT has been answered.
    pub fn is_serving(&self) -> bool {
        matches!(*self.state.read(Lane::EXPRESS), State::Serving(..))
    }

    /// How long a request is to wait before [`Session::serve`], because the guest has gone on faster than it may.
    /// `message` is its header and more, or nothing if it has none.
    pub fn owed(&self, message: &[u8]) -> Duration {
        self.throttle.owed(message)
    }

    /// Counts a request that the transport gives back unread.
    pub fn count_unread(&self) {
        self.throttle.served(None);
    }

    /// Serves one request: `message` is the header and the arguments, copied out of the guest's memory; `payload` is
    /// what stands behind them (the data of a WRITE), still there; the answer goes to `sink`, exactly once. With
    /// [`Pace::Now`], one that would wait for a disk or for what another process holds is handed back instead.
    ///
    /// A panic on the way ends the request with EIO and nothing else.
    pub fn serve<S: Sink>(
        &self,
        (message, payload): (&[u8], IoVectors<'_>),
        sink: S,
        pace: Pace,
        scratch: &mut Scratch,
    ) -> Served<S> {
        self.serve_in_steps((message, payload), sink, (pace, StopCheck::NEVER), scratch)
    }

    /// As [`Session::serve`], but an operation that is carried out in steps ends between two of them where `stop` says so.
    pub fn serve_in_steps<S: Sink>(
        &self,
        (message, payload): (&[u8], IoVectors<'_>),
        sink: S,
        (pace, stop): (Pace, StopCheck<'_>),
        scratch: &mut Scratch,
    ) -> Served<S> {
        // Outside of what may panic: the reply must not depend on a drop while the stack unwinds.
        let slot = ReplySlot::new(sink, unique_of(message), &self.counters);
        let performed =
            self.survive(scratch, |scratch| self.perform((message, &payload), (&slot, pace, stop), scratch));
        match performed {
            // Dropped, the slot answers EIO and counts.
            None => Served::Done,
            Some(Performed::WouldWait) => slot.hand_back().map_or(Served::Done, Served::WouldWait),
            Some(Performed::Leased) => slot.hand_back().map_or(Served::Done, Served::Leased),
            Some(Performed::Stopped) => slot.hand_back().map_or(Served::Done, Served::Stopped),
            Some(Performed::Parked(parked)) => {
                slot.hand_back().map_or(Served::Done, |_sink| Served::Parked(parked))
            }
            Some(Performed::NoHeader) => {
                slot.close();
                Served::Done
            }
            Some(Performed::Finished { outcome, is_silent }) => {
                self.reply((slot, is_silent), &outcome, scratch);
                Served::Done
            }
        }
    }

    /// Decodes a request and carries it out, up to its reply.
    fn perform<S: Sink>(
        &self,
        (message, payload): (&[u8], &IoVectors<'_>),
        (slot, pace, stop): (&ReplySlot<'_, S>, Pace, StopCheck<'_>),
        scratch: &mut Scratch,
    ) -> Performed {
        let is_ended = Cell::new(false);
        let ends = |repeat| {
            is_ended.set(self.state.is_awaited());
            is_ended.get() || stop.ask(repeat)
        };
        let stop = stop.with(&ends);
        let state = self.state.read(scratch.lane);
        let dialect = match *state {
            State::Waiting => Dialect::default(),
            State::Serving(negotiated, _) => negotiated.dialect,
        };
        let request = match Request::decode(message, payload.len(), dialect) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%error, "a message without a header");
                self.throttle.served(None);
                return Performed::NoHeader;
            }
        };
        if pace == Pace::Now && matches!(&request.operation, Ok(operation) if self.waits(operation)) {
            return Performed::WouldWait;
        }
        let outcome = match (request.operation, &*state) {
            (Ok(Operation::Init(init)), _) => {
                drop(state);
                self.begin_init(&request.header, &init, scratch)
            }
            (Ok(Operation::Destroy(_)), State::Serving(..)) => {
                drop(state);
                self.end();
                Ok(encoded(&Reply::Empty, scratch))
            }
            (Ok(operation), State::Serving(negotiated, dax)) => {
                let operation = settled(operation, negotiated.flags);
                let terms = Terms { pace, stop, dax: *dax };
                match self.dispatch(&request.header, operation, (payload, terms), (slot, scratch)) {
                    Ok(Paced::Ready(outcome)) => Ok(outcome),
                    Ok(Paced::WouldBlock) => return Performed::WouldWait,
                    Ok(Paced::Leased) => return Performed::Leased,
                    // Of a guest that has begun anew, whose new INIT waits for this.
                    Ok(Paced::Stopped) if is_ended.get() => Err(Errno::EINTR),
                    Ok(Paced::Stopped) => return Performed::Stopped,
                    Err(errno) => Err(errno),
                }
            }
            (Err(error), _) => Err(undecoded(&request.header, &error)),
            (Ok(_), State::Waiting) => Err(before_init(request.header.node)),
        };
        self.throttle.served(request.header.known_opcode());
        match outcome {
            Ok(Outcome::Parked(parked)) => Performed::Parked(parked),
            outcome => Performed::Finished { outcome, is_silent: is_silent(&request.header) },
        }
    }

    /// Sends a reply. A sink that panics has sent nothing, and nothing more can be sent to it.
    fn reply<S: Sink>(
        &self,
        (slot, is_silent): (ReplySlot<'_, S>, bool),
        outcome: &Result<Outcome, Errno>,
        scratch: &mut Scratch,
    ) {
        if self.survive(scratch, |scratch| answer(slot, outcome, is_silent, scratch)).is_some() {
            scratch.shrink();
        }
    }

    /// Does what may panic. `None`: it did, and what it left half done in the scratch memory is gone.
    fn survive<T>(&self, scratch: &mut Scratch, may_panic: impl FnOnce(&mut Scratch) -> T) -> Option<T> {
        // Everything else that it may change is behind locks, each of which says what a panic leaves of it.
        let outcome = catch_unwind(AssertUnwindSafe(|| may_panic(scratch)));
        if outcome.is_err() {
            if let Some(suppressed) = self.panics.pass() {
                tracing::error!(suppressed, "a request ended by a panic; this is a bug in pinhole");
            }
            scratch.start_over();
        }
        outcome.ok()
    }

    /// Answers a request that came to [`Served::Leased`] and is not to wait any longer.
    pub fn refuse<S: Sink>(&self, message: &[u8], mut sink: S, errno: Errno) {
        match Request::decode(message, 0, Dialect::default()) {
            Ok(request) => {
                self.throttle.served(request.header.known_opcode());
                ReplySlot::new(sink, request.header.unique, &self.counters).refuse(errno);
            }
            Err(_no_header) => sink.close(),
        }
    }

    /// Answers a request that was parked, where it had come to this.
    pub fn settle<S: Sink>(
        &self,
        parked: &Parked,
        result: Result<(), Errno>,
        sink: S,
        scratch: &mut Scratch,
    ) {
        let slot = ReplySlot::new(sink, parked.unique(), &self.counters);
        if let Some(outcome) = self.survive(scratch, |scratch| self.settled(parked, result, scratch)) {
            self.reply((slot, false), &outcome, scratch);
        }
    }

    /// Whether an operation waits for the host by what it is: for a disk, or for as long as there is to copy. One that
    /// is refused anyhow waits for nobody.
    fn waits(&self, operation: &Operation<'_>) -> bool {
        let reach = self.policy.reach();
        (matches!(operation, Operation::Fsync(_) | Operation::FsyncDir(_)) && reach.contains(Access::FSYNC))
            || (matches!(operation, Operation::Fallocate(_)) && reach.intersects(Access::FALLOCATES))
            || (matches!(operation, Operation::CopyFileRange(_)) && reach.contains(Access::COPY_RANGE))
    }

    /// The guest is gone (connection lost, device reset, DESTROY): forget all that it held.
    pub fn end(&self) {
        let change = self.state.write();
        if let Some(window) = &self.window {
            window.close();
        }
        self.forget_guest(InitFlags::empty());
        change.to(State::Waiting);
    }

    /// Whoever waits for a lock waits in vain from now on.
    fn forget_guest(&self, negotiated: InitFlags) {
        self.waiters.end();
        self.filesystem.reset(negotiated);
        self.wake_event().notify_listeners();
    }

    /// INIT begins anew whatever was before: a guest that crashed has said nothing. `generation`: for which the window was
    /// prepared, for a guest that wants it.
    fn init(
        &self,
        request: &InitRequest,
        generation: Option<Generation>,
        scratch: &mut Scratch,
    ) -> Result<Outcome, Errno> {
        let change = self.state.write();
        let dax = self.open_window(generation)?;
        let negotiated = Negotiated::negotiate(request, &self.offer(dax.as_ref(), request))?;
        self.forget_guest(negotiated.flags);
        let dax = dax.filter(|_| negotiated.flags.contains(InitFlags::HAS_INODE_DAX));
        change.to(if negotiated.ready { State::Serving(negotiated, dax) } else { State::Waiting });
        // Not above debug: a guest may send INIT as often as it likes.
        tracing::debug!(
            guest = format_args!("{}.{}", request.major, request.minor),
            flags = ?negotiated.flags,
            "INIT"
        );
        Ok(encoded(&Reply::Init(negotiated.reply), scratch))
    }
}

/// What an operation means between these two sides: a writeback cache has already decided where the bytes belong, so
/// that a write of such a guest is never one at the end of the file.
const fn settled(operation: Operation<'_>, negotiated: InitFlags) -> Operation<'_> {
    let Operation::Write(write) = operation else { return operation };
    if !negotiated.contains(InitFlags::WRITEBACK_CACHE) {
        return operation;
    }
    Operation::Write(Write { flags: write.flags.difference(OpenFlags::APPEND), ..write })
}

/// The `unique` of a message, also of one that is never decoded; 0 where it is too short to have one.
fn unique_of(message: &[u8]) -> Unique {
    let bytes = message.get(UNIQUE_AT).and_then(|bytes| bytes.try_into().ok());
    Unique(bytes.map_or(0, u64::from_le_bytes))
}

/// The refusal of what comes before INIT. A guest that knows a node besides the root has it of a process that died, and
/// its VMM has gone on with this one.
const fn before_init(node: NodeId) -> Errno {
    // DESTROY and other requests about no file in particular are sent to node 0.
    if matches!(node.0, 0 | 1) { Errno::EIO } else { Errno::ESTALE }
}

fn undecoded(header: &Header<'_>, error: &DecodeError) -> Errno {
    tracing::debug!(opcode = header.opcode, %error, "a request that does not decode");
    error.errno()
}

/// The errno of a refusal at the gate.
fn denied(denied: Denied) -> Errno {
    tracing::debug!(missing = ?denied.missing, refusal = ?denied.refusal, "denied");
    errno_of(denied.refusal)
}

fn caller<'a>(header: &Header<'a>) -> Caller<'a> {
    Caller { uid: header.uid, gid: header.gid, groups: header.extensions.groups(), pid: header.pid }
}

/// Encodes a body into the scratch memory.
fn encoded(reply: &Reply<'_>, scratch: &mut Scratch) -> Outcome {
    reply.encode_into(&mut scratch.body);
    Outcome::Body
}

fn answer<S: Sink>(
    slot: ReplySlot<'_, S>,
    outcome: &Result<Outcome, Errno>,
    is_silent: bool,
    scratch: &Scratch,
) {
    match outcome {
        Ok(Outcome::Body) => slot.answer(Body::Bytes(&scratch.body)),
        Ok(Outcome::InPlace(len)) => slot.answer(Body::InPlace(*len)),
        Ok(Outcome::Silence) => slot.close(),
        // It is answered elsewhere, and comes here only by mistake.
        Ok(Outcome::Parked(_)) => slot.refuse(Errno::EIO),
        Err(_) if is_silent => slot.close(),
        Err(errno) => slot.refuse(*errno),
    }
}

/// Whether the guest waits for no answer to this, not even for an error.
fn is_silent(header: &Header<'_>) -> bool {
    matches!(header.known_opcode(), Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
}

impl Scratch {
    /// That of a thread which serves what must wait for nobody (FORGET): not even an INIT that waits for other
    /// threads holds it up.
    pub fn express() -> Self {
        Self { body: Vec::new(), lane: Lane::EXPRESS }
    }

    /// After a panic: gives up what may be half done.
    pub fn start_over(&mut self) {
        self.body = Vec::new();
    }

    /// Gives back what an unusually large reply needed.
    fn shrink(&mut self) {
        self.body.clear();
        self.body.shrink_to(REPLY_BUFFER_KEPT);
    }
}
