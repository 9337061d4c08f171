//! The interval table: which ranges of the window are taken, and by which mapping. The table knows
//! nothing of front-ends or requests.

use crate::{Mapping, WindowRange};
use std::collections::{BTreeMap, BTreeSet};

/// How certain the content of a taken range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The front-end has exactly this mapping.
    Live,
    /// The range is being changed, or a change failed. The front-end may or may not have this
    /// mapping.
    Doubtful,
}

/// A taken range.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) mapping: Mapping,
    pub(crate) state: State,
    /// In a doubtful range: nodes that may still be mapped there instead of the mapping's node.
    older_nodes: Vec<u64>,
}

/// The taken ranges. No two of them overlap.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Entries by window offset.
    entries: BTreeMap<u64, Entry>,
    /// Node and window offset of each entry, once for each node that may be mapped there.
    by_node: BTreeSet<(u64, u64)>,
}

impl Table {
    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns all entries, ordered by offset.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Returns the entry that starts at `offset`.
    pub(crate) fn at(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(&offset)
    }

    /// Returns the entries that overlap `range`, ordered by offset.
    pub(crate) fn overlapping(&self, range: WindowRange) -> impl Iterator<Item = &Entry> {
        // Entries do not overlap. So of all entries that start before the range, only the last can
        // reach into it.
        let before = self.entries.range(..range.offset()).next_back().map(|(_, entry)| entry);
        let reaching = before.filter(move |entry| entry.mapping.range().end() > range.offset());
        let inside = self.entries.range(range.offset()..range.end()).map(|(_, entry)| entry);
        reaching.into_iter().chain(inside)
    }

    /// Returns the entries that start in `range`, at `from` or later, ordered by offset.
    pub(crate) fn starting_in(&self, range: WindowRange, from: u64) -> impl Iterator<Item = &Entry> {
        let offsets = range.offset().max(from)..range.end().max(from);
        self.entries.range(offsets).map(|(_, entry)| entry)
    }

    /// Returns an entry that is partly inside and partly outside `range`.
    pub(crate) fn partly_outside(&self, range: WindowRange) -> Option<&Entry> {
        // Such an entry can only be the last that starts before the range, or the last that starts
        // in the range.
        let before = self.entries.range(..range.offset()).next_back();
        let last = self.entries.range(range.offset()..range.end()).next_back();
        let before = before.filter(|(_, entry)| entry.mapping.range().end() > range.offset());
        let last = last.filter(|(_, entry)| entry.mapping.range().end() > range.end());
        before.or(last).map(|(_, entry)| entry)
    }

    /// Returns the entries that are, or may be, of a node, ordered by offset.
    pub(crate) fn of_node(&self, node: u64) -> impl Iterator<Item = &Entry> {
        let offsets = self.by_node.range((node, u64::MIN)..=(node, u64::MAX));
        offsets.filter_map(|(_, offset)| self.entries.get(offset))
    }

    /// Records a live mapping, and replaces the entry of the same range, if there is one.
    ///
    /// The caller guarantees that no other entry overlaps the range.
    pub(crate) fn insert(&mut self, mapping: Mapping) {
        self.put(Entry { mapping, state: State::Live, older_nodes: Vec::new() });
    }

    /// Records that a range has this mapping, or still the mapping of an earlier entry with the
    /// same range.
    ///
    /// The caller guarantees that no other entry overlaps the range.
    pub(crate) fn insert_doubtful(&mut self, mapping: Mapping) {
        let mut older_nodes = Vec::new();
        if let Some(entry) = self.entries.remove(&mapping.range().offset()) {
            older_nodes = entry.older_nodes;
            older_nodes.push(entry.mapping.node());
            older_nodes.retain(|node| *node != mapping.node());
        }
        self.put(Entry { mapping, state: State::Doubtful, older_nodes });
    }

    /// Stores an entry in place of the entry with the same range, and indexes its node.
    fn put(&mut self, entry: Entry) {
        let (node, offset) = (entry.mapping.node(), entry.mapping.range().offset());
        self.remove(entry.mapping.range());
        self.by_node.insert((node, offset));
        self.entries.insert(offset, entry);
    }

    /// Removes the entry with exactly this range, if there is one.
    pub(crate) fn remove(&mut self, range: WindowRange) {
        if self.entries.get(&range.offset()).is_some_and(|entry| entry.mapping.range() == range)
            && let Some(entry) = self.entries.remove(&range.offset())
        {
            for node in entry.older_nodes.into_iter().chain([entry.mapping.node()]) {
                self.by_node.remove(&(node, range.offset()));
            }
        }
    }

