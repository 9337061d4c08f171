//! The fs-verity digest of a stream of bytes: SHA-256, blocks of 4 KiB, no salt.
//!
//! The source is Documentation/filesystems/fsverity.rst of Linux, "Merkle tree" and "fs-verity
//! descriptor". `fsverity digest FILE` prints the same value. The kernel is not asked for a digest.

use crate::hex::Hex;
use crate::limits;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};

/// Bytes of one block of the data and of the tree.
pub const BLOCK_LEN: usize = 4096;

/// Bytes of one SHA-256.
const HASH_LEN: usize = 32;

const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// An fs-verity digest. It prints as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerityDigest(pub [u8; HASH_LEN]);

impl VerityDigest {
    /// Computes the digest of a file from its current position on.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn of(mut file: &File) -> io::Result<Self> {
        let mut hasher = VerityHasher::new();
        let mut buffer = vec![0; limits::READ_LEN];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    }

    /// Parses 64 hexadecimal digits in lower case, the tag of a data file.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut bytes = [0; HASH_LEN];
        if pairs.len() != HASH_LEN || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = value(*high)? << 4 | value(*low)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for VerityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// Computes the digest of a stream of bytes. Its memory is one block per level of the tree, at most
/// 9 levels.
#[derive(Clone, Debug)]
pub struct VerityHasher {
    /// Bytes of the stream so far.
    len: u64,
    /// The block of data that is not whole yet.
    partial: Vec<u8>,
    /// Hashes of each level that do not fill a block yet, from the level above the data on.
    levels: Vec<Vec<u8>>,
    /// The hash of a block of zeros.
    zero_hash: [u8; HASH_LEN],
}

impl Default for VerityHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl VerityHasher {
    /// Begins with the empty stream.
    pub fn new() -> Self {
        Self { len: 0, partial: Vec::new(), levels: Vec::new(), zero_hash: hash(&ZEROS) }
    }

    /// Appends bytes to the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len = self.len.saturating_add(count(bytes.len()));
        if !self.partial.is_empty() {
            let missing = BLOCK_LEN.saturating_sub(self.partial.len()).min(bytes.len());
            let (first, rest) = bytes.split_at(missing);
            self.partial.extend_from_slice(first);
            bytes = rest;
            if self.partial.len() < BLOCK_LEN {
                return;
            }
            let block = std::mem::take(&mut self.partial);
            self.block(&block);
        }
        let mut blocks = bytes.chunks_exact(BLOCK_LEN);
        for block in blocks.by_ref() {
            self.block(block);
        }
        self.partial.extend_from_slice(blocks.remainder());
    }

    /// Appends `len` zero bytes to the stream.
    pub fn zeros(&mut self, mut len: u64) {
        let part = |len: u64| usize::try_from(len).map_or(BLOCK_LEN, |len| len.min(BLOCK_LEN));
        let missing = BLOCK_LEN.saturating_sub(self.partial.len());
        let first = if self.partial.is_empty() { 0 } else { part(len).min(missing) };
        self.update(ZEROS.get(..first).unwrap_or_default());
        len = len.saturating_sub(count(first));
        while len >= count(BLOCK_LEN) {
            self.push(0, self.zero_hash);
            self.len = self.len.saturating_add(count(BLOCK_LEN));
            len = len.saturating_sub(count(BLOCK_LEN));
        }
        self.update(ZEROS.get(..part(len)).unwrap_or_default());
    }

    /// Returns the digest of the stream.
    pub fn finish(mut self) -> VerityDigest {
        if !self.partial.is_empty() {
            let mut block = std::mem::take(&mut self.partial);
            block.resize(BLOCK_LEN, 0);
            self.block(&block);
        }
        let root = self.root();
        // struct fsverity_descriptor: version 1, hash algorithm 1 (SHA-256), log2 of the block
        // size, no salt, no signature.
        let mut descriptor = vec![1, 1, 12, 0, 0, 0, 0, 0];
        descriptor.extend_from_slice(&self.len.to_le_bytes());
        descriptor.extend_from_slice(&root);
        descriptor.resize(256, 0);
        VerityDigest(hash(&descriptor))
    }

    /// Returns the hash at the top of the tree. That of an empty stream is zero.
    fn root(&mut self) -> [u8; HASH_LEN] {
        let mut level = 0;
        loop {
            let is_top = level + 1 >= self.levels.len();
            let Some(hashes) = self.levels.get_mut(level) else { return [0; HASH_LEN] };
            if let Ok(root) = <[u8; HASH_LEN]>::try_from(hashes.as_slice())
                && is_top
            {
                return root;
            }
            if !hashes.is_empty() {
                hashes.resize(BLOCK_LEN, 0);
                let above = hash(hashes);
                hashes.clear();
                self.push(level + 1, above);
            }
            level += 1;
        }
    }

    fn block(&mut self, block: &[u8]) {
        let hashed = if is_zero(block) { self.zero_hash } else { hash(block) };
        self.push(0, hashed);
    }

    /// Adds a hash to a level. A full block of hashes becomes one hash of the next level.
    fn push(&mut self, mut level: usize, mut next: [u8; HASH_LEN]) {
        loop {
            if self.levels.len() <= level {
                self.levels.push(Vec::with_capacity(BLOCK_LEN));
            }
            let Some(hashes) = self.levels.get_mut(level) else { return };
            hashes.extend_from_slice(&next);
            if hashes.len() < BLOCK_LEN {
                return;
            }
            next = hash(hashes);
            hashes.clear();
            level += 1;
        }
    }
}

