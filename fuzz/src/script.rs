//! Scripts: fuzz inputs as messages whose node ids and file handles refer to earlier replies.
//!
//! An input is a sequence of records. A record has two bytes of length, and then a FUSE message.
//! The data of a WRITE counts as part of the message. If the top bit of the record's length is set,
//! the length field of the message stays as it is. Otherwise that field is corrected.
//!
//! A node id from 1 to 65,535 is an index into the nodes of earlier replies; 1 is the root. A file
//! handle below 65,536 is an index into the earlier handles. All other values are sent unchanged.
//! `examples/seeds.rs` writes recorded traffic in this form, and most mutations leave it valid.

use pinhole_protocol::client::{encode_request, forget_records, header};
use pinhole_protocol::{
    BatchForget, CopyFileRange, Dialect, Extensions, Fallocate, Flush, Fsync, FsyncDir, GetAttr, GetStatx,
    Handle, Header, InitFlags, InitRequest, Link, Lseek, NodeId, Operation, Read, ReadDir, ReadDirPlus,
    Release, ReleaseDir, Rename, SetAttr, Unique, WRITE_LEN, Write,
};

/// Bit of a record's length: the length field of the message stays as it is.
const KEEPS_LEN: u16 = 1 << 15;
const OPCODE_WRITE: u32 = 16;

/// An iterator over the messages of an input.
#[derive(Debug)]
pub struct Records<'a>(pub &'a [u8]);

impl Iterator for Records<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let (len, rest) = self.0.split_first_chunk()?;
        let len = u16::from_le_bytes(*len);
        let (message, rest) = rest.split_at(usize::from(len & !KEEPS_LEN).min(rest.len()));
        self.0 = rest;
        let mut message = message.to_vec();
        let whole = u32::try_from(message.len()).expect("at most 32 KiB").to_le_bytes();
        if len & KEEPS_LEN == 0
            && let Some(place) = message.first_chunk_mut()
        {
            *place = whole;
        }
        Some(message)
    }
}

/// Appends a message as a record for [`Records`].
pub fn record(message: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(message.len()).ok().filter(|len| len & KEEPS_LEN == 0).expect("at most 32 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(message);
}

/// Splits a record into the FUSE message and, if that is a WRITE, the data after it.
pub fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let opcode = message.get(4..8).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")));
    let at = if opcode == Some(OPCODE_WRITE) { WRITE_LEN.min(message.len()) } else { message.len() };
    message.split_at(at)
}

/// A translation of the node ids and file handles of a script to those of one side: of the session
/// under test, or of the model.
pub trait Ids {
    /// Translates a node id.
    fn node(&self, node: NodeId) -> NodeId;
    /// Translates a file handle.
    fn handle(&self, handle: Handle) -> Handle;
}

/// Translates the ids of an operation. `records` stores the translated records of a BATCH_FORGET.
pub fn with_ids<'a>(operation: &Operation<'a>, ids: &impl Ids, records: &'a mut Vec<u8>) -> Operation<'a> {
    let of = |handle| ids.handle(handle);
    match *operation {
        Operation::BatchForget(op) => {
            let forgets: Vec<_> = op.iter().map(|(node, forget)| (ids.node(node), forget)).collect();
            *records = forget_records(&forgets);
            Operation::BatchForget(BatchForget::parse(records).expect("the records are complete"))
        }
        Operation::GetAttr(op) => Operation::GetAttr(GetAttr { handle: op.handle.map(of) }),
        Operation::GetStatx(op) => Operation::GetStatx(GetStatx { handle: op.handle.map(of), ..op }),
        Operation::SetAttr(op) => Operation::SetAttr(SetAttr { handle: op.handle.map(of), ..op }),
        Operation::Rename(op) => {
            Operation::Rename(Rename { new_directory: ids.node(op.new_directory), ..op })
        }
        Operation::Link(op) => Operation::Link(Link { target: ids.node(op.target), ..op }),
        Operation::Read(op) => Operation::Read(Read { handle: of(op.handle), ..op }),
        Operation::Write(op) => Operation::Write(Write { handle: of(op.handle), ..op }),
        Operation::Release(op) => Operation::Release(Release { handle: of(op.handle), ..op }),
        Operation::Fsync(op) => Operation::Fsync(Fsync { handle: of(op.handle), ..op }),
        Operation::Flush(op) => Operation::Flush(Flush { handle: of(op.handle), ..op }),
        Operation::ReadDir(op) => Operation::ReadDir(ReadDir { handle: of(op.handle), ..op }),
        Operation::ReadDirPlus(op) => {
            let list = ReadDir { handle: of(op.list.handle), ..op.list };
            Operation::ReadDirPlus(ReadDirPlus { list })
        }
        Operation::ReleaseDir(op) => Operation::ReleaseDir(ReleaseDir { handle: of(op.handle) }),
        Operation::FsyncDir(op) => Operation::FsyncDir(FsyncDir { handle: of(op.handle), ..op }),
        Operation::Fallocate(op) => Operation::Fallocate(Fallocate { handle: of(op.handle), ..op }),
        Operation::Lseek(op) => Operation::Lseek(Lseek { handle: of(op.handle), ..op }),
        Operation::CopyFileRange(op) => Operation::CopyFileRange(CopyFileRange {
            from: of(op.from),
            to: of(op.to),
            to_node: ids.node(op.to_node),
            ..op
        }),
        other => other,
    }
}

/// Encodes the message of an operation, with the data of a WRITE.
pub fn message(header: &Header<'_>, operation: &Operation<'_>, payload: &[u8], dialect: Dialect) -> Vec<u8> {
    let mut out = Vec::new();
    let mut header = *header;
    if matches!(operation, Operation::Write(_)) {
        header.extensions = Extensions::EMPTY;
    }
    encode_request(&header, operation, payload, dialect, &mut out);
    out
}

/// Returns the INIT at the start of every script.
pub fn init() -> (Header<'static>, Operation<'static>) {
    let flags = InitFlags::all() - InitFlags::SETXATTR_EXT;
    let request = InitRequest { major: 7, minor: 45, max_readahead: 1 << 17, flags };
    let operation = Operation::Init(request);
    (header(&operation, Unique(1), NodeId(0)), operation)
}
