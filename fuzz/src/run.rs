//! Runs a script against a session and against the model, and compares their replies.
//!
//! The session under test is called the subject.

use crate::compare::{agree, decode_body};
use crate::guest::{Reply, send};
use crate::oracle::{Model, Outcome, ReplyBody, expected};
use crate::script::{self, Ids, Records, split, with_ids};
use pinhole::filesystem::FileSystem;
use pinhole::session::{Options, Scratch, Session};
use pinhole::sync::event::EventCounter;
use pinhole_policy::Policy;
use pinhole_protocol::{
    Dialect, Errno, FallocateMode, Handle, Header, InitFlags, InitOffer, Negotiated, NodeId, NodeKind,
    Opcode, Operation, Request, SetAttr,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Maximum number of messages of one script.
const MESSAGES_MAX: usize = 400;
/// Space for the body of a reply in bytes, unless the request or the script gives another one.
const BODY_ROOM: usize = 4096;

/// The required agreement of subject and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Every byte that the guest sees must agree.
    Exact,
    /// Only what a guest may rely on must agree; see [`agree`].
    Visible,
}

/// A session and the model that it is compared with.
pub struct Run<F> {
    session: Session<F>,
    model: Model,
    agreement: Agreement,
    /// Result of INIT. `None` before INIT and after DESTROY.
    negotiated: Option<Negotiated>,
    options: Options,
    /// Node ids of subject and model, in the order of the replies.
    nodes: Vec<(NodeId, NodeId)>,
    /// File handles of subject and model, in the order of the replies.
    handles: Vec<(Handle, Handle)>,
    scratch: Scratch,
    /// Whether to print every request and reply (`PINHOLE_TRACE`).
    traced: bool,
}

/// Translates the ids of a script to those of subject or model.
struct Side<'a, F> {
    run: &'a Run<F>,
    /// Whether this side is the model.
    model: bool,
}

impl<F> Ids for Side<'_, F> {
    fn node(&self, node: NodeId) -> NodeId {
        let index = usize::try_from(node.0).ok().filter(|number| (1..=0xffff).contains(number));
        match index.and_then(|number| self.run.nodes.get((number - 1) % self.run.nodes.len())) {
            Some((subject, model)) => {
                if self.model {
                    *model
                } else {
                    *subject
                }
            }
            None => node,
        }
    }

    fn handle(&self, handle: Handle) -> Handle {
        let index = usize::try_from(handle.0).ok().filter(|number| *number <= 0xffff);
        let count = self.run.handles.len().max(1);
        match index.and_then(|number| self.run.handles.get(number % count)) {
            Some((subject, model)) => {
                if self.model {
                    *model
                } else {
                    *subject
                }
            }
            None => handle,
        }
    }
}

impl<F: FileSystem> Run<F> {
    /// Starts a session for `filesystem`, which must be empty and notify `wake`, and sends INIT.
    pub fn new(filesystem: Arc<F>, wake: Arc<EventCounter>, agreement: Agreement) -> Self {
        let flags =
            InitFlags::MAX_PAGES | InitFlags::DO_READDIRPLUS | InitFlags::SETXATTR_EXT | InitFlags::INIT_EXT;
        let offer = InitOffer { flags, max_write: 1 << 20, time_gran: 1, ..InitOffer::default() };
        let options = Options { offer, ..Options::default() };
        let mut run = Self {
            session: Session::new(filesystem, wake, Policy::full(), options),
            model: Model::default(),
            agreement,
            negotiated: None,
            options,
            nodes: vec![(NodeId::ROOT, NodeId::ROOT)],
            handles: Vec::new(),
            scratch: Scratch::default(),
            traced: std::env::var_os("PINHOLE_TRACE").is_some(),
        };
        let (header, operation) = script::init();
        run.operation(&header, &operation, &[]);
        assert!(run.session.is_serving());
        run
    }

    /// Returns the model, to examine it after the script.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Runs the script `input`.
    pub fn script(&mut self, input: &[u8]) {
        for message in Records(input).take(MESSAGES_MAX) {
            let (message, payload) = split(&message);
            match Request::decode(message, payload.len(), self.dialect()) {
                Ok(Request { header, operation: Ok(operation) }) => {
                    self.operation(&header, &operation, payload)
                }
                Ok(Request { header, operation: Err(error) }) => {
                    let reply = self.send(message, payload, BODY_ROOM);
                    let expected = if has_no_reply(&header) { None } else { Some(Err(error.errno())) };
                    assert_eq!(reply, expected);
                }
                Err(_) => assert_eq!(self.send(message, payload, BODY_ROOM), None),
            }
        }
        assert_eq!(
            self.session.counters().dropped.load(Ordering::Relaxed),
            0,
            "every reply slot must be answered"
        );
    }

    /// Returns the layout of messages after INIT.
    fn dialect(&self) -> Dialect {
        self.negotiated.map_or_else(Dialect::default, |negotiated| negotiated.dialect)
    }

