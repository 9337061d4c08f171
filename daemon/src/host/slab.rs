//! A table whose keys the guest repeats back: index and generation, so that a stale or made-up key finds nothing.

/// A growing table of values under 64-bit keys that are never given out twice.
///
/// A key is `generation << 32 | index + 1`: the first key ever given out is 1 and no key is 0.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Indices of the slots that can be filled again.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Counts the values that this slot has held; part of the present value's key.
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Stores a value under a new key; gives the value back where the table is full (4 billion slots).
    pub(crate) fn insert(&mut self, value: T) -> Result<u64, T> {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.value = Some(value);
            return Ok(key(index, slot.generation));
        }
        match u32::try_from(self.slots.len()) {
            Ok(index) if index < u32::MAX => {
                self.slots.push(Slot { generation: 0, value: Some(value) });
                Ok(key(index, 0))
            }
            Ok(_) | Err(_) => Err(value),
        }
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        let (index, generation) = parts(key)?;
        self.slots.get(index).filter(|slot| slot.generation == generation)?.value.as_ref()
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let (index, generation) = parts(key)?;
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        // A slot whose generations are used up is retired: its next key would be an old one.
        if let (Some(next), Ok(index)) = (slot.generation.checked_add(1), u32::try_from(index)) {
            slot.generation = next;
            self.free.push(index);
        }
        Some(value)
    }

    /// Removes every value for which `keep` says no; their keys stay dead.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u64, &T) -> bool) -> Vec<T> {
        let doomed: Vec<u64> = (0u32..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| {
                let key = key(index, slot.generation);
                slot.value.as_ref().filter(|value| !keep(key, value)).map(|_| key)
            })
            .collect();
        doomed.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Values stored now.
    pub(crate) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }
}

const fn key(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | (index as u64).saturating_add(1)
}

fn parts(key: u64) -> Option<(usize, u32)> {
    let index = (key & u64::from(u32::MAX)).checked_sub(1)?;
    Some((usize::try_from(index).ok()?, u32::try_from(key >> 32).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_is_one() {
        assert_eq!(Slab::new().insert('a'), Ok(1));
    }

    #[test]
    fn a_removed_key_never_comes_back() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b').unwrap();
        assert_ne!(first, second);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&'b')));
        assert_eq!(slab.remove(first), None);
    }

    #[test]
    fn made_up_keys_find_nothing() {
        let mut slab = Slab::new();
        slab.insert('a').unwrap();
        for key in [0, 2, u64::MAX, 1 << 32, (1 << 32) | 1, u64::from(u32::MAX)] {
            assert_eq!(slab.get(key), None, "{key:#x}");
            assert_eq!(slab.remove(key), None, "{key:#x}");
        }
    }

    #[test]
    fn retain_removes_the_rest_and_keeps_their_keys_dead() {
        let mut slab = Slab::new();
        let keys: Vec<u64> = (0..10).map(|n| slab.insert(n).unwrap()).collect();
        assert_eq!(slab.retain(|_, n| n % 2 == 0).len(), 5);
        assert_eq!(slab.len(), 5);
        assert_eq!(slab.get(keys[3]), None);
        assert_eq!(slab.get(keys[4]), Some(&4));
    }
}
