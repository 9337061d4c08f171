//! Leads a session and the model through one script and compares what they say.

use crate::compare::{agree, answered};
use crate::guest::{Reply, send};
use crate::oracle::{Answered, Model, Outcome, expected};
use crate::script::{self, Ids, Records, split, with_ids};
use pinhole::host::FileSystem;
use pinhole::session::{Options, Scratch, Session};
use pinhole_policy::Policy;
use pinhole_protocol::{
    Dialect, Errno, FallocateMode, Handle, Header, InitFlags, InitOffer, Negotiated, NodeId, Opcode,
    Operation, Request, SetAttr,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Messages of one script at most.
const MESSAGES_MAX: usize = 400;
/// Bytes for the body of an answer unless the request or the script says otherwise.
const BODY_ROOM: usize = 4096;

/// How far subject and model must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// In every byte that the guest sees.
    Exact,
    /// In what POSIX promises; see [`agree`].
    Visible,
}

/// A session and the model that it is compared with.
pub struct Run<F> {
    session: Session<F>,
    model: Model,
    agreement: Agreement,
    /// What INIT led to; `None` before it and after DESTROY.
    negotiated: Option<Negotiated>,
    options: Options,
    nodes: Vec<(NodeId, NodeId)>,
    handles: Vec<(Handle, Handle)>,
    scratch: Scratch,
    /// Every exchange is printed: `PINHOLE_TRACE` is set.
    traced: bool,
}

/// The ids of one of the two sides.
struct Side<'a, F> {
    run: &'a Run<F>,
    model: bool,
}

