//! The rows: what is done in each operation, request by request.
//!
//! A row prepares its nodes and handles through the daemon (`open`), plays operations slot by slot (`Play`), and gives
//! everything back (`close`), so that no row changes what the next one finds.

mod data;
mod files;
mod listing;
mod metadata;
mod mixed;

use super::LoadError;
use super::message::Message;
use super::player::{Player, Reply};
use pinhole_tests::frontend::frame::opcode;

/// The node of the share itself.
const ROOT: u64 = 1;

/// Bytes of `fuse_open_out`.
const OPENED_LEN: usize = 16;

/// What the guest's programs open with.
const READ_ONLY: u32 = 0o100_000;
const READ_WRITE: u32 = 0o100_002;
const DIRECTORY: u32 = 0o300_000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// GETATTR of a few hundred known files.
    GetAttr,
    /// LOOKUP of a few hundred known files, as a guest revalidates names.
    LookupHit,
    /// LOOKUP of names that are not there.
    LookupMiss,
    /// OPEN and RELEASE.
    OpenRelease,
    /// OPEN, READ, FLUSH and RELEASE of files of 1 to 16 KiB.
    SmallFile,
    /// READ from a warm file.
    Read(Blocks),
    /// WRITE over a warm file.
    Write(Blocks),
    /// CREATE, FLUSH, RELEASE, UNLINK and FORGET.
    CreateUnlink,
    /// OPENDIR, READDIRPLUS of 10,000 entries, RELEASEDIR and FORGET of each.
    ReadDirPlus,
    /// WRITE of 4 KiB and FSYNC.
    Fsync,
    /// 40 % lookup, 25 % getattr, 15 % small files, 10 % reads and 5 % writes of 4 KiB, 5 % listings of 40 entries.
    Mixed,
    /// GETATTR while 32 READs of 1 MiB, dropped from the page cache, are outstanding.
    BesideCold,
}

/// How a big file is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Bytes of each request.
    pub(crate) len: usize,
    /// In any order, else one after the other.
    pub(crate) random: bool,
}

const fn blocks(len: usize, random: bool) -> Blocks {
    Blocks { len, random }
}

impl Row {
    /// Every row with its name, in the order in which they are measured.
    pub(crate) const ALL: [(&str, Self); 22] = [
        ("getattr", Self::GetAttr),
        ("lookup-hit", Self::LookupHit),
        ("lookup-miss", Self::LookupMiss),
        ("open-release", Self::OpenRelease),
        ("small-file", Self::SmallFile),
        ("read-4k-rand", Self::Read(blocks(4 << 10, true))),
        ("read-4k-seq", Self::Read(blocks(4 << 10, false))),
        ("read-128k-rand", Self::Read(blocks(128 << 10, true))),
        ("read-128k-seq", Self::Read(blocks(128 << 10, false))),
        ("read-1m-rand", Self::Read(blocks(1 << 20, true))),
        ("read-1m-seq", Self::Read(blocks(1 << 20, false))),
        ("write-4k-rand", Self::Write(blocks(4 << 10, true))),
        ("write-4k-seq", Self::Write(blocks(4 << 10, false))),
        ("write-128k-rand", Self::Write(blocks(128 << 10, true))),
        ("write-128k-seq", Self::Write(blocks(128 << 10, false))),
        ("write-1m-rand", Self::Write(blocks(1 << 20, true))),
        ("write-1m-seq", Self::Write(blocks(1 << 20, false))),
        ("create-unlink", Self::CreateUnlink),
        ("readdirplus", Self::ReadDirPlus),
        ("fsync", Self::Fsync),
        ("mixed", Self::Mixed),
        ("getattr-beside-cold", Self::BesideCold),
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, row)| *row == self).map_or("", |(name, _)| name)
    }

    /// The depths at which it is measured: `wanted`, or its own where it has one.
    pub(crate) fn depths(self, wanted: &[usize]) -> Vec<usize> {
        let own = self.slots(0);
        if own == 0 { wanted.to_vec() } else { vec![own] }
    }

    /// How long a row is measured where others are for `time`: one with long operations takes longer to show a spread.
    pub(super) fn time(self, time: std::time::Duration) -> std::time::Duration {
        if self == Self::BesideCold {
            time * 8
        } else if matches!(self, Self::ReadDirPlus | Self::Fsync) {
            time * 3
        } else {
            time
        }
    }

    /// Slots in flight at `depth`.
    pub(super) const fn slots(self, depth: usize) -> usize {
        match self {
            Self::BesideCold => data::COLD + 1,
            // A listing of 10,000 entries is many requests in itself.
            Self::ReadDirPlus => 1,
            Self::GetAttr
            | Self::LookupHit
            | Self::LookupMiss
            | Self::OpenRelease
            | Self::SmallFile
            | Self::Read(_)
            | Self::Write(_)
            | Self::CreateUnlink
            | Self::Fsync
            | Self::Mixed => depth,
        }
    }

    /// Prepares the row for one thread.
    pub(super) fn open(self, player: &mut Player<'_>, seat: &Seat) -> Result<Box<dyn Play>, LoadError> {
        Ok(match self {
            Self::GetAttr => Box::new(metadata::GetAttr::open(player, seat)?),
            Self::LookupHit => Box::new(metadata::LookupHit::open(player, seat)?),
            Self::LookupMiss => Box::new(metadata::LookupMiss::open(player, seat)?),
            Self::OpenRelease => Box::new(files::OpenRelease::open(player, seat)?),
            Self::SmallFile => Box::new(files::SmallFile::open(player, seat)?),
            Self::Read(blocks) => Box::new(data::Transfer::open(player, seat, blocks, false)?),
            Self::Write(blocks) => Box::new(data::Transfer::open(player, seat, blocks, true)?),
            Self::CreateUnlink => Box::new(files::CreateUnlink::open(player, seat)?),
            Self::ReadDirPlus => Box::new(listing::List::open(player, super::tree::MANY)?),
            Self::Fsync => Box::new(data::Durable::open(player)?),
            Self::Mixed => Box::new(mixed::Mixed::open(player, seat)?),
            Self::BesideCold => Box::new(data::BesideCold::open(player, seat)?),
        })
    }
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, row)| *row).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("there is no row `{name}`; the rows are {}", names.join(", "))
        })
    }
}

