//! One request from its message to its reply: decode, state, policy check, operation, reply.
//!
//! [`Session::serve`] goes through these steps. The operations are in `dispatch.rs`.

use super::deferred::{Deferred, Then, WaitsFor};
use super::effort::Effort;
use super::options::Options;
use super::slot::{Body, ReplySlot, Sink, SlotCounters};
use super::state::{SessionState, SharedState, StateShard};
use super::throttle::Throttle;
use super::waiters::Waiters;
use crate::filesystem::{Answer, FileSystem, Pace, Paced, Repeat, StopCheck};
use crate::io_vectors::IoVectors;
use crate::limits::REPLY_BUFFER_KEPT;
use crate::log_budget;
use crate::sync::event::EventCounter;
use crate::window::{GuestGeneration, Window};
use pinhole_dax_cache::Capabilities;
use pinhole_policy::{Access, Policy};
use pinhole_protocol::{
    DecodeError, Errno, Header, InitFlags, InitRequest, Negotiated, NodeId, Opcode, OpcodeFacts, OpenFlags,
    Operation, Reply, Request, Unique, Write,
};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The session of one connection's guest.
#[derive(Debug)]
pub struct Session<F> {
    pub(super) filesystem: Arc<F>,
    wake: Arc<EventCounter>,
    pub(super) policy: Policy,
    pub(super) options: Options,
    pub(super) window: Option<Arc<Window>>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) state: SharedState,
    counters: SlotCounters,
    pub(super) throttle: Throttle,
    /// Limits log lines about panics in requests.
    panics: log_budget::Source,
}

/// The message of one request.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'m> {
    /// Header and arguments, copied out of the guest's memory.
    pub message: &'m [u8],
    /// The data of a WRITE, still in the guest's memory.
    pub payload: IoVectors<'m>,
}

/// Limits on the time that serving a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Pacing<'s> {
    /// Whether the request may wait for the host.
    pub pace: Pace,
    /// Tells an operation in steps when to end between two steps.
    pub stop: StopCheck<'s>,
}

impl Pacing<'static> {
    /// Lets the request take any time.
    pub const PATIENT: Self = Self { pace: Pace::Patient, stop: StopCheck::NEVER };
}

/// The next step of the transport for a request that was served.
#[derive(Debug)]
#[must_use = "a request that is not done has not been answered"]
pub enum Next<R> {
    /// No step: the request was given back. Holds the receipt of its sink.
    Done(R),
    /// Serve the request again with [`Pace::Patient`], on a thread that may wait for the host. It
    /// has had no effect so far.
    Offload(Effort),
    /// Serve the request again a little later with [`Pace::Now`]: another process of the host has a
    /// lease on the file. It has had no effect so far.
    Retry,
    /// Keep the request until [`Session::deferred_result`] has a result for
    /// [`Session::answer_deferred`].
    Deferred(Deferred),
    /// Serve the request again from its beginning, or put it back into its queue: its [`StopCheck`]
    /// ended it between two steps.
    Stopped,
}

/// The result of an operation that did not fail.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The body of the reply is in [`Scratch::body`].
    Body,
    /// The body of the reply is in the guest's buffers. Holds its length in bytes.
    InPlace(usize),
    /// There is no reply.
    NoReply,
    /// The reply comes later.
    Deferred(Deferred),
}

/// The context of one request, apart from its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'s> {
    /// Whether the request may wait for the host.
    pub(super) pace: Pace,
    /// Tells the request when to end between two steps.
    pub(super) stop: StopCheck<'s>,
    /// Capabilities of the front-end, if the guest asks for each inode whether to map it.
    pub(super) dax: Option<Capabilities>,
}

/// Memory that one thread keeps from request to request.
#[derive(Debug)]
pub struct Scratch {
    /// The reply body: encoded here, or as the host returned it.
    pub(super) body: Vec<u8>,
    pub(super) shard: StateShard,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { body: Vec::new(), shard: StateShard::next() }
    }
}

impl Scratch {
    /// Returns the memory of a thread that must not wait for others (FORGET), not even for an INIT
    /// that waits for other threads.
    pub fn express() -> Self {
        Self { body: Vec::new(), shard: StateShard::EXPRESS }
    }

    /// Encodes the body of a reply.
    pub(super) fn encode(&mut self, reply: &Reply<'_>) -> Outcome {
        reply.encode_into(&mut self.body);
        Outcome::Body
    }

    /// Frees the memory of an unusually large reply.
    fn shrink(&mut self) {
        self.body.clear();
        self.body.shrink_to(REPLY_BUFFER_KEPT);
    }
}

