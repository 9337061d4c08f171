//! Requests of each operation of a row.
//!
//! A row prepares its nodes and handles through the daemon (`open`), plays operations slot by slot
//! (`Play`), and gives everything back (`close`), so that no row changes what the next one finds.

mod data;
mod files;
pub(super) mod listing;
mod metadata;
mod mixed;
mod random;
mod requests;

use super::error::LoadError;
use super::player::{Play, Player};
use super::row::{Row, ThreadPosition};

impl Row {
    /// Prepares the row for one thread.
    pub(super) fn open(
        self,
        player: &mut Player<'_>,
        position: &ThreadPosition,
    ) -> Result<Box<dyn Play>, LoadError> {
        Ok(match self {
            Self::GetAttr => Box::new(metadata::GetAttr::open(player, position)?),
            Self::LookupHit => Box::new(metadata::LookupHit::open(player, position)?),
            Self::LookupMiss => Box::new(metadata::LookupMiss::open(player, position)?),
            Self::OpenRelease => Box::new(files::OpenRelease::open(player, position)?),
            Self::SmallFile => Box::new(files::SmallFile::open(player, position)?),
            Self::Read(blocks) => Box::new(data::Transfer::open(player, position, blocks, false)?),
            Self::Write(blocks) => Box::new(data::Transfer::open(player, position, blocks, true)?),
            Self::CreateUnlink => Box::new(files::CreateUnlink::open(player, position)?),
            Self::ReadDirPlus => Box::new(listing::List::open(player, super::tree::MANY)?),
            Self::ReadDirPlusMost => Box::new(listing::List::open(player, super::tree::MOST)?),
            Self::Fsync => Box::new(data::Durable::open(player)?),
            Self::Mixed => Box::new(mixed::Mixed::open(player, position)?),
            Self::BesideCold => Box::new(data::BesideCold::open(player, position)?),
        })
    }
}