impl<F> Ids for Side<'_, F> {
    fn node(&self, node: NodeId) -> NodeId {
        let known = usize::try_from(node.0).ok().filter(|number| (1..=0xffff).contains(number));
        match known.and_then(|number| self.run.nodes.get((number - 1) % self.run.nodes.len())) {
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
        let known = usize::try_from(handle.0).ok().filter(|number| *number <= 0xffff);
        let count = self.run.handles.len().max(1);
        match known.and_then(|number| self.run.handles.get(number % count)) {
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
    /// A session over `filesystem`, which must be empty, after its INIT.
    pub fn new(filesystem: Arc<F>, agreement: Agreement) -> Self {
        let flags =
            InitFlags::MAX_PAGES | InitFlags::DO_READDIRPLUS | InitFlags::SETXATTR_EXT | InitFlags::INIT_EXT;
        let offer = InitOffer { flags, max_write: 1 << 20, time_gran: 1, ..InitOffer::default() };
        let options = Options { offer, ..Options::default() };
        let mut run = Self {
            session: Session::new(filesystem, Policy::full(), options),
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

    /// The model, to look at when the script is over.
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
                    assert_eq!(reply, if silent(&header) { None } else { Some(Err(error.errno())) });
                }
                Err(_) => assert_eq!(self.send(message, payload, BODY_ROOM), None),
            }
        }
        assert_eq!(self.session.counters().dropped.load(Ordering::Relaxed), 0, "every slot was answered");
    }

    fn dialect(&self) -> Dialect {
        self.negotiated.map_or_else(Dialect::default, |negotiated| negotiated.dialect)
    }

    fn send(&mut self, message: &[u8], payload: &[u8], body_room: usize) -> Reply {
        send(&self.session, (message, payload), 16 + body_room, &mut self.scratch)
    }

    fn operation(&mut self, header: &Header<'_>, operation: &Operation<'_>, payload: &[u8]) {
        let mut header = *header;
        let mut operation = *operation;
        if self.agreement == Agreement::Visible && !for_a_host(&mut header, &mut operation) {
            return;
        }
        let room = body_room(&header, &operation);
        let mut records = (Vec::new(), Vec::new());
        let subjects = Side { run: self, model: false };
        let to_subject = with_ids(&operation, &subjects, &mut records.0);
        let subject_header = Header { node: subjects.node(header.node), ..header };
        let whole = script::message(&subject_header, &to_subject, payload, self.dialect());
        let (message, payload) = split(&whole);
        let models = Side { run: self, model: true };
        let to_model = with_ids(&operation, &models, &mut records.1);
        let model_header = Header { node: models.node(header.node), ..header };
        let room_len = room.unwrap_or(usize::from(TIGHT_ROOM));
        let mut reply = self.send(message, payload, room_len);
        let is_stale = self.agreement == Agreement::Visible && matches!(reply, Some(Err(Errno::ESTALE)));
        if is_stale {
            // Linux looks the path up again and repeats the request. What was removed then answers as a local one does.
            reply = self.send(message, payload, room_len);
        }
        let is_gone = is_stale
            && matches!(reply, Some(Err(_)))
            && self.model.is_forsaken(model_header.node, &to_model);
        if is_gone {
            return;
        }
        let outcome = self.expect(&model_header, &to_model, payload, room_len);
        let subject = reply.map(|reply| reply.map(|body| answered(&to_subject, &body)));
        if room.is_none() && subject == Some(Err(Errno::EIO)) {
            // There was no room for what the model says.
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
        if let (Agreement::Visible, Operation::ReadDirPlus(plus), Some(Ok(Answered::List(list)))) =
            (self.agreement, &to_model, &subject)
        {
            self.learn_listed(plus.list.handle, list);
        }
    }

    /// What must come back, by the model and by the state that the session should be in.
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
                    Answered::Init(negotiated.reply)
                }))
            }
            (_, None) if silent(header) => None,
            // A node besides the root is of a process before this one.
            (_, None) => Some(Err(if matches!(header.node.0, 0 | 1) { Errno::EIO } else { Errno::ESTALE })),
            (Operation::Destroy(_), Some(_)) => {
                self.model.reset(InitFlags::empty());
                self.negotiated = None;
                Some(Ok(Answered::Empty))
            }
            // In agreement by names alone, what the guest is told of an entry takes a lookup of its own in the model.
            (Operation::ReadDirPlus(plus), Some(_)) if self.agreement == Agreement::Visible => {
                expected(&self.model, header, &Operation::ReadDir(plus.list), (payload, room))
            }
            (_, Some(_)) => expected(&self.model, header, operation, (payload, room)),
        }
    }

    fn compare(&self, operation: &Operation<'_>, subject: &Option<Outcome>, model: &Option<Outcome>) {
        let same = match (self.agreement, subject, model) {
            (Agreement::Exact, subject, model) => subject == model,
            (Agreement::Visible, Some(subject), Some(model)) => agree(subject, model),
            (Agreement::Visible, subject, model) => subject.is_none() && model.is_none(),
        };
        assert!(same, "{operation:?}\nis answered {subject:?}\nthe model says {model:?}");
    }

    fn learn(&mut self, subject: &Answered, model: &Answered) {
        match (subject, model) {
            (Answered::Entry(subject), Answered::Entry(model)) => self.learn_node(subject.node, model.node),
            (Answered::Created(subject, opened), Answered::Created(model, model_opened)) => {
                self.learn_node(subject.node, model.node);
                self.handles.push((opened.handle, model_opened.handle));
            }
            (Answered::Open(subject), Answered::Open(model)) => {
                self.handles.push((subject.handle, model.handle))
            }
            (Answered::List(subject), Answered::List(model)) if self.agreement == Agreement::Exact => {
                for ((subject, ..), (model, ..)) in subject.iter().zip(model) {
                    if let (Some(subject), Some(model)) = (subject, model) {
                        self.learn_node(subject.node, model.node);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_node(&mut self, subject: NodeId, model: NodeId) {
        if !self.nodes.contains(&(subject, model)) {
            assert!(
                self.nodes.iter().all(|(known, _)| *known != subject),
                "one id means one node for good, but {subject:?} was another's"
            );
            self.nodes.push((subject, model));
        }
    }

    fn learn_listed(&mut self, handle: Handle, list: &[crate::oracle::Listed]) {
        let names = list.iter().filter_map(|(entry, .., name)| Some((entry.as_ref()?.node, name)));
        let found: Vec<_> = names
            .map(|(node, name)| (node, self.model.look_up_open(handle, name).expect("a listed name").node))
            .collect();
        for (subject, model) in found {
            self.learn_node(subject, model);
        }
    }
}

/// Too little for most answers.
const TIGHT_ROOM: u8 = 20;

/// Bytes for the body; `None` where the script wants it tight, which it says by an odd process id.
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

fn silent(header: &Header<'_>) -> bool {
    matches!(header.known_opcode(), Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
}

/// Makes of an operation one that means the same on a host and in the model; `false`: there is none.
fn for_a_host(header: &mut Header<'_>, operation: &mut Operation<'_>) -> bool {
    (header.uid, header.gid) = (0, 0);
    header.extensions = pinhole_protocol::Extensions::EMPTY;
    header.pid = 0;
    let short = |offset: u64| offset & 0x3fff;
    // Without set-user-id and set-group-id.
    let plain = |mode: u32| mode & !0o6000;
    match operation {
        // The whole host would wait for its disks, and cookies and figures are the host's.
        Operation::SyncFs(_) | Operation::Fsync(_) | Operation::FsyncDir(_) => return false,
        Operation::SetXattr(_)
        | Operation::GetXattr(_)
        | Operation::ListXattr(_)
        | Operation::RemoveXattr(_) => {
            return false;
        }
        Operation::Lseek(_) | Operation::Access(_) => return false,
        Operation::MkNod(op) if matches!(op.mode & 0o170_000, 0o020_000 | 0o060_000) => return false,
        Operation::Rename(op) if op.flags.contains(pinhole_protocol::RenameFlags::WHITEOUT) => return false,
        Operation::ReadDir(op) => (op.offset, op.size) = (0, 1 << 16),
        Operation::ReadDirPlus(op) => (op.list.offset, op.list.size) = (0, 1 << 16),
        Operation::Read(op) => op.offset = short(op.offset),
        Operation::Write(op) => op.offset = short(op.offset),
        Operation::SetAttr(op) => {
            let mode = op.mode.map(plain);
            *op = SetAttr {
                size: op.size.map(short),
                mode,
                atime: None,
                mtime: None,
                kill_suidgid: false,
                ..*op
            };
        }
        // When a host drops these bits is its own business; the model never does.
        Operation::MkNod(op) => op.mode = plain(op.mode),
        Operation::MkDir(op) => op.mode = plain(op.mode),
        Operation::Create(op) => op.mode = plain(op.mode),
        Operation::TmpFile(op) => op.mode = plain(op.mode),
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
