//! Inodes: where they are, and how they are decoded.

use crate::abi::{self, InodeCompact, InodeExtended};
use crate::error::{Corruption, ReadError};
use crate::limits::BLOCK_SIZE;

/// Nanoseconds of a second.
pub(crate) const NANOSECONDS: u32 = 1_000_000_000;

/// Number of an inode: its position in the metadata, in units of 32 bytes. Any number may come from
/// a guest; [`inode`](crate::Image::inode) checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970. Negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Decoded inode. It holds no part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Number of the inode.
    pub nid: Nid,
    /// File type and permissions, as `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes, below 2^63.
    pub size: u64,
    /// Number of names, as the image says.
    pub nlink: u32,
    /// Modification time. EROFS has no other.
    pub mtime: Time,
    /// Device number, as `new_encode_dev` of Linux. Zero for other kinds than devices.
    pub rdev: u32,
    /// Kind, by `mode`.
    pub kind: Kind,
    pub(crate) layout: Layout,
    /// Byte in the image behind the fixed part.
    pub(crate) body: u64,
    /// Bytes of extended attributes at `body`.
    pub(crate) xattr_bytes: u32,
    /// Directory without an entry for `.`.
    pub(crate) dot_omitted: bool,
}

/// Where the data of an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// No data: a device, pipe or socket.
    Nothing,
    /// One hole.
    Hole,
    /// Contiguous blocks from `first_block` on.
    Flat { first_block: u64 },
    /// Contiguous blocks, with the last part behind the extended attributes.
    Inline { first_block: u64 },
    /// Chunks of `1 << bits` bytes.
    Chunks { bits: u32, entries: ChunkEntries },
}

/// Form of the table of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkEntries {
    /// 4-byte block addresses.
    Map,
    /// 8-byte entries with a device number. `address_mask` has the bits of an address.
    Indexes { address_mask: u64 },
}

/// Fields of an inode as they are in the image, in one form for both versions.
pub(crate) struct Fields {
    format: u16,
    xattr_count: u16,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    nlink: u32,
    mtime: Time,
    /// `i_u`.
    content: u32,
    /// High bits of the address of the first block, and the bits that the address has.
    block_high: u16,
    address_mask: u64,
    len: u64,
}

/// Takes the fields of a compact inode. `epoch` is the time that its own counts from.
pub(crate) fn compact(raw: &InodeCompact, epoch: Time) -> Fields {
    let (format, mode) = (raw.i_format.get(), raw.i_mode.get());
    let one_name = mode & S_IFMT != S_IFDIR && format & abi::I_NLINK_1 != 0;
    let seconds = epoch.seconds.saturating_add(i64::from(raw.i_mtime.get()));
    Fields {
        format,
        xattr_count: raw.i_xattr_icount.get(),
        mode,
        uid: u32::from(raw.i_uid.get()),
        gid: u32::from(raw.i_gid.get()),
        size: u64::from(raw.i_size.get()),
        nlink: if one_name { 1 } else { u32::from(raw.i_nb.get()) },
        mtime: Time { seconds, ..epoch },
        content: raw.i_u.get(),
        block_high: if one_name { raw.i_nb.get() } else { 0 },
        address_mask: if one_name { abi::ADDR_48 } else { abi::ADDR_32 },
        len: 32,
    }
}

/// Takes the fields of an extended inode.
pub(crate) fn extended(raw: &InodeExtended) -> Fields {
    Fields {
        format: raw.i_format.get(),
        xattr_count: raw.i_xattr_icount.get(),
        mode: raw.i_mode.get(),
        uid: raw.i_uid.get(),
        gid: raw.i_gid.get(),
        size: raw.i_size.get(),
        nlink: raw.i_nlink.get(),
        mtime: Time { seconds: raw.i_mtime.get().cast_signed(), nanoseconds: raw.i_mtime_nsec.get() },
        content: raw.i_u.get(),
        block_high: raw.i_nb.get(),
        address_mask: abi::ADDR_48,
        len: 64,
    }
}

const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;

