//! A table with keys of index and generation, which the guest sends back. A stale or invented key
//! finds nothing.
//!
//! Each slot has its own lock, held only to count one more holder, so threads that look up
//! different keys never wait for one another. Giving out a key and taking it back share one more
//! lock.

use crate::sync::lock::{Mutex, RwLock};
use arc_swap::ArcSwapOption;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Slots in the first segment. Each later segment has twice as many, so that a slot never moves.
const FIRST_LEN: u64 = 64;

/// Number of segments. Together they have a slot for each index that the 32 bits in a key can hold.
const SEGMENTS: usize = 27;

/// The first segments are never removed: 8,128 slots, or 0.2 MB of memory. So most guests find
/// their slots without the indirection of segments that can be removed.
const FIXED_SEGMENTS: usize = 7;

/// Upper bound on how far [`SlotTable::shrink`] raises the first generation of slots. A slot
/// restarts with its own generation only if it was used more often than this.
const RAISE_MAX: u32 = 1 << 16;

/// The first generation is not raised past this one: a quarter of all generations is left to each
/// slot.
const RAISED_MAX: u32 = u32::MAX / 4 * 3;

/// Returns the first generation for the keys of a table, a different one in each process.
///
/// A guest whose VMM reconnects to a restarted daemon still holds keys of the process that died,
/// and those must find nothing. The generation is below 2^31, so that at least 2^31 more are left.
pub(crate) fn first_generation() -> u32 {
    // Seeded by the kernel's random numbers.
    let random = RandomState::new().hash_one(0);
    u32::try_from(random >> 33).unwrap_or_default()
}

/// A value and its key.
#[derive(Debug)]
pub(crate) struct Keyed<T> {
    key: u64,
    value: T,
}

impl<T> Keyed<T> {
    /// Returns the key, which the guest sends back.
    pub(crate) const fn id(&self) -> u64 {
        self.key
    }
}

impl<T> Deref for Keyed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Values under 64-bit keys. No key is given out twice.
///
/// A key is `generation << 32 | index + 1`: no key is 0, and the first key of a table that begins
/// with generation 0 is 1. A value that was found lives as long as it is held, even if its key is
/// taken back.
#[derive(Debug)]
pub(crate) struct SlotTable<T> {
    fixed: [OnceLock<Segment<T>>; FIXED_SEGMENTS],
    /// The later segments, which [`SlotTable::shrink`] removes.
    removable: [ArcSwapOption<Segment<T>>; SEGMENTS - FIXED_SEGMENTS],
    /// A panic while the lock is held leaves the table valid: each change is one store.
    free: Mutex<FreeSlots>,
    /// Upper bound on the number of values.
    limit: u32,
    len: AtomicUsize,
}

type Segment<T> = Box<[Slot<T>]>;

/// Room for one value. A panic while its lock is held leaves it valid: each change is one store.
type Slot<T> = RwLock<Option<Arc<Keyed<T>>>>;

/// The keys that can be given out next.
#[derive(Debug, Default)]
struct FreeSlots {
    /// Slots from this index on were never used, or have restarted.
    next: u32,
    /// The generation of those slots.
    first: u32,
    /// Index and next generation of slots that can be used again.
    vacant: Vec<(u32, u32)>,
    /// Slots from `next` on that must not begin with `first`, and the generation with which they
    /// begin. `None`: their generations are used up.
    raised: BTreeMap<u32, Option<u32>>,
    /// Slots before `next` whose generations are used up.
    retired: Vec<u32>,
}

impl<T> SlotTable<T> {
    /// Makes a table for `limit` values, whose keys begin with the generation `first`.
    pub(crate) fn new(limit: u32, first: u32) -> Self {
        Self {
            fixed: [const { OnceLock::new() }; FIXED_SEGMENTS],
            removable: [const { ArcSwapOption::const_empty() }; SEGMENTS - FIXED_SEGMENTS],
            free: Mutex::new(FreeSlots { first, ..FreeSlots::default() }),
            limit,
            len: AtomicUsize::new(0),
        }
    }

    /// Sets the generation with which slots begin that were never used.
    pub(crate) fn begin_with(&self, first: u32) {
        self.free.lock().first = first;
    }

