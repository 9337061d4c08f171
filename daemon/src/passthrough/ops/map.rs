//! SETUPMAPPING: a descriptor of a file for the front-end.
//!
//! The access mode of the descriptor alone keeps a front-end from mapping a file writable: QEMU
//! ignores a request for a read-only mapping. So a read-only mapping gets its own `O_RDONLY`
//! descriptor, even if the guest has the file open for writing.

use crate::file_id::FileId;
use crate::filesystem::{Answer, MapFile};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::resolve::errno;
use pinhole_protocol::Errno;
use rustix::fs::{FileType, OFlags};

impl Passthrough {
    /// Opens a regular file for a mapping. The guest's kernel has decided at open whether the
    /// caller may read or write, as for READ and WRITE. Policy and session decide whether the guest
    /// may have such a mapping.
    pub(super) fn open_to_map(&self, node: &NodeRef, writable: bool) -> Answer<MapFile> {
        if node.kind != FileType::RegularFile {
            return Err(Errno::ENODEV);
        }
        let ticket = self.inodes.descriptor_ticket()?;
        if writable {
            self.inodes.hold_to_map(node)?;
        }
        let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // A guest that maps a file has it open, so no lease of another process conflicts with this
        // open.
        let file = self.inodes.open_content(node, flags | OFlags::NONBLOCK)?;
        // By the descriptor: on stacked file systems, opening for writing may lead to another file.
        let id = FileId::of(&file).map_err(errno)?;
        Ok(MapFile::new(file, id, writable, ticket))
    }
}
