//! The bytes of one file that one owner has locked.
//!
//! The host keeps the same ranges for the owner's description. They are kept here too, so that
//! locks can be counted and owners named.

use arrayvec::ArrayVec;
use pinhole_protocol::{Errno, FileLock, LockKind};

/// The last byte that a lock can name. Linux sends it for "to the end" (`OFFSET_MAX`).
const LAST_BYTE: u64 = u64::MAX >> 1;

/// A range of bytes, including the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    first: u64,
    last: u64,
}

/// A lock on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeLock {
    pub(crate) span: Span,
    pub(crate) kind: LockKind,
}

/// Locks in order. No two have a byte in common, and no two neighbors could be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<RangeLock>);

/// A change of ranges that has been computed but not applied. It replaces ranges by at most three:
/// the rest before the new range, the new range, and the rest after it.
#[derive(Debug)]
pub(super) struct RangeEdit {
    replaced: std::ops::Range<usize>,
    pieces: ArrayVec<RangeLock, 3>,
}

impl Span {
    /// All bytes, however long the file becomes.
    pub(crate) const WHOLE_FILE: Self = Self { first: 0, last: LAST_BYTE };

    /// Returns the range from `first` to `last`.
    ///
    /// # Errors
    /// EINVAL if no file has such a range.
    pub(crate) const fn new(first: u64, last: u64) -> Result<Self, Errno> {
        if first > last || last > LAST_BYTE { Err(Errno::EINVAL) } else { Ok(Self { first, last }) }
    }

    /// Returns `l_start` and `l_len` of `struct flock`, where a length of 0 means "to the end".
    pub(super) fn for_host(self) -> (i64, i64) {
        let start = i64::try_from(self.first).unwrap_or(i64::MAX);
        let last = i64::try_from(self.last).unwrap_or(i64::MAX);
        let len = if last == i64::MAX { 0 } else { last.saturating_sub(start).saturating_add(1) };
        (start, len)
    }

    /// The reverse of [`Span::for_host`].
    pub(super) fn from_host((start, len): (i64, i64)) -> Self {
        let first = u64::try_from(start).unwrap_or(0);
        let last = match u64::try_from(len) {
            Ok(0) | Err(_) => LAST_BYTE,
            Ok(len) => first.saturating_add(len).saturating_sub(1).min(LAST_BYTE),
        };
        Self { first, last: last.max(first) }
    }

    const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl RangeLock {
    /// Returns the lock for a reply, with the guest's number of its process.
    pub(super) const fn for_reply(self, process: u32) -> FileLock {
        let Self { span: Span { first, last }, kind } = self;
        FileLock { start: first, end: last, kind: Some(kind), pid: process }
    }
}

impl Ranges {
    /// Returns the number of ranges.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RangeLock> {
        self.0.iter().copied()
    }

    /// Returns the first lock that prevents another owner from having `wanted`.
    pub(super) fn conflict(&self, wanted: RangeLock) -> Option<RangeLock> {
        self.overlapping(wanted.span).find(|locked| locked.kind.excludes(wanted.kind)).copied()
    }

    /// Returns whether locking or unlocking `span` permits other owners locks that they could not
    /// have before.
    pub(super) fn weakened_by(&self, span: Span, kind: Option<LockKind>) -> bool {
        self.overlapping(span).any(|locked| match kind {
            None => true,
            Some(LockKind::Read) => locked.kind == LockKind::Write,
            Some(LockKind::Write) => false,
        })
    }

    fn overlapping(&self, span: Span) -> impl Iterator<Item = &RangeLock> {
        let from = self.0.partition_point(|locked| locked.span.last < span.first);
        let rest = self.0.get(from..).unwrap_or_default();
        rest.iter().take_while(move |locked| locked.span.overlaps(span))
    }

    /// Computes the change that locks or unlocks `span`. It replaces overlapping locks, and merges
    /// adjacent locks of the same kind (fcntl(2)).
    pub(super) fn edit(&self, span: Span, kind: Option<LockKind>) -> RangeEdit {
        let touching = |locked: &RangeLock| locked.span.last.saturating_add(1) < span.first;
        let from = self.0.partition_point(touching);
        let to = self.0.partition_point(|locked| locked.span.first <= span.last.saturating_add(1));
        let (mut first, mut last) = (span.first, span.last);
        let (mut before, mut behind) = (None, None);
        for locked in self.0.get(from..to).unwrap_or_default() {
            let RangeLock { span: old, kind: old_kind } = *locked;
            if kind == Some(old_kind) {
                (first, last) = (first.min(old.first), last.max(old.last));
                continue;
            }
            if old.first < span.first {
                let rest = Span { first: old.first, last: old.last.min(span.first.saturating_sub(1)) };
                before = Some(RangeLock { span: rest, kind: old_kind });
            }
            if old.last > span.last {
                let rest = Span { first: old.first.max(span.last.saturating_add(1)), last: old.last };
                behind = Some(RangeLock { span: rest, kind: old_kind });
            }
        }
        let new = kind.map(|kind| RangeLock { span: Span { first, last }, kind });
        RangeEdit { replaced: from..to, pieces: [before, new, behind].into_iter().flatten().collect() }
    }

