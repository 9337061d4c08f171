//! SETUPMAPPING, as far as the host goes: a descriptor of a file for the front-end.
//!
//! Its access mode is all that keeps a front-end from mapping more than the guest may have: QEMU maps writable whatever it
//! is told. So a mapping to read has an `O_RDONLY` descriptor of its own, whatever else the guest has open.

use crate::file_id::FileId;
use crate::filesystem::{Answer, MapFile};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::resolve::errno;
use pinhole_protocol::Errno;
use rustix::fs::{FileType, OFlags};

impl Passthrough {
    /// Whether the guest's caller may read or write was for the guest's kernel to say when the file was opened, as for
    /// READ and WRITE; whether the guest may have such a mapping of it, for the gate and the session.
    pub(super) fn open_to_map(&self, node: &NodeRef, writable: bool) -> Answer<MapFile> {
        if node.kind != FileType::RegularFile {
            return Err(Errno::ENODEV);
        }
        let ticket = self.inodes.descriptor_ticket()?;
        if writable {
            self.inodes.hold_to_map(node)?;
        }
        let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // A guest that maps a file has it open, so no lease is in the way of one that asks for no more than it may.
        let file = self.inodes.open_content(node, flags | OFlags::NONBLOCK)?;
        // Of the descriptor: where file systems are stacked, opening to write may lead to another file.
        let id = FileId::of(&file).map_err(errno)?;
        Ok(MapFile::new(file, id, writable, ticket))
    }
}
