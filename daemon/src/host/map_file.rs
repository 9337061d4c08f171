//! SETUPMAPPING, as far as the host goes: a descriptor of a file for the front-end.
//!
//! Its access mode is all that keeps a front-end from mapping more than the guest may have: QEMU maps writable whatever it
//! is told. So a mapping to read has an `O_RDONLY` descriptor of its own, whatever else the guest has open.

use super::budget::Ticket;
use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::resolve;
use super::{Answer, Call};
use pinhole_protocol::{self as protocol, Errno};
use rustix::fs::{FileType, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Which file of the host it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// Major and minor number of its file system.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
}

/// A descriptor for a mapping. It is ours until the front-end has answered; what the front-end keeps is its own.
#[derive(Debug)]
pub struct MapFile {
    file: OwnedFd,
    id: FileId,
    writable: bool,
    _ticket: Option<Ticket>,
}

impl MapFile {
    /// One that no budget counts, for tests.
    #[cfg(test)]
    pub(crate) const fn of(file: OwnedFd, writable: bool) -> Self {
        Self { file, id: FileId { device: (0, 0), inode: 0 }, writable, _ticket: None }
    }

    /// Which file it is of.
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// Whether it was opened `O_RDWR`; else `O_RDONLY`.
    pub const fn is_writable(&self) -> bool {
        self.writable
    }
}

impl AsFd for MapFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Passthrough {
    /// Whether the guest's caller may read or write was for the guest's kernel to say when the file was opened, as for
    /// READ and WRITE; whether the guest may have such a mapping of it, for the gate and the session.
    pub(super) fn open_to_map(
        &self,
        node: &NodeRef,
        _: &Call<'_, protocol::SetupMapping>,
        writable: bool,
    ) -> Answer<MapFile> {
        if node.kind != FileType::RegularFile {
            return Err(Errno::ENODEV);
        }
        let ticket = self.ticket()?;
        if writable {
            self.hold_to_map(node)?;
        }
        let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // A guest that maps a file has it open, so no lease is in the way of one that asks for no more than it may.
        let file = self.open_inside(node, flags | OFlags::NONBLOCK)?;
        // Of the descriptor: where file systems are stacked, opening to write may lead to another file.
        let stat = resolve::stat(file.as_fd())?;
        let id = FileId { device: stat.mount().device, inode: stat.inode() };
        Ok(MapFile { file, id, writable, _ticket: Some(ticket) })
    }
}