    /// Returns the number of ranges after a change.
    pub(super) fn len_after(&self, edit: &RangeEdit) -> usize {
        self.len().saturating_sub(edit.replaced.len()).saturating_add(edit.pieces.len())
    }

    /// Applies a change. The ranges must be the same as when it was computed.
    pub(super) fn apply(&mut self, edit: RangeEdit) {
        let RangeEdit { replaced, pieces } = edit;
        if replaced.end <= self.0.len() {
            drop(self.0.splice(replaced, pieces));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(first: u64, last: u64) -> Span {
        Span::new(first, last).unwrap()
    }

    fn set(ranges: &mut Ranges, first: u64, last: u64, kind: Option<LockKind>) {
        let edit = ranges.edit(span(first, last), kind);
        let after = ranges.len_after(&edit);
        ranges.apply(edit);
        assert_eq!(ranges.len(), after);
    }

    fn listed(ranges: &Ranges) -> Vec<(u64, u64, LockKind)> {
        ranges.iter().map(|locked| (locked.span.first, locked.span.last, locked.kind)).collect()
    }

    #[test]
    fn inner_range_splits_a_lock_and_merges_again() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 0, 99, Some(LockKind::Read));
        set(&mut ranges, 10, 19, Some(LockKind::Write));
        let split = [(0, 9, LockKind::Read), (10, 19, LockKind::Write), (20, 99, LockKind::Read)];
        assert_eq!(listed(&ranges), split);
        set(&mut ranges, 10, 19, Some(LockKind::Read));
        assert_eq!(listed(&ranges), [(0, 99, LockKind::Read)]);
    }

    #[test]
    fn last_byte_can_be_locked_and_unlocked() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 5, LAST_BYTE, Some(LockKind::Write));
        set(&mut ranges, LAST_BYTE, LAST_BYTE, None);
        assert_eq!(listed(&ranges), [(5, LAST_BYTE - 1, LockKind::Write)]);
        set(&mut ranges, 0, LAST_BYTE, None);
        assert_eq!(ranges.len(), 0);
    }

    #[test]
    fn impossible_range_is_einval() {
        for (first, last) in
            [(1, 0), (0, LAST_BYTE + 1), (u64::MAX, u64::MAX), (LAST_BYTE + 1, LAST_BYTE + 1)]
        {
            assert_eq!(Span::new(first, last), Err(Errno::EINVAL), "{first}..={last}");
        }
    }

    #[test]
    fn host_form_of_a_range_converts_back() {
        for (first, last) in [(0, 0), (0, LAST_BYTE), (7, 9), (LAST_BYTE, LAST_BYTE), (5, LAST_BYTE - 1)] {
            assert_eq!(Span::from_host(span(first, last).for_host()), span(first, last));
        }
        assert_eq!(span(0, LAST_BYTE).for_host(), (0, 0));
    }

    /// The lock of each of the first bytes.
    type Bytes = [Option<LockKind>; 24];

    fn as_bytes(ranges: &Ranges) -> Bytes {
        let mut bytes = Bytes::default();
        for locked in ranges.iter() {
            let places =
                usize::try_from(locked.span.first).unwrap()..=usize::try_from(locked.span.last).unwrap();
            bytes[places].fill(Some(locked.kind));
        }
        bytes
    }

    fn kinds() -> impl Strategy<Value = Option<LockKind>> {
        prop_oneof![Just(None), Just(Some(LockKind::Read)), Just(Some(LockKind::Write))]
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_model_of_single_bytes(
            steps in prop::collection::vec((0usize..24, 1usize..12, kinds()), 0..40),
            (at, len, wanted) in (0usize..24, 1usize..12, prop_oneof![Just(LockKind::Read), Just(LockKind::Write)]),
        ) {
            let (mut ranges, mut bytes) = (Ranges::default(), Bytes::default());
            for (first, len, kind) in steps {
                let last = (first + len - 1).min(23);
                let weakened = bytes[first..=last].iter().flatten().any(|held| {
                    kind.is_none() || (kind, *held) == (Some(LockKind::Read), LockKind::Write)
                });
                prop_assert_eq!(ranges.weakened_by(span(first as u64, last as u64), kind), weakened);
                set(&mut ranges, first as u64, last as u64, kind);
                bytes[first..=last].fill(kind);
                prop_assert_eq!(as_bytes(&ranges), bytes);
                for pair in listed(&ranges).windows(2) {
                    let [(_, last, kind), (first, _, next)] = pair else { panic!("windows of two") };
                    prop_assert!(last < first && (last + 1 < *first || kind != next), "{:?}", ranges);
                }
            }
            let last = (at + len - 1).min(23);
            let conflicts = bytes[at..=last].iter().flatten().any(|held| held.excludes(wanted));
            let found = ranges.conflict(RangeLock { span: span(at as u64, last as u64), kind: wanted });
            prop_assert_eq!(found.is_some(), conflicts);
        }
    }
}