impl<F: FileSystem> Session<F> {
    /// Makes a session over a file system. It serves no request before the guest's INIT, unless
    /// [`Options::assumed`] says otherwise.
    ///
    /// `wake` is notified when a deferred request may have its result; the file system notifies it
    /// too.
    pub fn new(filesystem: Arc<F>, wake: Arc<EventCounter>, policy: Policy, options: Options) -> Self {
        Self {
            filesystem,
            wake,
            throttle: Throttle::new(policy.limits()),
            policy,
            state: SharedState::new(SessionState::before_init(options.assumed)),
            options,
            window: None,
            waiters: Arc::default(),
            counters: SlotCounters::default(),
            panics: log_budget::Source::new(),
        }
    }

    /// Adds a DAX window.
    #[must_use]
    pub fn with_window(self, window: Arc<Window>) -> Self {
        window.notify_through(self.wake_event());
        Self { window: Some(window), ..self }
    }

    /// Returns the DAX window, if the share has one.
    pub const fn window(&self) -> Option<&Arc<Window>> {
        self.window.as_ref()
    }

    /// Returns the event that is notified when a deferred request may have its result.
    pub const fn wake_event(&self) -> &Arc<EventCounter> {
        &self.wake
    }

    /// Does a part of the work that waits because the host has no room for a thread; see
    /// [`FileSystem::run_stuck`].
    pub fn run_stuck(&self) -> bool {
        self.filesystem.run_stuck()
    }

    /// Returns whether requests may come to [`Next::Deferred`].
    pub fn may_defer(&self) -> bool {
        self.window.is_some() || self.policy.granted_anywhere().intersects(Access::LOCK.union(Access::FSYNC))
    }

    /// Returns the counters of replies that went wrong.
    pub const fn counters(&self) -> &SlotCounters {
        &self.counters
    }

    /// Returns whether an INIT was answered.
    pub fn is_serving(&self) -> bool {
        matches!(*self.state.read(StateShard::EXPRESS), SessionState::Serving(..))
    }

    /// Returns how long a request with this opcode must wait before [`Session::serve`], because the
    /// guest has exceeded its speed limit. `None`: the message has no known opcode.
    pub fn owed(&self, opcode: Option<Opcode>) -> Duration {
        self.throttle.owed(opcode)
    }

    /// Counts a request that the transport gives back unread.
    pub fn count_unread(&self) {
        self.throttle.served(None);
    }

    /// Serves one request. Its reply goes to `sink`, exactly once.
    ///
    /// A panic ends the request with EIO and has no other effect.
    pub fn serve<S: Sink>(
        &self,
        incoming: Incoming<'_>,
        sink: S,
        pacing: Pacing<'_>,
        scratch: &mut Scratch,
    ) -> Next<S::Receipt> {
        // Outside of the code that may panic: the reply must not depend on a drop while the stack
        // unwinds.
        let slot = ReplySlot::new(sink, Unique::of_message(incoming.message), &self.counters);
        let performed = self.catch_panic(scratch, |scratch| self.perform(incoming, &slot, pacing, scratch));
        let unanswered = match performed {
            None => return Next::Done(slot.fail()),
            Some(Next::Done(answer)) => return Next::Done(self.reply(slot, &answer, scratch)),
            Some(Next::Offload(effort)) => Next::Offload(effort),
            Some(Next::Retry) => Next::Retry,
            Some(Next::Deferred(deferred)) => Next::Deferred(deferred),
            Some(Next::Stopped) => Next::Stopped,
        };
        slot.keep();
        unanswered
    }

