//! The superblock and the device table: decoded and checked at start.

use crate::abi::{self, SuperBlock as Raw};
use crate::crc32c::crc32c;
use crate::error::{OpenError, Refused};
use crate::inode::{NANOSECONDS, Nid, Time};
use crate::limits::{BLOCK_LEN, BLOCK_SIZE};
use crate::source::{self, Source};

bitflags::bitflags! {
    /// Features that a reader may ignore. Unknown bits are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Compatible: u32 {
        /// The superblock has a checksum.
        const SB_CHKSUM = 0x1;
        /// Inodes hold the modification time.
        const MTIME = 0x2;
        /// Headers of extended attributes hold a filter over the names.
        const XATTR_FILTER = 0x4;
        /// Shared extended attributes are in the metabox.
        const SHARED_EA_IN_METABOX = 0x8;
        /// Prefixes of extended attribute names are not in a packed inode.
        const PLAIN_XATTR_PFX = 0x10;
        /// Inodes hold digests of their data as an extended attribute.
        const ISHARE_XATTRS = 0x20;
        const _ = !0;
    }

    /// Features that a reader must know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Incompatible: u32 {
        /// LZ4 data is aligned to its end.
        const LZ4_0PADDING = 0x1;
        /// Compression has parameters. Large compressed extents have the same bit.
        const COMPR_CFGS = 0x2;
        /// Files may have chunks.
        const CHUNKED_FILE = 0x4;
        /// Data may be in extra devices. A second compression algorithm has the same bit.
        const DEVICE_TABLE = 0x8;
        /// Compressed ends are inline.
        const ZTAILPACKING = 0x10;
        /// File ends share an inode. Deduplication of compressed data has the same bit.
        const FRAGMENTS = 0x20;
        /// Extended attribute names may have long prefixes.
        const XATTR_PREFIXES = 0x40;
        /// Block addresses have 48 bits.
        const BITS_48 = 0x80;
        /// Metadata may be compressed.
        const METABOX = 0x100;
        const _ = !0;
    }
}

/// Facts about a whole image.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// Inode of the root directory.
    pub root: Nid,
    /// Number of inodes, as the image says. Nothing depends on it.
    pub inodes: u64,
    /// Blocks of the image itself, without the data files.
    pub blocks: u64,
    /// Identifier of the image.
    pub uuid: [u8; 16],
    /// Label, filled with zeros.
    pub volume_name: [u8; 16],
    /// Features that a reader may ignore.
    pub compatible: Compatible,
    /// Features that a reader must know.
    pub incompatible: Incompatible,
    /// Extra devices, in the order of the table.
    pub devices: Vec<Device>,
    /// Time that compact inodes count from.
    pub epoch: Time,
    /// Byte of nid 0.
    pub(crate) inodes_start: u64,
    /// Byte of shared extended attribute 0.
    pub(crate) xattrs_start: u64,
    /// Number of prefixes of extended attribute names.
    pub(crate) xattr_prefix_count: u8,
    /// Byte of the first prefix.
    pub(crate) xattr_prefixes_start: u64,
}

/// Extra device: a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Name or digest of the device, filled with zeros.
    pub tag: [u8; 64],
    /// Number of blocks.
    pub blocks: u64,
    /// Address of its first block among those of all devices. Zero: it has none.
    pub first_block: u64,
}

impl Device {
    /// Returns the length in bytes. The table limits a device to 2^48 blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK_SIZE)
    }
}

impl Superblock {
    /// Decodes the superblock and the device table.
    pub(crate) fn read(source: &(impl Source + ?Sized)) -> Result<Self, OpenError> {
        let raw: Raw = source::read(source, abi::SUPER_OFFSET)?;
        if raw.magic.get() != abi::SUPER_MAGIC {
            return Err(OpenError::NotErofs);
        }
        let compatible = Compatible::from_bits_retain(raw.feature_compat.get());
        let incompatible = Incompatible::from_bits_retain(raw.feature_incompat.get());
        refuse(&raw, compatible, incompatible).map_or(Ok(()), |refused| Err(OpenError::Refused(refused)))?;
        if compatible.contains(Compatible::SB_CHKSUM) {
            verify_checksum(source)?;
        }
        let bits_48 = incompatible.contains(Incompatible::BITS_48);
        let wide_root = bits_48 && raw.rootnid_8b.get() != 0;
        let root = if wide_root { raw.rootnid_8b.get() } else { u64::from(raw.rb.get()) };
        let blocks_hi = if wide_root { raw.rb.get() } else { 0 };
        let blocks = address(raw.blocks_lo.get(), blocks_hi);
        let table = u64::from(raw.devt_slotoff.get()) * abi::DEVICE_SLOT;
        let nanoseconds = raw.fixed_nsec.get();
        if nanoseconds >= NANOSECONDS {
            return Err(OpenError::Nanoseconds(nanoseconds));
        }
        if abi::SUPER_OFFSET + 128 + u64::from(raw.sb_extslots) * abi::SUPER_SLOT > BLOCK_SIZE {
            return Err(OpenError::SuperblockSize(raw.sb_extslots));
        }
        let count =
            if incompatible.contains(Incompatible::DEVICE_TABLE) { raw.extra_devices.get() } else { 0 };
        Ok(Self {
            root: Nid(root),
            inodes: raw.inos.get(),
            blocks,
            uuid: raw.uuid,
            volume_name: raw.volume_name,
            compatible,
            incompatible,
            devices: read_devices(source, table, count, bits_48)?,
            epoch: Time { seconds: raw.epoch.get().cast_signed(), nanoseconds },
            inodes_start: u64::from(raw.meta_blkaddr.get()) * BLOCK_SIZE,
            xattrs_start: u64::from(raw.xattr_blkaddr.get()) * BLOCK_SIZE,
            xattr_prefix_count: raw.xattr_prefix_count,
            xattr_prefixes_start: u64::from(raw.xattr_prefix_start.get()) * 4,
        })
    }

