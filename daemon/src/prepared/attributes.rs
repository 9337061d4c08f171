//! GETATTR, STATX, ACCESS, STATFS, GETXATTR and LISTXATTR.

use super::Prepared;
use crate::file_id::DeviceId;
use crate::filesystem::{Answer, Call, ListNames, permits};
use crate::limits::XATTR_LEN_MAX;
use pinhole_erofs::{BLOCK_SIZE, Inode, Kind, Time};
use pinhole_policy::XattrNamespace;
use pinhole_protocol::{
    self as protocol, AccessMask, Attr, Errno, GetXattr, NodeId, Statfs, Statx, Timestamp,
};
use rustix::fs::StatxFlags;
use std::ops::ControlFlow;

/// [`BLOCK_SIZE`] in replies.
const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_SIZE);

/// Bytes of the unit in which the number of blocks of a file is counted.
const UNIT: u64 = 512;

/// Maximum length of a name in bytes.
const NAME_LEN_MAX: u32 = 255;

impl Prepared {
    pub(super) fn get_attr(&self, node: NodeId) -> Answer<Attr> {
        Ok(self.attr(&self.inode(node)?))
    }

    /// Returns the attributes of an inode. An image has one time of each: that of the last change
    /// of the data.
    pub(super) fn attr(&self, inode: &Inode) -> Attr {
        let time = timestamp(inode.mtime);
        Attr {
            ino: inode.nid.0,
            size: inode.size,
            blocks: blocks(inode),
            atime: time,
            mtime: time,
            ctime: time,
            mode: inode.mode.into(),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            blksize: BLOCK,
            submount: false,
            dax: self.has_window && inode.kind == Kind::Regular && self.contiguous(inode).is_some(),
        }
    }

    pub(super) fn get_statx(&self, node: NodeId) -> Answer<Statx> {
        let inode = self.inode(node)?;
        let (time, rdev) = (timestamp(inode.mtime), DeviceId::unpack(inode.rdev));
        Ok(Statx {
            mask: StatxFlags::BASIC_STATS.bits(),
            blksize: BLOCK,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            mode: inode.mode,
            ino: inode.nid.0,
            size: inode.size,
            blocks: blocks(&inode),
            atime: time,
            ctime: time,
            mtime: time,
            rdev_major: rdev.major,
            rdev_minor: rdev.minor,
            ..Statx::default()
        })
    }

    pub(super) fn access(&self, call: &Call<'_, protocol::Access>) -> Answer<()> {
        let inode = self.inode(call.node)?;
        let wanted = call.operation.mask;
        // Devices, pipes and sockets are not part of the file system that cannot be written.
        let has_content = matches!(inode.kind, Kind::Regular | Kind::Directory | Kind::Symlink);
        if has_content && wanted.contains(AccessMask::WRITE) {
            return Err(Errno::EROFS);
        }
        if permits(&self.attr(&inode), &call.caller, wanted) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Returns the figures of the image and its data files, all of which are used.
    pub(super) fn stat_fs(&self, node: NodeId) -> Answer<Statfs> {
        self.inode(node)?;
        let superblock = self.image.superblock();
        let blocks = superblock.devices.iter().map(|device| device.blocks);
        Ok(Statfs {
            blocks: blocks.fold(superblock.blocks, u64::saturating_add),
            files: superblock.inodes,
            bsize: BLOCK,
            namelen: NAME_LEN_MAX,
            frsize: BLOCK,
            ..Statfs::default()
        })
    }

    pub(super) fn get_xattr(&self, node: NodeId, get: GetXattr<'_>, out: &mut Vec<u8>) -> Answer<u32> {
        let inode = self.inode(node)?;
        let name = get.name.to_bytes();
        // As for a directory: no access of the policy covers these names.
        if XattrNamespace::of(name) == XattrNamespace::Other {
            return Err(Errno::EOPNOTSUPP);
        }
        let value = self.image.get_xattr(&inode, name, out).map_err(|error| self.errno(error, Errno::EIO))?;
        let len = u32::try_from(value.ok_or(Errno::ENODATA)?).map_err(|_long| Errno::E2BIG)?;
        fitted(len, get.size, out)
    }

    /// Lists the names that the policy grants to read. `trusted.*` is among them only if it does.
    pub(super) fn list_xattr(&self, node: NodeId, list: ListNames, out: &mut Vec<u8>) -> Answer<u32> {
        let inode = self.inode(node)?;
        let listed = self.image.xattrs(&inode, &mut |name, _value_len| {
            let namespace = XattrNamespace::of(name);
            if namespace != XattrNamespace::Other && list.readable.contains(namespace.read()) {
                out.extend_from_slice(name);
                out.push(0);
            }
            if out.len() > XATTR_LEN_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        listed.map_err(|error| self.errno(error, Errno::EIO))?;
        if out.len() > XATTR_LEN_MAX {
            return Err(Errno::E2BIG);
        }
        let len = u32::try_from(out.len()).map_err(|_long| Errno::E2BIG)?;
        fitted(len, list.size, out)
    }
}

/// Returns the length of a reply of `len` bytes to a guest with `room` bytes. A guest without room
/// gets the length alone.
fn fitted(len: u32, room: u32, out: &mut Vec<u8>) -> Answer<u32> {
    if room < len {
        out.clear();
    }
    if room != 0 && room < len { Err(Errno::ERANGE) } else { Ok(len) }
}

/// Returns the blocks of a file in units of 512 bytes, as Linux does for EROFS: holes count too.
fn blocks(inode: &Inode) -> u64 {
    inode.size.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE / UNIT)
}

const fn timestamp(time: Time) -> Timestamp {
    Timestamp { seconds: time.seconds, nanoseconds: time.nanoseconds }
}
