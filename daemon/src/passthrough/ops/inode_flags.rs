//! IOCTL: the flags of an inode (`lsattr`, `chattr`), if the policy grants them.
//!
//! No number of a guest reaches the host: the session knows the three requests that it serves, and
//! only the flags named here can be changed. All other flags say how the host stores the file
//! (quota, folded names, data layout). A guest must send them unchanged.

use crate::filesystem::{Answer, InodeFlags};
use crate::passthrough::Passthrough;
use crate::passthrough::resolve::errno;
use pinhole_protocol::Errno;
use rustix::fs::IFlags;
use std::os::fd::{AsFd, BorrowedFd};

/// Flags that a guest may change.
const CHANGEABLE: IFlags = IFlags::SYNC
    .union(IFlags::IMMUTABLE)
    .union(IFlags::APPEND)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::DIRSYNC);

impl Passthrough {
    /// Reads the flags of an open file or directory, or replaces them. Returns the flags that it
    /// then has.
    pub(super) fn inode_flags(&self, operation: InodeFlags) -> Answer<u32> {
        let InodeFlags { handle, set } = operation;
        let (file, directory);
        let (fd, mount) = if let Ok(open) = self.files.file(handle) {
            file = open;
            (file.as_fd(), &file.mount)
        } else {
            directory = self.files.directory(handle)?;
            (directory.fd.as_fd(), &directory.mount)
        };
        if let Some(mount) = mount.as_ref().filter(|_| set.is_some()) {
            mount.note_change();
        }
        inode_flags(fd, set)
    }
}

fn inode_flags(fd: BorrowedFd<'_>, set: Option<u32>) -> Answer<u32> {
    let now = rustix::fs::ioctl_getflags(fd).map_err(errno)?;
    let Some(set) = set.map(IFlags::from_bits_retain) else { return Ok(now.bits()) };
    if !(now ^ set).difference(CHANGEABLE).is_empty() {
        return Err(Errno::EOPNOTSUPP);
    }
    rustix::fs::ioctl_setflags(fd, set).map_err(errno)?;
    Ok(set.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_flags_can_be_changed() {
        let file = tempfile::tempfile().unwrap();
        let now = inode_flags(file.as_fd(), None).unwrap();
        let nodump = IFlags::NODUMP.bits();
        assert_eq!(inode_flags(file.as_fd(), Some(now | nodump)), Ok(now | nodump));
        assert_eq!(inode_flags(file.as_fd(), None), Ok(now | nodump));
        assert_eq!(inode_flags(file.as_fd(), Some(now)), Ok(now));
        for bit in (0..32).map(|shift| 1 << shift).filter(|bit| CHANGEABLE.bits() & bit == 0) {
            assert_eq!(inode_flags(file.as_fd(), Some(now ^ bit)), Err(Errno::EOPNOTSUPP), "{bit:#x}");
            // Not even together with a flag that can be changed.
            let both = now ^ bit ^ nodump;
            assert_eq!(inode_flags(file.as_fd(), Some(both)), Err(Errno::EOPNOTSUPP), "{bit:#x}");
        }
        assert_eq!(inode_flags(file.as_fd(), None), Ok(now));
    }
}