/// Returns whether a block holds only zeros.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

fn hash(bytes: &[u8]) -> [u8; HASH_LEN] {
    Sha256::digest(bytes).into()
}

/// Returns a length in memory as a number of bytes of a stream.
fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the bytes that the tests of libfsverity hash.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(((i % 11) + (i % 439) + (i % 1103)) & 0xff).unwrap()).collect()
    }

    fn digest_in_parts(bytes: &[u8], part: usize) -> String {
        let mut hasher = VerityHasher::new();
        bytes.chunks(part).for_each(|part| hasher.update(part));
        hasher.finish().to_string()
    }

    /// The digests are those that `fsverity digest` of fsverity-utils 1.5 prints.
    #[test]
    fn digests_are_those_of_fsverity_utils() {
        for (len, expected) in [
            (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
            (4095, "5ac62f0661e41999ed94d214930c49093bb0d969ac9c000dbfa4738fa283c439"),
            (4096, "6ac39979016e3ddf3d39fff6cb984f7c118acdf1852919f5c100c4b142c1818e"),
            (4097, "e730e89ad732bee23a7a2398c83b3e1d5f403b09b7b7bd9ec4e46af8101652f3"),
            (128 * 4096, "318d7f64c1db10a983346f0c101c5b0fd2cb0e0c3d4e88df0320edf9990bdda4"),
            (128 * 4096 + 1, "e21e7d7f576f210094c3a6ea78b021f036633f2a06119fee987f79ac6dd30cf1"),
            (1_000_000, "48df0c462329cd879661bd05b39aa81b05cc16afd27a7196a559da83531d39d9"),
            (129 * 128 * 4096, "26a111ba3a69947c2c46bdb8cf6da903f53eadee4bef0e1e1adb283e9a946549"),
        ] {
            let bytes = pattern(len);
            assert_eq!(digest_in_parts(&bytes, 1 << 20), expected, "{len}");
            if len < 1 << 20 {
                assert_eq!(digest_in_parts(&bytes, 1000), expected, "{len} in parts");
            }
        }
    }

    #[test]
    fn zeros_are_hashed_like_written_zeros() {
        let mut hasher = VerityHasher::new();
        hasher.zeros(3 << 20);
        let expected = "8df18f578f340b4850488e16fe1a39b7d6d7a036173a7ed3530a80389f333ef6";
        assert_eq!(hasher.finish().to_string(), expected);
    }

    proptest! {
        #[test]
        fn zeros_and_bytes_mix_in_any_order(
            parts in prop::collection::vec((any::<bool>(), 0_usize..9000), 0..12)
        ) {
            let (mut mixed, mut plain) = (VerityHasher::new(), VerityHasher::new());
            for (is_zero, len) in parts {
                let bytes = if is_zero { vec![0; len] } else { pattern(len) };
                plain.update(&bytes);
                if is_zero {
                    mixed.zeros(count(len));
                } else {
                    mixed.update(&bytes);
                }
            }
            prop_assert_eq!(mixed.finish(), plain.finish());
        }
    }
}
