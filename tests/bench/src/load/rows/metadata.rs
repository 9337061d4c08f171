//! Rows of GETATTR and LOOKUP.

use super::super::ask::{ATTR_LEN, Ask, Data, ENTRY_LEN, Expect, NextStep};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::row::ThreadPosition;
use super::super::tree;
use super::random::Random;
use super::requests::ROOT;
use pinhole_tests::frontend::frame::opcode;

/// Number of missing names.
const MISSING: usize = 256;

/// GETATTR of known files.
#[derive(Debug)]
pub(super) struct GetAttr {
    nodes: Vec<u64>,
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl GetAttr {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let folder = player.look_up(ROOT, tree::KNOWN.name)?;
        let names = (0..tree::KNOWN.files).map(tree::name);
        let nodes = names.map(|name| player.look_up(folder, &name)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, random: Random::new(position.number), none: Vec::new() })
    }
}

/// Writes a GETATTR without a handle.
pub(super) fn get_attr(message: &mut Message, node: u64) -> Ask {
    message.start(opcode::GETATTR, node).u64(0).u64(0);
    Ask::body(ATTR_LEN)
}

impl Play for GetAttr {
    fn begin(&mut self, _slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        Ok(get_attr(message, *self.random.choose(&self.nodes)?))
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
        player.forget_known()
    }
}

/// LOOKUP of files that the guest knows. Linux sends such a LOOKUP when the entry timeout of the
/// name has passed.
#[derive(Debug)]
pub(super) struct LookupHit {
    folder: u64,
    children: Vec<(String, u64)>,
    /// Lookup count of each child, to forget at the end.
    counts: Vec<(u64, u64)>,
    /// Index of the child that each slot looks up.
    asked: Vec<usize>,
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl LookupHit {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let folder = player.look_up(ROOT, tree::KNOWN.name)?;
        let names = (0..tree::KNOWN.files).map(tree::name);
        let children = names
            .map(|name| player.look_up(folder, &name).map(|node| (name, node)))
            .collect::<Result<Vec<_>, _>>()?;
        let counts = children.iter().map(|(_, node)| (*node, 0)).collect();
        let asked = vec![0; super::super::ring::SLOTS];
        Ok(Self { folder, children, counts, asked, random: Random::new(position.number), none: Vec::new() })
    }
}

impl Play for LookupHit {
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        let at = usize::try_from(self.random.below(self.children.len() as u64)).unwrap_or(0);
        if let (Some(asked), Some((name, _))) = (self.asked.get_mut(slot), self.children.get(at)) {
            *asked = at;
            message.start(opcode::LOOKUP, self.folder).name(name.as_bytes());
        }
        Ok(Ask::body(ENTRY_LEN))
    }

    fn next(
        &mut self,
        slot: usize,
        reply: &Reply<'_>,
        _message: &mut Message,
    ) -> Result<NextStep, LoadError> {
        let node = reply.u64(0)?;
        let asked = self.asked.get(slot).and_then(|at| self.counts.get_mut(*at));
        match asked {
            Some((expected, count)) if *expected == node => *count += 1,
            Some(_) | None => {
                return Err(LoadError::Device(format!("another node for a known name: {node}")));
            }
        }
        Ok(NextStep::Done)
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        &mut self.none
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        self.counts.retain(|(_, count)| *count > 0);
        player.vmm.forget(&mut self.counts)?;
        player.forget_known()
    }
}

/// LOOKUP of missing names.
#[derive(Debug)]
pub(super) struct LookupMiss {
    folder: u64,
    names: Vec<String>,
    random: Random,
    /// Always empty: the row forgets no node while it runs.
    none: Vec<(u64, u64)>,
}

impl LookupMiss {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let folder = player.look_up(ROOT, tree::KNOWN.name)?;
        let names = (0..MISSING).map(|number| format!("missing-{number:05}")).collect();
        Ok(Self { folder, names, random: Random::new(position.number), none: Vec::new() })
    }
}

impl Play for LookupMiss {
    fn begin(&mut self, _slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        let name = self.random.choose(&self.names)?;
        message.start(opcode::LOOKUP, self.folder).name(name.as_bytes());
        Ok(Ask { reply_len: ENTRY_LEN, data: Data::None, expect: Expect::Missing })
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
        player.forget_known()
    }
}