    /// Sends a message to the subject, with `body_room` bytes for the body of the reply.
    fn send(&mut self, message: &[u8], payload: &[u8], body_room: usize) -> Reply {
        send(&self.session, (message, payload), 16 + body_room, &mut self.scratch)
    }

    /// Sends an operation to the subject and to the model, and compares the results.
    fn operation(&mut self, header: &Header<'_>, operation: &Operation<'_>, payload: &[u8]) {
        let mut header = *header;
        let mut operation = *operation;
        if self.agreement == Agreement::Visible && !adapt_to_host(&mut header, &mut operation) {
            return;
        }
        let room = body_room(&header, &operation);
        let mut records = (Vec::new(), Vec::new());
        let subject_ids = Side { run: self, model: false };
        let to_subject = with_ids(&operation, &subject_ids, &mut records.0);
        let subject_header = Header { node: subject_ids.node(header.node), ..header };
        let whole = script::message(&subject_header, &to_subject, payload, self.dialect());
        let (message, payload) = split(&whole);
        let model_ids = Side { run: self, model: true };
        let to_model = with_ids(&operation, &model_ids, &mut records.1);
        let model_header = Header { node: model_ids.node(header.node), ..header };
        let room_len = room.unwrap_or(usize::from(TIGHT_ROOM));
        let mut reply = self.send(message, payload, room_len);
        let is_stale = self.agreement == Agreement::Visible && matches!(reply, Some(Err(Errno::ESTALE)));
        if is_stale {
            // Linux looks the path up again and repeats the request. For a removed file, the second
            // reply is that of a local file system.
            reply = self.send(message, payload, room_len);
        }
        let is_gone = is_stale
            && matches!(reply, Some(Err(_)))
            && self.model.names_orphan(model_header.node, &to_model);
        if is_gone {
            return;
        }
        let outcome = self.expect(&model_header, &to_model, payload, room_len);
        let subject = reply.map(|reply| reply.map(|body| decode_body(&to_subject, &body)));
        if room.is_none() && subject == Some(Err(Errno::EIO)) {
            // The reply did not fit into the tight room.
            return;
        }
        if self.traced {
            eprintln!(
                "{:?} {to_subject:?}\n  subject {subject:?}\n  model   {outcome:?}",
                subject_header.node
            );
        }
        self.compare(&to_subject, &subject, &outcome);
        if let (Some(Ok(subject)), Some(Ok(model))) = (&subject, &outcome) {
            self.learn(subject, model);
        }
        if let (Agreement::Visible, Operation::ReadDirPlus(plus), Some(Ok(ReplyBody::List(list)))) =
            (self.agreement, &to_model, &subject)
        {
            self.learn_listed(plus.list.handle, list);
        }
    }

    /// Returns the expected result, from the model and the state that the session should have.
    fn expect(
        &mut self,
        header: &Header<'_>,
        operation: &Operation<'_>,
        payload: &[u8],
        room: usize,
    ) -> Option<Outcome> {
        match (operation, self.negotiated) {
            (Operation::Init(init), _) => {
                Some(Negotiated::negotiate(init, &self.options.offer).map(|negotiated| {
                    self.model.reset(negotiated.flags);
                    self.negotiated = negotiated.ready.then_some(negotiated);
                    ReplyBody::Init(negotiated.reply)
                }))
            }
            (_, None) if has_no_reply(header) => None,
            // Without INIT, any node except the root counts as one of an earlier daemon.
            (_, None) => Some(Err(if matches!(header.node.0, 0 | 1) { Errno::EIO } else { Errno::ESTALE })),
            (Operation::Destroy(_), Some(_)) => {
                self.model.reset(InitFlags::empty());
                self.negotiated = None;
                Some(Ok(ReplyBody::Empty))
            }
            // Listings may differ in their order. So the model only lists the names here, and
            // `learn_listed` looks up each name.
            (Operation::ReadDirPlus(plus), Some(_)) if self.agreement == Agreement::Visible => {
                expected(&self.model, header, &Operation::ReadDir(plus.list), (payload, room))
            }
            (_, Some(_)) => expected(&self.model, header, operation, (payload, room)),
        }
    }

    /// Panics unless the results agree.
    fn compare(&self, operation: &Operation<'_>, subject: &Option<Outcome>, model: &Option<Outcome>) {
        let same = match (self.agreement, subject, model) {
            (Agreement::Exact, subject, model) => subject == model,
            (Agreement::Visible, Some(subject), Some(model)) => agree(subject, model),
            (Agreement::Visible, subject, model) => subject.is_none() && model.is_none(),
        };
        assert!(same, "{operation:?}\nsubject: {subject:?}\nmodel: {model:?}");
    }

    /// Records the node ids and file handles in the replies of both sides.
    fn learn(&mut self, subject: &ReplyBody, model: &ReplyBody) {
        match (subject, model) {
            (ReplyBody::Entry(subject), ReplyBody::Entry(model)) => self.learn_node(subject.node, model.node),
            (ReplyBody::Created(subject), ReplyBody::Created(model)) => {
                self.learn_node(subject.entry.node, model.entry.node);
                self.handles.push((subject.open.handle, model.open.handle));
            }
            (ReplyBody::Open(subject), ReplyBody::Open(model)) => {
                self.handles.push((subject.handle, model.handle))
            }
            (ReplyBody::List(subject), ReplyBody::List(model)) if self.agreement == Agreement::Exact => {
                for ((subject, ..), (model, ..)) in subject.iter().zip(model) {
                    if let (Some(subject), Some(model)) = (subject, model) {
                        self.learn_node(subject.node, model.node);
                    }
                }
            }
            _ => {}
        }
    }