    /// Sets the state of the entry with this range to doubtful. The entry is found by the start of
    /// the range.
    pub(crate) fn mark_doubtful(&mut self, range: WindowRange) {
        if let Some(entry) = self.entries.get_mut(&range.offset()) {
            entry.state = State::Doubtful;
        }
    }

    /// Removes all entries.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.by_node.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, SLOT_LEN, Wanted};

    const PAGE: u64 = 4096;

    /// Returns a mapping of `count` pages at the page with this index.
    fn mapping(node: u64, page: u64, count: u64) -> Mapping {
        let geometry = Geometry::new(SLOT_LEN, 12).unwrap();
        let at =
            Wanted { node, file_offset: 0, window_offset: page * PAGE, len: count * PAGE, writable: false };
        geometry.mapping(&at).unwrap()
    }

    fn overlapping_pages(table: &Table, page: u64, count: u64) -> Vec<u64> {
        let range = mapping(0, page, count).range();
        table.overlapping(range).map(|entry| entry.mapping.range().offset() / PAGE).collect()
    }

    #[test]
    fn only_overlapping_entries_are_found() {
        let mut table = Table::default();
        for (page, count) in [(0, 2), (2, 1), (5, 3), (10, 1)] {
            table.insert(mapping(1, page, count));
        }
        assert_eq!(overlapping_pages(&table, 0, 1), [0]);
        assert_eq!(overlapping_pages(&table, 1, 2), [0, 2]);
        assert_eq!(overlapping_pages(&table, 3, 2), []);
        assert_eq!(overlapping_pages(&table, 6, 1), [5], "in the middle of an entry");
        assert_eq!(overlapping_pages(&table, 7, 4), [5, 10]);
        assert_eq!(overlapping_pages(&table, 8, 2), []);
        assert_eq!(overlapping_pages(&table, 11, 100), []);
        assert_eq!(overlapping_pages(&table, 0, 512), [0, 2, 5, 10]);
    }

    #[test]
    fn entries_partly_outside_are_found_at_either_end() {
        let mut table = Table::default();
        for (page, count) in [(2, 2), (6, 4)] {
            table.insert(mapping(1, page, count));
        }
        let partly_outside = |page, count| {
            let entry = table.partly_outside(mapping(0, page, count).range());
            entry.map(|entry| entry.mapping.range().offset() / PAGE)
        };
        assert_eq!(
            [
                partly_outside(0, 2),
                partly_outside(2, 2),
                partly_outside(0, 6),
                partly_outside(2, 8),
                partly_outside(4, 2)
            ],
            [None; 5]
        );
        assert_eq!(
            [partly_outside(3, 1), partly_outside(3, 9), partly_outside(0, 3), partly_outside(0, 7)],
            [Some(2), Some(2), Some(2), Some(6)]
        );
        assert_eq!(partly_outside(7, 1), Some(6), "at both ends");
    }

    #[test]
    fn the_node_index_follows_every_change() {
        let offsets = |table: &Table, node| {
            table.of_node(node).map(|entry| entry.mapping.range().offset() / PAGE).collect::<Vec<_>>()
        };
        let mut table = Table::default();
        table.insert(mapping(7, 4, 1));
        table.insert(mapping(7, 1, 1));
        table.insert(mapping(u64::MAX, 2, 1));
        table.insert(mapping(0, 3, 1));
        assert_eq!(offsets(&table, 7), [1, 4]);
        assert_eq!((offsets(&table, 0), offsets(&table, u64::MAX)), (vec![3], vec![2]));
        table.insert(mapping(8, 4, 1));
        assert_eq!((offsets(&table, 7), offsets(&table, 8)), (vec![1], vec![4]));
        table.remove(mapping(0, 1, 2).range());
        assert_eq!(table.len(), 4, "another range");
        table.remove(mapping(0, 1, 1).range());
        assert_eq!((offsets(&table, 7), table.len()), (vec![], 3));
        table.insert_doubtful(mapping(9, 4, 1));
        table.insert_doubtful(mapping(7, 4, 1));
        assert_eq!(
            [7, 8, 9].map(|node| offsets(&table, node)),
            [[4], [4], [4]],
            "any of the nodes may be mapped there"
        );
        table.insert(mapping(9, 4, 1));
        assert_eq!([7, 8, 9].map(|node| offsets(&table, node)), [vec![], vec![], vec![4]]);
        assert_eq!(table.by_node.len(), 3);
        table.clear();
        assert_eq!((table.by_node.len(), table.len()), (0, 0));
    }
}