    /// Stores a value under a new key. Returns the value if the table is full.
    pub(crate) fn insert(&self, value: T) -> Result<Arc<Keyed<T>>, T> {
        let mut free = self.free.lock();
        let Some((index, generation)) = free.take(self.limit) else { return Err(value) };
        self.make_slot(index);
        let entry = Arc::new(Keyed { key: key(index, generation), value });
        // By now the slot exists.
        self.with_slot(index, |slot| *slot.write() = Some(Arc::clone(&entry)));
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: u64) -> Option<Arc<Keyed<T>>> {
        let (index, _) = parts(key)?;
        // The slot may have a later value by now, with another key.
        self.with_slot(index, |slot| slot.read().clone())?.filter(|entry| entry.key == key)
    }

    /// Takes a key back, and returns its value.
    pub(crate) fn remove(&self, key: u64) -> Option<Arc<Keyed<T>>> {
        let (index, generation) = parts(key)?;
        let mut free = self.free.lock();
        let taken = self.with_slot(index, |slot| {
            let entry = slot.read().clone().filter(|entry| entry.key == key)?;
            *slot.write() = None;
            Some(entry)
        });
        let entry = taken??;
        free.give_back(index, generation);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    /// Removes and returns all values for which `keep` returns false. Their keys are not used
    /// again.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&Arc<Keyed<T>>) -> bool) -> Vec<Arc<Keyed<T>>> {
        let keys: Vec<u64> = self.each().filter(|entry| !keep(entry)).map(|entry| entry.key).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Returns all values. A value that is added or removed during the iteration may be missing.
    pub(crate) fn each(&self) -> impl Iterator<Item = Arc<Keyed<T>>> {
        // A segment has all of its slots, and no segment follows one that does not exist.
        let indices = (0..=u32::MAX).map_while(|index| self.with_slot(index, |slot| slot.read().clone()));
        indices.flatten()
    }

    /// Frees the memory of a table that was once larger: all segments after the last value, except
    /// the first few. Their slots restart, with generations that they have not had.
    pub(crate) fn shrink(&self) {
        let mut free = self.free.lock();
        let last = self.each().last().and_then(|entry| parts(entry.key));
        let used = last.map_or(0, |(index, _)| index.saturating_add(1));
        free.restart(used);
        let kept = used.checked_sub(1).and_then(locate).map_or(0, |(segment, _)| segment.saturating_add(1));
        for segment in self.removable.iter().skip(kept.saturating_sub(FIXED_SEGMENTS)) {
            // Threads that use the segment at this moment keep it alive.
            segment.store(None);
        }
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Returns whether there is no room for another value.
    pub(crate) fn is_full(&self) -> bool {
        u32::try_from(self.len()).is_ok_and(|len| len >= self.limit)
    }

    /// Calls `look` with a slot, if it exists.
    fn with_slot<R>(&self, index: u32, look: impl FnOnce(&Slot<T>) -> R) -> Option<R> {
        let (segment, offset) = locate(index)?;
        match segment.checked_sub(FIXED_SEGMENTS) {
            None => self.fixed.get(segment)?.get()?.get(offset).map(look),
            Some(at) => self.removable.get(at)?.load().as_ref()?.get(offset).map(look),
        }
    }

    /// Makes the segment of a slot. The caller holds the lock of the free slots.
    fn make_slot(&self, index: u32) {
        let Some((segment, _)) = locate(index) else { return };
        let make = || (0..FIRST_LEN << segment).map(|_| Slot::default()).collect();
        if let Some(fixed) = self.fixed.get(segment) {
            fixed.get_or_init(make);
        } else if let Some(at) = segment.checked_sub(FIXED_SEGMENTS)
            && let Some(removable) = self.removable.get(at)
            && removable.load().is_none()
        {
            removable.store(Some(Arc::new(make())));
        }
    }
}

impl FreeSlots {
    fn take(&mut self, limit: u32) -> Option<(u32, u32)> {
        if let Some(vacant) = self.vacant.pop() {
            return Some(vacant);
        }
        loop {
            let index = Some(self.next).filter(|index| *index < limit)?;
            self.next = index.saturating_add(1);
            match self.raised.remove(&index) {
                None => return Some((index, self.first)),
                Some(Some(generation)) => return Some((index, generation)),
                Some(None) => self.retired.push(index),
            }
        }
    }

    /// Frees a slot, or retires it if its generations are used up.
    fn give_back(&mut self, index: u32, generation: u32) {
        match generation.checked_add(1) {
            Some(next) => self.vacant.push((index, next)),
            None => self.retired.push(index),
        }
    }

    /// Restarts all slots from an index on, which are vacant. Each begins with a generation above
    /// those that it has had.
    fn restart(&mut self, from: u32) {
        let highest = self.vacant.iter().map(|(_, next)| *next).max().unwrap_or(self.first);
        let first =
            highest.clamp(self.first, self.first.saturating_add(RAISE_MAX)).min(RAISED_MAX.max(self.first));
        let (again, before): (Vec<_>, Vec<_>) = self.vacant.iter().partition(|(index, _)| *index >= from);
        let raised = again.into_iter().filter(|(_, next)| *next > first);
        self.raised.extend(raised.map(|(index, next)| (index, Some(next))));
        self.raised.extend(self.retired.extract_if(.., |index| *index >= from).map(|index| (index, None)));
        // Slots that have not been reached since the last call.
        self.raised.retain(|_, next| next.is_none_or(|next| next > first));
        (self.vacant, self.first, self.next) = (before, first, self.next.min(from));
        self.retired.shrink_to_fit();
    }
}

/// Returns the segment and the offset of a slot.
fn locate(index: u32) -> Option<(usize, usize)> {
    let slot = u64::from(index).saturating_add(FIRST_LEN);
    let segment = slot.ilog2().checked_sub(FIRST_LEN.ilog2())?;
    let offset = slot.checked_sub(FIRST_LEN << segment)?;
    Some((usize::try_from(segment).ok()?, usize::try_from(offset).ok()?))
}

const fn key(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | (index as u64).saturating_add(1)
}

/// Returns the index and the generation of a key.
fn parts(key: u64) -> Option<(u32, u32)> {
    let index = (key & u64::from(u32::MAX)).checked_sub(1)?;
    Some((u32::try_from(index).ok()?, u32::try_from(key >> 32).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn table() -> SlotTable<u32> {
        SlotTable::new(u32::MAX, 0)
    }

    fn value(table: &SlotTable<u32>, key: u64) -> Option<u32> {
        table.get(key).map(|entry| **entry)
    }

    #[test]
    fn first_key_is_one() {
        assert_eq!(table().insert(7).unwrap().id(), 1);
    }

    #[test]
    fn tables_of_two_processes_share_no_keys() {
        let tables = [table(), table()];
        assert_eq!(tables.each_ref().map(|table| table.insert(0).unwrap().id()), [1, 1]);
        let [first, second] = tables.each_ref().map(|table| {
            table.begin_with(first_generation());
            (0..100).map(|value| table.insert(value).unwrap().id()).collect::<Vec<u64>>()
        });
        assert!(second.iter().all(|key| value(&tables[0], *key).is_none()), "{first:?} {second:?}");
        assert_eq!(value(&tables[0], first[7]), Some(7));
    }

    #[test]
    fn removed_key_never_comes_back() {
        let table = table();
        let first = table.insert(1).unwrap().id();
        assert_eq!(**table.remove(first).unwrap(), 1);
        let second = table.insert(2).unwrap().id();
        assert_ne!(first, second);
        assert_eq!((value(&table, first), value(&table, second)), (None, Some(2)));
        assert!(table.remove(first).is_none());
    }

    #[test]
    fn invented_keys_find_nothing() {
        let table = table();
        table.insert(1).unwrap();
        for key in [0, 2, 65, 1 << 20, u64::MAX, 1 << 32, (1 << 32) | 1, u64::from(u32::MAX)] {
            assert_eq!(value(&table, key), None, "{key:#x}");
            assert!(table.remove(key).is_none(), "{key:#x}");
        }
    }

    #[test]
    fn full_table_returns_the_value() {
        let table = SlotTable::new(2, 0);
        let first = table.insert(1).unwrap().id();
        table.insert(2).unwrap();
        assert_eq!(table.insert(3).unwrap_err(), 3);
        table.remove(first);
        table.insert(3).unwrap();
    }

    #[test]
    fn removed_values_leave_their_keys_unused() {
        let table = table();
        let keys: Vec<u64> = (0..1000).map(|n| table.insert(n).unwrap().id()).collect();
        assert_eq!(table.retain(|entry| ***entry % 2 == 0).len(), 500);
        assert_eq!(table.len(), 500);
        assert_eq!(value(&table, keys[3]), None);
        assert_eq!(value(&table, keys[4]), Some(4));
    }

    #[test]
    fn shrinking_frees_segments_and_reuses_no_key() {
        const MANY: u32 = 100_000;
        let table = table();
        let fixed = table.insert(MANY).unwrap();
        let keys: Vec<u64> = (0..MANY).map(|n| table.insert(n).unwrap().id()).collect();
        assert!(table.removable.iter().any(|segment| segment.load().is_some()));
        drop(table.retain(|entry| ***entry == MANY));
        table.shrink();
        assert!(table.removable.iter().all(|segment| segment.load().is_none()));
        let free = table.free.lock();
        assert_eq!((free.vacant.capacity(), free.raised.len(), free.next), (0, 0, 1));
        drop(free);
        assert_eq!(value(&table, fixed.id()), Some(MANY));
        let again: Vec<u64> = (0..MANY).map(|n| table.insert(n).unwrap().id()).collect();
        assert!(keys.iter().all(|key| value(&table, *key).is_none()), "a key was given out twice");
        assert!(again.iter().zip(0..).all(|(key, n)| value(&table, *key) == Some(n)));
    }

    #[test]
    fn distant_value_keeps_its_slot_when_the_table_shrinks() {
        let table = table();
        let keys: Vec<u64> = (0..20_000).map(|n| table.insert(n).unwrap().id()).collect();
        drop(table.retain(|entry| ***entry == 10_000));
        table.shrink();
        assert_eq!(value(&table, keys[10_000]), Some(10_000));
        assert_eq!(table.each().count(), 1);
        // The slots before it are given out again, and the slots after it too.
        let again: Vec<u64> = (0..20_000).map(|n| table.insert(n).unwrap().id()).collect();
        assert_eq!(table.len(), 20_001);
        assert!(again.iter().all(|key| !keys.contains(key)));
    }

    /// Random guests, each of which ends with a table that shrinks.
    #[test]
    fn repeated_shrinking_reuses_no_key() {
        let (table, mut seen, mut random) = (SlotTable::new(500, u32::MAX - 300), HashSet::new(), 1_u64);
        for _guest in 0..50 {
            let mut held = Vec::new();
            for _ in 0..300 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if random >> 62 == 0 && !held.is_empty() {
                    let at = usize::try_from(random >> 33).unwrap() % held.len();
                    table.remove(held.swap_remove(at)).unwrap();
                } else if let Ok(entry) = table.insert(0) {
                    assert!(seen.insert(entry.id()), "{:#x} was given out twice", entry.id());
                    held.push(entry.id());
                }
            }
            drop(table.retain(|_| false));
            table.shrink();
        }
        // The generations were nearly used up when the test began.
        assert!(seen.len() > 5000, "{}", seen.len());
    }

    #[test]
    fn busy_slot_does_not_raise_the_others_too_far() {
        let table = table();
        for _ in 0..2 * RAISE_MAX {
            let id = table.insert(0).unwrap().id();
            table.remove(id).unwrap();
        }
        table.shrink();
        let free = table.free.lock();
        assert_eq!((free.first, free.raised.get(&0)), (RAISE_MAX, Some(&Some(2 * RAISE_MAX))));
        drop(free);
        let ids: Vec<u64> = (0..2).map(|_| table.insert(0).unwrap().id()).collect();
        assert_eq!(ids, [key(0, 2 * RAISE_MAX), key(1, RAISE_MAX)]);
    }

    #[test]
    fn every_slot_has_a_segment() {
        for index in [0, 63, 64, 191, 192, 1 << 20, u32::MAX] {
            let (segment, offset) = locate(index).unwrap();
            assert!(segment < SEGMENTS && (offset as u64) < FIRST_LEN << segment, "{index}");
        }
        assert_eq!((locate(63), locate(64)), (Some((0, 63)), Some((1, 0))));
    }

    #[test]
    fn reader_never_sees_part_of_a_value_during_reuse() {
        let table = table();
        let first = table.insert(0).unwrap().id();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // Keys of every generation that the one slot will have.
                for round in 0..20_000u64 {
                    let generation = round % 1000;
                    let key = first + (generation << 32);
                    if let Some(entry) = table.get(key) {
                        assert_eq!(u64::from(**entry), generation);
                    }
                }
            });
            let mut key = first;
            for generation in 1..1000 {
                table.remove(key).unwrap();
                key = table.insert(generation).unwrap().id();
            }
            reader.join().unwrap();
        });
    }
}