    /// Records the node ids of one node on both sides. Panics if the subject's id meant another
    /// node.
    fn learn_node(&mut self, subject: NodeId, model: NodeId) {
        if !self.nodes.contains(&(subject, model)) {
            assert!(
                self.nodes.iter().all(|(other, _)| *other != subject),
                "{subject:?} is the id of another node already"
            );
            self.nodes.push((subject, model));
        }
    }

    /// Looks up the names of a READDIRPLUS in the model, and records the node ids.
    fn learn_listed(&mut self, handle: Handle, list: &[crate::oracle::ListedEntry]) {
        let names = list.iter().filter_map(|(entry, .., name)| Some((entry.as_ref()?.node, name)));
        let nodes: Vec<_> = names
            .map(|(node, name)| (node, self.model.look_up_open(handle, name).expect("a listed name").node))
            .collect();
        for (subject, model) in nodes {
            self.learn_node(subject, model);
        }
    }
}

/// Space for the body of a reply in bytes that is too small for most replies.
const TIGHT_ROOM: u8 = 20;

/// Returns the space for the body of the reply in bytes.
///
/// `None` stands for [`TIGHT_ROOM`]. A script selects it with a process id whose lowest and highest
/// bits are set.
fn body_room(header: &Header<'_>, operation: &Operation<'_>) -> Option<usize> {
    if header.pid & 0x8000_0001 == 0x8000_0001 {
        return None;
    }
    let wanted = match operation {
        Operation::Read(read) => read.size,
        Operation::ReadDir(list) => list.size,
        Operation::ReadDirPlus(plus) => plus.list.size,
        _ => return Some(BODY_ROOM),
    };
    Some(usize::try_from(wanted).unwrap_or(usize::MAX).min(1 << 16))
}

/// Returns whether a request gets no reply, not even an error.
fn has_no_reply(header: &Header<'_>) -> bool {
    matches!(header.known_opcode(), Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
}

/// Changes an operation so that it means the same on a host and in the model. Returns `false` if
/// that is not possible.
fn adapt_to_host(header: &mut Header<'_>, operation: &mut Operation<'_>) -> bool {
    (header.uid, header.gid) = (0, 0);
    header.extensions = pinhole_protocol::Extensions::EMPTY;
    header.pid = 0;
    let short = |offset: u64| offset & 0x3fff;
    let without_privileged_bits = |mode: u32| mode & !0o6000;
    match operation {
        // These would make the host wait for all its disks.
        Operation::SyncFs(_) | Operation::Fsync(_) | Operation::FsyncDir(_) => return false,
        Operation::SetXattr(_)
        | Operation::GetXattr(_)
        | Operation::ListXattr(_)
        | Operation::RemoveXattr(_) => {
            return false;
        }
        Operation::Lseek(_) | Operation::Access(_) => return false,
        Operation::MkNod(op)
            if matches!(op.kind, NodeKind::CharacterDevice(_) | NodeKind::BlockDevice(_)) =>
        {
            return false;
        }
        Operation::Rename(op) if op.flags.contains(pinhole_protocol::RenameFlags::WHITEOUT) => return false,
        // Cookies are the host's own, so each listing starts at the beginning and is complete.
        Operation::ReadDir(op) => (op.offset, op.size) = (0, 1 << 16),
        Operation::ReadDirPlus(op) => (op.list.offset, op.list.size) = (0, 1 << 16),
        Operation::Read(op) => op.offset = short(op.offset),
        Operation::Write(op) => op.offset = short(op.offset),
        Operation::SetAttr(op) => {
            let mode = op.mode.map(without_privileged_bits);
            *op = SetAttr {
                size: op.size.map(short),
                mode,
                atime: None,
                mtime: None,
                kill_suidgid: false,
                ..*op
            };
        }
        // A host drops set-user-id and set-group-id at times of its own. The model never does.
        Operation::MkNod(op) => op.mode = without_privileged_bits(op.mode),
        Operation::MkDir(op) => op.mode = without_privileged_bits(op.mode),
        Operation::Create(op) => op.mode = without_privileged_bits(op.mode),
        Operation::TmpFile(op) => op.mode = without_privileged_bits(op.mode),
        Operation::Fallocate(op) => {
            (op.offset, op.length) = (short(op.offset), short(op.length));
            op.mode &= FallocateMode::KEEP_SIZE | FallocateMode::PUNCH_HOLE;
        }
        Operation::CopyFileRange(op) => {
            (op.from_offset, op.to_offset, op.length) =
                (short(op.from_offset), short(op.to_offset), short(op.length));
        }
        _ => {}
    }
    true
}
