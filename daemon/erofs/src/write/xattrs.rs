//! Extended attributes: which are shared, and their bytes.

use std::collections::{BTreeMap, HashMap};

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U32;

use super::error::{InodeFault, WriteError};
use super::order::Order;
use super::tree::{NewInode, Tree};
use crate::abi::{XattrEntry, XattrHeader};
use crate::limits::{MAX_XATTR_NAME, MAX_XATTRS};
use crate::xattr_prefix::USUAL;

/// Largest area of an inode: the header, and the 65,534 words that `i_xattr_icount` can count.
const MAX_AREA: usize = 12 + 4 * 65_534;

/// Shared attributes that one inode can name.
const MAX_SHARED: usize = 255;

/// Full name and value.
type Pair<'t> = (&'t [u8], &'t [u8]);

/// Attributes that several inodes have.
#[derive(Debug, Default)]
pub(super) struct SharedXattrs<'t> {
    /// Word in the shared area at which each begins.
    positions: HashMap<Pair<'t>, u32>,
    /// In the order of the area.
    pairs: Vec<Pair<'t>>,
    /// Bytes of the area.
    pub(super) bytes: usize,
}

impl<'t> SharedXattrs<'t> {
    /// Checks the attributes of all inodes, and chooses those that are stored once.
    pub(super) fn of(tree: &'t Tree, order: &Order) -> Result<Self, WriteError> {
        let mut counts: HashMap<Pair<'t>, usize> = HashMap::new();
        let mut pairs = Vec::new();
        for &index in &order.inodes {
            let Some(inode) = tree.inodes.get(index) else { continue };
            for pair in sorted(inode).map_err(|fault| WriteError::Inode { index, fault })? {
                let count = counts.entry(pair).or_default();
                if *count == 0 {
                    pairs.push(pair);
                }
                *count += 1;
            }
        }
        // The copies would take more than one copy and its numbers.
        let is_smaller = |pair: &Pair<'t>| {
            let (count, bytes) = (counts.get(pair).copied().unwrap_or_default(), length(*pair));
            count > 1 && bytes + 4 * count < bytes * count
        };
        pairs.retain(is_smaller);
        let mut shared = Self { positions: HashMap::new(), pairs, bytes: 0 };
        for pair in &shared.pairs {
            let word = u32::try_from(shared.bytes / 4).map_err(too_many)?;
            shared.positions.insert(*pair, word);
            shared.bytes += length(*pair);
        }
        Ok(shared)
    }

    /// Returns the area of an inode. The shared area begins at word `first` behind `xattr_blkaddr`.
    pub(super) fn area(&self, inode: &'t NewInode, first: u32) -> Result<Vec<u8>, InodeFault> {
        let pairs = sorted(inode)?;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let (mut ids, mut own) = (Vec::new(), Vec::new());
        for pair in pairs {
            match self.positions.get(&pair) {
                Some(word) if ids.len() < MAX_SHARED => ids.push(U32::new(first.saturating_add(*word))),
                _ => encode(pair, &mut own),
            }
        }
        let h_shared_count = u8::try_from(ids.len()).unwrap_or(u8::MAX);
        let header = XattrHeader { h_name_filter: 0.into(), h_shared_count, h_reserved2: [0; 7] };
        let area = [header.as_bytes(), ids.as_bytes(), &own].concat();
        if area.len() > MAX_AREA { Err(InodeFault::XattrBytes(area.len())) } else { Ok(area) }
    }

    /// Returns the bytes of the shared area.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        for pair in &self.pairs {
            encode(*pair, &mut bytes);
        }
        bytes
    }
}

/// Reports an area whose words do not fit in 32 bits: it alone has 2^22 blocks.
fn too_many(_: std::num::TryFromIntError) -> WriteError {
    WriteError::TooManyBlocks(1 << 32)
}

/// Returns the attributes of an inode in the order of their names, after checking them.
fn sorted(inode: &NewInode) -> Result<Vec<Pair<'_>>, InodeFault> {
    let mut pairs = BTreeMap::new();
    for (name, value) in &inode.xattrs {
        if name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err(InodeFault::XattrName);
        }
        if u16::try_from(value.len()).is_err() {
            return Err(InodeFault::XattrValue(value.len()));
        }
        prefix(name).ok_or(InodeFault::XattrPrefix)?;
        if pairs.insert(name.as_slice(), value.as_slice()).is_some() {
            return Err(InodeFault::XattrTwice);
        }
    }
    if pairs.len() > MAX_XATTRS {
        return Err(InodeFault::XattrCount(pairs.len()));
    }
    Ok(pairs.into_iter().collect())
}

/// Splits a full name into the number of its prefix and the rest.
fn prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    USUAL.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        // The names of access control lists are complete. Others need more than their prefix.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((*index, rest))
    })
}

/// Returns the bytes of an attribute.
fn length((name, value): Pair<'_>) -> usize {
    let rest = prefix(name).map_or(0, |(_, rest)| rest.len());
    (size_of::<XattrEntry>() + rest + value.len()).next_multiple_of(4)
}

/// Appends the bytes of an attribute.
fn encode((name, value): Pair<'_>, bytes: &mut Vec<u8>) {
    let (index, rest) = prefix(name).unwrap_or_default();
    let entry = XattrEntry {
        e_name_len: u8::try_from(rest.len()).unwrap_or(u8::MAX),
        e_name_index: index,
        e_value_size: u16::try_from(value.len()).unwrap_or(u16::MAX).into(),
    };
    bytes.extend_from_slice(entry.as_bytes());
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
