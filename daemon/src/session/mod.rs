//! One request from bytes to answer: decode, state, gate, operate, answer.
//!
//! [`Session::serve`] is the road; [`dispatch`](self) takes each operation through the gate to the host.

mod accesses;
mod dispatch;
mod options;
mod slot;
mod state;

use crate::host::{Caller, FileSystem};
use crate::io_vectors::IoVectors;
use crate::limits::REPLY_BUFFER_KEPT;
use pinhole_dax_cache::{Absent, Window};
use pinhole_policy::{Denied, Policy, Reason};
use pinhole_protocol::{
    DecodeError, Dialect, Errno, Header, InitFlags, InitRequest, Negotiated, Opcode, Operation, Reply,
    Request,
};
use state::{SharedState, State};
use std::sync::Arc;

pub use options::Options;
pub use slot::{Body, ReplySlot, Sink, SlotCounters};

/// What one connection's guest talks to.
#[derive(Debug)]
pub struct Session<F> {
    filesystem: Arc<F>,
    policy: Policy,
    options: Options,
    window: Absent,
    state: SharedState,
    counters: SlotCounters,
}

/// Memory that one worker reuses from request to request.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The reply body, encoded or as the host produced it.
    body: Vec<u8>,
}

/// What an operation came to, as far as the answer goes.
#[derive(Clone, Copy)]
enum Outcome {
    /// A body stands in [`Scratch::body`].
    Body,
    /// So many bytes stand in the guest's own buffers.
    InPlace(usize),
    /// Nothing is answered.
    Silence,
}

impl<F: FileSystem> Session<F> {
    /// A session over a file system; nothing is served before the guest's INIT.
    pub fn new(filesystem: Arc<F>, policy: Policy, options: Options) -> Self {
        Self {
            filesystem,
            policy,
            options,
            window: Absent,
            state: SharedState::default(),
            counters: SlotCounters::default(),
        }
    }

    /// Prepares the calling thread for [`Session::serve`]. Once a thread.
    ///
    /// # Errors
    /// What the host says; the thread must then serve nothing.
    pub fn enter_thread(&self) -> std::io::Result<()> {
        self.filesystem.enter_thread()
    }

    /// Answers that did not go as they should.
    pub const fn counters(&self) -> &SlotCounters {
        &self.counters
    }

    /// Whether an INIT has been answered.
    pub fn is_serving(&self) -> bool {
        matches!(*self.state.read(), State::Serving(_))
    }

    /// Serves one request: `message` is the header and the arguments, copied out of the guest's memory; `payload` is
    /// what stands behind them (the data of a WRITE), still there; the answer goes to `sink`, exactly once.
    pub fn serve<S: Sink>(&self, message: &[u8], payload: &IoVectors<'_>, sink: S, scratch: &mut Scratch) {
        let state = self.state.read();
        let dialect = match *state {
            State::Waiting => Dialect::default(),
            State::Serving(negotiated) => negotiated.dialect,
        };
        let request = match Request::decode(message, payload.len(), dialect) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%error, "a message without a header");
                let mut sink = sink;
                return sink.close();
            }
        };
        let slot = ReplySlot::new(sink, request.header.unique, &self.counters);
        let outcome = match (request.operation, &*state) {
            (Ok(Operation::Init(init)), _) => {
                drop(state);
                self.init(&init, scratch)
            }
            (Ok(Operation::Destroy(_)), State::Serving(_)) => {
                drop(state);
                self.end();
                Ok(encoded(&Reply::Empty, scratch))
            }
            (Ok(operation), State::Serving(_)) => {
                self.dispatch(&request.header, operation, payload, (&slot, scratch))
            }
            (Err(error), _) => Err(undecoded(&request.header, &error)),
            (Ok(_), State::Waiting) => Err(Errno::EIO),
        };
        answer(slot, outcome, &request.header, scratch);
        scratch.shrink();
    }

    /// The guest is gone (connection lost, device reset, DESTROY): forget all that it held.
    pub fn end(&self) {
        let mut state = self.state.write();
        *state = State::Waiting;
        self.filesystem.reset(InitFlags::empty());
    }

    /// INIT begins anew whatever was before: a guest that crashed has said nothing.
    fn init(&self, request: &InitRequest, scratch: &mut Scratch) -> Result<Outcome, Errno> {
        let mut offer = self.options.offer;
        if self.window.window_len().is_none() {
            offer.map_alignment = None;
        }
        let negotiated = Negotiated::negotiate(request, &offer)?;
        let mut state = self.state.write();
        self.filesystem.reset(negotiated.flags);
        *state = if negotiated.ready { State::Serving(negotiated) } else { State::Waiting };
        drop(state);
        // Not above debug: a guest may send INIT as often as it likes.
        tracing::debug!(
            guest = format_args!("{}.{}", request.major, request.minor),
            flags = ?negotiated.flags,
            "INIT"
        );
        Ok(encoded(&Reply::Init(negotiated.reply), scratch))
    }
}

fn undecoded(header: &Header<'_>, error: &DecodeError) -> Errno {
    tracing::debug!(opcode = header.opcode, %error, "a request that does not decode");
    error.errno()
}

/// The errno of a refusal at the gate.
fn denied(denied: Denied) -> Errno {
    tracing::debug!(missing = ?denied.missing, "denied");
    match denied.reason {
        Reason::ReadOnly => Errno::EROFS,
        Reason::NotGranted => Errno::EPERM,
    }
}

fn caller<'a>(header: &Header<'a>) -> Caller<'a> {
    Caller { uid: header.uid, gid: header.gid, groups: header.extensions.groups() }
}

/// Encodes a body into the scratch memory.
fn encoded(reply: &Reply<'_>, scratch: &mut Scratch) -> Outcome {
    reply.encode_into(&mut scratch.body);
    Outcome::Body
}

fn answer<S: Sink>(
    slot: ReplySlot<'_, S>,
    outcome: Result<Outcome, Errno>,
    header: &Header<'_>,
    scratch: &Scratch,
) {
    match outcome {
        Ok(Outcome::Body) => slot.answer(Body::Bytes(&scratch.body)),
        Ok(Outcome::InPlace(len)) => slot.answer(Body::InPlace(len)),
        Ok(Outcome::Silence) => slot.close(),
        Err(_) if is_silent(header) => slot.close(),
        Err(errno) => slot.refuse(errno),
    }
}

/// Whether the guest waits for no answer to this, not even for an error.
fn is_silent(header: &Header<'_>) -> bool {
    matches!(header.known_opcode(), Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
}

impl Scratch {
    /// Gives back what an unusually large reply needed.
    fn shrink(&mut self) {
        self.body.clear();
        self.body.shrink_to(REPLY_BUFFER_KEPT);
    }
}
