//! Rows that open, read, create and remove files.

use super::super::ask::{Ask, Data, ENTRY_LEN, Expect, NextStep, OPENED_LEN};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::ring::SLOTS;
use super::super::row::ThreadPosition;
use super::super::tree;
use super::random::Random;
use super::requests::{READ_ONLY, READ_WRITE, ROOT, flush, release, transfer};
use pinhole_tests::frontend::frame::opcode;

/// Page size of the guest, which reads whole pages, in bytes.
const PAGE: u64 = 4096;

/// FOPEN_NOFLUSH of fuse.h: close sends no FLUSH.
const NO_FLUSH: u64 = 1 << 5;

/// Last request that was sent of an operation with several requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Read,
    Flush,
    Release,
    Unlink,
}

/// Operation in flight.
#[derive(Clone, Copy, Debug)]
struct OpenFile {
    stage: Stage,
    node: u64,
    handle: u64,
    /// Length to read in bytes; 0 reads nothing.
    len: u64,
    /// Whether the daemon wants no FLUSH.
    no_flush: bool,
}

/// Operation before its first request.
const NOT_OPEN: OpenFile = OpenFile { stage: Stage::Open, node: 0, handle: 0, len: 0, no_flush: false };

/// Returns the operation in slot `number`.
fn slot(all: &mut [OpenFile], number: usize) -> Result<&mut OpenFile, LoadError> {
    all.get_mut(number).ok_or_else(|| LoadError::Device(format!("no slot {number}")))
}

/// OPEN and RELEASE.
#[derive(Debug)]
pub(super) struct OpenRelease {
    nodes: Vec<u64>,
    open: [OpenFile; SLOTS],
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl OpenRelease {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let folder = player.look_up(ROOT, tree::KNOWN.name)?;
        let names = (0..tree::KNOWN.files).map(tree::name);
        let nodes = names.map(|name| player.look_up(folder, &name)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, open: [NOT_OPEN; SLOTS], random: Random::new(position.number), none: Vec::new() })
    }
}

impl Play for OpenRelease {
    fn begin(&mut self, number: usize, message: &mut Message) -> Result<Ask, LoadError> {
        let node = *self.random.choose(&self.nodes)?;
        *slot(&mut self.open, number)? = OpenFile { node, ..NOT_OPEN };
        message.start(opcode::OPEN_FILE, node).u32(READ_ONLY).u32(0);
        Ok(Ask::body(OPENED_LEN))
    }

    fn next(
        &mut self,
        number: usize,
        reply: &Reply<'_>,
        message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        let open = slot(&mut self.open, number)?;
        if open.stage == Stage::Release {
            return Ok(NextStep::Done);
        }
        open.stage = Stage::Release;
        release(message, opcode::RELEASE, open.node, reply.u64(0)?, READ_ONLY);
        Ok(NextStep::Send(Ask::none()))
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.none
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.forget_known()
    }
}

/// OPEN, READ of the whole file, FLUSH, RELEASE; or READ alone, if the guest opens files by itself.
#[derive(Debug)]
pub(super) struct SmallFile {
    /// Node id and length of each file.
    files: Vec<(u64, u64)>,
    open: [OpenFile; SLOTS],
    /// Whether the daemon has answered OPEN with ENOSYS.
    is_open_needless: bool,
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl SmallFile {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let folder = player.look_up(ROOT, tree::SMALL.name)?;
        let mut files = Vec::new();
        for number in 0..tree::SMALL.files {
            let node = player.look_up(folder, &tree::name(number))?;
            files.push((node, tree::small_len(number)));
        }
        let (open, random) = ([NOT_OPEN; SLOTS], Random::new(position.number));
        Ok(Self { files, open, is_open_needless: false, random, none: Vec::new() })
    }
}

/// Writes a READ of the whole file.
fn read_all(open: &OpenFile, message: &mut Message) -> Ask {
    let room = open.len.next_multiple_of(PAGE);
    let size = u32::try_from(room).unwrap_or(u32::MAX);
    transfer(message, opcode::READ, (open.node, open.handle), 0, size);
    let (room, len) = (usize::try_from(room).unwrap_or(0), usize::try_from(open.len).unwrap_or(0));
    Ask { reply_len: 0, data: Data::In(room), expect: Expect::Body(len) }
}

impl Play for SmallFile {
    fn begin(&mut self, number: usize, message: &mut Message) -> Result<Ask, LoadError> {
        let (node, len) = *self.random.choose(&self.files)?;
        let open = slot(&mut self.open, number)?;
        *open = OpenFile { node, len, ..NOT_OPEN };
        if self.is_open_needless {
            open.stage = Stage::Read;
            return Ok(read_all(open, message));
        }
        message.start(opcode::OPEN_FILE, node).u32(READ_ONLY).u32(0);
        Ok(Ask::opened())
    }

