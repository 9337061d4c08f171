//! A table whose keys the guest repeats back: index and generation, so that a stale or made-up key finds nothing.
//!
//! Each place has a lock of its own, held for as long as it takes to count one more holder: who asks for one entry
//! never meets who asks for another. Giving a key out and taking it back share one more.

use crate::sync::lock::{Mutex, MutexGuard, RwLock};
use arc_swap::ArcSwapOption;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Places in the first segment; each following one has twice as many, so that a place never moves.
const FIRST_LEN: u64 = 64;

/// Segments until there are more places than the 32 bits of index in a key can say.
const SEGMENTS: usize = 27;

/// Of those, how many stay once they are there, 8,128 places or 0.2 MB of memory: the usual guest finds its places without
/// the detour that segments take which may go.
const LASTING_SEGMENTS: usize = 7;

/// By how much [`Table::shrink`] raises the generation of places that begin anew, at most. A guest must give a place out and
/// take it back so many times to keep it from beginning anew like the others.
const RAISE_MAX: u32 = 1 << 16;

/// The generation from which on places no longer begin anew: a quarter of all generations is left to each place.
const RAISED_MAX: u32 = u32::MAX / 4 * 3;

/// The generation with which the keys of a table are to begin, another one in each process: a guest whose VMM goes on with
/// a daemon that was started again still holds keys of the one that died, and those are to find nothing. In the lower
/// half, so that each place has as many generations before it.
pub(crate) fn first_generation() -> u32 {
    // Seeded by the kernel's random numbers.
    let random = RandomState::new().hash_one(0);
    u32::try_from(random >> 33).unwrap_or_default()
}

/// A value and the key under which it stands.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    key: u64,
    value: T,
}

impl<T> Entry<T> {
    /// The key, which the guest repeats back.
    pub(crate) const fn id(&self) -> u64 {
        self.key
    }
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Values under 64-bit keys that are never given out twice.
///
/// A key is `generation << 32 | index + 1`: no key is 0, and the first of a table that begins with generation 0 is 1. An
/// entry that was found stays whole for as long as it is held, also when its key is taken back meanwhile.
#[derive(Debug)]
pub(crate) struct Table<T> {
    lasting: [OnceLock<Segment<T>>; LASTING_SEGMENTS],
    /// The later ones, which [`Table::shrink`] takes away.
    passing: [ArcSwapOption<Segment<T>>; SEGMENTS - LASTING_SEGMENTS],
    places: Mutex<Places>,
    /// Entries there are at most.
    limit: u32,
    len: AtomicUsize,
}

type Segment<T> = Box<[Place<T>]>;

/// Where one entry may stand. A panic while its lock is held leaves it whole: each change is one store.
#[derive(Debug)]
struct Place<T>(RwLock<Option<Arc<Entry<T>>>>);

impl<T> Place<T> {
    const fn empty() -> Self {
        Self(RwLock::new(None))
    }

    fn load(&self) -> Option<Arc<Entry<T>>> {
        self.0.read().clone()
    }

    fn is_taken(&self) -> bool {
        self.0.read().is_some()
    }

    fn store(&self, entry: Option<Arc<Entry<T>>>) {
        *self.0.write() = entry;
    }
}

/// Which keys may be given out next.
#[derive(Debug, Default)]
struct Places {
    /// Places that were never used begin here.
    next: u32,
    /// Their generation.
    first: u32,
    /// Index and next generation of places that can be used again.
    vacant: Vec<(u32, u32)>,
    /// Places behind `next` that must not begin with `first`, and the generation with which they begin; `None`: their
    /// generations are used up.
    raised: BTreeMap<u32, Option<u32>>,
    /// Places before `next` whose generations are used up.
    spent: Vec<u32>,
}

impl<T> Table<T> {
    /// A table for `limit` entries, whose keys begin with a generation.
    pub(crate) fn new(limit: u32, first: u32) -> Self {
        Self {
            lasting: [const { OnceLock::new() }; LASTING_SEGMENTS],
            passing: [const { ArcSwapOption::const_empty() }; SEGMENTS - LASTING_SEGMENTS],
            places: Mutex::new(Places { first, ..Places::default() }),
            limit,
            len: AtomicUsize::new(0),
        }
    }

