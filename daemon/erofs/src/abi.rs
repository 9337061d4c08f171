//! The structures of `fs/erofs/erofs_fs.h` in Linux 6.18, in its spelling.
//!
//! All numbers are little endian and unaligned, so a struct can be read at any offset of an image.

#![expect(clippy::struct_field_names, reason = "the spelling of the kernel's header")]

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset in bytes of the superblock.
pub(crate) const SUPER_OFFSET: u64 = 1024;
pub(crate) const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes of an extension slot behind the superblock.
pub(crate) const SUPER_SLOT: u64 = 16;
/// Bytes of a slot of the device table, and the unit of its position.
pub(crate) const DEVICE_SLOT: u64 = 128;
/// Unit in bytes of a nid.
pub(crate) const INODE_SLOT: u64 = 32;

/// Block address of a hole, before it is cut to the bits of its field.
pub(crate) const NULL_ADDR: u64 = u64::MAX;
pub(crate) const ADDR_32: u64 = (1 << 32) - 1;
pub(crate) const ADDR_48: u64 = (1 << 48) - 1;

pub(crate) const LAYOUT_FLAT_PLAIN: u16 = 0;
pub(crate) const LAYOUT_COMPRESSED_FULL: u16 = 1;
pub(crate) const LAYOUT_FLAT_INLINE: u16 = 2;
pub(crate) const LAYOUT_COMPRESSED_COMPACT: u16 = 3;
pub(crate) const LAYOUT_CHUNK_BASED: u16 = 4;

pub(crate) const I_VERSION_EXTENDED: u16 = 1;
pub(crate) const I_LAYOUT_SHIFT: u32 = 1;
pub(crate) const I_LAYOUT_MASK: u16 = 7;
/// In compact inodes of other kinds than directories: `i_nb` holds address bits, nlink is 1.
pub(crate) const I_NLINK_1: u16 = 1 << 4;
/// In directories: no entry for `.`.
pub(crate) const I_DOT_OMITTED: u16 = 1 << 4;
pub(crate) const I_ALL: u16 = (1 << 5) - 1;

pub(crate) const CHUNK_BITS_MASK: u16 = 0x1f;
pub(crate) const CHUNK_INDEXES: u16 = 0x20;
pub(crate) const CHUNK_48BIT: u16 = 0x40;
pub(crate) const CHUNK_ALL: u16 = 0x7f;

pub(crate) const XATTR_LONG_PREFIX: u8 = 0x80;

/// Defines structs of the format, and checks the length of each in bytes.
macro_rules! disk {
    ($(struct $name:ident = $size:literal { $($(#[$doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: $kind,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

disk! {
    struct SuperBlock = 128 {
        magic: U32,
        checksum: U32,
        feature_compat: U32,
        blkszbits: u8,
        sb_extslots: u8,
        /// Root nid, or with 48BIT the high bits of `blocks`.
        rb: U16,
        inos: U64,
        epoch: U64,
        fixed_nsec: U32,
        blocks_lo: U32,
        meta_blkaddr: U32,
        xattr_blkaddr: U32,
        uuid: [u8; 16],
        volume_name: [u8; 16],
        feature_incompat: U32,
        /// `lz4_max_distance`, or with COMPR_CFGS the algorithms.
        u1: U16,
        extra_devices: U16,
        devt_slotoff: U16,
        dirblkbits: u8,
        xattr_prefix_count: u8,
        xattr_prefix_start: U32,
        packed_nid: U64,
        xattr_filter_reserved: u8,
        ishare_xattr_prefix_id: u8,
        reserved: [u8; 2],
        build_time: U32,
        rootnid_8b: U64,
        reserved2: U64,
    }

    struct DeviceSlot = 128 {
        tag: [u8; 64],
        blocks_lo: U32,
        uniaddr_lo: U32,
        blocks_hi: U16,
        uniaddr_hi: U16,
        reserved: [u8; 52],
    }

    struct InodeCompact = 32 {
        i_format: U16,
        i_xattr_icount: U16,
        i_mode: U16,
        /// nlink, or high bits of an address.
        i_nb: U16,
        i_size: U32,
        i_mtime: U32,
        /// Address of the first block, device number, or chunk format.
        i_u: U32,
        i_ino: U32,
        i_uid: U16,
        i_gid: U16,
        i_reserved: U32,
    }

    struct InodeExtended = 64 {
        i_format: U16,
        i_xattr_icount: U16,
        i_mode: U16,
        i_nb: U16,
        i_size: U64,
        i_u: U32,
        i_ino: U32,
        i_uid: U32,
        i_gid: U32,
        i_mtime: U64,
        i_mtime_nsec: U32,
        i_nlink: U32,
        i_reserved2: [u8; 16],
    }

    struct Dirent = 12 {
        nid: U64,
        nameoff: U16,
        file_type: u8,
        reserved: u8,
    }

    struct ChunkIndex = 8 {
        startblk_hi: U16,
        device_id: U16,
        startblk_lo: U32,
    }

    struct XattrHeader = 12 {
        h_name_filter: U32,
        h_shared_count: u8,
        h_reserved2: [u8; 7],
    }

    struct XattrEntry = 4 {
        e_name_len: u8,
        e_name_index: u8,
        e_value_size: U16,
    }
}
