//! The log of a disk: every write with its data and every flush, in order.

/// Request that changed the disk or made it durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Write of bytes at an offset.
    Write {
        /// Offset in bytes.
        at: u64,
        /// Written bytes.
        bytes: Box<[u8]>,
    },
    /// Flush: all earlier writes are durable once it is answered.
    Flush,
}

/// Moment in the history of a disk: the number of entries of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) usize);

/// History of a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    entries: Vec<Entry>,
}

impl Log {
    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Returns the moment after the last entry.
    pub(crate) const fn now(&self) -> Moment {
        Moment(self.entries.len())
    }

    /// Returns the entries between two moments.
    pub(crate) fn between(&self, from: Moment, to: Moment) -> &[Entry] {
        self.entries.get(from.0..to.0).unwrap_or_default()
    }

    /// Returns the moment after the last flush at or before `moment`. All data up to there is
    /// durable at `moment`.
    pub(crate) fn durable_at(&self, moment: Moment) -> Moment {
        let before = self.entries.get(..moment.0).unwrap_or(&self.entries);
        Moment(before.iter().rposition(|entry| *entry == Entry::Flush).map_or(0, |last| last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_before_the_last_flush_is_durable() {
        let mut log = Log::default();
        let write = || Entry::Write { at: 0, bytes: Box::from([1]) };
        for entry in [write(), Entry::Flush, write(), write(), Entry::Flush] {
            log.push(entry);
        }
        let durable: Vec<usize> = (0..=5).map(|moment| log.durable_at(Moment(moment)).0).collect();
        assert_eq!(durable, [0, 0, 2, 2, 2, 5]);
        assert_eq!(log.between(Moment(1), Moment(3)).len(), 2);
    }
}
