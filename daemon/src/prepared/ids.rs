//! Node ids: positions in the image, and a tag of the image itself.
//!
//! A node id is `tag << 32 | nid`; the root has 1, as FUSE demands. So a daemon that was started
//! again serves the ids of the one before, and the ids of another image are stale. No id is ever
//! given out or forgotten: a guest may send any number, and it is decoded like any other.

use super::mapping::SharedMapping;
use pinhole_erofs::{Device, Nid, Source as _, SourceError, Superblock};
use pinhole_protocol::{Errno, NodeId};
use sha2::{Digest as _, Sha256};

/// Byte of the superblock in an image, and its length without extensions (`erofs_fs.h` of Linux).
const SUPERBLOCK: (u64, usize) = (1024, 128);

/// Bits of a node id that hold the nid.
const NID_BITS: u32 = 32;

/// The node ids of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeIds {
    tag: u32,
    root: Nid,
}

impl NodeIds {
    /// Computes the tag: the first four bytes of the SHA-256 of the superblock and of each device's
    /// tag, length and address, with the lowest bit set.
    ///
    /// # Errors
    /// The superblock cannot be read.
    pub(super) fn of(image: &SharedMapping, superblock: &Superblock) -> Result<Self, SourceError> {
        let (offset, len) = SUPERBLOCK;
        let mut bytes = [0; SUPERBLOCK.1];
        image.copy(offset, bytes.get_mut(..len).unwrap_or_default())?;
        let mut hash = Sha256::new();
        hash.update(bytes);
        for Device { tag, blocks, first_block } in &superblock.devices {
            hash.update(tag);
            hash.update(blocks.to_le_bytes());
            hash.update(first_block.to_le_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = digest;
        Ok(Self { tag: u32::from_le_bytes([a, b, c, d]) | 1, root: superblock.root })
    }

    /// Returns the node id of an inode.
    ///
    /// # Errors
    /// EIO for a nid of 2^32 or more, which no node id can hold.
    pub(super) fn node(self, nid: Nid) -> Result<NodeId, Errno> {
        if nid == self.root {
            return Ok(NodeId::ROOT);
        }
        let low = u32::try_from(nid.0).map_err(|_large| Errno::EIO)?;
        Ok(NodeId(u64::from(self.tag) << NID_BITS | u64::from(low)))
    }

    /// Returns the position that a node id names.
    ///
    /// # Errors
    /// ESTALE for an id of another image or of none.
    pub(super) fn nid(self, node: NodeId) -> Result<Nid, Errno> {
        if node == NodeId::ROOT {
            return Ok(self.root);
        }
        if node.0 >> NID_BITS != u64::from(self.tag) {
            return Err(Errno::ESTALE);
        }
        Ok(Nid(node.0 & u64::from(u32::MAX)))
    }

    /// Returns the generation of all entries.
    pub(super) fn generation(self) -> u64 {
        self.tag.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: NodeIds = NodeIds { tag: 0x8000_0001, root: Nid(36) };

    #[test]
    fn ids_and_positions_are_one_to_one() {
        assert_eq!(IDS.node(Nid(36)), Ok(NodeId::ROOT));
        assert_eq!(IDS.nid(NodeId::ROOT), Ok(Nid(36)));
        for nid in [0, 1, 35, 37, u64::from(u32::MAX)] {
            let node = IDS.node(Nid(nid)).unwrap();
            assert_eq!(node.0, 0x8000_0001_0000_0000 | nid);
            assert_eq!(IDS.nid(node), Ok(Nid(nid)));
        }
        assert_eq!(IDS.node(Nid(1 << 32)), Err(Errno::EIO));
    }

    #[test]
    fn ids_of_other_images_are_stale() {
        let other = NodeIds { tag: 3, root: Nid(36) };
        for node in [0, 2, 3 << 32 | 7, 1 << 32, u64::MAX] {
            assert_eq!(IDS.nid(NodeId(node)), Err(Errno::ESTALE), "{node:#x}");
        }
        assert_eq!(other.nid(IDS.node(Nid(7)).unwrap()), Err(Errno::ESTALE));
    }
}
