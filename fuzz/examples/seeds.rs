//! Writes the seed corpora of all targets but `dax_window`, from a trace of `record.sh`:
//! `cargo run --example seeds -- TRACE`.
//!
//! The messages are those of the Linux kernel. For `descriptor_chain`, each message has the layout
//! of Linux's virtio-fs driver: one descriptor each for the header, the arguments, the data, the
//! header of the reply and its body. The descriptors are in the ring itself or in an indirect
//! table.

use pinhole_fuzz::script::{Ids, message, record, split, with_ids};
use pinhole_protocol::{Created, Dialect, Handle, Header, NodeId, Opcode, Operation, Request, client};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Number of messages that each script adds. Longer scripts would make mutations less effective.
const SCRIPT_LEN: usize = 48;
/// Maximum length of a message of a seed in bytes.
const MESSAGE_LEN_MAX: usize = 4096;

/// Indices of nodes and file handles, in the order of the replies that contain them.
#[derive(Default)]
struct IdIndices {
    nodes: BTreeMap<u64, u64>,
    handles: BTreeMap<u64, u64>,
}

impl IdIndices {
    /// Adds the ids in the body of a successful reply.
    fn learn(&mut self, operation: &Operation<'_>, body: &[u8]) {
        match operation {
            Operation::ReadDirPlus(_) => {
                for (entry, ..) in pinhole_fuzz::oracle::decode_list(body, true) {
                    self.add_node(entry.map_or(0, |entry| entry.node.0));
                }
            }
            Operation::Create(_) | Operation::TmpFile(_) => {
                let Created { entry, open } = client::decode_created(body).expect("CREATE").0;
                self.add_node(entry.node.0);
                self.add_handle(open.handle.0);
            }
            Operation::Open(_) | Operation::OpenDir(_) => {
                self.add_handle(client::decode_open(body).expect("OPEN").handle.0);
            }
            _ => {
                if let Ok((entry, _)) = client::decode_entry(body) {
                    self.add_node(entry.node.0);
                }
            }
        }
    }

    fn add_node(&mut self, node: u64) {
        let next = self.nodes.len() as u64 + 1;
        if node != 0 {
            self.nodes.entry(node).or_insert(next);
        }
    }

    fn add_handle(&mut self, handle: u64) {
        let next = self.handles.len() as u64;
        self.handles.insert(handle, next);
    }
}

impl Ids for IdIndices {
    fn node(&self, node: NodeId) -> NodeId {
        NodeId(self.nodes.get(&node.0).copied().unwrap_or(u64::MAX))
    }

    fn handle(&self, handle: Handle) -> Handle {
        Handle(self.handles.get(&handle.0).copied().unwrap_or(u64::MAX))
    }
}

fn main() {
    let trace = std::env::args_os().nth(1).expect("usage: seeds TRACE");
    let trace = std::fs::read_to_string(trace).expect("cannot read the trace");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut indices = IdIndices::default();
    indices.add_node(1);
    let mut waiting: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut scripts: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    let mut dialect = Dialect::default();
    let mut shapes = BTreeMap::new();
    for line in trace.lines() {
        if let Some(request) = request_of(line) {
            write_decode_seed(&corpus, &request, dialect);
            let (head, payload) = split(&request);
            let Ok(Request { header, operation: Ok(operation) }) =
                Request::decode(head, payload.len(), dialect)
            else {
                continue;
            };
            shapes.entry((header.opcode, head.len(), payload.is_empty())).or_insert_with(|| request.clone());
            if request.len() <= MESSAGE_LEN_MAX && !matches!(operation, Operation::Init(_)) {
                let mut records = Vec::new();
                let with_numbers = with_ids(&operation, &indices, &mut records);
                let header = Header { node: indices.node(header.node), ..header };
                let script = scripts.last_mut().expect("there is at least one script");
                script.push(message(&header, &with_numbers, payload, dialect));
            }
            waiting.insert(header.unique.0, request);
        } else if let Some(reply) = reply_of(line) {
            let (header, body) = client::decode_out_header(&reply).expect("a reply");
            let Some(request) = waiting.remove(&header.unique.0) else { continue };
            let (head, payload) = split(&request);
            let Ok(Request { operation: Ok(operation), .. }) = Request::decode(head, payload.len(), dialect)
            else {
                continue;
            };
            if header.error.is_none() {
                indices.learn(&operation, body);
                if let Operation::Init(_) = operation {
                    let flags = client::decode_init(body).expect("INIT").flags;
                    dialect.setxattr_ext = flags.contains(pinhole_protocol::InitFlags::SETXATTR_EXT);
                }
            }
        }
    }
    let all = scripts.concat();
    write_scripts(&corpus, &all);
    for (index, request) in shapes.values().enumerate() {
        write_chains(&corpus, index, request);
    }
}

/// Returns the bytes of `read(6, "\x..", 135168) = 104` if they are a complete FUSE request.
fn request_of(line: &str) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once("read(")?;
    let bytes = quoted(rest)?.0;
    let declared = u32::from_le_bytes(*bytes.first_chunk()?);
    (bytes.len() >= 40 && usize::try_from(declared) == Ok(bytes.len())).then_some(bytes)
}

