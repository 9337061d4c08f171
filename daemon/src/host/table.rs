//! A table whose keys the guest repeats back: index and generation, so that a stale or made-up key finds nothing.
//!
//! Each place has a lock of its own, held for as long as it takes to count one more holder: who asks for one entry
//! never meets who asks for another. Giving a key out and taking it back share one more.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// Places in the first segment; each following one has twice as many, so that a place never moves.
const FIRST_LEN: u64 = 64;

/// Segments until there are more places than the 32 bits of index in a key can say.
const SEGMENTS: usize = 27;

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
    segments: [OnceLock<Segment<T>>; SEGMENTS],
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
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn store(&self, entry: Option<Arc<Entry<T>>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = entry;
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
}

impl<T> Table<T> {
    /// A table for `limit` entries, whose keys begin with a generation.
    pub(crate) const fn new(limit: u32, first: u32) -> Self {
        Self {
            segments: [const { OnceLock::new() }; SEGMENTS],
            places: Mutex::new(Places { next: 0, first, vacant: Vec::new() }),
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
        let Some(place) = self.place_or_new(index) else { return Err(value) };
        let entry = Arc::new(Entry { key: key(index, generation), value });
        place.store(Some(Arc::clone(&entry)));
        self.len.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// What stands under a key.
    pub(crate) fn get(&self, key: u64) -> Option<Arc<Entry<T>>> {
        let (index, _) = parts(key)?;
        // A place may have been given to another since; an entry knows its own key.
        self.place(index)?.load().filter(|entry| entry.key == key)
    }

    /// Takes a key back.
    pub(crate) fn remove(&self, key: u64) -> Option<Arc<Entry<T>>> {
        let (index, generation) = parts(key)?;
        let place = self.place(index)?;
        let mut places = self.places();
        let entry = place.load().filter(|entry| entry.key == key)?;
        place.store(None);
        places.give_back(index, generation);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    /// Removes every value for which `keep` says no; their keys stay dead.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&Arc<Entry<T>>) -> bool) -> Vec<Arc<Entry<T>>> {
        let places = self.segments.iter().filter_map(OnceLock::get).flatten();
        let doomed: Vec<u64> = places
            .filter_map(|place| place.load().filter(|entry| !keep(entry)))
            .map(|entry| entry.key)
            .collect();
        doomed.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// All entries; one that comes or goes meanwhile may be among them or not.
    pub(crate) fn each(&self) -> impl Iterator<Item = Arc<Entry<T>>> {
        self.segments.iter().filter_map(OnceLock::get).flatten().filter_map(Place::load)
    }

    /// Values stored now.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no place for another.
    pub(crate) fn is_full(&self) -> bool {
        u32::try_from(self.len()).is_ok_and(|len| len >= self.limit)
    }

    fn place(&self, index: u32) -> Option<&Place<T>> {
        let (segment, offset) = locate(index)?;
        self.segments.get(segment)?.get()?.get(offset)
    }

    fn place_or_new(&self, index: u32) -> Option<&Place<T>> {
        let (segment, offset) = locate(index)?;
        let places = self.segments.get(segment)?.get_or_init(|| {
            let len = FIRST_LEN << segment;
            (0..len).map(|_| Place::empty()).collect()
        });
        places.get(offset)
    }

    // A panic while the lock is held leaves the table whole: each change is one store.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn take(&mut self, limit: u32) -> Option<(u32, u32)> {
        if let Some(vacant) = self.vacant.pop() {
            return Some(vacant);
        }
        let index = Some(self.next).filter(|index| *index < limit)?;
        self.next = index.saturating_add(1);
        Some((index, self.first))
    }

    /// A place whose generations are used up is retired: its next key would be an old one.
    fn give_back(&mut self, index: u32, generation: u32) {
        if let Some(next) = generation.checked_add(1) {
            self.vacant.push((index, next));
        }
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
