//! `inspect`: what an image holds, and whether all of it can be read.
//!
//! The daemon checks only what it is asked for. This reads every inode, directory, symlink,
//! attribute and extent. File data is read only to compare the digests of data files, if that is
//! asked for.

mod pass;
mod summary;

use crate::data_file::DataFile;
use crate::hex::Hex;
use crate::image_file::ImageFile;
use crate::limits;
use crate::verity::VerityDigest;
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
    /// The data files in the order of the device table. Empty: they have the names in the table.
    pub data: Vec<PathBuf>,
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
    #[error("{}: {given} data files are given, but it has {needed}; give all of them or none", path.display())]
    DataCount { path: PathBuf, given: usize, needed: usize },
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
    if !request.data.is_empty() && request.data.len() != superblock.devices.len() {
        let (given, needed) = (request.data.len(), superblock.devices.len());
        return Err(InspectError::DataCount { path: path.to_owned(), given, needed });
    }
    let mut layers = Vec::with_capacity(superblock.devices.len());
    for (number, device) in superblock.devices.iter().enumerate() {
        let place = LayerPlace { folder, given: request.data.get(number) };
        layers.push(inspect_layer(device, &place, request.verify_data, &mut problems));
    }
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

/// Where a data file may be.
struct LayerPlace<'a> {
    folder: &'a Path,
    /// The path that the command line gives.
    given: Option<&'a PathBuf>,
}

/// Finds the data file of a device.
fn inspect_layer(
    device: &Device,
    place: &LayerPlace<'_>,
    verify: bool,
    problems: &mut Vec<String>,
) -> InspectedLayer {
    let tag = device.tag.split(|byte| *byte == 0).next().unwrap_or_default();
    let (bytes, shown) = (device.bytes(), tag.escape_ascii().to_string());
    let digest = VerityDigest::parse(tag);
    let named = digest.map(|digest| place.folder.join(DataFile::name_of(digest)));
    let path = place.given.cloned().or(named);
    let mut layer = InspectedLayer { tag: shown, bytes, path, state: LayerState::Wrong };
    let Some(path) = &layer.path else {
        problems
            .push(format!("data file \"{}\": its name is no digest; give it with --data FILE", layer.tag));
        return layer;
    };
    match check_layer(path, digest.filter(|_| verify), bytes) {
        Ok(state) => layer.state = state,
        Err(why) => problems.push(format!("{}: {why}", path.display())),
    }
    layer
}

/// Compares a data file with its length, and with a digest if there is one.
fn check_layer(path: &Path, digest: Option<VerityDigest>, bytes: u64) -> Result<LayerState, String> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let remedy = "give --data-dir DIR or --data FILE";
    let (metadata, file) = opened.map_err(|error| format!("cannot open the data file: {error}; {remedy}"))?;
    if !metadata.is_file() || metadata.len() < bytes {
        let found = metadata.len();
        return Err(format!("the data file has {found} bytes instead of {bytes}; copy it again"));
    }
    let Some(digest) = digest else { return Ok(LayerState::Present) };
    let found = VerityDigest::of(&file).map_err(|error| format!("cannot read the data file: {error}"))?;
    if found == digest {
        Ok(LayerState::Verified)
    } else {
        Err("its bytes are not those that the image expects; copy it again".to_owned())
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
