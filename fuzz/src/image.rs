//! The input of `prepared_image`: forged inode numbers, and an image without its empty parts.

/// Bytes before the superblock, which have no meaning.
const BEFORE: usize = 1024;

/// Bytes of a block.
const BLOCK: usize = 4096;

/// Number of forged inode numbers.
const NIDS: usize = 2;

/// Offset in the image of the flags whose lowest bit is SB_CHKSUM, and of the number of blocks.
const FLAGS: usize = BEFORE + 8;

/// Decoded input.
#[derive(Debug)]
pub struct Input {
    nids: [u64; NIDS],
    image: Vec<u8>,
}

impl Input {
    /// Decodes an input: inode numbers of 8 bytes, and the image from the superblock on. Zeros fill
    /// the image up to a block.
    pub fn read(input: &[u8]) -> Option<Self> {
        let (first, rest) = input.split_first_chunk()?;
        let (second, rest) = rest.split_first_chunk()?;
        let nids = [first, second].map(|nid| u64::from_le_bytes(*nid));
        let mut image = vec![0; BEFORE];
        image.extend_from_slice(rest);
        image.resize(image.len().next_multiple_of(BLOCK), 0);
        Some(Self { nids, image })
    }

    /// Encodes an image. Its checksum is switched off, because a change would make it wrong.
    pub fn encode(nids: [u64; NIDS], image: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        image[FLAGS] &= !1;
        let used = image.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut input = nids.map(u64::to_le_bytes).concat();
        input.extend_from_slice(&image[BEFORE..used]);
        input
    }

    /// Returns the bytes of the image.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Returns the forged inode numbers.
    pub fn nids(&self) -> &[u64] {
        &self.nids
    }
}