/// Where a thread sits.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// The number of the thread, from 0.
    pub(super) number: usize,
    /// Threads in all.
    pub(super) count: usize,
    /// The share as the host sees it.
    pub(super) share: std::path::PathBuf,
}

/// Data beside a request's arguments, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    None,
    /// Of a WRITE.
    Out(usize),
    /// Of a READ.
    In(usize),
    /// Of a READDIRPLUS.
    Listing(usize),
}

/// Which answer is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Success with so many bytes.
    Body(usize),
    /// Success with so many bytes or fewer.
    AtMost(usize),
    /// The name is not there.
    Missing,
}

/// What goes with a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Room for the fixed part of the answer.
    pub(super) answer_len: usize,
    pub(super) data: Data,
    pub(super) expect: Expect,
}

impl Ask {
    pub(super) const fn none() -> Self {
        Self::body(0)
    }

    /// A fixed answer.
    const fn body(len: usize) -> Self {
        Self { answer_len: len, data: Data::None, expect: Expect::Body(len) }
    }

    /// Whole blocks from a file.
    const fn data_in(len: usize) -> Self {
        Self { answer_len: 0, data: Data::In(len), expect: Expect::Body(len) }
    }

    /// Data to a file.
    const fn data_out(len: usize) -> Self {
        Self { answer_len: 8, data: Data::Out(len), expect: Expect::Body(8) }
    }
}

/// What follows an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The message just written.
    Send(Ask),
    /// Nothing: the operation is complete.
    Done,
}

/// One thread's part of a row.
pub(super) trait Play {
    /// Writes the first request of an operation in `slot`.
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError>;

    /// Takes the answer in `slot` and writes the operation's next request.
    fn next(&mut self, slot: usize, reply: &Reply<'_>, message: &mut Message) -> Result<Step, LoadError>;

    /// Whether operations in `slot` are measured.
    fn counts(&self, _slot: usize) -> bool {
        true
    }

    /// Nodes to forget, with their counts of lookups; the caller takes them.
    fn forgotten(&mut self) -> &mut Vec<(u64, u64)>;

    /// Gives back what was prepared.
    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError>;
}

/// Preparation: one request after the other.
impl Player<'_> {
    /// The node of `name` in `parent`; forgotten when the row closes.
    fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, LoadError> {
        self.message.start(opcode::LOOKUP, parent).name(name.as_bytes());
        let node = self.ask(Ask::body(super::ENTRY_LEN))?.u64(0)?;
        self.known.push((node, 1));
        Ok(node)
    }

    /// A handle of `node`.
    fn open(&mut self, node: u64, flags: u32) -> Result<u64, LoadError> {
        self.message.start(opcode::OPEN_FILE, node).u32(flags).u32(0);
        self.ask(Ask::body(OPENED_LEN))?.u64(0)
    }

    fn release(&mut self, node: u64, handle: u64, flags: u32) -> Result<(), LoadError> {
        release(&mut self.message, opcode::RELEASE, node, handle, flags);
        self.ask(Ask::none())?;
        Ok(())
    }
}

fn release(message: &mut Message, opcode: u32, node: u64, handle: u64, flags: u32) {
    // fh, flags, release_flags, lock_owner.
    message.start(opcode, node).u64(handle).u32(flags).u32(0).u64(0);
}

fn flush(message: &mut Message, node: u64, handle: u64) {
    // fh, unused, padding, lock_owner.
    message.start(opcode::FLUSH, node).u64(handle).u64(0).u64(7);
}

/// READ, WRITE, READDIR, READDIRPLUS: fh, offset, size, flags, lock_owner, flags, padding.
fn transfer(message: &mut Message, opcode: u32, (node, handle): (u64, u64), offset: u64, size: u32) {
    message.start(opcode, node).u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(READ_WRITE).u32(0);
}

/// Numbers without a pattern that a disk or a branch predictor would see; the same in each run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn new(seat: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seat as u64 + 1))
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half is the better one; the bias of a remainder is far below what is measured.
        (self.0 >> 32) % bound
    }

    fn choose<'t, T>(&mut self, all: &'t [T]) -> Result<&'t T, LoadError> {
        let at = usize::try_from(self.below(all.len().max(1) as u64)).unwrap_or(0);
        all.get(at).ok_or_else(|| LoadError::Memory("nothing to choose from".to_owned()))
    }
}
