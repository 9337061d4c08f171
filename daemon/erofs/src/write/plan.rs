//! The positions of everything in an image.

use super::entries::{self, DirectorySize, NamedInode};
use super::error::{InodeFault, WriteError};
use super::file::{self, CHUNK_INDEX, FileLayout};
use super::order::Order;
use super::place::{Footprint, Places, Rest};
use super::tree::{Content, NewDevice, NewInode, Tree};
use super::xattrs::SharedXattrs;
use crate::abi;
use crate::inode::{Kind, NANOSECONDS};
use crate::limits::{BLOCK_SIZE, MAX_DEVICES, MAX_SYMLINK};

/// Byte of the device table: the first multiple of a slot behind a superblock of 144 bytes.
pub(super) const DEVICE_TABLE: u64 = 1280;

/// Positions in an image that is not written yet.
#[derive(Debug)]
pub struct Plan<'t> {
    pub(super) tree: &'t Tree,
    pub(super) order: Order,
    pub(super) shared: SharedXattrs<'t>,
    /// Per position in the tree: byte of the inode, and its layout.
    placed: Vec<Placed>,
    /// Byte of the shared attributes.
    pub(super) shared_start: u64,
    /// Blocks of the image.
    pub(super) blocks: u64,
    pub(super) has_chunks: bool,
}

/// Position and layout of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) position: u64,
    pub(super) layout: Stored,
}

/// Placeholder of an inode that is not placed.
const NOWHERE: Placed = Placed { position: 0, layout: Stored::Nothing };

/// Where the content of an inode is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    /// Pipe or socket.
    Nothing,
    /// Device with its number.
    Device {
        number: u32,
    },
    File {
        layout: FileLayout,
        size: u64,
    },
    /// Full blocks from `first_block` on, and an inline tail.
    Directory {
        size: DirectorySize,
        first_block: u64,
    },
    /// Behind the inode.
    InlineSymlink {
        length: u64,
    },
    /// In a block of its own.
    SymlinkBlock {
        length: u64,
        block: u64,
    },
}

impl<'t> Plan<'t> {
    /// Checks a tree and finds all positions.
    ///
    /// # Errors
    ///
    /// The tree cannot be an image; see [`WriteError`].
    pub fn new(tree: &'t Tree) -> Result<Self, WriteError> {
        if tree.devices.len() > MAX_DEVICES {
            return Err(WriteError::TooManyDevices(tree.devices.len()));
        }
        let order = Order::of(tree)?;
        let shared = SharedXattrs::of(tree, &order)?;
        let mut plan = Self {
            tree,
            order,
            shared,
            placed: vec![NOWHERE; tree.inodes.len()],
            shared_start: 0,
            blocks: 0,
            has_chunks: false,
        };
        plan.place_inodes()?;
        plan.place_blocks();
        let devices = tree.devices.iter().map(|device| device.blocks);
        let all = devices.fold(plan.blocks, u64::saturating_add);
        if u32::try_from(all).is_err() { Err(WriteError::TooManyBlocks(all)) } else { Ok(plan) }
    }

    /// Finds the positions of the inodes, and then of the shared attributes.
    fn place_inodes(&mut self) -> Result<(), WriteError> {
        let slots = u64::try_from(self.tree.devices.len()).unwrap_or(u64::MAX);
        let mut places = Places::new(DEVICE_TABLE + slots * abi::DEVICE_SLOT);
        for &index in &self.order.inodes {
            let Some(inode) = self.tree.inodes.get(index) else { continue };
            let planned = self.footprint(inode).map_err(|fault| WriteError::Inode { index, fault });
            let (layout, footprint) = planned?;
            self.has_chunks |= matches!(layout, Stored::File { layout: FileLayout::Chunks { .. }, .. });
            if let Some(placed) = self.placed.get_mut(index) {
                *placed = Placed { position: places.place(footprint), layout };
            }
        }
        self.shared_start = places.end().next_multiple_of(4);
        Ok(())
    }

    /// Finds the blocks of the directories and of long symbolic links.
    fn place_blocks(&mut self) {
        let shared_bytes = u64::try_from(self.shared.bytes).unwrap_or(u64::MAX);
        self.blocks = self.shared_start.saturating_add(shared_bytes).div_ceil(BLOCK_SIZE);
        for &index in &self.order.inodes {
            let Some(placed) = self.placed.get_mut(index) else { continue };
            match &mut placed.layout {
                Stored::Directory { size, first_block } => {
                    *first_block = self.blocks;
                    self.blocks = self.blocks.saturating_add(size.blocks);
                }
                Stored::SymlinkBlock { block, .. } => {
                    *block = self.blocks;
                    self.blocks = self.blocks.saturating_add(1);
                }
                Stored::Nothing
                | Stored::Device { .. }
                | Stored::File { .. }
                | Stored::InlineSymlink { .. } => {}
            }
        }
    }

