//! The bytes of an image from a file that is read in larger parts.

use pinhole_erofs::{Source, SourceError};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Bytes of one part. Inodes and directories that belong together are near one another.
const PART_LEN: u64 = 64 << 10;

/// Parts that are kept: 4 MiB.
const PARTS: usize = 64;

/// An image file with the parts that were read last.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    len: u64,
    /// Number and bytes of a part, at the place that its number gives.
    parts: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl ImageFile {
    pub(crate) fn new(file: File, len: u64) -> Self {
        Self { file, len, parts: RefCell::new(vec![(u64::MAX, Vec::new()); PARTS]) }
    }

    /// Copies bytes of one part, and returns their number.
    fn copy_part(&self, offset: u64, into: &mut [u8]) -> Option<usize> {
        let number = offset / PART_LEN;
        let mut parts = self.parts.borrow_mut();
        let place = usize::try_from(number).ok()? % PARTS;
        let (known, bytes) = parts.get_mut(place)?;
        if *known != number {
            let start = number * PART_LEN;
            let len = PART_LEN.min(self.len.saturating_sub(start));
            bytes.resize(usize::try_from(len).ok()?, 0);
            *known = u64::MAX;
            self.file.read_exact_at(bytes, start).ok()?;
            *known = number;
        }
        let rest = bytes.get(usize::try_from(offset % PART_LEN).ok()?..)?;
        let count = rest.len().min(into.len());
        into.get_mut(..count)?.copy_from_slice(rest.get(..count)?);
        Some(count).filter(|count| *count > 0)
    }
}

impl Source for ImageFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn copy(&self, mut offset: u64, mut into: &mut [u8]) -> Result<(), SourceError> {
        while !into.is_empty() {
            let count = self.copy_part(offset, into).ok_or(SourceError)?;
            into = into.get_mut(count..).unwrap_or_default();
            offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn bytes_across_parts_and_up_to_the_end_are_copied() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[1] ^ i.to_le_bytes()[0]).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let image = ImageFile::new(file, 200_000);
        for (offset, len) in [(0, 1), (65_000, 70_000), (199_999, 1), (0, 200_000), (7, 0)] {
            let mut copied = vec![0; len];
            image.copy(u64::try_from(offset).unwrap(), &mut copied).unwrap();
            assert!(copied == bytes[offset..offset + len], "{offset}");
        }
        for (offset, len) in [(199_999, 2), (200_000, 1), (u64::MAX, 1), (u64::MAX - 1, 8)] {
            assert_eq!(image.copy(offset, &mut vec![0; len]), Err(SourceError), "{offset}");
        }
    }
}
