//! READ, LSEEK and SETUPMAPPING: the bytes of regular files, in IMAGE and in the data files.

use super::Prepared;
use super::data_file::DataFile;
use crate::filesystem::{Answer, MapFile, Pace, Paced};
use crate::io_vectors::IoVectors;
use pinhole_erofs::{BLOCK_SIZE, Extent, Inode, Kind, Place, Source as _};
use pinhole_protocol::{Errno, Lseek, NodeId, Read, SetupMapping, Whence};
use std::sync::Arc;

/// [`BLOCK_SIZE`] as the length of a buffer.
const BLOCK_LEN: usize = 4096;

/// Length in bytes of the ranges in which Linux maps files (`FUSE_DAX_SZ`).
const SLOT_LEN: u64 = 2 << 20;

impl Prepared {
    pub(super) fn read(
        &self,
        node: NodeId,
        read: Read,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        let inode = self.regular(node)?;
        let left = usize::try_from(inode.size.saturating_sub(read.offset)).unwrap_or(usize::MAX);
        let into = into.first(left);
        let mut done = 0;
        while done < into.len() {
            let offset = read.offset.saturating_add(done as u64);
            let extent = self.extent(&inode, offset)?;
            let len = usize::try_from(extent.length).unwrap_or(usize::MAX);
            let part = into.after(done).first(len);
            match self.fill(part, extent.place, offset, pace)? {
                Paced::Ready(()) => done = done.saturating_add(part.len()),
                waits @ (Paced::WouldBlock | Paced::Leased | Paced::Stopped) => return Ok(waits.map(|()| 0)),
            }
        }
        Ok(Paced::Ready(into.len()))
    }

    /// Fills the memory from one place. `offset` is that of the first byte in the guest's file.
    fn fill(&self, into: IoVectors<'_>, from: Place, offset: u64, pace: Pace) -> Answer<Paced<()>> {
        match from {
            Place::Hole => copy_in_blocks(into, |_, _| Ok(())).map(Paced::Ready),
            // Whole blocks keep the offset within a block. The inline end of a file does not, and
            // it is in the same page of IMAGE as the inode.
            Place::Image { offset: at } if at % BLOCK_SIZE != offset % BLOCK_SIZE => {
                let source = self.image.source();
                let copied = copy_in_blocks(into, |done, block| {
                    source.copy(at.saturating_add(done), block).map_err(|_unreadable| Errno::EIO)
                });
                copied.map(Paced::Ready)
            }
            Place::Image { offset: at } => self.image_file.fill(into, at, pace),
            Place::Device { index, offset: at } => {
                self.data.get(usize::from(index)).ok_or(Errno::EIO)?.fill(into, at, pace)
            }
        }
    }

    pub(super) fn lseek(&self, node: NodeId, lseek: Lseek) -> Answer<u64> {
        let inode = self.regular(node)?;
        let found = match lseek.whence {
            Whence::End => return from_end(inode.size, lseek.offset.cast_signed()),
            _ if lseek.offset >= inode.size => return Err(Errno::ENXIO),
            Whence::Data => self.image.seek_data(&inode, lseek.offset),
            Whence::Hole => self.image.seek_hole(&inode, lseek.offset),
        };
        found.map_err(|error| self.errno(error, Errno::EINVAL))?.ok_or(Errno::ENXIO)
    }

    /// Returns the descriptor of the host's file in which a regular file is contiguous.
    ///
    /// # Errors
    /// ENODEV for other kinds, EOPNOTSUPP for a file that is not contiguous: the guest reads it.
    /// EINVAL past the last slot of the file, because what follows there belongs to other files.
    pub(super) fn open_to_map(&self, node: NodeId, setup: SetupMapping, writable: bool) -> Answer<MapFile> {
        let inode = self.inode(node)?;
        if inode.kind != Kind::Regular {
            return Err(Errno::ENODEV);
        }
        if writable {
            return Err(Errno::EROFS);
        }
        let (file, first_byte) = self.contiguous(&inode).ok_or(Errno::EOPNOTSUPP)?;
        let slots_end = inode.size.checked_next_multiple_of(SLOT_LEN).ok_or(Errno::EINVAL)?;
        if setup.file_offset.checked_add(setup.length).is_none_or(|end| end > slots_end) {
            return Err(Errno::EINVAL);
        }
        Ok(MapFile::shared(Arc::clone(&file.file), file.id, first_byte))
    }

    /// Returns the host's file in which a file is contiguous in whole blocks, and its first byte
    /// there. Of a file in chunks, the reader looks at 512 at most.
    pub(super) fn contiguous(&self, inode: &Inode) -> Option<(&DataFile, u64)> {
        let Extent { place, length } = self.image.extent(inode, 0).ok()?;
        if length != inode.size {
            return None;
        }
        match place {
            Place::Hole => None,
            Place::Image { offset } => {
                offset.is_multiple_of(BLOCK_SIZE).then_some((&self.image_file, offset))
            }
            Place::Device { index, offset } => Some((self.data.get(usize::from(index))?, offset)),
        }
    }

    fn extent(&self, inode: &Inode, offset: u64) -> Answer<Extent> {
        self.image.extent(inode, offset).map_err(|error| self.errno(error, Errno::EINVAL))
    }

    /// Reads the inode of a regular file.
    fn regular(&self, node: NodeId) -> Answer<Inode> {
        let inode = self.inode(node)?;
        match inode.kind {
            Kind::Regular => Ok(inode),
            Kind::Directory => Err(Errno::EISDIR),
            Kind::Symlink | Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                Err(Errno::EINVAL)
            }
        }
    }
}

/// Returns the position `offset` bytes behind the end of a file of `size` bytes.
///
/// # Errors
/// EINVAL before the start of the file, EOVERFLOW past the largest position.
fn from_end(size: u64, offset: i64) -> Answer<u64> {
    match size.checked_add_signed(offset) {
        Some(position) if i64::try_from(position).is_ok() => Ok(position),
        None if offset < 0 => Err(Errno::EINVAL),
        Some(_) | None => Err(Errno::EOVERFLOW),
    }
}

/// Fills the memory block by block: `produce` gets the number of bytes before a block, and the
/// block, which is zero.
///
/// # Errors
/// EFAULT if the memory is not the guest's own (see `guest_view`), or the error of `produce`.
fn copy_in_blocks(into: IoVectors<'_>, mut produce: impl FnMut(u64, &mut [u8]) -> Answer<()>) -> Answer<()> {
    let mut done = 0;
    while done < into.len() {
        let rest = into.after(done);
        let mut block = [0; BLOCK_LEN];
        let block = block.get_mut(..rest.len().min(BLOCK_LEN)).unwrap_or_default();
        produce(done as u64, block)?;
        if rest.copy_from(block) < block.len() {
            return Err(Errno::EFAULT);
        }
        done = done.saturating_add(block.len());
    }
    Ok(())
}
