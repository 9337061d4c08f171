//! EROFS images as layers: their metadata is merged, and the images stay the data files.
//!
//! containerd's EROFS snapshotter makes such an image of each layer (`layer.erofs`), with whiteouts
//! in the form of overlayfs: a character device 0:0 hides a name, and the attribute
//! `trusted.overlay.opaque` hides what lower layers have in a directory. Ends of files that an
//! image keeps among its inodes are copied to one more data file, because a device has whole
//! blocks.

use crate::attributes::Attributes;
use crate::data_file::{DataFile, DataWriter, GivenData};
use crate::error::{LayerImageError, PrepareError};
use crate::image_file::ImageFile;
use crate::limits;
use crate::progress::Progress;
use crate::tree::{FileData, LayerIndex, LayerTree, Leaf, Placed};
use crate::tree_error::{TreeError, shown, within};
use crate::verity::VerityDigest;
use pinhole_erofs::{BLOCK_SIZE, Image, Inode, Kind, Nid, Place, ReadError, Source as _};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Attributes of overlayfs that have no meaning in a merged tree.
const RESOLVED: [&[u8]; 3] = [OPAQUE, b"trusted.overlay.origin", b"trusted.overlay.impure"];
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Begin of the other attributes of overlayfs, which change what a file is.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Returns whether a file has the magic number of EROFS.
pub(crate) fn is_image(file: &File) -> bool {
    const SUPERBLOCK: u64 = 1024;
    const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
    let mut found = [0; 4];
    let read = std::os::unix::fs::FileExt::read_exact_at(file, &mut found, SUPERBLOCK);
    read.is_ok() && found == MAGIC
}

/// Applies images to the tree, the lowest first. `tails` is the data file for the ends of files.
/// Returns the images as data files, in their order.
pub(crate) fn read(
    paths: &[PathBuf],
    (tree, tails): (&mut LayerTree, &mut DataWriter),
    progress: &mut dyn Progress,
) -> Result<Vec<GivenData>, PrepareError> {
    let mut files = Vec::with_capacity(paths.len());
    for (number, path) in paths.iter().enumerate() {
        if number > 0 {
            tree.next_layer();
        }
        let unreadable = |source| LayerImageError::Read { path: path.clone(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("not a regular file")).into());
        }
        let digest = VerityDigest::of(&file).map_err(unreadable)?;
        progress.advance(metadata.len());
        let len = metadata.len() - metadata.len() % BLOCK_SIZE;
        files.push(GivenData { path: path.clone(), digest, len });
        let format = |error: pinhole_erofs::OpenError| LayerImageError::Format {
            path: path.clone(),
            why: error.to_string(),
        };
        let source = ImageFile::new(file, metadata.len());
        let devices = Image::probe(&source).map_err(format)?.devices.len();
        if devices > 0 {
            return Err(LayerImageError::Devices { path: path.clone(), count: devices }.into());
        }
        let image = Image::open(source, &[]).map_err(format)?;
        let mut layer = LayerImage {
            path,
            image: &image,
            tree,
            tails,
            links: HashMap::new(),
            directories: HashSet::new(),
        };
        layer.read()?;
    }
    Ok(files)
}

/// Returns how many layers the tree of some images has: one per image, and one for ends of files.
pub(crate) fn tails_layer(images: usize) -> Result<LayerIndex, LayerImageError> {
    let most = limits::LAYERS_MAX;
    let index = u16::try_from(images).ok().filter(|_| images <= most);
    index.map(LayerIndex).ok_or(LayerImageError::Many { count: images, most })
}

/// An image that is being read.
struct LayerImage<'a> {
    path: &'a Path,
    image: &'a Image<ImageFile>,
    tree: &'a mut LayerTree,
    tails: &'a mut DataWriter,
    /// The first name of each inode with several names, by nid.
    links: HashMap<u64, Vec<u8>>,
    directories: HashSet<u64>,
}

