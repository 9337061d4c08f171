//! Rows that read and write one big file: in the page cache, outside it, and with FSYNC.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;

use rustix::fs::Advice;

use super::super::ask::{Ask, NextStep};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::row::{Blocks, COLD, ThreadPosition};
use super::super::tree;
use super::metadata::GetAttr;
use super::random::Random;
use super::requests::{READ_WRITE, ROOT, transfer};
use pinhole_tests::frontend::frame::opcode;

/// Length of a cold read, in bytes.
const COLD_LEN: u64 = 1 << 20;

/// Length of a write before FSYNC, in bytes.
const DURABLE_LEN: u32 = 4096;

/// READs or WRITEs of one size.
#[derive(Debug)]
pub(super) struct Transfer {
    blocks: Blocks,
    write: bool,
    node: u64,
    handle: u64,
    /// Number of blocks in the file.
    count: u64,
    /// Number of the block that was used last.
    at: u64,
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl Transfer {
    pub(super) fn open(
        player: &mut Player<'_>,
        position: &ThreadPosition,
        blocks: Blocks,
        write: bool,
    ) -> Result<Self, LoadError> {
        let node = player.look_up(ROOT, tree::WARM.name)?;
        let handle = player.open(node, READ_WRITE)?;
        let count = tree::WARM.len / blocks.len as u64;
        let at = count / position.count as u64 * position.number as u64;
        let random = Random::new(position.number);
        Ok(Self { blocks, write, node, handle, count, at, random, none: Vec::new() })
    }
}

impl Play for Transfer {
    fn begin(&mut self, _slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        self.at = if self.blocks.random { self.random.below(self.count) } else { (self.at + 1) % self.count };
        let len = self.blocks.len;
        let size = u32::try_from(len).unwrap_or(u32::MAX);
        let opcode = if self.write { opcode::WRITE } else { opcode::READ };
        transfer(message, opcode, (self.node, self.handle), self.at * u64::from(size), size);
        Ok(if self.write { Ask::data_out(len) } else { Ask::data_in(len) })
    }

    fn next(
        &mut self,
        _slot: usize,
        _reply: &Reply<'_>,
        _message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        Ok(NextStep::Done)
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.none
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.release(self.node, self.handle, READ_WRITE)?;
        player.forget_known()
    }
}

/// WRITE of 4 KiB, then FSYNC. Each slot has its own page.
#[derive(Debug)]
pub(super) struct Durable {
    node: u64,
    handle: u64,
    /// Whether the WRITE of each slot has its reply.
    written: [bool; super::super::ring::SLOTS],
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl Durable {
    pub(super) fn open(player: &mut Player<'_>) -> Result<Self, LoadError> {
        let node = player.look_up(ROOT, tree::SYNCED.name)?;
        let handle = player.open(node, READ_WRITE)?;
        Ok(Self { node, handle, written: [false; super::super::ring::SLOTS], none: Vec::new() })
    }
}

impl Play for Durable {
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        if let Some(written) = self.written.get_mut(slot) {
            *written = false;
        }
        let offset = slot as u64 * u64::from(DURABLE_LEN);
        transfer(message, opcode::WRITE, (self.node, self.handle), offset, DURABLE_LEN);
        Ok(Ask::data_out(DURABLE_LEN as usize))
    }

    fn next(
        &mut self,
        slot: usize,
        _reply: &Reply<'_>,
        message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        match self.written.get_mut(slot) {
            Some(written) if !*written => {
                *written = true;
                // fh, fsync_flags, padding.
                message.start(opcode::FSYNC, self.node).u64(self.handle).u64(0);
                Ok(NextStep::Send(Ask::none()))
            }
            Some(_) | None => Ok(NextStep::Done),
        }
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.none
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.release(self.node, self.handle, READ_WRITE)?;
        player.forget_known()
    }
}

/// GETATTR in the last slot, cold READs in the others.
#[derive(Debug)]
pub(super) struct BesideCold {
    getattr: GetAttr,
    /// The cold file on the host, to drop its pages from the page cache.
    host: File,
    node: u64,
    handle: u64,
    random: Random,
}

impl BesideCold {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let node = player.look_up(ROOT, tree::COLD.name)?;
        let handle = player.open(node, READ_WRITE)?;
        let host = open_host(&position.share)?;
        Ok(Self {
            getattr: GetAttr::open(player, position)?,
            host,
            node,
            handle,
            random: Random::new(position.number),
        })
    }
}

/// Opens the cold file on the host.
fn open_host(share: &Path) -> Result<File, LoadError> {
    File::open(share.join(tree::COLD.name)).map_err(LoadError::host("cannot open the cold file"))
}

impl Play for BesideCold {
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        if slot == COLD {
            return self.getattr.begin(slot, message);
        }
        let offset = self.random.below(tree::COLD.len / COLD_LEN) * COLD_LEN;
        rustix::fs::fadvise(&self.host, offset, NonZeroU64::new(COLD_LEN), Advice::DontNeed)
            .map_err(|error| LoadError::host("cannot drop pages of the cold file")(error.into()))?;
        let size = u32::try_from(COLD_LEN).unwrap_or(u32::MAX);
        transfer(message, opcode::READ, (self.node, self.handle), offset, size);
        Ok(Ask::data_in(usize::try_from(COLD_LEN).unwrap_or(0)))
    }

    fn next(
        &mut self,
        _slot: usize,
        _reply: &Reply<'_>,
        _message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        Ok(NextStep::Done)
    }

    fn counts(&self, slot: usize) -> bool {
        slot == COLD
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        self.getattr.forgotten()
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        player.release(self.node, self.handle, READ_WRITE)?;
        player.forget_known()
    }
}