    fn next(
        &mut self,
        number: usize,
        reply: &Reply<'_>,
        message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        let open = slot(&mut self.open, number)?;
        match open.stage {
            Stage::Open => {
                if reply.is_open_needless() {
                    self.is_open_needless = true;
                } else {
                    open.handle = reply.u64(0)?;
                    open.no_flush = reply.u64(8)? & NO_FLUSH != 0;
                }
                open.stage = Stage::Read;
                return Ok(NextStep::Send(read_all(open, message)));
            }
            // There is nothing to close.
            Stage::Read if self.is_open_needless => return Ok(NextStep::Done),
            Stage::Read if !open.no_flush => {
                open.stage = Stage::Flush;
                flush(message, open.node, open.handle);
            }
            Stage::Read | Stage::Flush => {
                open.stage = Stage::Release;
                release(message, opcode::RELEASE, open.node, open.handle, READ_ONLY);
            }
            Stage::Release | Stage::Unlink => return Ok(NextStep::Done),
        }
        Ok(NextStep::Send(Ask::none()))
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.none
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.forget_known()
    }
}

/// CREATE, FLUSH, RELEASE, UNLINK, FORGET of an empty file.
pub(super) struct CreateUnlink {
    folders: Vec<u64>,
    /// Directory of each slot.
    chosen: [u64; SLOTS],
    names: Vec<String>,
    open: [OpenFile; SLOTS],
    random: Random,
    /// Nodes of removed files, to forget.
    removed: Vec<(u64, u64)>,
    _fresh: tree::Fresh,
}

impl CreateUnlink {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let fresh = tree::Fresh::new(&position.share)?;
        let parent = player.look_up(ROOT, tree::MADE)?;
        let bare = fresh.names().iter().filter_map(|name| name.rsplit('/').next());
        let folders = bare.map(|name| player.look_up(parent, name)).collect::<Result<_, _>>()?;
        let names = (0..SLOTS).map(|slot| format!("made-{}-{slot:03}", position.number)).collect();
        Ok(Self {
            folders,
            chosen: [0; SLOTS],
            names,
            open: [NOT_OPEN; SLOTS],
            random: Random::new(position.number),
            removed: Vec::with_capacity(SLOTS),
            _fresh: fresh,
        })
    }

    /// Returns the name of the file of slot `number`.
    fn name(&self, number: usize) -> &[u8] {
        self.names.get(number).map_or(&[], String::as_bytes)
    }

    /// Returns the directory of slot `number`.
    fn folder(&self, number: usize) -> u64 {
        self.chosen.get(number).copied().unwrap_or(ROOT)
    }
}

impl Play for CreateUnlink {
    fn begin(&mut self, number: usize, message: &mut Message) -> Result<Ask, LoadError> {
        *slot(&mut self.open, number)? = NOT_OPEN;
        let folder = *self.random.choose(&self.folders)?;
        if let Some(chosen) = self.chosen.get_mut(number) {
            *chosen = folder;
        }
        // O_CREAT and O_EXCL of open(2); then mode, umask, open_flags.
        let flags = READ_WRITE | 0o300;
        message.start(opcode::CREATE, folder).u32(flags).u32(0o100_644).u32(0o022).u32(0);
        message.name(self.name(number));
        Ok(Ask::body(ENTRY_LEN + OPENED_LEN))
    }

    fn next(
        &mut self,
        number: usize,
        reply: &Reply<'_>,
        message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        let open = slot(&mut self.open, number)?;
        match open.stage {
            Stage::Open => {
                open.node = reply.u64(0)?;
                open.handle = reply.u64(ENTRY_LEN)?;
                open.no_flush = reply.u64(ENTRY_LEN + 8)? & NO_FLUSH != 0;
                open.stage = if open.no_flush { Stage::Release } else { Stage::Flush };
                if open.no_flush {
                    release(message, opcode::RELEASE, open.node, open.handle, READ_WRITE);
                } else {
                    flush(message, open.node, open.handle);
                }
            }
            Stage::Flush => {
                open.stage = Stage::Release;
                release(message, opcode::RELEASE, open.node, open.handle, READ_WRITE);
            }
            Stage::Release => {
                open.stage = Stage::Unlink;
                message.start(opcode::UNLINK, self.folder(number)).name(self.name(number));
            }
            Stage::Unlink | Stage::Read => {
                self.removed.push((open.node, 1));
                return Ok(NextStep::Done);
            }
        }
        Ok(NextStep::Send(Ask::none()))
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.removed
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.forget_known()
    }
}
