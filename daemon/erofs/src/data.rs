//! Where the bytes of a file are, and the bytes of directories and symbolic links.

use core::ops::ControlFlow;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros as _, IntoBytes};

use crate::abi::{self, ChunkIndex};
use crate::error::{Corruption, ReadError};
use crate::image::{Address, Image};
use crate::inode::{ChunkEntries, Inode, Kind, Layout};
use crate::limits::{BLOCK_LEN, BLOCK_SIZE, CHUNK_BATCH, MAX_JOINED_CHUNKS, MAX_SEEK_CHUNKS, MAX_SYMLINK};
use crate::source::{Source, SourceError};

/// Contiguous bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where the bytes are.
    pub place: Place,
    /// Number of bytes, more than zero. They are inside the file, and inside the image or device.
    pub length: u64,
}

/// Where bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: they are zero.
    Hole,
    /// In the image.
    Image {
        /// Byte in the image.
        offset: u64,
    },
    /// In a data file.
    Device {
        /// Position in the device table, from 0.
        index: u16,
        /// Byte in the data file.
        offset: u64,
    },
}

impl Place {
    /// Returns the place `distance` bytes further.
    fn advance(self, distance: u64) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Image { offset } => Self::Image { offset: offset.saturating_add(distance) },
            Self::Device { index, offset } => Self::Device { index, offset: offset.saturating_add(distance) },
        }
    }
}

/// Table of chunks of one inode.
#[derive(Debug, Clone, Copy)]
struct Chunks {
    bits: u32,
    entries: ChunkEntries,
    /// Byte in the image of the first entry.
    table: u64,
    /// Number of entries.
    count: u64,
}

impl Chunks {
    /// Returns the table behind the extended attributes of `inode`.
    fn of(inode: &Inode, bits: u32, entries: ChunkEntries) -> Self {
        let width = match entries {
            ChunkEntries::Map => 4,
            ChunkEntries::Indexes { .. } => 8,
        };
        let table = inode.tail().next_multiple_of(width);
        Self { bits, entries, table, count: inode.size.div_ceil(1 << bits) }
    }
}

/// Entry of a table of chunks: device number in the image and block, or `None` for a hole.
type Chunk = Option<(u16, u64)>;

impl<S: Source> Image<S> {
    /// Returns the contiguous bytes of a file that begin at `offset`.
    ///
    /// At most 512 chunks are joined, so the next extent may continue this one.
    ///
    /// # Errors
    ///
    /// `offset` is not before the end of the file, or the data is outside of the image or device.
    pub fn extent(&self, inode: &Inode, offset: u64) -> Result<Extent, ReadError> {
        self.joined_extent(inode, offset, MAX_JOINED_CHUNKS)
    }

    /// Returns the contiguous bytes at `offset`, of at most `limit` chunks.
    fn joined_extent(&self, inode: &Inode, offset: u64, limit: u64) -> Result<Extent, ReadError> {
        let left = inode.size.checked_sub(offset).filter(|left| *left > 0).ok_or(ReadError::Offset)?;
        match inode.layout {
            Layout::Nothing => Err(ReadError::Kind),
            Layout::Hole => Ok(Extent { place: Place::Hole, length: left }),
            Layout::Flat { first_block } => self.flat(inode, first_block, offset, left),
            Layout::Inline { first_block } => {
                let tail = inode.size.saturating_sub(1) / BLOCK_SIZE * BLOCK_SIZE;
                match tail.checked_sub(offset).filter(|before| *before > 0) {
                    Some(before) => self.flat(inode, first_block, offset, before),
                    None => self.inline_tail(inode, offset.saturating_sub(tail), left),
                }
            }
            Layout::Chunks { bits, entries } => {
                let chunks = Chunks::of(inode, bits, entries);
                self.chunked(inode, &chunks, offset, limit)
            }
        }
    }

    /// Returns `length` bytes at `offset` of blocks that follow `first_block`.
    fn flat(&self, inode: &Inode, first_block: u64, offset: u64, length: u64) -> Result<Extent, ReadError> {
        let address = self.locate(inode, 0, first_block)?;
        let place = place(inode, &address, offset.saturating_add(length))?.advance(offset);
        Ok(Extent { place, length })
    }

