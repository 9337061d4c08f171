//! `inspect`: what an image holds, and whether all of it can be read.
//!
//! The daemon checks only what it is asked for. This reads every inode, directory, symlink,
//! attribute and extent. File data is read only to compare the digests of data files, if that is
//! asked for.

mod image_file;
mod pass;
mod summary;

use crate::data_file::DataFile;
use crate::hex::Hex;
use crate::limits;
use crate::output::{Folder, OutputError, TemporaryNames};
use crate::verity::VerityDigest;
use image_file::ImageFile;
use pinhole_erofs::{Device, Image, OpenError, Superblock};
use sha2::{Digest as _, Sha256};
use std::error::Error as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use summary::TreeSummary;

/// What to inspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectRequest {
    /// The image.
    pub image: PathBuf,
    /// The folder of the data files. `None`: that of the image.
    pub data_dir: Option<PathBuf>,
    /// Read the data files and compare their digests.
    pub verify_data: bool,
}

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The SHA-256 of the image, as hexadecimal digits.
    pub digest: String,
    /// Bytes of the image.
    pub bytes: u64,
    /// The UUID of the image, as hexadecimal digits.
    pub uuid: String,
    /// Names of the features that the superblock announces.
    pub features: Vec<String>,
    /// The extra devices, in their order.
    pub layers: Vec<InspectedLayer>,
    /// What the pass over the tree found.
    pub tree: TreeSummary,
    /// What is wrong, one line each. Empty: the image can be served.
    pub problems: Vec<String>,
}

/// A data file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedLayer {
    /// The name in the device table, with escapes.
    pub tag: String,
    /// Bytes, as the device table says.
    pub bytes: u64,
    /// The path of the data file. `None`: the tag is not a digest, so the file has no known name.
    pub path: Option<PathBuf>,
    /// What was found at the path.
    pub state: LayerState,
}

/// The state of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// The file is there and long enough.
    Present,
    /// The file is there, and its bytes are those that its name says.
    Verified,
    /// The file is missing, unknown, too short or has other bytes.
    Wrong,
}

/// An image that cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InspectError {
    #[error("{}: cannot read it: {source}; give an image that can be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {why}; give an image of `pinhole prepare`, or an uncompressed EROFS image", path.display())]
    Format { path: PathBuf, why: String },
}

/// Inspects an image.
///
/// # Errors
/// [`InspectError`], if the file is not an image that can be served at all. Other faults are
/// problems of the [`Inspection`].
pub fn inspect(request: &InspectRequest) -> Result<Inspection, InspectError> {
    let path = request.image.as_path();
    let unreadable = |source| InspectError::Read { path: path.to_owned(), source };
    let format = |error: OpenError| InspectError::Format { path: path.to_owned(), why: with_sources(&error) };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    let digest = digest(&file).map_err(unreadable)?;
    let source = ImageFile::new(file, metadata.len());
    let superblock = Image::probe(&source).map_err(format)?;
    let mut problems = Vec::new();
    let folder = request.data_dir.as_deref().or(path.parent()).unwrap_or(Path::new(""));
    let layers: Vec<_> = superblock
        .devices
        .iter()
        .map(|device| inspect_layer(device, folder, request.verify_data, &mut problems))
        .collect();
    // The image is checked as if all its data files had the right length.
    let lens: Vec<_> = superblock.devices.iter().map(Device::bytes).collect();
    let (features, uuid) = (features(&superblock), Hex(&superblock.uuid).to_string());
    let image = Image::open(source, &lens).map_err(format)?;
    let tree = pass::run(&image, &mut problems);
    Ok(Inspection { digest, bytes: metadata.len(), uuid, features, layers, tree, problems })
}

fn digest(mut file: &File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; limits::READ_LEN];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Hex(&hasher.finalize()).to_string()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// Finds the data file of a device.
fn inspect_layer(device: &Device, folder: &Path, verify: bool, problems: &mut Vec<String>) -> InspectedLayer {
    let tag = device.tag.split(|byte| *byte == 0).next().unwrap_or_default();
    let (bytes, shown) = (device.bytes(), tag.escape_ascii().to_string());
    let mut layer = InspectedLayer { tag: shown, bytes, path: None, state: LayerState::Wrong };
    let Some(digest) = VerityDigest::parse(tag) else {
        problems
            .push(format!("data file \"{}\": its name is no digest; serve it with --data FILE", layer.tag));
        return layer;
    };
    let path = folder.join(DataFile::name_of(digest));
    match check_layer(folder, digest, bytes, verify) {
        Ok(state) => layer.state = state,
        Err(why) => problems.push(format!("{}: {why}", path.display())),
    }
    layer.path = Some(path);
    layer
}

fn check_layer(folder: &Path, digest: VerityDigest, bytes: u64, verify: bool) -> Result<LayerState, String> {
    let folder = Folder::open(folder, &TemporaryNames::default()).map_err(|error| error.to_string())?;
    let opened = folder.read(&DataFile::name_of(digest)).and_then(|file| file.metadata());
    let metadata =
        opened.map_err(|error| format!("cannot open the data file: {error}; give --data-dir DIR"))?;
    if !metadata.is_file() || metadata.len() < bytes {
        let found = metadata.len();
        return Err(format!("the data file has {found} bytes instead of {bytes}; copy it again"));
    }
    if !verify {
        return Ok(LayerState::Present);
    }
    match DataFile::check(&folder, digest, bytes) {
        Ok(()) => Ok(LayerState::Verified),
        Err(OutputError::DataChanged { .. }) => {
            Err("its bytes are not those that its name says; copy it again".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the names of all features, and unknown ones as a number.
fn features(superblock: &Superblock) -> Vec<String> {
    let (compatible, incompatible) = (superblock.compatible, superblock.incompatible);
    let mut names: Vec<_> = compatible.iter_names().map(|(name, _)| name.to_owned()).collect();
    names.extend(incompatible.iter_names().map(|(name, _)| name.to_owned()));
    let known = compatible.iter_names().fold(0, |bits, (_, flag)| bits | flag.bits());
    let unknown = compatible.bits() & !known;
    if unknown != 0 {
        names.push(format!("{unknown:#x} (unknown, compatible)"));
    }
    names
}

/// Returns an error with the errors that caused it.
fn with_sources(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
