//! IOCTL, as far as it is served: the flags of an inode (`lsattr`, `chattr`), where the policy grants them by name.
//!
//! No number that a guest sends is passed on: the session knows the three that it serves, and what is called here has
//! no argument but the flags.

use super::Answer;
use super::passthrough::Passthrough;
use super::resolve::errno;
use pinhole_protocol::Handle;
use rustix::fs::IFlags;
use std::os::fd::{AsFd, BorrowedFd};

/// Reads or replaces the flags of an open file's or directory's inode, the `FS_*_FL` of `linux/fs.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeFlags {
    /// The open file or directory.
    pub handle: Handle,
    /// The new ones; `None` leaves them.
    pub set: Option<u32>,
}

impl Passthrough {
    /// The flags afterwards.
    pub(super) fn inode_flags(&self, operation: InodeFlags) -> Answer<u32> {
        let InodeFlags { handle, set } = operation;
        match self.files.get(handle) {
            Ok(file) => inode_flags(file.as_fd(), set),
            Err(_other_kind) => {
                let directory = self.directories.get(handle)?;
                let stream = directory.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                inode_flags(stream.fd.as_fd(), set)
            }
        }
    }
}

fn inode_flags(fd: BorrowedFd<'_>, set: Option<u32>) -> Answer<u32> {
    if let Some(flags) = set {
        rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags)).map_err(errno)?;
        return Ok(flags);
    }
    rustix::fs::ioctl_getflags(fd).map(|flags| flags.bits()).map_err(errno)
}
