//! Row with a mix of operations, chosen at random for each operation.

use super::super::ask::{Ask, NextStep};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::{Play, Player, Reply};
use super::super::ring::SLOTS;
use super::super::row::{Blocks, ThreadPosition};
use super::super::tree;
use super::data::Transfer;
use super::files::SmallFile;
use super::listing::List;
use super::metadata::{GetAttr, LookupHit};
use super::random::Random;

/// Percentage of each row, with the index of the row in [`Mixed`].
const PERCENTAGES: [(u64, usize); 6] = [(40, 0), (25, 1), (15, 2), (10, 3), (5, 4), (5, 5)];

/// Rows of the mix, and the current row of each slot.
pub(super) struct Mixed {
    rows: [Box<dyn Play>; 6],
    chosen: [usize; SLOTS],
    random: Random,
    forgotten: Vec<(u64, u64)>,
}

impl Mixed {
    pub(super) fn open(player: &mut Player<'_>, position: &ThreadPosition) -> Result<Self, LoadError> {
        let blocks = Blocks { len: 4096, random: true };
        let rows: [Box<dyn Play>; 6] = [
            Box::new(LookupHit::open(player, position)?),
            Box::new(GetAttr::open(player, position)?),
            Box::new(SmallFile::open(player, position)?),
            Box::new(Transfer::open(player, position, blocks, false)?),
            Box::new(Transfer::open(player, position, blocks, true)?),
            Box::new(List::open(player, tree::FEW)?),
        ];
        Ok(Self {
            rows,
            chosen: [0; SLOTS],
            random: Random::new(position.number),
            forgotten: Vec::with_capacity(4096),
        })
    }

    /// Returns the current row of a slot.
    fn row(&mut self, slot: usize) -> Result<&mut Box<dyn Play>, LoadError> {
        let chosen = self.chosen.get(slot).copied().unwrap_or(0);
        self.rows.get_mut(chosen).ok_or_else(|| LoadError::Device(format!("no slot {slot}")))
    }
}

impl Play for Mixed {
    fn begin(&mut self, slot: usize, message: &mut Message) -> Result<Ask, LoadError> {
        let mut left = self.random.below(100);
        for (percentage, row) in PERCENTAGES {
            if left < percentage {
                if let Some(chosen) = self.chosen.get_mut(slot) {
                    *chosen = row;
                }
                break;
            }
            left -= percentage;
        }
        self.row(slot)?.begin(slot, message)
    }

    fn next(&mut self, slot: usize, reply: &Reply<'_>, message: &mut Message) -> Result<NextStep, LoadError> {
        self.row(slot)?.next(slot, reply, message)
    }

    fn forgotten(&mut self) -> &mut Vec<(u64, u64)> {
        for row in &mut self.rows {
            self.forgotten.append(row.forgotten());
        }
        &mut self.forgotten
    }

    fn close(&mut self, player: &mut Player<'_>) -> Result<(), LoadError> {
        self.rows.iter_mut().try_for_each(|row| row.close(player))
    }
}
