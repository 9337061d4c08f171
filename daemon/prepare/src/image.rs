//! The image of a tree: metadata as EROFS, with a UUID and a digest that depend on nothing else.

use crate::attributes::Attributes;
use crate::data_file::LayerData;
use crate::error::PrepareError;
use crate::hex::Hex;
use crate::output::{Folder, NewFile};
use crate::tree::{Body, FileData, LayerTree, Leaf, Node, Placed};
use crate::verity::BLOCK_LEN;
use pinhole_erofs::write::{
    Content, DataExtent, InodeIndex, NewDevice, NewFile as ImageFile, NewInode, Plan, Tree, WriteError,
};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenImage {
    /// The SHA-256 of the image, as hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) inodes: u64,
    pub(crate) bytes: u64,
}

/// Turns the tree into what the writer of images takes. `devices` has the position of each layer's
/// data file.
pub(crate) fn image_tree<'a>(
    tree: LayerTree,
    devices: &[Option<u16>],
    files: impl Iterator<Item = &'a LayerData>,
) -> Tree {
    let inodes = tree.into_nodes().into_iter().map(|node| inode(node, devices)).collect();
    Tree { inodes, devices: files.map(device).collect() }
}

fn inode(node: Node, devices: &[Option<u16>]) -> NewInode {
    let Node { attributes: Attributes { permissions, uid, gid, mtime, xattrs }, body } = node;
    let content = match body {
        Body::Directory(directory) => {
            let children = directory.children.into_iter();
            Content::Directory(children.map(|(name, child)| (name, InodeIndex(child.node.0))).collect())
        }
        Body::Leaf(Leaf::File(data)) => Content::File(file(data, devices)),
        Body::Leaf(Leaf::Symlink(target)) => Content::Symlink(target),
        Body::Leaf(Leaf::CharacterDevice(number)) => Content::CharacterDevice(number),
        Body::Leaf(Leaf::BlockDevice(number)) => Content::BlockDevice(number),
        Body::Leaf(Leaf::Fifo) => Content::Fifo,
        Body::Leaf(Leaf::Socket) => Content::Socket,
    };
    NewInode { permissions, uid, gid, mtime, xattrs, content }
}

fn file(data: FileData, devices: &[Option<u16>]) -> ImageFile {
    let extents = data.regions.into_iter().filter_map(|region| {
        let Placed { offset, layer, start, len } = region;
        let device = devices.get(usize::from(layer.0)).copied().flatten()?;
        Some(DataExtent { offset, device, start, length: len })
    });
    ImageFile { size: data.size, extents: extents.collect() }
}

fn device(file: &LayerData) -> NewDevice {
    let mut tag = [0; 64];
    for (place, digit) in tag.iter_mut().zip(file.digest().to_string().bytes()) {
        *place = digit;
    }
    NewDevice { tag, blocks: file.len() / BLOCK_LEN as u64 }
}

/// Writes the image to a file without a name.
pub(crate) fn write(
    (folder, path): (&Folder, &Path),
    tree: &Tree,
) -> Result<(NewFile, WrittenImage), PrepareError> {
    let failed = |source| PrepareError::Image { path: path.to_owned(), source };
    let plan = Plan::new(tree).map_err(failed)?;
    // The UUID is a digest of all other bytes.
    let mut hasher = Sha256::new();
    plan.write([0; 16], &mut Hashing { hasher: &mut hasher, out: io::sink() }).map_err(failed)?;
    let uuid = uuid(&hasher.finalize().into());
    let file = folder.create()?;
    let mut hasher = Sha256::new();
    let mut out = Hashing { hasher: &mut hasher, out: BufWriter::with_capacity(1 << 20, file.file()) };
    let written = match plan.write(uuid, &mut out) {
        Err(WriteError::Io(error)) => return Err(file.wrong(error).into()),
        written => written.map_err(failed)?,
    };
    out.flush().map_err(|error| file.wrong(error))?;
    drop(out);
    file.sync()?;
    let digest = Hex(&hasher.finalize()).to_string();
    Ok((file, WrittenImage { digest, inodes: written.inodes, bytes: written.bytes }))
}

/// Returns a UUID of version 8, whose other bits are those of a digest.
fn uuid(digest: &[u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.iter_mut().zip(digest).for_each(|(place, byte)| *place = *byte);
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

/// Passes bytes on and hashes them.
struct Hashing<'a, W> {
    hasher: &'a mut Sha256,
    out: W,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
