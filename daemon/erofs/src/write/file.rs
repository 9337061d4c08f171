//! Where the data of a regular file is: one run of blocks, or chunks.

use super::error::InodeFault;
use super::tree::{DataExtent, NewDevice, NewFile};
use crate::abi;
use crate::limits::{BLOCK_SIZE, MAX_WRITTEN_CHUNKS};

/// Exponents of the smallest and the largest chunk: the format stores it, less 12, in 5 bits.
const CHUNK_BITS: (u32, u32) = (12, 12 + 31);

/// Bytes of an entry of the table of chunks.
pub(super) const CHUNK_INDEX: u64 = 8;

/// Layout of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileLayout {
    /// No data.
    Empty,
    /// Contiguous blocks of a device, from byte `start` of it on.
    Flat { device: u16, start: u64 },
    /// Chunks of `1 << bits` bytes.
    Chunks { bits: u32, count: u64 },
}

/// Part of a file: a hole, or contiguous bytes of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First byte in the file.
    offset: u64,
    /// Byte behind it, rounded up to a block.
    end: u64,
    /// Device, and byte in it. `None` for a hole.
    data: Option<(u16, u64)>,
}

/// Checks the extents of a file, and chooses its layout.
pub(super) fn layout(file: &NewFile, devices: &[NewDevice]) -> Result<FileLayout, InodeFault> {
    if i64::try_from(file.size).is_err() {
        return Err(InodeFault::Size(file.size));
    }
    let mut end = 0;
    for extent in &file.extents {
        check(extent, file.size, devices)?;
        if extent.offset < end {
            return Err(InodeFault::ExtentOrder);
        }
        end = extent.offset.saturating_add(extent.length);
    }
    let runs = runs(file);
    let Some((first, others)) = runs.split_first() else { return Ok(FileLayout::Empty) };
    if let (Some((device, start)), []) = (first.data, others) {
        return Ok(FileLayout::Flat { device, start });
    }
    let (least, most) = CHUNK_BITS;
    let whole = file.size.checked_next_power_of_two().map_or(most, u64::trailing_zeros);
    let boundaries = others.iter().map(|run| run.offset.trailing_zeros());
    let bits = boundaries.fold(whole, u32::min).clamp(least, most);
    let count = file.size.div_ceil(1 << bits);
    if count > MAX_WRITTEN_CHUNKS {
        return Err(InodeFault::TooManyChunks(count));
    }
    Ok(FileLayout::Chunks { bits, count })
}

/// Returns `i_u` of a file with chunks of `1 << bits` bytes.
pub(super) fn chunk_format(bits: u32) -> u32 {
    bits.saturating_sub(CHUNK_BITS.0) | u32::from(abi::CHUNK_INDEXES)
}

/// Calls `each` with the device and byte of each chunk of `1 << bits` bytes, or `None` for a hole.
pub(super) fn each_chunk<E>(
    file: &NewFile,
    bits: u32,
    mut each: impl FnMut(Option<(u16, u64)>) -> Result<(), E>,
) -> Result<(), E> {
    let runs = runs(file);
    let mut runs = runs.iter().peekable();
    for index in 0..file.size.div_ceil(1 << bits) {
        let offset = index << bits;
        while runs.next_if(|run| run.end <= offset).is_some() {}
        let data = runs.peek().and_then(|run| {
            let (device, start) = run.data?;
            Some((device, start.saturating_add(offset.saturating_sub(run.offset))))
        });
        each(data)?;
    }
    Ok(())
}

/// Checks one extent.
fn check(extent: &DataExtent, size: u64, devices: &[NewDevice]) -> Result<(), InodeFault> {
    let end = extent.offset.checked_add(extent.length).ok_or(InodeFault::ExtentOrder)?;
    if extent.length == 0 || end > size.next_multiple_of(BLOCK_SIZE) {
        return Err(InodeFault::ExtentOrder);
    }
    let aligned = [extent.offset, extent.start].iter().all(|at| at.is_multiple_of(BLOCK_SIZE));
    if !aligned || (!end.is_multiple_of(BLOCK_SIZE) && end != size) {
        return Err(InodeFault::ExtentAlignment);
    }
    let device = devices.get(usize::from(extent.device)).ok_or(InodeFault::ExtentRange)?;
    let data_end = extent.start.checked_add(extent.length.next_multiple_of(BLOCK_SIZE));
    let inside = data_end.is_some_and(|end| end <= device.blocks.saturating_mul(BLOCK_SIZE));
    if inside { Ok(()) } else { Err(InodeFault::ExtentRange) }
}