impl LayerImage<'_> {
    fn read(&mut self) -> Result<(), PrepareError> {
        let root = self.image.superblock().root;
        let mut waiting = vec![(Vec::new(), root)];
        while let Some((path, nid)) = waiting.pop() {
            self.directory(&path, nid, &mut waiting)?;
        }
        Ok(())
    }

    /// Reads a directory, and adds the directories in it to `waiting`.
    fn directory(
        &mut self,
        path: &[u8],
        nid: Nid,
        waiting: &mut Vec<(Vec<u8>, Nid)>,
    ) -> Result<(), PrepareError> {
        if !self.directories.insert(nid.0) {
            return Err(self.damaged(path, "the directory has a second name"));
        }
        let inode = self.readable(path, self.image.inode(nid))?;
        let (attributes, is_opaque) = self.attributes(path, &inode)?;
        let names = split(path);
        let put = self.tree.put_directory(&names, attributes);
        self.in_tree(path, put)?;
        if is_opaque {
            let removed = self.tree.remove_lower_below(&names);
            self.in_tree(path, removed)?;
        }
        let mut entries = Vec::new();
        let listed = self.image.read_dir(&inode, 0, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                entries.push((entry.name.to_vec(), entry.nid, entry.kind));
            }
            if entries.len() > limits::NAMES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.readable(path, listed)?;
        self.in_tree(path, within("the directory", "names", entries.len(), limits::NAMES_MAX))?;
        for (name, nid, kind) in entries {
            let full = if path.is_empty() { name } else { [path, b"/", name.as_slice()].concat() };
            if kind == Kind::Directory {
                waiting.push((full, nid));
            } else {
                self.leaf(&full, nid)?;
            }
        }
        Ok(())
    }

    /// Reads an inode that is not a directory.
    fn leaf(&mut self, path: &[u8], nid: Nid) -> Result<(), PrepareError> {
        let names = split(path);
        if let Some(first) = self.links.get(&nid.0) {
            let done = self.tree.put_link(&names, &split(first));
            return self.in_tree(path, done);
        }
        let inode = self.readable(path, self.image.inode(nid))?;
        if inode.kind == Kind::CharacterDevice && inode.rdev == 0 {
            let removed = self.tree.remove_lower(&names);
            return self.in_tree(path, removed);
        }
        let (attributes, _is_opaque) = self.attributes(path, &inode)?;
        let leaf = match inode.kind {
            Kind::Regular => Leaf::File(self.file(path, &inode)?),
            Kind::Symlink => {
                let mut target = Vec::new();
                self.readable(path, self.image.read_link(&inode, &mut target))?;
                Leaf::Symlink(target)
            }
            Kind::CharacterDevice => Leaf::CharacterDevice(inode.rdev),
            Kind::BlockDevice => Leaf::BlockDevice(inode.rdev),
            Kind::Fifo => Leaf::Fifo,
            Kind::Socket => Leaf::Socket,
            Kind::Directory => return Err(self.damaged(path, "its directory says that it is no directory")),
        };
        let put = self.tree.put_leaf(&names, attributes, leaf);
        self.in_tree(path, put)?;
        if inode.nlink > 1 {
            self.links.insert(nid.0, path.to_vec());
        }
        Ok(())
    }

    /// Returns where the data of a file is. Copies what is not in whole blocks.
    fn file(&mut self, path: &[u8], inode: &Inode) -> Result<FileData, PrepareError> {
        let mut data = FileData { size: inode.size, regions: Vec::new() };
        let mut at = 0;
        while at < inode.size {
            let extent = self.readable(path, self.image.extent(inode, at))?;
            let len = extent.length;
            match extent.place {
                Place::Hole => {}
                Place::Image { offset } if offset % BLOCK_SIZE == 0 => {
                    data.add(Placed { offset: at, layer: self.tree.layer(), start: offset, len });
                }
                Place::Image { offset } => {
                    let count = usize::try_from(len).unwrap_or(usize::MAX).min(limits::READ_LEN);
                    let mut bytes = vec![0; count];
                    self.image
                        .source()
                        .copy(offset, &mut bytes)
                        .map_err(|error| self.damaged(path, &error.to_string()))?;
                    let tail = self.tails.place(len, std::slice::from_ref(&(0..len)))?;
                    for region in tail.regions {
                        self.tails.seek(region.start)?;
                        self.tails.write(&bytes)?;
                        data.add(Placed { offset: at, ..region });
                    }
                }
                Place::Device { .. } => {
                    return Err(self.damaged(path, "its data is in a data file of its own"));
                }
            }
            let counted = within("the file", "regions of data", data.regions.len(), limits::REGIONS_MAX);
            self.in_tree(path, counted)?;
            at = at.saturating_add(len.max(1));
        }
        Ok(data)
    }

    /// Returns the attributes of an inode, and whether its directory is opaque.
    fn attributes(&self, path: &[u8], inode: &Inode) -> Result<(Attributes, bool), PrepareError> {
        let mut attributes = Attributes {
            permissions: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs: Vec::new(),
        };
        let mut names = Vec::new();
        let listed = self.image.xattrs(inode, &mut |name, _len| {
            names.push(name.to_vec());
            ControlFlow::Continue(())
        });
        self.readable(path, listed)?;
        let mut is_opaque = false;
        for name in names {
            let mut value = Vec::new();
            self.readable(path, self.image.get_xattr(inode, &name, &mut value))?;
            is_opaque |= name == OPAQUE && value == b"y";
            if RESOLVED.contains(&name.as_slice()) {
                continue;
            }
            if name.starts_with(OVERLAY) {
                let (path, entry) = (self.path.to_owned(), shown(path));
                return Err(LayerImageError::Overlay { path, entry, name: shown(&name) }.into());
            }
            self.in_tree(path, attributes.add_xattr(&name, &value))?;
        }
        Ok((attributes, is_opaque))
    }

    fn readable<T>(&self, entry: &[u8], done: Result<T, ReadError>) -> Result<T, PrepareError> {
        done.map_err(|error| self.damaged(entry, &error.to_string()))
    }

    fn damaged(&self, entry: &[u8], why: &str) -> PrepareError {
        let (path, entry) = (self.path.to_owned(), shown(entry));
        LayerImageError::Damaged { path, entry, why: why.to_owned() }.into()
    }

    fn in_tree<T>(&self, entry: &[u8], done: Result<T, TreeError>) -> Result<T, PrepareError> {
        done.map_err(|source| {
            let (path, entry) = (self.path.to_owned(), shown(entry));
            LayerImageError::Entry { path, entry, source }.into()
        })
    }
}

/// Returns the names of a path. The reader has checked them.
fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

impl FileData {
    /// Adds a region, or makes the last one longer if this one continues it.
    fn add(&mut self, region: Placed) {
        let continued = self.regions.last_mut().filter(|last| {
            last.layer == region.layer
                && last.offset.checked_add(last.len) == Some(region.offset)
                && last.start.checked_add(last.len) == Some(region.start)
        });
        match continued {
            Some(last) => last.len = last.len.saturating_add(region.len),
            None => self.regions.push(region),
        }
    }
}

/// The data files of merged images: the images, and the file with ends of files if there are any.
pub(crate) fn with_tails(
    images: Vec<GivenData>,
    tails: Option<DataFile>,
) -> Vec<Option<crate::data_file::LayerData>> {
    use crate::data_file::LayerData;
    images
        .into_iter()
        .map(|image| Some(LayerData::Given(image)))
        .chain([tails.map(LayerData::Written)])
        .collect()
}
