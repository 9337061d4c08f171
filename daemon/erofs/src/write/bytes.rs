//! The bytes of an image, from its plan.

use std::io::Write;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::emit::Emitter;
use super::entries;
use super::error::WriteError;
use super::file::{self, CHUNK_INDEX, FileLayout};
use super::plan::{DEVICE_TABLE, Plan, Stored};
use super::tree::{Content, NewFile, NewInode};
use crate::abi::{self, ChunkIndex, DeviceSlot, InodeExtended, SuperBlock};
use crate::inode::Kind;
use crate::limits::BLOCK_SIZE;
use crate::superblock::{Compatible, Incompatible};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Number of inodes.
    pub inodes: u64,
    /// Bytes of the image.
    pub bytes: u64,
}

/// ContentFields of an inode that depend on its content.
struct ContentFields {
    /// Data layout of `i_format`.
    layout: u16,
    size: u64,
    /// `i_u`.
    content: U32,
}

impl Plan<'_> {
    /// Writes the image. `uuid` identifies it.
    ///
    /// # Errors
    ///
    /// `out` fails.
    pub fn write(&self, uuid: [u8; 16], out: &mut dyn Write) -> Result<Written, WriteError> {
        let firsts = self.first_blocks();
        let mut emitter = Emitter::new(out);
        emitter.zeros_to(abi::SUPER_OFFSET)?;
        emitter.bytes(self.superblock(uuid).as_bytes())?;
        emitter.zeros_to(DEVICE_TABLE)?;
        for (device, first) in self.tree.devices.iter().zip(&firsts) {
            let mut slot = DeviceSlot::new_zeroed();
            slot.tag = device.tag;
            slot.blocks_lo = low(device.blocks);
            slot.uniaddr_lo = low(*first);
            emitter.bytes(slot.as_bytes())?;
        }
        self.write_inodes(&firsts, &mut emitter)?;
        emitter.zeros_to(self.shared_start)?;
        emitter.bytes(&self.shared.encode())?;
        self.write_blocks(&mut emitter)?;
        emitter.zeros_to(self.bytes())?;
        let written = Written { inodes: self.inode_count(), bytes: emitter.position() };
        emitter.finish()?;
        Ok(written)
    }

    fn superblock(&self, uuid: [u8; 16]) -> SuperBlock {
        let mut incompatible = Incompatible::empty();
        incompatible.set(Incompatible::CHUNKED_FILE, self.has_chunks);
        incompatible.set(Incompatible::DEVICE_TABLE, !self.tree.devices.is_empty());
        let mut superblock = SuperBlock::new_zeroed();
        superblock.magic = abi::SUPER_MAGIC.into();
        superblock.feature_compat = (Compatible::SB_CHKSUM | Compatible::MTIME).bits().into();
        superblock.blkszbits = 12;
        superblock.rb = u16::try_from(self.nid(0)).unwrap_or(u16::MAX).into();
        superblock.inos = self.inode_count().into();
        superblock.blocks_lo = low(self.blocks);
        superblock.xattr_blkaddr = low(self.shared_start / BLOCK_SIZE);
        superblock.uuid = uuid;
        superblock.feature_incompat = incompatible.bits().into();
        superblock.extra_devices = u16::try_from(self.tree.devices.len()).unwrap_or(u16::MAX).into();
        superblock.devt_slotoff = u16::try_from(DEVICE_TABLE / abi::DEVICE_SLOT).unwrap_or(u16::MAX).into();
        superblock
    }

    /// Writes the inodes by position, each with what is behind it.
    fn write_inodes(&self, firsts: &[u64], emitter: &mut Emitter<'_>) -> Result<(), WriteError> {
        let first_word = u32::try_from(self.shared_start % BLOCK_SIZE / 4).unwrap_or_default();
        let mut sorted: Vec<_> = (1..).zip(&self.order.inodes).collect();
        sorted.sort_unstable_by_key(|(_, index)| self.placed(**index).position);
        for (number, &index) in sorted {
            let Some(inode) = self.tree.inodes.get(index) else { continue };
            let area = self.shared.area(inode, first_word);
            let area = area.map_err(|fault| WriteError::Inode { index, fault })?;
            let mut raw = self.encode(index, inode, firsts);
            raw.i_ino = number.into();
            let words = area.len().checked_sub(12).map_or(0, |bytes| bytes / 4 + 1);
            raw.i_xattr_icount = u16::try_from(words).unwrap_or(u16::MAX).into();
            emitter.zeros_to(self.placed(index).position)?;
            emitter.bytes(raw.as_bytes())?;
            emitter.bytes(&area)?;
            self.write_rest(index, inode, emitter)?;
        }
        Ok(())
    }

    /// Encodes the fixed part of an inode.
    fn encode(&self, index: usize, inode: &NewInode, firsts: &[u64]) -> InodeExtended {
        let fields = self.fields(index, firsts);
        let mut raw = InodeExtended::new_zeroed();
        raw.i_format = (abi::I_VERSION_EXTENDED | fields.layout << abi::I_LAYOUT_SHIFT).into();
        raw.i_mode = (inode.permissions | file_type(inode.content.kind())).into();
        raw.i_size = fields.size.into();
        raw.i_u = fields.content;
        raw.i_uid = inode.uid.into();
        raw.i_gid = inode.gid.into();
        raw.i_mtime = inode.mtime.seconds.cast_unsigned().into();
        raw.i_mtime_nsec = inode.mtime.nanoseconds.into();
        raw.i_nlink = self.order.nlinks.get(index).copied().unwrap_or_default().into();
        raw
    }

    /// Returns the fields that depend on the content.
    fn fields(&self, index: usize, firsts: &[u64]) -> ContentFields {
        match self.placed(index).layout {
            Stored::Nothing => ContentFields { layout: abi::LAYOUT_FLAT_PLAIN, size: 0, content: U32::ZERO },
            Stored::Device { number } => {
                ContentFields { layout: abi::LAYOUT_FLAT_PLAIN, size: 0, content: number.into() }
            }
            Stored::File { layout, size } => {
                let (layout, content) = match layout {
                    FileLayout::Empty => (abi::LAYOUT_FLAT_PLAIN, U32::ZERO),
                    FileLayout::Flat { device, start } => {
                        (abi::LAYOUT_FLAT_PLAIN, unified_block(firsts, device, start))
                    }
                    FileLayout::Chunks { bits, .. } => {
                        (abi::LAYOUT_CHUNK_BASED, file::chunk_format(bits).into())
                    }
                };
                ContentFields { layout, size, content }
            }
            Stored::Directory { size, first_block } => {
                let layout = if size.tail == 0 { abi::LAYOUT_FLAT_PLAIN } else { abi::LAYOUT_FLAT_INLINE };
                ContentFields { layout, size: size.bytes(), content: low(first_block) }
            }
            Stored::InlineSymlink { length } => {
                ContentFields { layout: abi::LAYOUT_FLAT_INLINE, size: length, content: U32::ZERO }
            }
            Stored::SymlinkBlock { length, block } => {
                ContentFields { layout: abi::LAYOUT_FLAT_PLAIN, size: length, content: low(block) }
            }
        }
    }

    /// Writes what is behind the attributes of an inode.
    fn write_rest(
        &self,
        index: usize,
        inode: &NewInode,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), WriteError> {
        match (self.placed(index).layout, &inode.content) {
            (Stored::InlineSymlink { .. }, Content::Symlink(target)) => emitter.bytes(target),
            (Stored::File { layout: FileLayout::Chunks { bits, .. }, .. }, Content::File(file)) => {
                // The table begins on a multiple of its entries.
                emitter.zeros_to(emitter.position().next_multiple_of(CHUNK_INDEX))?;
                write_chunks(file, bits, emitter)
            }
            (Stored::Directory { size, .. }, _) if size.tail != 0 => {
                let mut number = 0;
                entries::each_block(&self.entries(index), |block| {
                    let is_last = number == size.blocks;
                    number += 1;
                    if is_last { emitter.bytes(block) } else { Ok(()) }
                })
            }
            _ => Ok(()),
        }
    }

    /// Writes the full blocks of directories, and long symbolic links.
    fn write_blocks(&self, emitter: &mut Emitter<'_>) -> Result<(), WriteError> {
        for &index in &self.order.inodes {
            let content = self.tree.inodes.get(index).map(|inode| &inode.content);
            match (self.placed(index).layout, content) {
                (Stored::Directory { size, first_block }, _) if size.blocks > 0 => {
                    emitter.zeros_to(first_block.saturating_mul(BLOCK_SIZE))?;
                    let mut number = 0;
                    entries::each_block(&self.entries(index), |block| {
                        let is_full = number < size.blocks;
                        number += 1;
                        if is_full { emitter.bytes(block) } else { Ok(()) }
                    })?;
                }
                (Stored::SymlinkBlock { block, .. }, Some(Content::Symlink(target))) => {
                    emitter.zeros_to(block.saturating_mul(BLOCK_SIZE))?;
                    emitter.bytes(target)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes the table of chunks: for each, the number of its device and the block there.
///
/// Addresses without a device number would take half as much, but Linux 6.18 reads wrong bytes if
/// the address of one chunk happens to equal the end of the chunk before it, counted in its device.
fn write_chunks(file: &NewFile, bits: u32, emitter: &mut Emitter<'_>) -> Result<(), WriteError> {
    file::each_chunk(file, bits, |data| {
        let index = match data {
            Some((device, start)) => ChunkIndex {
                startblk_hi: 0.into(),
                device_id: device.saturating_add(1).into(),
                startblk_lo: low(start / BLOCK_SIZE),
            },
            None => {
                ChunkIndex { startblk_hi: u16::MAX.into(), device_id: 0.into(), startblk_lo: u32::MAX.into() }
            }
        };
        emitter.bytes(index.as_bytes())
    })
}

/// Returns the address of byte `start` of a device among the blocks of all devices.
fn unified_block(firsts: &[u64], device: u16, start: u64) -> U32 {
    let first = firsts.get(usize::from(device)).copied().unwrap_or_default();
    low(first.saturating_add(start / BLOCK_SIZE))
}

/// Stores a block number or count. A plan has fewer than 2^32 blocks.
fn low(blocks: u64) -> U32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).into()
}

/// Returns the bits of a kind in `i_mode`.
fn file_type(kind: Kind) -> u16 {
    match kind {
        Kind::Regular => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::CharacterDevice => 0o020_000,
        Kind::BlockDevice => 0o060_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
    }
}
