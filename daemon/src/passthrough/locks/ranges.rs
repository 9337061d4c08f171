//! The bytes of one file that one owner has locked: what the host keeps for the owner's description, kept here too, so
//! that locks can be counted and their owners named.

use arrayvec::ArrayVec;
use pinhole_protocol::{Errno, LockKind};

/// The last byte that a lock can name, and what Linux sends for "to the end" (`OFFSET_MAX`).
const LAST_BYTE: u64 = u64::MAX >> 1;

/// Some bytes, the last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    first: u64,
    last: u64,
}

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locked {
    pub(crate) span: Span,
    pub(crate) kind: LockKind,
}

/// Ranges in order, of which no two have a byte in common and no two neighbours could be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Locked>);

/// A change of some ranges, worked out and not yet made: at most what is left before and behind, and the new one.
#[derive(Debug)]
pub(crate) struct Edit {
    replaced: std::ops::Range<usize>,
    pieces: ArrayVec<Locked, 3>,
}

impl Span {
    /// However long the file becomes.
    pub(crate) const WHOLE_FILE: Self = Self { first: 0, last: LAST_BYTE };

    /// From `first` to `last`.
    ///
    /// # Errors
    /// EINVAL for what is no range of a file.
    pub(crate) const fn new(first: u64, last: u64) -> Result<Self, Errno> {
        if first > last || last > LAST_BYTE { Err(Errno::EINVAL) } else { Ok(Self { first, last }) }
    }

    pub(crate) const fn first(self) -> u64 {
        self.first
    }

    pub(crate) const fn last(self) -> u64 {
        self.last
    }

    /// `l_start` and `l_len` of `struct flock`, where a length of 0 is "to the end".
    pub(crate) fn for_host(self) -> (i64, i64) {
        let start = i64::try_from(self.first).unwrap_or(i64::MAX);
        let last = i64::try_from(self.last).unwrap_or(i64::MAX);
        let len = if last == i64::MAX { 0 } else { last.saturating_sub(start).saturating_add(1) };
        (start, len)
    }

    /// The reverse of [`Span::for_host`].
    pub(crate) fn from_host((start, len): (i64, i64)) -> Self {
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

impl Ranges {
    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Locked> {
        self.0.iter().copied()
    }

    /// The first that keeps another owner from locking `span` so.
    pub(crate) fn in_the_way(&self, span: Span, kind: LockKind) -> Option<Locked> {
        self.overlapping(span).find(|locked| locked.kind.excludes(kind)).copied()
    }

    /// Whether others may have something of `span` once it is locked so, or unlocked, that they could not have before.
    pub(crate) fn weakened_by(&self, span: Span, kind: Option<LockKind>) -> bool {
        self.overlapping(span).any(|locked| match kind {
            None => true,
            Some(LockKind::Read) => locked.kind == LockKind::Write,
            Some(LockKind::Write) => false,
        })
    }

    fn overlapping(&self, span: Span) -> impl Iterator<Item = &Locked> {
        let from = self.0.partition_point(|locked| locked.span.last < span.first);
        let rest = self.0.get(from..).unwrap_or_default();
        rest.iter().take_while(move |locked| locked.span.overlaps(span))
    }

    /// What becomes of them when `span` is locked so, or unlocked: what overlaps gives way, what touches and is of one
    /// kind becomes one (fcntl(2)).
    pub(crate) fn edit(&self, span: Span, kind: Option<LockKind>) -> Edit {
        let touching = |locked: &Locked| locked.span.last.saturating_add(1) < span.first;
        let from = self.0.partition_point(touching);
        let to = self.0.partition_point(|locked| locked.span.first <= span.last.saturating_add(1));
        let (mut first, mut last) = (span.first, span.last);
        let (mut before, mut behind) = (None, None);
        for locked in self.0.get(from..to).unwrap_or_default() {
            let Locked { span: old, kind: old_kind } = *locked;
            if kind == Some(old_kind) {
                (first, last) = (first.min(old.first), last.max(old.last));
                continue;
            }
            if old.first < span.first {
                let rest = Span { first: old.first, last: old.last.min(span.first.saturating_sub(1)) };
                before = Some(Locked { span: rest, kind: old_kind });
            }
            if old.last > span.last {
                let rest = Span { first: old.first.max(span.last.saturating_add(1)), last: old.last };
                behind = Some(Locked { span: rest, kind: old_kind });
            }
        }
        let new = kind.map(|kind| Locked { span: Span { first, last }, kind });
        Edit { replaced: from..to, pieces: [before, new, behind].into_iter().flatten().collect() }
    }

    /// How many there would be after it.
    pub(crate) fn len_after(&self, edit: &Edit) -> usize {
        self.len().saturating_sub(edit.replaced.len()).saturating_add(edit.pieces.len())
    }

    /// Makes it; nothing may have changed since it was worked out.
    pub(crate) fn apply(&mut self, edit: Edit) {
        let Edit { replaced, pieces } = edit;
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

    fn told(ranges: &Ranges) -> Vec<(u64, u64, LockKind)> {
        ranges.iter().map(|locked| (locked.span.first, locked.span.last, locked.kind)).collect()
    }

    #[test]
    fn a_range_inside_another_splits_it_and_the_same_kind_heals_it() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 0, 99, Some(LockKind::Read));
        set(&mut ranges, 10, 19, Some(LockKind::Write));
        let split = [(0, 9, LockKind::Read), (10, 19, LockKind::Write), (20, 99, LockKind::Read)];
        assert_eq!(told(&ranges), split);
        set(&mut ranges, 10, 19, Some(LockKind::Read));
        assert_eq!(told(&ranges), [(0, 99, LockKind::Read)]);
    }

    #[test]
    fn the_last_byte_of_all_can_be_locked_and_unlocked() {
        let mut ranges = Ranges::default();
        set(&mut ranges, 5, LAST_BYTE, Some(LockKind::Write));
        set(&mut ranges, LAST_BYTE, LAST_BYTE, None);
        assert_eq!(told(&ranges), [(5, LAST_BYTE - 1, LockKind::Write)]);
        set(&mut ranges, 0, LAST_BYTE, None);
        assert_eq!(ranges.len(), 0);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (first, last) in
            [(1, 0), (0, LAST_BYTE + 1), (u64::MAX, u64::MAX), (LAST_BYTE + 1, LAST_BYTE + 1)]
        {
            assert_eq!(Span::new(first, last), Err(Errno::EINVAL), "{first}..={last}");
        }
    }

    #[test]
    fn the_hosts_form_of_a_range_leads_back_to_it() {
        for (first, last) in [(0, 0), (0, LAST_BYTE), (7, 9), (LAST_BYTE, LAST_BYTE), (5, LAST_BYTE - 1)] {
            assert_eq!(Span::from_host(span(first, last).for_host()), span(first, last));
        }
        assert_eq!(span(0, LAST_BYTE).for_host(), (0, 0));
    }

    /// What each of the first bytes is locked as.
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
        fn ranges_say_what_a_byte_for_byte_model_says(
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
                for pair in told(&ranges).windows(2) {
                    let [(_, last, kind), (first, _, next)] = pair else { panic!("windows of two") };
                    prop_assert!(last < first && (last + 1 < *first || kind != next), "{:?}", ranges);
                }
            }
            let last = (at + len - 1).min(23);
            let in_the_way = bytes[at..=last].iter().flatten().any(|held| held.excludes(wanted));
            let found = ranges.in_the_way(span(at as u64, last as u64), wanted);
            prop_assert_eq!(found.is_some(), in_the_way);
        }
    }
}