    /// Decodes a request and carries it out, up to its reply.
    fn perform<S: Sink>(
        &self,
        Incoming { message, payload }: Incoming<'_>,
        slot: &ReplySlot<'_, S>,
        Pacing { pace, stop }: Pacing<'_>,
        scratch: &mut Scratch,
    ) -> Next<Answer<Outcome>> {
        let is_ended = Cell::new(false);
        let ends = |repeat: Repeat| {
            is_ended.set(self.state.is_awaited());
            is_ended.get() || stop.ask(repeat)
        };
        let stop = stop.with(&ends);
        let state = self.state.read(scratch.shard);
        let Request { header, operation } = match Request::decode(message, payload.len(), state.dialect()) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%error, "a message without a header");
                self.throttle.served(None);
                return Next::Done(Ok(Outcome::NoReply));
            }
        };
        let facts = header.known_opcode().map(Opcode::facts).unwrap_or_default();
        let answer = match (operation, &*state) {
            (Ok(operation), _) if pace == Pace::Now && self.waits(facts, &operation) => {
                return Next::Offload(Effort::of(&operation));
            }
            (Ok(Operation::Init(init)), _) => {
                drop(state);
                self.begin_init(&header, &init, scratch)
            }
            (Ok(Operation::Destroy(_)), SessionState::Serving(..)) => {
                drop(state);
                self.end();
                Ok(scratch.encode(&Reply::Empty))
            }
            (Ok(operation), SessionState::Serving(negotiated, dax)) => {
                let operation = as_negotiated(operation, *negotiated);
                let terms = Terms { pace, stop, dax: *dax };
                match self.dispatch(&header, operation, (&payload, terms), (slot, scratch)) {
                    Ok(Paced::Ready(outcome)) => Ok(outcome),
                    Ok(Paced::WouldBlock) => return Next::Offload(Effort::of(&operation)),
                    Ok(Paced::Leased) => return Next::Retry,
                    // The guest has sent another INIT, which waits for this request.
                    Ok(Paced::Stopped) if is_ended.get() => Err(Errno::EINTR),
                    Ok(Paced::Stopped) => return Next::Stopped,
                    Err(errno) => Err(errno),
                }
            }
            (Err(error), _) => Err(undecoded(&header, &error)),
            (Ok(_), SessionState::Uninitialized) => Err(before_init(header.node)),
        };
        self.throttle.served(header.known_opcode());
        match answer {
            Ok(Outcome::Deferred(deferred)) => Next::Deferred(deferred),
            Err(_) if facts.contains(OpcodeFacts::NO_REPLY) => Next::Done(Ok(Outcome::NoReply)),
            answer => Next::Done(answer),
        }
    }

    /// Sends a reply. If the sink panics, no reply is sent.
    fn reply<S: Sink>(
        &self,
        slot: ReplySlot<'_, S>,
        answer: &Answer<Outcome>,
        scratch: &mut Scratch,
    ) -> S::Receipt {
        let sent = self.catch_panic(scratch, |scratch| match answer {
            Ok(Outcome::Body) => slot.answer(Body::Bytes(&scratch.body)),
            Ok(Outcome::InPlace(len)) => slot.answer(Body::InPlace(*len)),
            Ok(Outcome::NoReply) => slot.close(),
            // Unreachable: a deferred request is not answered here.
            Ok(Outcome::Deferred(_)) => slot.fail(),
            Err(errno) => slot.refuse(*errno),
        });
        scratch.shrink();
        sent.unwrap_or_default()
    }

    /// Runs code that may panic. After a panic, returns `None` and empties the scratch memory.
    pub(super) fn catch_panic<T>(
        &self,
        scratch: &mut Scratch,
        may_panic: impl FnOnce(&mut Scratch) -> T,
    ) -> Option<T> {
        // All other state that the code may change is behind locks. A comment at each lock says why
        // its data stays valid after a panic.
        let outcome = catch_unwind(AssertUnwindSafe(|| may_panic(scratch)));
        if outcome.is_err() {
            if let Some(suppressed) = self.panics.pass() {
                tracing::error!(suppressed, "a request ended by a panic; this is a bug in pinhole");
            }
            scratch.body = Vec::new();
        }
        outcome.ok()
    }

    /// Answers a request that returned [`Next::Retry`] and must not wait any longer with an error.
    pub fn refuse<S: Sink>(&self, message: &[u8], sink: S, errno: Errno) -> S::Receipt {
        self.throttle.served(Opcode::of_message(message));
        ReplySlot::new(sink, Unique::of_message(message), &self.counters).refuse(errno)
    }

    /// Returns the result of a deferred request, or `None` while it must still wait.
    ///
    /// After a panic the result is EIO. The request must be answered in every case, because a stop
    /// of its queue waits for it.
    pub fn deferred_result(&self, deferred: &Deferred, scratch: &mut Scratch) -> Option<Answer<()>> {
        let looked = self.catch_panic(scratch, |scratch| match (&deferred.on, &self.window) {
            (WaitsFor::FrontEnd(pending, _), Some(window)) => window.outcome(pending),
            (WaitsFor::FrontEnd(..), None) => Some(Err(Errno::EIO)),
            (WaitsFor::Lock(wait), _) => self.lock_result(wait, scratch),
            (WaitsFor::Sync(turn), _) => turn.outcome(),
        });
        looked.unwrap_or(Some(Err(Errno::EIO)))
    }

    /// Returns when to ask for the result again if the wake event is not notified before.
    pub fn next_look(&self, deferred: &Deferred) -> Option<Instant> {
        match &deferred.on {
            WaitsFor::FrontEnd(pending, _) => self.window.as_ref().map(|window| window.time_of(pending)),
            WaitsFor::Lock(wait) => Some(wait.until()),
            WaitsFor::Sync(_) => None,
        }
    }

    /// Answers a deferred request that has this result.
    pub fn answer_deferred<S: Sink>(
        &self,
        deferred: &Deferred,
        result: Answer<()>,
        sink: S,
        scratch: &mut Scratch,
    ) -> S::Receipt {
        let slot = ReplySlot::new(sink, deferred.unique, &self.counters);
        let finished = self.catch_panic(scratch, |scratch| match &deferred.on {
            // If the preparation failed, the guest gets no window.
            WaitsFor::FrontEnd(_, Then::Init(request, generation)) => {
                self.init(request, Some(*generation), scratch)
            }
            WaitsFor::FrontEnd(_, Then::Answer) | WaitsFor::Lock(_) | WaitsFor::Sync(_) => {
                result.map(|()| scratch.encode(&Reply::Empty))
            }
        });
        match finished {
            Some(answer) => self.reply(slot, &answer, scratch),
            None => slot.fail(),
        }
    }

    /// Returns whether an operation always waits for the host. An operation that the policy refuses
    /// does not wait.
    fn waits(&self, facts: OpcodeFacts, operation: &Operation<'_>) -> bool {
        let needed = if let Operation::Fallocate(_) = operation {
            Access::FALLOCATES
        } else if let Operation::CopyFileRange(_) = operation {
            Access::COPY_RANGE
        } else {
            Access::FSYNC
        };
        facts.contains(OpcodeFacts::WAITS) && self.policy.granted_anywhere().intersects(needed)
    }

    /// Ends the guest's session and forgets all that it held: its connection is lost, its device is
    /// reset, or it has sent DESTROY.
    pub fn end(&self) {
        let change = self.state.write();
        if let Some(window) = &self.window {
            window.close();
        }
        self.forget_guest(InitFlags::empty());
        change.to(SessionState::before_init(self.options.assumed));
    }

    /// Forgets the guest. Requests that wait for a lock fail.
    fn forget_guest(&self, negotiated: InitFlags) {
        self.waiters.end();
        self.filesystem.reset(negotiated);
        self.wake_event().notify_subscribers();
    }

    /// Carries out INIT. It ends an earlier session, because a guest that crashes sends no DESTROY.
    /// `generation` is that of the prepared window, for a guest that wants to map.
    pub(super) fn init(
        &self,
        request: &InitRequest,
        generation: Option<GuestGeneration>,
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let change = self.state.write();
        let dax = self.open_window(generation)?;
        let negotiated = Negotiated::negotiate(request, &self.offer(dax.as_ref(), request))?;
        self.forget_guest(negotiated.flags);
        let dax = dax.filter(|_| negotiated.flags.contains(InitFlags::HAS_INODE_DAX));
        change.to(if negotiated.ready {
            SessionState::Serving(negotiated.flags, dax)
        } else {
            SessionState::Uninitialized
        });
        // Not above debug: a guest can send any number of INITs.
        tracing::debug!(
            guest = format_args!("{}.{}", request.major, request.minor),
            flags = ?negotiated.flags,
            "INIT"
        );
        Ok(scratch.encode(&Reply::Init(negotiated.reply)))
    }
}

/// Returns the operation with the meaning that INIT negotiated. A guest with a writeback cache has
/// already decided where the bytes belong, so its WRITE never appends.
const fn as_negotiated(operation: Operation<'_>, negotiated: InitFlags) -> Operation<'_> {
    let Operation::Write(write) = operation else { return operation };
    if !negotiated.contains(InitFlags::WRITEBACK_CACHE) {
        return operation;
    }
    Operation::Write(Write { flags: write.flags.difference(OpenFlags::APPEND), ..write })
}

/// Returns the error of a request before INIT.
///
/// If a guest knows a node besides the root, an earlier daemon process gave it that node and ended,
/// and the VMM has connected to this process.
const fn before_init(node: NodeId) -> Errno {
    // DESTROY and other requests that concern no file are sent to node 0.
    if matches!(node.0, 0 | 1) { Errno::EIO } else { Errno::ESTALE }
}

fn undecoded(header: &Header<'_>, error: &DecodeError) -> Errno {
    tracing::debug!(opcode = header.opcode, %error, "a request that does not decode");
    error.errno()
}