/// Returns the bytes of `writev(6, [{iov_base="\x..", iov_len=16}, ...], 2) = 120` if they are a
/// complete reply.
fn reply_of(line: &str) -> Option<Vec<u8>> {
    let (_, mut rest) = line.split_once("writev(")?;
    let mut all = Vec::new();
    while let Some((bytes, after)) = quoted(rest) {
        all.extend(bytes);
        rest = after;
    }
    let declared = u32::from_le_bytes(*all.first_chunk()?);
    (all.len() >= 16 && usize::try_from(declared) == Ok(all.len())).then_some(all)
}

/// Returns the next quoted string of `\xNN`, and the text after it.
fn quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let (_, rest) = text.split_once('"')?;
    let (hex, rest) = rest.split_once('"')?;
    let bytes = hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16));
    Some((bytes.collect::<Result<_, _>>().ok()?, rest))
}

/// Creates and returns the corpus folder of a target.
fn folder(corpus: &Path, target: &str) -> PathBuf {
    let folder = corpus.join(target);
    std::fs::create_dir_all(&folder).expect("a corpus folder");
    folder
}

/// Writes a seed for `decode_request`, if the message is the first with its opcode and size in
/// units of 16 bytes.
fn write_decode_seed(corpus: &Path, request: &[u8], dialect: Dialect) {
    if request.len() > MESSAGE_LEN_MAX {
        return;
    }
    let raw = u32::from_le_bytes(request[4..8].try_into().expect("four bytes"));
    let name = Opcode::from_raw(raw).map_or_else(|| raw.to_string(), |opcode| opcode.to_string());
    let file = folder(corpus, "decode_request").join(format!(
        "{}-{}",
        name.to_lowercase(),
        request.len().div_ceil(16)
    ));
    if !file.exists() {
        let seed = [&[u8::from(dialect.setxattr_ext), 0, 0], request].concat();
        std::fs::write(file, seed).expect("a seed");
    }
}

/// Writes scripts that end at different messages. Each script also has the earlier messages whose
/// replies contain an id, because later messages use these ids.
fn write_scripts(corpus: &Path, messages: &[Vec<u8>]) {
    for target in ["session_against_model", "passthrough_against_model"] {
        let folder = folder(corpus, target);
        for end in (SCRIPT_LEN..messages.len() + SCRIPT_LEN).step_by(SCRIPT_LEN) {
            let end = end.min(messages.len());
            // Later messages may use an id of any earlier reply.
            let keeps = |index: usize, message: &[u8]| index + SCRIPT_LEN >= end || returns_id(message);
            let mut script = Vec::new();
            for (index, message) in
                messages[..end].iter().enumerate().filter(|(index, one)| keeps(*index, one))
            {
                assert!(index < end);
                record(message, &mut script);
            }
            std::fs::write(folder.join(format!("first-{end:04}")), script).expect("a seed");
        }
    }
}

/// Returns whether the reply to a message contains a node id or a file handle.
fn returns_id(message: &[u8]) -> bool {
    let opcode = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
    matches!(
        Opcode::from_raw(opcode),
        Some(
            Opcode::Lookup
                | Opcode::SymLink
                | Opcode::MkNod
                | Opcode::MkDir
                | Opcode::Link
                | Opcode::Open
                | Opcode::OpenDir
                | Opcode::Create
                | Opcode::ReadDirPlus
        )
    )
}

/// Writes seeds for `descriptor_chain`: a message in the ring, and one in an indirect table.
fn write_chains(corpus: &Path, index: usize, request: &[u8]) {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let (head, payload) = split(request);
    let lens = [40, head.len().saturating_sub(40), payload.len(), 16, 104];
    let buffers: Vec<(u32, u16)> = lens
        .iter()
        .zip([0, 0, 0, WRITE, WRITE])
        .filter(|(len, _)| **len > 0)
        .map(|(len, flags)| (u32::try_from(*len).expect("buffers are short"), flags))
        .collect();
    let mut table = Vec::new();
    for (at, (len, flags)) in (0u16..).zip(&buffers) {
        let last = usize::from(at) + 1 == buffers.len();
        table.extend_from_slice(&(0x1000 + u64::from(at) * 0x800).to_le_bytes());
        table.extend_from_slice(&len.to_le_bytes());
        table.extend_from_slice(&(flags | if last { 0 } else { NEXT }).to_le_bytes());
        table.extend_from_slice(&if last { 0 } else { at + 1 }.to_le_bytes());
    }
    let count = u16::try_from(buffers.len()).expect("there are at most five buffers");
    let start = |switches: u8| {
        let head = [&[switches][..], &0u64.to_le_bytes(), &16u16.to_le_bytes(), &0u16.to_le_bytes()];
        head.concat()
    };
    let direct = [start(0), vec![0, 0], count.to_le_bytes().to_vec(), table.clone()].concat();
    let mut outer = 0x4000u64.to_le_bytes().to_vec();
    outer.extend_from_slice(&(u32::from(count) * 16).to_le_bytes());
    outer.extend_from_slice(&INDIRECT.to_le_bytes());
    outer.extend_from_slice(&[0, 0]);
    let inner = [0x4000u16.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), table].concat();
    let indirect = [start(1), vec![0, 0], vec![1, 0], outer, inner].concat();
    let folder = folder(corpus, "descriptor_chain");
    std::fs::write(folder.join(format!("direct-{index:02}")), direct).expect("a seed");
    std::fs::write(folder.join(format!("indirect-{index:02}")), indirect).expect("a seed");
}