    /// From now on, a place that was never used begins with another generation.
    pub(crate) fn begin_with(&self, first: u32) {
        self.places().first = first;
    }

    /// Stores a value under a new key; gives the value back where the table is full.
    pub(crate) fn insert(&self, value: T) -> Result<Arc<Entry<T>>, T> {
        let mut places = self.places();
        let Some((index, generation)) = places.take(self.limit) else { return Err(value) };
        self.make_place(index);
        let entry = Arc::new(Entry { key: key(index, generation), value });
        // There is one for every index by now.
        self.with_place(index, |place| place.store(Some(Arc::clone(&entry))));
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// What stands under a key.
    pub(crate) fn get(&self, key: u64) -> Option<Arc<Entry<T>>> {
        let (index, _) = parts(key)?;
        // A place may have been given to another since; an entry knows its own key.
        self.with_place(index, Place::load)?.filter(|entry| entry.key == key)
    }

    /// Takes a key back.
    pub(crate) fn remove(&self, key: u64) -> Option<Arc<Entry<T>>> {
        let (index, generation) = parts(key)?;
        let mut places = self.places();
        let taken = self.with_place(index, |place| {
            let entry = place.load().filter(|entry| entry.key == key)?;
            place.store(None);
            Some(entry)
        });
        let entry = taken??;
        places.give_back(index, generation);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    /// Removes every value for which `keep` says no; their keys stay dead.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&Arc<Entry<T>>) -> bool) -> Vec<Arc<Entry<T>>> {
        let doomed: Vec<u64> = self.each().filter(|entry| !keep(entry)).map(|entry| entry.key).collect();
        doomed.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// All entries; one that comes or goes meanwhile may be among them or not.
    pub(crate) fn each(&self) -> impl Iterator<Item = Arc<Entry<T>>> {
        // A segment that is there has all its places, and after the first that is not there is none.
        let indices = (0..=u32::MAX).map_while(|index| self.with_place(index, Place::load));
        indices.flatten()
    }

    /// Gives back the memory that a table keeps which was once larger than it is now: all segments behind the last entry, but
    /// for the first few. Their places begin anew, with generations that they have not had.
    pub(crate) fn shrink(&self) {
        let mut places = self.places();
        let used = self.each_index().last().map_or(0, |index| index.saturating_add(1));
        places.begin_anew(used);
        let kept = used.checked_sub(1).and_then(locate).map_or(0, |(segment, _)| segment.saturating_add(1));
        for segment in self.passing.iter().skip(kept.saturating_sub(LASTING_SEGMENTS)) {
            // Threads that look into it at this moment keep it until they have done so.
            segment.store(None);
        }
    }

    /// Values stored now.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no place for another.
    pub(crate) fn is_full(&self) -> bool {
        u32::try_from(self.len()).is_ok_and(|len| len >= self.limit)
    }

    /// Indices of the places that are taken, in order.
    fn each_index(&self) -> impl Iterator<Item = u32> {
        let places =
            (0..=u32::MAX).map_while(|index| self.with_place(index, |place| (index, place.is_taken())));
        places.filter(|(_, taken)| *taken).map(|(index, _)| index)
    }

    /// Looks at a place, if there is one.
    fn with_place<R>(&self, index: u32, look: impl FnOnce(&Place<T>) -> R) -> Option<R> {
        let (segment, offset) = locate(index)?;
        match segment.checked_sub(LASTING_SEGMENTS) {
            None => self.lasting.get(segment)?.get()?.get(offset).map(look),
            Some(at) => self.passing.get(at)?.load().as_ref()?.get(offset).map(look),
        }
    }

    /// Makes the segment of a place. Under the lock of the places.
    fn make_place(&self, index: u32) {
        let Some((segment, _)) = locate(index) else { return };
        let make = || (0..FIRST_LEN << segment).map(|_| Place::empty()).collect();
        match segment.checked_sub(LASTING_SEGMENTS) {
            None => {
                if let Some(lasting) = self.lasting.get(segment) {
                    lasting.get_or_init(make);
                }
            }
            Some(at) => {
                let passing = self.passing.get(at).filter(|passing| passing.load().is_none());
                if let Some(passing) = passing {
                    passing.store(Some(Arc::new(make())));
                }
            }
        }
    }

    // A panic while the lock is held leaves the table whole: each change is one store.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock()
    }
}

impl Places {
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
                Some(None) => self.spent.push(index),
            }
        }
    }

    /// A place whose generations are used up is retired: its next key would be an old one.
    fn give_back(&mut self, index: u32, generation: u32) {
        match generation.checked_add(1) {
            Some(next) => self.vacant.push((index, next)),
            None => self.spent.push(index),
        }
    }

    /// Lets all places from an index on, which are vacant, begin anew. What each of them has had by then is lower than the
    /// generation with which it begins.
    fn begin_anew(&mut self, from: u32) {
        let highest = self.vacant.iter().map(|(_, next)| *next).max().unwrap_or(self.first);
        let first =
            highest.clamp(self.first, self.first.saturating_add(RAISE_MAX)).min(RAISED_MAX.max(self.first));
        let (again, before): (Vec<_>, Vec<_>) = self.vacant.iter().partition(|(index, _)| *index >= from);
        let raised = again.into_iter().filter(|(_, next)| *next > first);
        self.raised.extend(raised.map(|(index, next)| (index, Some(next))));
        self.raised.extend(self.spent.extract_if(.., |index| *index >= from).map(|index| (index, None)));
        // Those that have not been reached since the last time.
        self.raised.retain(|_, next| next.is_none_or(|next| next > first));
        (self.vacant, self.first, self.next) = (before, first, self.next.min(from));
        self.spent.shrink_to_fit();
    }
}

