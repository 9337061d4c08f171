//! GETXATTR, LISTXATTR, SETXATTR, REMOVEXATTR: extended attributes and POSIX ACLs.
//!
//! A thread that serves requests has `/proc/self/fd` as its working directory. So the number of a
//! descriptor is a path to its inode, of any kind, without opening the inode.

use crate::filesystem::{Answer, ListNames};
use crate::limits::XATTR_LEN_MAX;
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::resolve::errno;
use pinhole_policy::{Access, XattrNamespace};
use pinhole_protocol::{Errno, GetXattr, SetXattr, SetXattrMode};
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::path::DecInt;
use std::ffi::CStr;

impl Passthrough {
    pub(super) fn get_xattr(&self, node: &NodeRef, get: GetXattr<'_>, out: &mut Vec<u8>) -> Answer<u32> {
        let GetXattr { name, size } = get;
        self.check_xattr(name)?;
        let fd = self.inodes.descriptor(node)?;
        let path = DecInt::from_fd(&*fd);
        if size == 0 {
            return reply_len(rustix::fs::getxattr_query(path, name).map_err(errno)?);
        }
        fetch(size, out, |out| rustix::fs::getxattr(path, name, spare_capacity(out)))
    }

    pub(super) fn list_xattr(&self, node: &NodeRef, list: ListNames, out: &mut Vec<u8>) -> Answer<u32> {
        self.check_xattrs_on()?;
        let ListNames { size, readable } = list;
        let fd = self.inodes.descriptor(node)?;
        // The length depends on the names that are left out.
        fetch(u32::MAX, out, |out| rustix::fs::listxattr(DecInt::from_fd(&*fd), spare_capacity(out)))?;
        keep_readable(out, readable);
        let len = reply_len(out.len())?;
        if size < len {
            out.clear();
        }
        if size != 0 && size < len { Err(Errno::ERANGE) } else { Ok(len) }
    }

    pub(super) fn set_xattr(&self, node: &NodeRef, set: SetXattr<'_>) -> Answer<()> {
        let SetXattr { name, value, mode, acl_kill_sgid } = set;
        self.check_xattr(name)?;
        let flags = match mode {
            SetXattrMode::Any => XattrFlags::empty(),
            SetXattrMode::Create => XattrFlags::CREATE,
            SetXattrMode::Replace => XattrFlags::REPLACE,
        };
        let fd = self.inodes.descriptor(node)?;
        // Only ACLs affect set-group-id. A guest that may not write ACLs must not decide about that
        // bit.
        if XattrNamespace::of(name.to_bytes()) == XattrNamespace::Acl {
            self.identity.kill_suidgid(acl_kill_sgid)?;
        }
        rustix::fs::setxattr(DecInt::from_fd(&*fd), name, value, flags).map_err(errno)
    }

    pub(super) fn remove_xattr(&self, node: &NodeRef, name: &CStr) -> Answer<()> {
        self.check_xattr(name)?;
        let fd = self.inodes.descriptor(node)?;
        rustix::fs::removexattr(DecInt::from_fd(&*fd), name).map_err(errno)
    }

    /// Checks that the share has extended attributes. If it has none, the result is ENOSYS, after
    /// which the guest never sends this opcode again.
    fn check_xattrs_on(&self) -> Answer<()> {
        if self.config.xattr { Ok(()) } else { Err(Errno::ENOSYS) }
    }

    fn check_xattr(&self, name: &CStr) -> Answer<()> {
        self.check_xattrs_on()?;
        // No access of the policy covers names that a file system uses for itself.
        if XattrNamespace::of(name.to_bytes()) == XattrNamespace::Other {
            return Err(Errno::EOPNOTSUPP);
        }
        // A guest without ACLs does not apply them, so it must not write them.
        if !self.config.posix_acl && name.to_bytes().starts_with(b"system.posix_acl_") {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }
}

/// Removes the names of namespaces that the guest may not read.
fn keep_readable(names: &mut Vec<u8>, readable: Access) {
    let all = std::mem::take(names);
    for name in all.split_inclusive(|byte| *byte == 0) {
        let bare = name.strip_suffix(&[0]).unwrap_or(name);
        let namespace = XattrNamespace::of(bare);
        if namespace != XattrNamespace::Other && readable.contains(namespace.read()) {
            names.extend_from_slice(name);
        }
    }
}

/// Fetches at most `room` bytes into `out`. Returns their number.
fn fetch(
    room: u32,
    out: &mut Vec<u8>,
    fetch: impl FnOnce(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> Answer<u32> {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(XATTR_LEN_MAX);
    out.reserve(room);
    let len = fetch(out).map_err(errno)?;
    if len > room {
        out.clear();
        return Err(Errno::ERANGE);
    }
    reply_len(len)
}

fn reply_len(len: usize) -> Answer<u32> {
    u32::try_from(len).map_err(|_long| Errno::E2BIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unknown_namespaces_are_left_out() {
        let mut names = b"user.a\0btrfs.compression\0system.nfs4_acl\0ceph.dir\0".to_vec();
        keep_readable(&mut names, Access::all());
        assert_eq!(names, b"user.a\0system.nfs4_acl\0");
    }

    #[test]
    fn names_that_may_not_be_read_are_left_out() {
        let all = b"user.a\0security.selinux\0system.posix_acl_access\0trusted.b\0user.c\0";
        for (readable, kept) in [
            (Access::XATTR_READ_USER, &b"user.a\0user.c\0"[..]),
            (Access::XATTR_READ_SECURITY | Access::ACL_READ, b"security.selinux\0system.posix_acl_access\0"),
            (Access::XATTR_READ_SYSTEM, b""),
        ] {
            let mut names = all.to_vec();
            keep_readable(&mut names, readable);
            assert_eq!(names, kept, "{readable:?}");
        }
    }
}