    /// Checks the lengths of the image and its data files, and the addresses of the devices.
    pub(crate) fn check_lengths(&self, image: u64, data_files: &[u64]) -> Result<(), OpenError> {
        let needed = self.blocks.saturating_mul(BLOCK_SIZE);
        if image < needed {
            return Err(OpenError::Truncated { needed, present: image });
        }
        if data_files.len() != self.devices.len() {
            return Err(OpenError::DataFiles { needed: self.devices.len(), given: data_files.len() });
        }
        for (index, (device, &present)) in self.devices.iter().zip(data_files).enumerate() {
            let needed = device.bytes();
            if present < needed {
                return Err(OpenError::DataFileTruncated { index, needed, present });
            }
        }
        Ok(())
    }
}

/// Returns the first feature of an image that the reader does not have.
fn refuse(raw: &Raw, compatible: Compatible, incompatible: Incompatible) -> Option<Refused> {
    let has = |bit| incompatible.contains(bit);
    let known = Incompatible::all_named();
    let unknown = incompatible.bits() & !known.bits();
    let packed_prefixes = raw.xattr_prefix_count > 0
        && raw.packed_nid.get() != 0
        && !compatible.contains(Compatible::PLAIN_XATTR_PFX);
    [
        (raw.blkszbits != 12, Refused::BlockSize(raw.blkszbits)),
        (has(Incompatible::METABOX), Refused::Metabox),
        (compatible.contains(Compatible::SHARED_EA_IN_METABOX), Refused::Metabox),
        (has(Incompatible::COMPR_CFGS), Refused::CompressionConfigs),
        (has(Incompatible::LZ4_0PADDING) && raw.u1.get() != 0, Refused::Lz4),
        (has(Incompatible::ZTAILPACKING), Refused::TailPacking),
        (has(Incompatible::FRAGMENTS), Refused::Fragments),
        (packed_prefixes, Refused::PackedXattrPrefixes),
        (raw.dirblkbits != 0, Refused::DirectoryBlockSize),
        (unknown != 0, Refused::Unknown(unknown)),
    ]
    .into_iter()
    .find_map(|(present, refused)| present.then_some(refused))
}

impl Incompatible {
    /// Returns the bits that have names here.
    fn all_named() -> Self {
        Self::from_bits_retain((Self::METABOX.bits() << 1) - 1)
    }
}

/// Joins the two parts of a 48-bit address.
fn address(low: u32, high: u16) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Checks the checksum over the rest of the first block, with zeros in its own place.
fn verify_checksum(source: &(impl Source + ?Sized)) -> Result<(), OpenError> {
    const LEN: usize = BLOCK_LEN - 1024;
    let block: [u8; LEN] = source::read(source, abi::SUPER_OFFSET)?;
    let [m0, m1, m2, m3, c0, c1, c2, c3, rest @ ..] = &block;
    let crc = crc32c(crc32c(!0, &[*m0, *m1, *m2, *m3, 0, 0, 0, 0]), rest);
    if crc == u32::from_le_bytes([*c0, *c1, *c2, *c3]) { Ok(()) } else { Err(OpenError::Checksum) }
}

/// Reads `count` slots of the device table, which begins at `offset`.
fn read_devices(
    source: &(impl Source + ?Sized),
    offset: u64,
    count: u16,
    bits_48: bool,
) -> Result<Vec<Device>, OpenError> {
    let mut devices = Vec::new();
    for index in 0..u64::from(count) {
        let slot: abi::DeviceSlot = source::read(source, offset + index * abi::DEVICE_SLOT)?;
        let high = |value: u16| if bits_48 { value } else { 0 };
        devices.push(Device {
            tag: slot.tag,
            blocks: address(slot.blocks_lo.get(), high(slot.blocks_hi.get())),
            first_block: address(slot.uniaddr_lo.get(), high(slot.uniaddr_hi.get())),
        });
    }
    Ok(devices)
}
