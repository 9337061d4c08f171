//! Row of listings: OPENDIR, READDIRPLUS to the end, RELEASEDIR, FORGET of the listed entries.

use super::super::ask::{Ask, Data, ENTRY_LEN, Expect, NextStep};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::ring::SLOTS;
use super::super::tree;
use super::requests::{DIRECTORY, OPENED_LEN, ROOT, release, transfer};
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
    /// Nodes of listed entries, to forget.
    listed_nodes: Vec<(u64, u64)>,
}

impl List {
    pub(super) fn open(player: &mut Player<'_>, folder: tree::Folder) -> Result<Self, LoadError> {
        let node = player.look_up(ROOT, folder.name)?;
        let listed_nodes = Vec::with_capacity(folder.files * SLOTS);
        Ok(Self { folder: node, files: folder.files, open: [NOT_OPEN; SLOTS], listed_nodes })
    }

    /// Writes a READDIRPLUS.
    fn read(&self, handle: u64, offset: u64, message: &mut Message) -> NextStep {
        transfer(message, opcode::READDIRPLUS, (self.folder, handle), offset, SIZE);
        NextStep::Send(Ask {
            reply_len: 0,
            data: Data::Listing(REPLY_LEN_MAX),
            expect: Expect::AtMost(REPLY_LEN_MAX),
        })
    }
}

impl Play for List {
    fn begin(&mut self, number: usize, message: &mut Message) -> Result<Ask, LoadError> {
        if let Some(open) = self.open.get_mut(number) {
            *open = NOT_OPEN;
        }
        message.start(opcode::OPENDIR, self.folder).u32(DIRECTORY).u32(0);
        Ok(Ask::body(OPENED_LEN))
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
            open.handle = reply.u64(0)?;
            self.read(open.handle, 0, message)
        } else if reply.len > 0 {
            let (listed, offset) = entries(reply, &mut self.listed_nodes)?;
            open.listed += listed;
            self.read(open.handle, offset, message)
        } else {
            // With "." and "..".
            if open.listed != self.files + 2 {
                let what = format!("{} entries listed of {}", open.listed, self.files + 2);
                return Err(LoadError::Device(what));
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

/// Reads a listing. Returns the number of its entries and the offset of the next entry. Every entry
/// but "." and ".." counts as a lookup.
fn entries(reply: &Reply<'_>, listed_nodes: &mut Vec<(u64, u64)>) -> Result<(usize, u64), LoadError> {
    let (mut at, mut count, mut offset) = (0, 0, 0);
    while at < reply.len {
        let node = reply.listed_u64(at)?;
        let entry = at + ENTRY_LEN;
        offset = reply.listed_u64(entry + 8)?;
        let name_len = usize::try_from(reply.listed_u64(entry + 16)? & 0xffff_ffff).unwrap_or(REPLY_LEN_MAX);
        let [first, second] = reply.listed_bytes(entry + DIRENT_LEN)?;
        let dots = (name_len == 1 && first == b'.') || (name_len == 2 && [first, second] == *b"..");
        if node != 0 && !dots {
            listed_nodes.push((node, 1));
        }
        count += 1;
        at = entry + (DIRENT_LEN + name_len).next_multiple_of(8);
    }
    Ok((count, offset))
}