/// Decodes the kind in a mode.
fn kind(mode: u16) -> Option<Kind> {
    match mode & S_IFMT {
        0o100_000 => Some(Kind::Regular),
        S_IFDIR => Some(Kind::Directory),
        0o120_000 => Some(Kind::Symlink),
        0o020_000 => Some(Kind::CharacterDevice),
        0o060_000 => Some(Kind::BlockDevice),
        0o010_000 => Some(Kind::Fifo),
        0o140_000 => Some(Kind::Socket),
        _ => None,
    }
}

/// Checks the fields of the inode at byte `position`.
pub(crate) fn decode(nid: Nid, position: u64, fields: &Fields) -> Result<Inode, ReadError> {
    let corrupt = |what| ReadError::Corrupt { nid: nid.0, what };
    let kind = kind(fields.mode).ok_or_else(|| corrupt(Corruption::Mode(fields.mode)))?;
    if i64::try_from(fields.size).is_err() {
        return Err(corrupt(Corruption::Size));
    }
    if fields.mtime.nanoseconds >= NANOSECONDS {
        return Err(corrupt(Corruption::Nanoseconds(fields.mtime.nanoseconds)));
    }
    let (layout, rdev) = match kind {
        Kind::Regular | Kind::Directory | Kind::Symlink => (layout(nid, fields)?, 0),
        Kind::CharacterDevice | Kind::BlockDevice => (Layout::Nothing, fields.content),
        Kind::Fifo | Kind::Socket => (Layout::Nothing, 0),
    };
    let xattr_bytes = match fields.xattr_count.checked_sub(1) {
        Some(words) => 12 + 4 * u32::from(words),
        None => 0,
    };
    Ok(Inode {
        nid,
        mode: fields.mode,
        uid: fields.uid,
        gid: fields.gid,
        size: fields.size,
        nlink: fields.nlink,
        mtime: fields.mtime,
        rdev,
        kind,
        layout,
        body: position.saturating_add(fields.len),
        xattr_bytes,
        dot_omitted: kind == Kind::Directory && fields.format & abi::I_DOT_OMITTED != 0,
    })
}

/// Decodes where the data is.
fn layout(nid: Nid, fields: &Fields) -> Result<Layout, ReadError> {
    let corrupt = |what| ReadError::Corrupt { nid: nid.0, what };
    let first_block = u64::from(fields.content) | u64::from(fields.block_high) << 32;
    match fields.format >> abi::I_LAYOUT_SHIFT & abi::I_LAYOUT_MASK {
        abi::LAYOUT_FLAT_PLAIN if (first_block ^ abi::NULL_ADDR) & fields.address_mask == 0 => {
            Ok(Layout::Hole)
        }
        abi::LAYOUT_FLAT_PLAIN => Ok(Layout::Flat { first_block }),
        abi::LAYOUT_FLAT_INLINE => Ok(Layout::Inline { first_block }),
        abi::LAYOUT_CHUNK_BASED => {
            let [low, high, ..] = fields.content.to_le_bytes();
            let format = u16::from_le_bytes([low, high]);
            if format & !abi::CHUNK_ALL != 0 {
                return Err(corrupt(Corruption::ChunkFormat(format)));
            }
            let address_mask = if format & abi::CHUNK_48BIT == 0 { abi::ADDR_32 } else { abi::ADDR_48 };
            let indexes = format & abi::CHUNK_INDEXES != 0;
            let entries = if indexes { ChunkEntries::Indexes { address_mask } } else { ChunkEntries::Map };
            let bits = BLOCK_SIZE.trailing_zeros() + u32::from(format & abi::CHUNK_BITS_MASK);
            Ok(Layout::Chunks { bits, entries })
        }
        abi::LAYOUT_COMPRESSED_FULL | abi::LAYOUT_COMPRESSED_COMPACT => {
            Err(ReadError::Compressed { nid: nid.0 })
        }
        _ => Err(corrupt(Corruption::Format(fields.format))),
    }
}

impl Inode {
    /// Returns the error for a malformed part of this inode.
    pub(crate) fn corrupt(&self, what: Corruption) -> ReadError {
        ReadError::Corrupt { nid: self.nid.0, what }
    }