/// Segment and offset of a place.
fn locate(index: u32) -> Option<(usize, usize)> {
    let place = u64::from(index).saturating_add(FIRST_LEN);
    let segment = place.ilog2().checked_sub(FIRST_LEN.ilog2())?;
    let offset = place.checked_sub(FIRST_LEN << segment)?;
    Some((usize::try_from(segment).ok()?, usize::try_from(offset).ok()?))
}

const fn key(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | (index as u64).saturating_add(1)
}

/// Index and generation of a key.
fn parts(key: u64) -> Option<(u32, u32)> {
    let index = (key & u64::from(u32::MAX)).checked_sub(1)?;
    Some((u32::try_from(index).ok()?, u32::try_from(key >> 32).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn table() -> Table<u32> {
        Table::new(u32::MAX, 0)
    }

    fn value(table: &Table<u32>, key: u64) -> Option<u32> {
        table.get(key).map(|entry| **entry)
    }

    #[test]
    fn the_first_key_is_one() {
        assert_eq!(table().insert(7).unwrap().id(), 1);
    }

    #[test]
    fn tables_of_two_processes_share_no_key_but_one_given_out_before() {
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
    fn a_removed_key_never_comes_back() {
        let table = table();
        let first = table.insert(1).unwrap().id();
        assert_eq!(**table.remove(first).unwrap(), 1);
        let second = table.insert(2).unwrap().id();
        assert_ne!(first, second);
        assert_eq!((value(&table, first), value(&table, second)), (None, Some(2)));
        assert!(table.remove(first).is_none());
    }

    #[test]
    fn made_up_keys_find_nothing() {
        let table = table();
        table.insert(1).unwrap();
        for key in [0, 2, 65, 1 << 20, u64::MAX, 1 << 32, (1 << 32) | 1, u64::from(u32::MAX)] {
            assert_eq!(value(&table, key), None, "{key:#x}");
            assert!(table.remove(key).is_none(), "{key:#x}");
        }
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let table = Table::new(2, 0);
        let first = table.insert(1).unwrap().id();
        table.insert(2).unwrap();
        assert_eq!(table.insert(3).unwrap_err(), 3);
        table.remove(first);
        table.insert(3).unwrap();
    }

    #[test]
    fn retain_removes_the_rest_and_keeps_their_keys_dead() {
        let table = table();
        let keys: Vec<u64> = (0..1000).map(|n| table.insert(n).unwrap().id()).collect();
        assert_eq!(table.retain(|entry| ***entry % 2 == 0).len(), 500);
        assert_eq!(table.len(), 500);
        assert_eq!(value(&table, keys[3]), None);
        assert_eq!(value(&table, keys[4]), Some(4));
    }

    #[test]
    fn a_table_that_shrinks_gives_its_places_back() {
        const MANY: u32 = 100_000;
        let table = table();
        let lasting = table.insert(MANY).unwrap();
        let keys: Vec<u64> = (0..MANY).map(|n| table.insert(n).unwrap().id()).collect();
        assert!(table.passing.iter().any(|segment| segment.load().is_some()));
        drop(table.retain(|entry| ***entry == MANY));
        table.shrink();
        assert!(table.passing.iter().all(|segment| segment.load().is_none()));
        let places = table.places();
        assert_eq!((places.vacant.capacity(), places.raised.len(), places.next), (0, 0, 1));
        drop(places);
        assert_eq!(value(&table, lasting.id()), Some(MANY));
        let again: Vec<u64> = (0..MANY).map(|n| table.insert(n).unwrap().id()).collect();
        assert!(keys.iter().all(|key| value(&table, *key).is_none()), "a key was given out twice");
        assert!(again.iter().zip(0..).all(|(key, n)| value(&table, *key) == Some(n)));
    }

    #[test]
    fn an_entry_far_behind_keeps_its_place_when_the_table_shrinks() {
        let table = table();
        let keys: Vec<u64> = (0..20_000).map(|n| table.insert(n).unwrap().id()).collect();
        drop(table.retain(|entry| ***entry == 10_000));
        table.shrink();
        assert_eq!(value(&table, keys[10_000]), Some(10_000));
        assert_eq!(table.each().count(), 1);
        // The places before it are given out again, and those behind it too.
        let again: Vec<u64> = (0..20_000).map(|n| table.insert(n).unwrap().id()).collect();
        assert_eq!(table.len(), 20_001);
        assert!(again.iter().all(|key| !keys.contains(key)));
    }

    /// Random guests, each of which ends with a table that shrinks.
    #[test]
    fn no_key_comes_back_however_often_the_table_shrinks() {
        let (table, mut seen, mut random) = (Table::new(500, u32::MAX - 300), HashSet::new(), 1_u64);
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
        // The generations were nearly used up when it began.
        assert!(seen.len() > 5000, "{}", seen.len());
    }

    #[test]
    fn a_place_used_very_often_keeps_the_others_from_beginning_late() {
        let table = table();
        for _ in 0..2 * RAISE_MAX {
            let id = table.insert(0).unwrap().id();
            table.remove(id).unwrap();
        }
        table.shrink();
        let places = table.places();
        assert_eq!((places.first, places.raised.get(&0)), (RAISE_MAX, Some(&Some(2 * RAISE_MAX))));
        drop(places);
        let ids: Vec<u64> = (0..2).map(|_| table.insert(0).unwrap().id()).collect();
        assert_eq!(ids, [key(0, 2 * RAISE_MAX), key(1, RAISE_MAX)]);
    }

    #[test]
    fn every_place_has_a_segment() {
        for index in [0, 63, 64, 191, 192, 1 << 20, u32::MAX] {
            let (segment, offset) = locate(index).unwrap();
            assert!(segment < SEGMENTS && (offset as u64) < FIRST_LEN << segment, "{index}");
        }
        assert_eq!((locate(63), locate(64)), (Some((0, 63)), Some((1, 0))));
    }

    #[test]
    fn readers_see_a_whole_value_or_none_while_places_change_hands() {
        let table = table();
        let first = table.insert(0).unwrap().id();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // Keys of every generation that the one place will have.
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