/// Returns the runs of a file whose extents were checked. They cover it without gaps.
fn runs(file: &NewFile) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut end = 0;
    let mut push = |run: Run| {
        let next =
            |before: &Run| before.data.map(|(device, start)| (device, start + (run.offset - before.offset)));
        match runs.last_mut() {
            Some(before) if next(before) == run.data => before.end = run.end,
            _ if run.offset == run.end => {}
            _ => runs.push(run),
        }
    };
    for extent in &file.extents {
        push(Run { offset: end, end: extent.offset, data: None });
        end = extent.offset.saturating_add(extent.length.next_multiple_of(BLOCK_SIZE));
        push(Run { offset: extent.offset, end, data: Some((extent.device, extent.start)) });
    }
    push(Run { offset: end, end: file.size.next_multiple_of(BLOCK_SIZE).max(end), data: None });
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB_4: u64 = 4096;

    /// Returns a file with extents of device 0, given in blocks: offset, start, length.
    fn file(size: u64, extents: &[(u64, u64, u64)]) -> NewFile {
        let extent = |(offset, start, length): &(u64, u64, u64)| DataExtent {
            offset: offset * KIB_4,
            device: 0,
            start: start * KIB_4,
            length: length * KIB_4,
        };
        NewFile { size, extents: extents.iter().map(extent).collect() }
    }

    fn devices() -> [NewDevice; 1] {
        [NewDevice { tag: [0; 64], blocks: 1000 }]
    }

    #[test]
    fn covered_file_is_flat_and_one_with_holes_has_chunks() {
        let cases = [
            (file(0, &[]), FileLayout::Empty),
            (file(1, &[(0, 3, 1)]), FileLayout::Flat { device: 0, start: 3 * KIB_4 }),
            (file(8192, &[(0, 3, 1), (1, 4, 1)]), FileLayout::Flat { device: 0, start: 3 * KIB_4 }),
            (file(8192, &[(0, 3, 1), (1, 5, 1)]), FileLayout::Chunks { bits: 12, count: 2 }),
            (file(5 << 30, &[]), FileLayout::Chunks { bits: 33, count: 1 }),
            (file(64 * KIB_4, &[(0, 0, 16), (32, 16, 32)]), FileLayout::Chunks { bits: 16, count: 4 }),
            (file(64 * KIB_4, &[(1, 0, 16)]), FileLayout::Chunks { bits: 12, count: 64 }),
            (file(1, &[]), FileLayout::Chunks { bits: 12, count: 1 }),
        ];
        for (file, expected) in cases {
            assert_eq!(layout(&file, &devices()), Ok(expected), "{file:?}");
        }
    }

    #[test]
    fn chunks_hold_the_extents() {
        let file = file(7 * KIB_4 - 1, &[(1, 10, 2), (3, 12, 1), (6, 100, 1)]);
        let mut chunks = Vec::new();
        let collect = |chunk: Option<(u16, u64)>| {
            chunks.push(chunk.map(|(_, start)| start / KIB_4));
            Ok::<(), ()>(())
        };
        each_chunk(&file, 12, collect).unwrap();
        assert_eq!(chunks, [None, Some(10), Some(11), Some(12), None, None, Some(100)]);
    }

    #[test]
    fn wrong_extents_are_refused() {
        let at = |offset, start, length| NewFile {
            size: 10_000,
            extents: vec![DataExtent { offset, device: 0, start, length }],
        };
        for (file, fault) in [
            (at(0, 0, 0), InodeFault::ExtentOrder),
            (at(0, 0, 12_289), InodeFault::ExtentOrder),
            (at(KIB_4, 0, u64::MAX), InodeFault::ExtentOrder),
            (at(0, 0, 9_999), InodeFault::ExtentAlignment),
            (at(1, 0, KIB_4), InodeFault::ExtentAlignment),
            (at(0, 512, KIB_4), InodeFault::ExtentAlignment),
            (at(0, 999 * KIB_4, 8192), InodeFault::ExtentRange),
            (file(8192, &[(1, 0, 1), (0, 1, 1)]), InodeFault::ExtentOrder),
            (file(8192, &[(0, 0, 2), (1, 5, 1)]), InodeFault::ExtentOrder),
            (file(1 << 63, &[]), InodeFault::Size(1 << 63)),
            (file(1 << 50, &[(0, 0, 1)]), InodeFault::TooManyChunks(1 << 38)),
        ] {
            assert_eq!(layout(&file, &devices()), Err(fault), "{file:?}");
        }
        let unknown = DataExtent { offset: 0, device: 1, start: 0, length: KIB_4 };
        let unknown = NewFile { size: KIB_4, extents: vec![unknown] };
        assert_eq!(layout(&unknown, &devices()), Err(InodeFault::ExtentRange));
    }
}
