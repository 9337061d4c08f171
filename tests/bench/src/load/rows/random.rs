//! Pseudo-random numbers.

use super::super::error::LoadError;

/// Pseudo-random numbers (xorshift64), the same in each run.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Returns the numbers for the thread at `position`.
    pub(super) const fn new(position: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(position as u64 + 1))
    }

    /// Returns a number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half is more random. The bias of the remainder is negligible.
        (self.0 >> 32) % bound
    }

    /// Returns a random element.
    pub(super) fn choose<'t, T>(&mut self, all: &'t [T]) -> Result<&'t T, LoadError> {
        let at = usize::try_from(self.below(all.len().max(1) as u64)).unwrap_or(0);
        all.get(at).ok_or_else(|| LoadError::Memory("nothing to choose from".to_owned()))
    }
}
