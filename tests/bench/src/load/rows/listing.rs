//! Rows of listings: OPENDIR, READDIRPLUS to the end, RELEASEDIR, FORGET of the listed entries. A
//! guest that opens directories by itself sends no OPENDIR and RELEASEDIR.

use super::super::ask::{Ask, Data, ENTRY_LEN, Expect, NextStep};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::ring::SLOTS;
use super::super::tree;
use super::requests::{DIRECTORY, ROOT, release, transfer};
use pinhole_tests::frontend::frame::opcode;

/// Length of the listing that one `readdir(3)` in a guest asks for, in bytes.
const REPLY_LEN_MAX: usize = SIZE as usize;

/// The same, in the type of the request.
const SIZE: u32 = 32 << 10;

/// Length of `fuse_dirent` before the name, in bytes.
const DIRENT_LEN: usize = 24;

/// Listing in flight.
#[derive(Clone, Copy, Debug)]
struct OpenListing {
    handle: u64,
    /// Number of entries until now.
    listed: usize,
    /// Whether the reply to OPENDIR has arrived.
    opened: bool,
    /// Whether RELEASEDIR has been sent.
    ending: bool,
}

/// Listing before its first request.
const NOT_OPEN: OpenListing = OpenListing { handle: 0, listed: 0, opened: false, ending: false };

/// Listings of one directory.
#[derive(Debug)]
pub(super) struct List {
    folder: u64,
    files: usize,
    open: [OpenListing; SLOTS],
    /// Whether the daemon has answered OPENDIR with ENOSYS.
    is_open_needless: bool,
    /// Nodes of listed entries, to forget.
    listed_nodes: Vec<(u64, u64)>,
}

impl List {
    pub(super) fn open(player: &mut Player<'_>, folder: tree::Folder) -> Result<Self, LoadError> {
        let node = player.look_up(ROOT, folder.name)?;
        let listed_nodes = Vec::with_capacity(folder.files * SLOTS);
        let (files, open) = (folder.files, [NOT_OPEN; SLOTS]);
        Ok(Self { folder: node, files, open, is_open_needless: false, listed_nodes })
    }
}

/// Writes a READDIRPLUS.
fn read(folder: u64, handle: u64, offset: u64, message: &mut Message) -> Ask {
    transfer(message, opcode::READDIRPLUS, (folder, handle), offset, SIZE);
    Ask { reply_len: 0, data: Data::Listing(REPLY_LEN_MAX), expect: Expect::AtMost(REPLY_LEN_MAX) }
}

impl Play for List {
    fn begin(&mut self, number: usize, message: &mut Message) -> Result<Ask, LoadError> {
        if let Some(open) = self.open.get_mut(number) {
            *open = OpenListing { opened: self.is_open_needless, ..NOT_OPEN };
        }
        if self.is_open_needless {
            return Ok(read(self.folder, 0, 0, message));
        }
        message.start(opcode::OPENDIR, self.folder).u32(DIRECTORY).u32(0);
        Ok(Ask::opened())
    }

    fn next(
        &mut self,
        number: usize,
        reply: &Reply<'_>,
        message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        let missing = || LoadError::Device(format!("no slot {number}"));
        let mut open = *self.open.get(number).ok_or_else(missing)?;
        let step = if open.ending {
            NextStep::Done
        } else if !open.opened {
            open.opened = true;
            self.is_open_needless = reply.is_open_needless();
            open.handle = if self.is_open_needless { 0 } else { reply.u64(0)? };
            NextStep::Send(read(self.folder, open.handle, 0, message))
        } else if reply.len > 0 {
            let (listed, offset) = entries(reply, &mut |entry| self.listed_nodes.push((entry.node, 1)))?;
            open.listed += listed;
            NextStep::Send(read(self.folder, open.handle, offset, message))
        } else {
            // With "." and "..".
            if open.listed != self.files + 2 {
                let what = format!("{} entries listed of {}", open.listed, self.files + 2);
                return Err(LoadError::Device(what));
            }
            if self.is_open_needless {
                return Ok(NextStep::Done);
            }
            open.ending = true;
            release(message, opcode::RELEASEDIR, self.folder, open.handle, DIRECTORY);
            NextStep::Send(Ask::none())
        };
        *self.open.get_mut(number).ok_or_else(missing)? = open;
        Ok(step)
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.listed_nodes
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.forget_known()
    }
}

/// Entry of a listing that counts as a lookup.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ListedEntry {
    pub(in super::super) node: u64,
    pub(in super::super) is_folder: bool,
}

/// Kind of a directory in a listing (`DT_DIR`).
const KIND_FOLDER: u64 = 4;

/// Reads a listing. Returns the number of its entries and the offset of the next entry. Calls
/// `looked_up` for every entry that counts as a lookup: all but "." and "..".
fn entries(reply: &Reply<'_>, looked_up: &mut dyn FnMut(ListedEntry)) -> Result<(usize, u64), LoadError> {
    let (mut at, mut count, mut offset) = (0, 0, 0);
    while at < reply.len {
        let node = reply.listed_u64(at)?;
        let entry = at + ENTRY_LEN;
        offset = reply.listed_u64(entry + 8)?;
        // Length of the name, then the kind.
        let name_and_kind = reply.listed_u64(entry + 16)?;
        let name_len = usize::try_from(name_and_kind & 0xffff_ffff).unwrap_or(REPLY_LEN_MAX);
        let [first, second] = reply.listed_bytes(entry + DIRENT_LEN)?;
        let dots = (name_len == 1 && first == b'.') || (name_len == 2 && [first, second] == *b"..");
        if node != 0 && !dots {
            looked_up(ListedEntry { node, is_folder: name_and_kind >> 32 == KIND_FOLDER });
        }
        count += 1;
        at = entry + (DIRENT_LEN + name_len).next_multiple_of(8);
    }
    Ok((count, offset))
}

/// Lists a directory with one request after another. Returns its entries without "." and "..".
pub(in super::super) fn list(player: &mut Player<'_>, folder: u64) -> Result<Vec<ListedEntry>, LoadError> {
    player.message.start(opcode::OPENDIR, folder).u32(DIRECTORY).u32(0);
    let reply = player.ask(Ask::opened())?;
    let handle = if reply.is_open_needless() { None } else { Some(reply.u64(0)?) };
    let (mut listed, mut offset) = (Vec::new(), 0);
    loop {
        let ask = read(folder, handle.unwrap_or(0), offset, &mut player.message);
        let reply = player.ask(ask)?;
        if reply.len == 0 {
            break;
        }
        (_, offset) = entries(&reply, &mut |entry| listed.push(entry))?;
    }
    if let Some(handle) = handle {
        release(&mut player.message, opcode::RELEASEDIR, folder, handle, DIRECTORY);
        player.ask(Ask::none())?;
    }
    Ok(listed)
}