    /// Returns the byte in the image behind the extended attributes.
    pub(crate) fn tail(&self) -> u64 {
        self.body.saturating_add(u64::from(self.xattr_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::fixture::{Fixture, OwnedBytes};

    fn with_root(add: impl FnOnce(&mut Fixture) -> u64) -> (Image<OwnedBytes>, Nid) {
        let mut fixture = Fixture::new();
        fixture.root(&[(b".", 0, 2), (b"..", 0, 2)]);
        let nid = add(&mut fixture);
        (fixture.open(), Nid(nid))
    }

    #[test]
    fn compact_inode_takes_its_time_from_the_epoch() {
        let (image, nid) = with_root(|fixture| {
            let set = |inode: &mut InodeCompact| {
                inode.i_format = (1 << 4).into();
                inode.i_mode = 0o104_755.into();
                inode.i_mtime = 50.into();
                inode.i_size = 3.into();
                inode.i_uid = 1000.into();
                inode.i_gid = 2000.into();
                inode.i_nb = 0xffff.into();
                inode.i_u = u32::MAX.into();
            };
            fixture.compact(set, &[])
        });
        let inode = image.inode(nid).unwrap();
        assert_eq!(inode.mtime, Time { seconds: 1_050, nanoseconds: 7 });
        assert_eq!((inode.mode, inode.uid, inode.gid, inode.nlink), (0o104_755, 1000, 2000, 1));
        assert_eq!((inode.kind, inode.size, inode.layout), (Kind::Regular, 3, Layout::Hole));
    }

    #[test]
    fn device_number_belongs_to_devices_only() {
        for (mode, rdev, kind) in [
            (0o020_600, 0x0501, Kind::CharacterDevice),
            (0o060_600, 0x0501, Kind::BlockDevice),
            (0o010_600, 0, Kind::Fifo),
            (0o140_600, 0, Kind::Socket),
        ] {
            let (image, nid) = with_root(|fixture| {
                let set = |inode: &mut InodeExtended| {
                    inode.i_format = 1.into();
                    inode.i_mode = mode.into();
                    inode.i_u = 0x0501.into();
                };
                fixture.extended(set, &[])
            });
            let inode = image.inode(nid).unwrap();
            assert_eq!((inode.kind, inode.rdev), (kind, rdev));
        }
    }

    #[test]
    fn malformed_fields_are_errors() {
        type Set = fn(&mut InodeExtended);
        let cases: [(Set, Corruption); 6] = [
            (|inode| inode.i_format = 0x21.into(), Corruption::Format(0x21)),
            (|inode| inode.i_format = (1 | 5 << 1).into(), Corruption::Format(1 | 5 << 1)),
            (|inode| inode.i_mode = 0o644.into(), Corruption::Mode(0o644)),
            (|inode| inode.i_size = (1 << 63).into(), Corruption::Size),
            (|inode| inode.i_mtime_nsec = 1_000_000_000.into(), Corruption::Nanoseconds(1_000_000_000)),
            (
                |inode| (inode.i_format, inode.i_u) = ((1 | 4 << 1).into(), 0x80.into()),
                Corruption::ChunkFormat(0x80),
            ),
        ];
        for (set, what) in cases {
            let (image, nid) = with_root(|fixture| {
                let valid = |inode: &mut InodeExtended| {
                    (inode.i_format, inode.i_mode) = (1.into(), 0o100_644.into());
                    set(inode);
                };
                fixture.extended(valid, &[])
            });
            assert_eq!(image.inode(nid), Err(ReadError::Corrupt { nid: nid.0, what }));
        }
    }

    #[test]
    fn compressed_inode_is_named() {
        let (image, nid) = with_root(|fixture| {
            let set = |inode: &mut InodeExtended| {
                (inode.i_format, inode.i_mode) = ((1 | 3 << 1).into(), 0o100_644.into());
            };
            fixture.extended(set, &[])
        });
        assert_eq!(image.inode(nid), Err(ReadError::Compressed { nid: nid.0 }));
    }

    #[test]
    fn number_outside_the_image_is_an_error() {
        let (image, _) = with_root(|_| 0);
        for nid in [127, 128, 1 << 32, u64::MAX / 32, u64::MAX] {
            assert!(image.inode(Nid(nid)).is_err(), "{nid}");
        }
    }
}