    /// Returns the last `length` bytes of an inode, which begin `skip` bytes into its inline data.
    fn inline_tail(&self, inode: &Inode, skip: u64, length: u64) -> Result<Extent, ReadError> {
        let offset = inode.tail().saturating_add(skip);
        if offset % BLOCK_SIZE + length > BLOCK_SIZE {
            return Err(inode.corrupt(Corruption::InlineTail));
        }
        let address = Address { device: None, offset, device_bytes: self.source.len() };
        Ok(Extent { place: place(inode, &address, length)?, length })
    }

    /// Returns the contiguous bytes at `offset` of a file with chunks.
    fn chunked(&self, inode: &Inode, chunks: &Chunks, offset: u64, limit: u64) -> Result<Extent, ReadError> {
        let mut run: Option<(Place, u64)> = None;
        let mut failed = None;
        self.each_chunk(chunks, offset >> chunks.bits, limit, |index, chunk| {
            let start = index << chunks.bits;
            let length = inode.size.saturating_sub(start).min(1 << chunks.bits);
            let next = self.chunk_place(inode, chunk, length);
            match (run, next) {
                (None, Ok(place)) => run = Some((place, length)),
                (Some((place, before)), Ok(next)) if place.advance(before) == next => {
                    run = Some((place, before.saturating_add(length)));
                }
                (None, Err(error)) => failed = Some(error),
                (Some(_), Ok(_) | Err(_)) => return ControlFlow::Break(()),
            }
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let skip = offset & ((1 << chunks.bits) - 1);
        match (run, failed) {
            (Some((place, length)), None) => {
                Ok(Extent { place: place.advance(skip), length: length.saturating_sub(skip) })
            }
            (_, Some(error)) => Err(error),
            (None, None) => Err(ReadError::Offset),
        }
    }

    /// Returns the place of a chunk that holds `length` bytes.
    fn chunk_place(&self, inode: &Inode, chunk: Chunk, length: u64) -> Result<Place, ReadError> {
        let Some((device, block)) = chunk else { return Ok(Place::Hole) };
        place(inode, &self.locate(inode, device, block)?, length)
    }

    /// Calls `each` with the number and the entry of at most `limit` chunks from `first` on.
    fn each_chunk(
        &self,
        chunks: &Chunks,
        first: u64,
        limit: u64,
        mut each: impl FnMut(u64, Chunk) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let end = first.saturating_add(limit).min(chunks.count);
        let mut index = first;
        while index < end {
            let batch = usize::try_from(end.saturating_sub(index)).unwrap_or(CHUNK_BATCH).min(CHUNK_BATCH);
            for chunk in self.chunk_batch(chunks, index, batch)?.into_iter().take(batch) {
                if each(index, chunk).is_break() {
                    return Ok(());
                }
                index = index.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Copies `count` entries from `first` on.
    fn chunk_batch(
        &self,
        chunks: &Chunks,
        first: u64,
        count: usize,
    ) -> Result<[Chunk; CHUNK_BATCH], ReadError> {
        let mut batch = [None; CHUNK_BATCH];
        match chunks.entries {
            ChunkEntries::Map => {
                let mut raw = [U32::ZERO; CHUNK_BATCH];
                self.copy_entries(chunks.table, first, raw.get_mut(..count).unwrap_or_default())?;
                for (chunk, raw) in batch.iter_mut().zip(raw) {
                    *chunk = mapped(0, raw.get().into(), abi::ADDR_32);
                }
            }
            ChunkEntries::Indexes { address_mask } => {
                let mut raw = [ChunkIndex::new_zeroed(); CHUNK_BATCH];
                self.copy_entries(chunks.table, first, raw.get_mut(..count).unwrap_or_default())?;
                for (chunk, raw) in batch.iter_mut().zip(raw) {
                    let high = u64::from(raw.startblk_hi.get()) << 32;
                    let block = u64::from(raw.startblk_lo.get()) | high;
                    *chunk = mapped(raw.device_id.get(), block, address_mask);
                }
            }
        }
        Ok(batch)
    }

    /// Copies entries from number `first` on of a table that begins at byte `table`.
    fn copy_entries<T>(&self, table: u64, first: u64, into: &mut [T]) -> Result<(), ReadError>
    where
        T: FromBytes + IntoBytes,
    {
        let offset = first.checked_mul(size_of::<T>() as u64).and_then(|at| at.checked_add(table));
        Ok(self.source.copy(offset.ok_or(SourceError)?, into.as_mut_bytes())?)
    }

    /// Returns the first byte of data at or behind `offset`, or `None` if only a hole follows.
    ///
    /// At most 65,536 chunks are looked at. What follows them counts as data.
    ///
    /// # Errors
    ///
    /// The inode has no data, or its table of chunks is outside of the image.
    pub fn seek_data(&self, inode: &Inode, offset: u64) -> Result<Option<u64>, ReadError> {
        self.seek(inode, offset, false)
    }

    /// Returns the first byte at or behind `offset` in a hole, which may be the end of the file.
    /// Returns `None` if `offset` is not inside the file.
    ///
    /// # Errors
    ///
    /// As [`Image::seek_data`].
    pub fn seek_hole(&self, inode: &Inode, offset: u64) -> Result<Option<u64>, ReadError> {
        let found = self.seek(inode, offset, true)?;
        Ok(found.or((offset < inode.size).then_some(inode.size)))
    }

    /// Returns the first byte at or behind `offset` that is in a hole, or that is not.
    fn seek(&self, inode: &Inode, offset: u64, hole: bool) -> Result<Option<u64>, ReadError> {
        let within = (offset < inode.size).then_some(offset);
        let (bits, entries) = match inode.layout {
            Layout::Nothing => return Err(ReadError::Kind),
            Layout::Hole => return Ok(within.filter(|_| hole)),
            Layout::Flat { .. } | Layout::Inline { .. } => return Ok(within.filter(|_| !hole)),
            Layout::Chunks { bits, entries } => (bits, entries),
        };
        if within.is_none() {
            return Ok(None);
        }
        let chunks = Chunks::of(inode, bits, entries);
        let first = offset >> bits;
        let mut found = None;
        self.each_chunk(&chunks, first, MAX_SEEK_CHUNKS, |index, chunk| {
            if chunk.is_none() == hole {
                found = Some(offset.max(index << bits));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        let unseen = first.saturating_add(MAX_SEEK_CHUNKS);
        Ok(found.or((!hole && unseen < chunks.count).then_some(unseen << bits)))
    }

    /// Returns the byte in the image, and the number of contiguous bytes, at `offset` of a
    /// directory or symbolic link.
    pub(crate) fn content(&self, inode: &Inode, offset: u64) -> Result<(u64, u64), ReadError> {
        let extent = self.joined_extent(inode, offset, 1)?;
        match extent.place {
            Place::Image { offset } => Ok((offset, extent.length)),
            Place::Hole | Place::Device { .. } => Err(inode.corrupt(Corruption::ContentPlace)),
        }
    }

    /// Appends the target of a symbolic link, of 1 to 4,095 bytes without NUL.
    ///
    /// # Errors
    ///
    /// The inode is no symbolic link, or its target is not in the image. `out` is then unchanged.
    pub fn read_link(&self, inode: &Inode, out: &mut Vec<u8>) -> Result<(), ReadError> {
        if inode.kind != Kind::Symlink {
            return Err(ReadError::Kind);
        }
        if inode.size == 0 || inode.size > MAX_SYMLINK {
            return Err(inode.corrupt(Corruption::SymlinkLength(inode.size)));
        }
        let (offset, length) = self.content(inode, 0)?;
        if length != inode.size {
            return Err(inode.corrupt(Corruption::SymlinkLength(inode.size)));
        }
        let mut target = [0; BLOCK_LEN];
        let target = target.get_mut(..usize::try_from(length).unwrap_or(BLOCK_LEN)).unwrap_or_default();
        self.source.copy(offset, target)?;
        if target.contains(&0) {
            return Err(inode.corrupt(Corruption::SymlinkNul));
        }
        out.extend_from_slice(target);
        Ok(())
    }
}

/// Decodes the address of a chunk.
fn mapped(device: u16, block: u64, mask: u64) -> Chunk {
    ((block ^ abi::NULL_ADDR) & mask != 0).then_some((device, block & mask))
}

/// Returns the place at an address, if `length` bytes are there.
fn place(inode: &Inode, address: &Address, length: u64) -> Result<Place, ReadError> {
    let end = address.offset.checked_add(length).filter(|end| *end <= address.device_bytes);
    let offset = end.map(|_| address.offset).ok_or_else(|| inode.corrupt(Corruption::DataRange))?;
    Ok(match address.device {
        Some(index) => Place::Device { index, offset },
        None => Place::Image { offset },
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::abi::{DeviceSlot, InodeExtended};
    use crate::fixture::{Fixture, OwnedBytes};
    use crate::inode::Nid;

    /// Layout numbers as `i_format` has them in an extended inode.
    const PLAIN: u16 = 1;
    const INLINE: u16 = 1 | 2 << 1;
    const CHUNKS: u16 = 1 | 4 << 1;

    /// Returns an image with one file, and two devices of 4 and 8 blocks at blocks 100 and 104.
    fn one_file(format: u16, size: u64, content: u32, body: &[u8]) -> (Image<OwnedBytes>, Inode) {
        let mut fixture = Fixture::new();
        fixture.root(&[(b".", 0, 2), (b"..", 0, 2)]);
        let set = |inode: &mut InodeExtended| {
            inode.i_format = format.into();
            inode.i_mode = 0o100_644.into();
            inode.i_size = size.into();
            inode.i_u = content.into();
        };
        let nid = fixture.extended(set, body);
        for (blocks, first) in [(4, 100), (8, 104)] {
            let mut slot = DeviceSlot::new_zeroed();
            slot.blocks_lo = blocks.into();
            slot.uniaddr_lo = first.into();
            fixture.devices.push(slot);
        }
        fixture.superblock.feature_incompat = 0xc.into();
        let image = fixture.open();
        let inode = image.inode(Nid(nid)).unwrap();
        (image, inode)
    }

    fn device(index: u16, offset: u64, length: u64) -> Extent {
        Extent { place: Place::Device { index, offset }, length }
    }

    fn hole(length: u64) -> Extent {
        Extent { place: Place::Hole, length }
    }

    #[test]
    fn flat_file_is_found_by_its_unified_address() {
        let (image, inode) = one_file(PLAIN, 10_000, 105, &[]);
        assert_eq!(image.extent(&inode, 0), Ok(device(1, 4096, 10_000)));
        assert_eq!(image.extent(&inode, 9_999), Ok(device(1, 4096 + 9_999, 1)));
        assert_eq!(image.extent(&inode, 10_000), Err(ReadError::Offset));
        assert_eq!(image.seek_hole(&inode, 5), Ok(Some(10_000)));
        assert_eq!(image.seek_data(&inode, 5), Ok(Some(5)));
        assert_eq!(image.seek_data(&inode, 10_000), Ok(None));
        assert_eq!(image.seek_hole(&inode, 10_000), Ok(None));
    }

    #[test]
    fn data_behind_the_end_of_a_device_is_an_error() {
        for (size, block) in [(4 * 4096 + 1, 100), (4097, 111), (1, 112), (1, 1 << 31)] {
            let (image, inode) = one_file(PLAIN, size, block, &[]);
            assert_eq!(image.extent(&inode, 0), Err(inode.corrupt(Corruption::DataRange)), "{block}");
        }
    }

    #[test]
    fn inline_tail_is_in_the_image() {
        let (image, inode) = one_file(INLINE, 4096 + 100, 103, &[7; 100]);
        assert_eq!(image.extent(&inode, 0), Ok(device(0, 3 * 4096, 4096)));
        let tail = image.extent(&inode, 4096 + 10).unwrap();
        assert_eq!(tail.length, 90);
        let Place::Image { offset } = tail.place else { panic!("{tail:?}") };
        let mut bytes = [0; 90];
        image.source().copy(offset, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 90]);
    }

    #[test]
    fn inline_tail_must_fit_in_its_block() {
        for size in [4096, 4000] {
            let (image, inode) = one_file(INLINE, size, 0, &[0; 8192]);
            assert_eq!(image.extent(&inode, 0), Err(inode.corrupt(Corruption::InlineTail)));
        }
    }

    #[test]
    fn chunk_indexes_join_and_end_at_holes() {
        let mut table = Vec::new();
        for (device, block) in [(0, 104), (2, 1), (2, 2), (0, u32::MAX), (2, u32::MAX), (1, 3), (0, 2)] {
            table.extend_from_slice(&[0, 0, device, 0]);
            table.extend_from_slice(block.as_bytes());
        }
        let size = 6 * 4096 + 50;
        let (image, inode) = one_file(CHUNKS, size, abi::CHUNK_INDEXES.into(), &table);
        assert_eq!(image.extent(&inode, 0), Ok(device(1, 0, 3 * 4096)));
        assert_eq!(image.extent(&inode, 4100), Ok(device(1, 4100, 2 * 4096 - 4)));
        assert_eq!(image.extent(&inode, 3 * 4096), Ok(hole(2 * 4096)));
        assert_eq!(image.extent(&inode, 5 * 4096), Ok(device(0, 3 * 4096, 4096)));
        let tail = Extent { place: Place::Image { offset: 2 * 4096 }, length: 50 };
        assert_eq!(image.extent(&inode, 6 * 4096), Ok(tail));
        assert_eq!(image.seek_hole(&inode, 1), Ok(Some(3 * 4096)));
        assert_eq!(image.seek_data(&inode, 3 * 4096 + 5), Ok(Some(5 * 4096)));
        assert_eq!(image.seek_hole(&inode, 5 * 4096), Ok(Some(size)));
    }

    #[test]
    fn block_map_of_large_chunks_is_read() {
        let table: Vec<u8> = [104, u32::MAX].iter().flat_map(|block| block.to_le_bytes()).collect();
        let (image, inode) = one_file(CHUNKS, 12_000, 1, &table);
        assert_eq!(image.extent(&inode, 100), Ok(device(1, 100, 8192 - 100)));
        assert_eq!(image.extent(&inode, 8192), Ok(hole(12_000 - 8192)));
        assert_eq!(image.seek_data(&inode, 8192), Ok(None));
    }

    #[test]
    fn unknown_device_is_an_error() {
        let table = [0, 0, 3, 0, 0, 0, 0, 0];
        let (image, inode) = one_file(CHUNKS, 1, abi::CHUNK_INDEXES.into(), &table);
        assert_eq!(image.extent(&inode, 0), Err(inode.corrupt(Corruption::DeviceNumber(3))));
    }

    #[test]
    fn table_behind_the_end_of_the_image_is_an_error() {
        let end = SourceError.into();
        for format in [0, abi::CHUNK_INDEXES] {
            let (image, inode) = one_file(CHUNKS, u64::MAX / 2, format.into(), &[]);
            assert_eq!(image.extent(&inode, u64::MAX / 2 - 1), Err(end));
            assert_eq!(image.seek_hole(&inode, 0), Err(end));
        }
    }

    #[test]
    fn search_for_data_ends_after_its_limit() {
        let table = vec![0xff; 4 * 65_537];
        let (image, inode) = one_file(CHUNKS, 65_537 * 4096, 0, &table);
        assert_eq!(image.seek_data(&inode, 0), Ok(Some(65_536 * 4096)));
        assert_eq!(image.seek_data(&inode, 4096), Ok(None));
        assert_eq!(image.extent(&inode, 0).unwrap().length, 512 * 4096);
    }
}
