//! A small image for unit tests, assembled byte by byte, with forms that the writer does not use.

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{DeviceSlot, Dirent, InodeCompact, InodeExtended, SUPER_MAGIC, SuperBlock};
use crate::image::Image;

/// Block of the first inode.
const META_BLOCK: usize = 2;

/// Image under construction: superblock, one block of shared attributes, then inodes.
pub(crate) struct Fixture {
    pub(crate) superblock: SuperBlock,
    pub(crate) devices: Vec<DeviceSlot>,
    pub(crate) shared: Vec<u8>,
    pub(crate) inodes: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut superblock = SuperBlock::new_zeroed();
        superblock.magic = SUPER_MAGIC.into();
        superblock.blkszbits = 12;
        superblock.meta_blkaddr = 2.into();
        superblock.xattr_blkaddr = 1.into();
        superblock.epoch = 1_000.into();
        superblock.fixed_nsec = 7.into();
        superblock.devt_slotoff = 10.into();
        Self { superblock, devices: Vec::new(), shared: Vec::new(), inodes: Vec::new(), data: Vec::new() }
    }

    /// Adds an extended inode with `body` behind it, and returns its nid.
    pub(crate) fn extended(&mut self, set: impl FnOnce(&mut InodeExtended), body: &[u8]) -> u64 {
        let mut inode = InodeExtended::new_zeroed();
        inode.i_nlink = 1.into();
        set(&mut inode);
        self.add(inode.as_bytes(), body)
    }

    /// Adds a compact inode with `body` behind it, and returns its nid.
    pub(crate) fn compact(&mut self, set: impl FnOnce(&mut InodeCompact), body: &[u8]) -> u64 {
        let mut inode = InodeCompact::new_zeroed();
        set(&mut inode);
        self.add(inode.as_bytes(), body)
    }

    fn add(&mut self, inode: &[u8], body: &[u8]) -> u64 {
        let nid = self.inodes.len() / 32;
        self.inodes.extend_from_slice(inode);
        self.inodes.extend_from_slice(body);
        self.inodes.resize(self.inodes.len().next_multiple_of(32), 0);
        nid as u64
    }

    /// Returns the nid that the next inode gets.
    pub(crate) fn next_nid(&self) -> u64 {
        self.inodes.len() as u64 / 32
    }

    /// Adds a block of data behind the inodes. Returns its distance from the first such block.
    pub(crate) fn block(&mut self, bytes: &[u8]) -> usize {
        let block = self.data.len() / 4096;
        self.data.extend_from_slice(bytes);
        self.data.resize((block + 1) * 4096, 0);
        block
    }

    /// Adds an inline directory as the root.
    pub(crate) fn root(&mut self, entries: &[(&[u8], u64, u8)]) {
        let nid = self.next_nid();
        let content = directory_block(entries);
        let set = |inode: &mut InodeExtended| {
            inode.i_format = (1 | 2 << 1).into();
            inode.i_mode = 0o040_755.into();
            inode.i_size = (content.len() as u64).into();
        };
        self.extended(set, &content);
        self.superblock.rb = u16::try_from(nid).unwrap().into();
    }

    /// Returns the number of the first data block.
    pub(crate) fn data_start(&self) -> usize {
        META_BLOCK + self.inodes.len().div_ceil(4096)
    }

    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let end = self.data_start() * 4096;
        let mut bytes = vec![0; end];
        bytes[META_BLOCK * 4096..][..self.inodes.len()].copy_from_slice(&self.inodes);
        bytes[4096..][..self.shared.len()].copy_from_slice(&self.shared);
        bytes[1280..][..self.devices.len() * 128].copy_from_slice(self.devices.as_bytes());
        bytes.extend_from_slice(&self.data);
        let mut superblock = self.superblock;
        superblock.blocks_lo = u32::try_from(bytes.len() / 4096).unwrap().into();
        superblock.extra_devices = u16::try_from(self.devices.len()).unwrap().into();
        bytes[1024..1152].copy_from_slice(superblock.as_bytes());
        bytes
    }

    /// Opens the image with data files that are as long as their devices.
    pub(crate) fn open(&self) -> Image<OwnedBytes> {
        let lengths: Vec<_> =
            self.devices.iter().map(|slot| u64::from(slot.blocks_lo.get()) * 4096).collect();
        Image::open(OwnedBytes(self.bytes()), &lengths).unwrap()
    }
}

/// Returns a directory block. `entries`: name, nid, file type.
pub(crate) fn directory_block(entries: &[(&[u8], u64, u8)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut offset = entries.len() * 12;
    for (name, nid, file_type) in entries {
        let nameoff = u16::try_from(offset).unwrap().into();
        let dirent = Dirent { nid: (*nid).into(), nameoff, file_type: *file_type, reserved: 0 };
        block.extend_from_slice(dirent.as_bytes());
        offset += name.len();
    }
    for (name, _, _) in entries {
        block.extend_from_slice(name);
    }
    block
}

/// Bytes of an image.
#[derive(Debug)]
pub(crate) struct OwnedBytes(pub(crate) Vec<u8>);

impl crate::Source for OwnedBytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), crate::SourceError> {
        self.0.as_slice().copy(offset, into)
    }
}
