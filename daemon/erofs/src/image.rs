//! An open image: its superblock, and the addresses of its devices.

use zerocopy::IntoBytes as _;

use crate::abi::{self, InodeCompact, InodeExtended};
use crate::error::{Corruption, OpenError, ReadError};
use crate::inode::{self, Inode, Kind, Nid};
use crate::limits::BLOCK_SIZE;
use crate::source::{self, Source};
use crate::superblock::{Device, Superblock};
use crate::xattr_prefix::{self, Prefix};

/// Open image.
#[derive(Debug)]
pub struct Image<S> {
    pub(crate) source: S,
    pub(crate) superblock: Superblock,
    /// Unified addresses of the devices, in their order.
    spans: Vec<Span>,
    /// Bits of a device number that count.
    device_mask: u16,
    pub(crate) xattr_prefixes: Vec<Prefix>,
}

/// Unified addresses of one device: block numbers from `start` to before `end`.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
    index: u16,
}

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    /// Extra device, from 0, or `None` for the image itself.
    pub(crate) device: Option<u16>,
    /// Byte in the device.
    pub(crate) offset: u64,
    /// Bytes of the device.
    pub(crate) device_bytes: u64,
}

impl<S: Source> Image<S> {
    /// Opens an image.
    ///
    /// `data_files` holds the lengths in bytes of the extra devices, in the order of the device
    /// table.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. The superblock, the device table, the prefixes of extended attribute
    /// names and the root inode are checked. Other inodes are checked at each use.
    pub fn open(source: S, data_files: &[u64]) -> Result<Self, OpenError> {
        let superblock = Self::probe(&source)?;
        superblock.check_lengths(source.len(), data_files)?;
        let spans = spans(&superblock)?;
        let xattr_prefixes = xattr_prefix::read_prefixes(&source, &superblock)?;
        let devices = u32::try_from(superblock.devices.len()).unwrap_or(u32::MAX);
        let bits = devices.saturating_add(1).checked_next_power_of_two().unwrap_or(u32::MAX);
        let device_mask = u16::try_from(bits.saturating_sub(1)).unwrap_or(u16::MAX);
        let image = Self { source, superblock, spans, device_mask, xattr_prefixes };
        let root = image.inode(image.superblock.root).map_err(OpenError::Root)?;
        if root.kind == Kind::Directory { Ok(image) } else { Err(OpenError::RootKind) }
    }

    /// Reads the superblock and the device table, for the names of the data files.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. The lengths are not checked.
    pub fn probe(source: &S) -> Result<Superblock, OpenError> {
        Superblock::read(source)
    }

    /// Reads an inode.
    ///
    /// # Errors
    ///
    /// The number is outside the image, or the bytes there are no inode. A number that is not the
    /// position of an inode may succeed: then the result describes other bytes of the image.
    pub fn inode(&self, nid: Nid) -> Result<Inode, ReadError> {
        let corrupt = |what| ReadError::Corrupt { nid: nid.0, what };
        let position = nid.0.checked_mul(abi::INODE_SLOT);
        let position = position.and_then(|at| at.checked_add(self.superblock.inodes_start));
        let position = position.filter(|at| *at < self.source.len());
        let position = position.ok_or_else(|| corrupt(Corruption::Position))?;
        let compact: InodeCompact = source::read(&self.source, position)?;
        let format = compact.i_format.get();
        if format & !abi::I_ALL != 0 {
            return Err(corrupt(Corruption::Format(format)));
        }
        let epoch = self.superblock.epoch;
        let fields = if format & abi::I_VERSION_EXTENDED == 0 {
            inode::compact(&compact, epoch)
        } else {
            let mut bytes = [0; size_of::<InodeExtended>()];
            let (first, second) = bytes.split_at_mut(size_of::<InodeCompact>());
            first.copy_from_slice(compact.as_bytes());
            self.source.copy(position.saturating_add(abi::INODE_SLOT), second)?;
            inode::extended(&zerocopy::transmute!(bytes))
        };
        inode::decode(nid, position, &fields)
    }

    /// Returns the facts about the whole image.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Returns the extra devices, in the order of the table.
    pub fn devices(&self) -> &[Device] {
        &self.superblock.devices
    }

    /// Returns the source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Finds the place of a block. `device` is the number in the image: zero for a unified address.
    pub(crate) fn locate(&self, inode: &Inode, device: u16, block: u64) -> Result<Address, ReadError> {
        let number = device & self.device_mask;
        if let Some(index) = number.checked_sub(1) {
            let device = self.superblock.devices.get(usize::from(index));
            let device = device.ok_or_else(|| inode.corrupt(Corruption::DeviceNumber(number)))?;
            return address(inode, Some(index), block, device.bytes());
        }
        let after = self.spans.partition_point(|span| span.start <= block);
        let span = after.checked_sub(1).and_then(|at| self.spans.get(at)).filter(|span| block < span.end);
        let Some(span) = span else {
            return address(inode, None, block, self.source.len());
        };
        let bytes = span.end.saturating_sub(span.start).saturating_mul(BLOCK_SIZE);
        address(inode, Some(span.index), block.saturating_sub(span.start), bytes)
    }
}

