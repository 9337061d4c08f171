//! Positions of the inodes, without inline data that crosses a block.
//!
//! An inode whose inline data does not fit in its block moves towards the next one. Later inodes
//! fill the gap, so it costs nothing in a usual tree.

use crate::limits::BLOCK_SIZE;

/// Unit of a position.
const SLOT: u64 = 32;

/// Bytes of an inode without its attributes and data.
const INODE: u64 = 64;

/// Gaps that are remembered. The oldest is given up, so that an inode stays near its neighbors.
const MAX_GAPS: usize = 16;

/// Bytes that an inode takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Bytes of its attributes.
    pub(super) xattrs: u64,
    /// What is behind them.
    pub(super) rest: Rest,
}

/// Bytes behind an inode and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Bytes that may cross a block: chunks, or nothing.
    Free(u64),
    /// Last part of a directory, in one block.
    Tail(u64),
    /// Symbolic link, in the block in which the inode itself ends. Linux before 6.12 needs that.
    Symlink(u64),
}

impl Footprint {
    /// Returns all bytes.
    fn bytes(self) -> u64 {
        let (Rest::Free(rest) | Rest::Tail(rest) | Rest::Symlink(rest)) = self.rest;
        INODE + self.xattrs + rest
    }

    /// Returns the first position from `start` on at which the inode may be.
    fn fit(self, start: u64) -> u64 {
        let mut position = start.next_multiple_of(SLOT);
        while !self.fits(position) {
            position += SLOT;
        }
        position
    }

    /// Returns whether the inode may be at `position`.
    fn fits(self, position: u64) -> bool {
        let behind = position + INODE + self.xattrs;
        let one_block = |first: u64, end: u64| first / BLOCK_SIZE == (end - 1) / BLOCK_SIZE;
        match self.rest {
            Rest::Free(_) => true,
            Rest::Tail(bytes) => one_block(behind, behind + bytes),
            Rest::Symlink(bytes) => one_block(position + INODE - 1, behind + bytes),
        }
    }

    /// Returns whether some position is possible.
    pub(super) fn is_possible(self) -> bool {
        match self.rest {
            Rest::Free(_) => true,
            Rest::Tail(bytes) => (1..=BLOCK_SIZE).contains(&bytes),
            // The inode ends at least 32 bytes into its block.
            Rest::Symlink(bytes) => bytes > 0 && SLOT + self.xattrs + bytes <= BLOCK_SIZE,
        }
    }
}

/// Positions that are given out in order.
#[derive(Debug)]
pub(super) struct Places {
    /// Byte behind everything.
    end: u64,
    /// First byte and byte behind it of each gap.
    gaps: Vec<(u64, u64)>,
}

impl Places {
    /// Starts at a byte of the image.
    pub(super) fn new(start: u64) -> Self {
        Self { end: start, gaps: Vec::new() }
    }

    /// Returns the byte at which an inode of a possible size begins.
    pub(super) fn place(&mut self, footprint: Footprint) -> u64 {
        for index in 0..self.gaps.len() {
            let Some(&(start, end)) = self.gaps.get(index) else { continue };
            let position = footprint.fit(start);
            let behind = position + footprint.bytes();
            if behind <= end {
                self.gaps.remove(index);
                self.remember(start, position);
                self.remember(behind.next_multiple_of(SLOT), end);
                return position;
            }
        }
        let position = footprint.fit(self.end);
        self.remember(self.end.next_multiple_of(SLOT), position);
        self.end = position + footprint.bytes();
        position
    }

    /// Returns the byte behind all inodes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Remembers a gap that can hold an inode.
    fn remember(&mut self, start: u64, end: u64) {
        if start + INODE <= end {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push((start, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_stays_in_a_block_and_its_gap_is_filled() {
        let mut places = Places::new(0);
        let tail = |bytes| Footprint { xattrs: 0, rest: Rest::Tail(bytes) };
        let plain = Footprint { xattrs: 0, rest: Rest::Free(0) };
        assert_eq!(places.place(tail(3000)), 0);
        assert_eq!(places.place(tail(2000)), 4096 - 64);
        let gap = (4096 - 64 - 3072) / 64;
        for index in 0..gap {
            assert_eq!(places.place(plain), 3072 + 64 * index);
        }
        assert_eq!(places.place(plain), 4096 + 2016);
    }

    #[test]
    fn symlink_is_in_the_block_of_its_inode() {
        let mut places = Places::new(4096 - 64);
        let link = |bytes| Footprint { xattrs: 0, rest: Rest::Symlink(bytes) };
        assert_eq!(places.place(link(1)), 4096 - 32);
        assert!(link(4064).is_possible());
        assert!(!link(4065).is_possible());
        assert!(!Footprint { xattrs: 100, rest: Rest::Symlink(4000) }.is_possible());
    }
}