    /// Checks an inode, and returns its layout and the bytes it takes. Blocks are numbered later.
    fn footprint(&self, inode: &NewInode) -> Result<(Stored, Footprint), InodeFault> {
        if inode.permissions & !0o7777 != 0 {
            return Err(InodeFault::Permissions(inode.permissions));
        }
        if inode.mtime.nanoseconds >= NANOSECONDS {
            return Err(InodeFault::Nanoseconds(inode.mtime.nanoseconds));
        }
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let xattrs = bytes(self.shared.area(inode, 0)?.len());
        let footprint = |rest| Footprint { xattrs, rest };
        let none = footprint(Rest::Free(0));
        match &inode.content {
            Content::Directory(names) => {
                let size = entries::size(names.keys().map(Vec::as_slice));
                let tail = if size.tail == 0 { none } else { footprint(Rest::Tail(bytes(size.tail))) };
                Ok((Stored::Directory { size, first_block: 0 }, tail))
            }
            Content::Symlink(target) => {
                let length = bytes(target.len());
                if target.is_empty() || length > MAX_SYMLINK {
                    return Err(InodeFault::SymlinkLength(target.len()));
                }
                if target.contains(&0) {
                    return Err(InodeFault::SymlinkNul);
                }
                let inline = footprint(Rest::Symlink(length));
                let fits = inline.is_possible();
                Ok(if fits {
                    (Stored::InlineSymlink { length }, inline)
                } else {
                    (Stored::SymlinkBlock { length, block: 0 }, none)
                })
            }
            Content::File(file) => {
                let layout = file::layout(file, &self.tree.devices)?;
                let table = match layout {
                    FileLayout::Empty | FileLayout::Flat { .. } => 0,
                    // The attributes may end 4 bytes before the table can begin.
                    FileLayout::Chunks { count, .. } => xattrs % CHUNK_INDEX + count * CHUNK_INDEX,
                };
                Ok((Stored::File { layout, size: file.size }, footprint(Rest::Free(table))))
            }
            Content::CharacterDevice(number) | Content::BlockDevice(number) => {
                Ok((Stored::Device { number: *number }, none))
            }
            Content::Fifo | Content::Socket => Ok((Stored::Nothing, none)),
        }
    }

    /// Returns the number of inodes.
    pub fn inode_count(&self) -> u64 {
        u64::try_from(self.order.inodes.len()).unwrap_or(u64::MAX)
    }

    /// Returns the length of the image in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK_SIZE)
    }

    /// Returns the position and layout of the inode at `index` of the tree.
    pub(super) fn placed(&self, index: usize) -> Placed {
        self.placed.get(index).copied().unwrap_or(NOWHERE)
    }

    /// Returns the number of the inode at `index` of the tree.
    pub(super) fn nid(&self, index: usize) -> u64 {
        self.placed(index).position / abi::INODE_SLOT
    }

    /// Returns the unified address of the first block of each device: they follow the image.
    pub(super) fn first_blocks(&self) -> Vec<u64> {
        let mut next = self.blocks;
        let advance = |device: &NewDevice| {
            let first = next;
            next = next.saturating_add(device.blocks);
            first
        };
        self.tree.devices.iter().map(advance).collect()
    }

    /// Returns the entries of the directory at `index` of the tree, sorted.
    pub(super) fn entries(&self, index: usize) -> Vec<NamedInode<'t>> {
        let parent = self.order.parents.get(index).copied().unwrap_or_default();
        let kind = Kind::Directory;
        let mut entries = vec![
            NamedInode { name: b".", nid: self.nid(index), kind },
            NamedInode { name: b"..", nid: self.nid(parent), kind },
        ];
        let content = self.tree.inodes.get(index).map(|inode| &inode.content);
        if let Some(Content::Directory(names)) = content {
            for (name, child) in names {
                let kind = self.tree.inodes.get(child.get()).map(|inode| inode.content.kind());
                let kind = kind.unwrap_or(Kind::Regular);
                entries.push(NamedInode { name, nid: self.nid(child.get()), kind });
            }
        }
        entries.sort_unstable_by_key(|entry| entry.name);
        entries
    }
}