/// Returns the address of `block` in a device of `device_bytes`.
fn address(inode: &Inode, device: Option<u16>, block: u64, device_bytes: u64) -> Result<Address, ReadError> {
    let offset = block.checked_mul(BLOCK_SIZE).filter(|offset| *offset < device_bytes);
    let offset = offset.ok_or_else(|| inode.corrupt(Corruption::DataRange))?;
    Ok(Address { device, offset, device_bytes })
}

/// Sorts the unified addresses of the devices, and refuses two that overlap.
fn spans(superblock: &Superblock) -> Result<Vec<Span>, OpenError> {
    let mut spans = Vec::new();
    let mut index = 0;
    for device in &superblock.devices {
        if device.first_block != 0 && device.blocks != 0 {
            let end = device.first_block.saturating_add(device.blocks);
            spans.push(Span { start: device.first_block, end, index });
        }
        index = u16::saturating_add(index, 1);
    }
    spans.sort_by_key(|span| span.start);
    let mut used = superblock.blocks;
    for span in &spans {
        if span.start < used {
            return Err(OpenError::DeviceOverlap { index: usize::from(span.index) });
        }
        used = span.end;
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::abi::DeviceSlot;
    use crate::crc32c::crc32c;
    use crate::error::Refused;
    use crate::fixture::Fixture;

    /// Returns an image with a root directory and a device of 4 blocks from block `first` on.
    fn with_device(first: u32) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.root(&[(b".", 0, 2), (b"..", 0, 2)]);
        let mut slot = DeviceSlot::new_zeroed();
        slot.blocks_lo = 4.into();
        slot.uniaddr_lo = first.into();
        fixture.superblock.feature_incompat = 0x8.into();
        fixture.devices.push(slot);
        fixture
    }

    fn refusal(bytes: &[u8], data_files: &[u64]) -> OpenError {
        Image::open(bytes, data_files).unwrap_err()
    }

    #[test]
    fn data_files_must_match_the_device_table() {
        let bytes = with_device(100).bytes();
        Image::open(bytes.as_slice(), &[16_384]).unwrap();
        assert_eq!(refusal(&bytes, &[]), OpenError::DataFiles { needed: 1, given: 0 });
        let short = OpenError::DataFileTruncated { index: 0, needed: 16_384, present: 16_383 };
        assert_eq!(refusal(&bytes, &[16_383]), short);
    }

    #[test]
    fn overlapping_unified_addresses_are_refused() {
        assert_eq!(refusal(&with_device(2).bytes(), &[16_384]), OpenError::DeviceOverlap { index: 0 });
        let mut twice = with_device(100);
        let mut second = twice.devices[0];
        second.uniaddr_lo = 103.into();
        twice.devices.push(second);
        assert_eq!(refusal(&twice.bytes(), &[16_384; 2]), OpenError::DeviceOverlap { index: 1 });
    }

    #[test]
    fn cut_off_image_is_refused() {
        let bytes = with_device(100).bytes();
        let (needed, present) = (bytes.len() as u64, bytes.len() as u64 - 1);
        assert_eq!(refusal(&bytes[..bytes.len() - 1], &[16_384]), OpenError::Truncated { needed, present });
        assert!(matches!(refusal(&bytes[..1100], &[16_384]), OpenError::Source(_)));
        assert!(matches!(refusal(&[0; 4096], &[]), OpenError::NotErofs));
    }

    #[test]
    fn checksum_is_verified_when_the_superblock_has_one() {
        let mut fixture = with_device(100);
        fixture.superblock.feature_compat = 1.into();
        let mut bytes = fixture.bytes();
        assert_eq!(refusal(&bytes, &[16_384]), OpenError::Checksum);
        let crc = crc32c(!0, &bytes[1024..4096]);
        bytes[1028..1032].copy_from_slice(crc.as_bytes());
        Image::open(bytes.as_slice(), &[16_384]).unwrap();
    }

    #[test]
    fn each_unsupported_feature_is_named() {
        let refused = |set: &dyn Fn(&mut Fixture)| {
            let mut fixture = Fixture::new();
            fixture.root(&[(b".", 0, 2), (b"..", 0, 2)]);
            set(&mut fixture);
            refusal(&fixture.bytes(), &[])
        };
        for (bit, feature) in [
            (0x2, Refused::CompressionConfigs),
            (0x10, Refused::TailPacking),
            (0x20, Refused::Fragments),
            (0x100, Refused::Metabox),
            (0x200, Refused::Unknown(0x200)),
        ] {
            let found = refused(&|fixture| fixture.superblock.feature_incompat = bit.into());
            assert_eq!(found, OpenError::Refused(feature));
        }
        let lz4 = refused(&|fixture| {
            fixture.superblock.feature_incompat = 1.into();
            fixture.superblock.u1 = 65_535.into();
        });
        assert_eq!(lz4, OpenError::Refused(Refused::Lz4));
        let tar = refused(&|fixture| fixture.superblock.blkszbits = 9);
        assert_eq!(tar, OpenError::Refused(Refused::BlockSize(9)));
        assert!(tar.to_string().contains("mkfs.erofs -b4096"), "{tar}");
    }

    #[test]
    fn root_must_be_a_directory() {
        let mut fixture = Fixture::new();
        fixture.extended(|inode| (inode.i_format, inode.i_mode) = (1.into(), 0o100_644.into()), &[]);
        assert_eq!(refusal(&fixture.bytes(), &[]), OpenError::RootKind);
    }
}
