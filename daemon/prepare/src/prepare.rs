//! The stages of `prepare`, in their order: the source, the tree, the image, the names.

use crate::compressed::TarBytes;
use crate::data_file::{Align, DataFile, DataWriter, LayerData};
use crate::error::{DirectoryError, PrepareError};
use crate::image;
use crate::oci::OciImage;
use crate::output::{Folder, OutputError, Published, TemporaryNames};
use crate::progress::Progress;
use crate::source::{Counted, SourceArg};
use crate::tree::LayerTree;
use crate::verity::VerityDigest;
use crate::{directory, layer_images, tar};
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What to prepare, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The source.
    pub source: SourceArg,
    /// The image to write.
    pub image: PathBuf,
    /// The folder of the data files. `None`: that of the image.
    pub data_dir: Option<PathBuf>,
    /// Replace an existing image.
    pub force: bool,
    /// Where the data of files begins.
    pub align: Align,
    /// Do not enter directories on other file systems.
    pub one_file_system: bool,
}

/// What was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The SHA-256 of the image, as hexadecimal digits.
    pub digest: String,
    /// Inodes of the image.
    pub inodes: u64,
    /// Bytes of the image, which holds metadata only.
    pub metadata_bytes: u64,
    /// Bytes of the data files, without the hole at the end of each.
    pub data_bytes: u64,
    /// The data files, in the order of the layers.
    pub data_files: Vec<PreparedData>,
}

/// A data file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedData {
    /// Its path.
    pub path: PathBuf,
    /// Bytes, with the hole at its end.
    pub len: u64,
    /// Whether the file was there already.
    pub is_reused: bool,
}

/// Prepares a share.
///
/// # Errors
/// [`PrepareError`]. No file is left behind then.
pub fn prepare(
    request: &Request,
    progress: &mut dyn Progress,
    names: &TemporaryNames,
) -> Result<Prepared, PrepareError> {
    let outputs = Outputs::open(request, names)?;
    let mut tree = LayerTree::new();
    let layers = read_source(request, &outputs, &mut tree, progress)?;
    let devices = Devices::of(layers);
    let tree = image::image_tree(tree, &devices.of_layers, devices.files.iter());
    let (image_file, written) = image::write((&outputs.image_folder, outputs.image), &tree)?;
    drop(tree);
    let data_bytes = devices.files.iter().map(LayerData::data_len).sum();
    let mut published = Vec::new();
    let mut held = names.hold()?;
    let finish = || -> Result<Vec<PreparedData>, OutputError> {
        let mut data_files = Vec::new();
        for file in devices.files {
            let len = file.len();
            let (path, new) = match file {
                LayerData::Given(file) => (file.path, None),
                LayerData::Written(file) => {
                    let path = outputs.data_folder.path_of(&DataFile::name_of(file.digest));
                    (path, file.publish(&mut held)?)
                }
            };
            data_files.push(PreparedData { path, len, is_reused: new.is_none() });
            published.extend(new);
        }
        // The names of the data files are on disk before that of the image.
        outputs.data_folder.sync()?;
        published.push(outputs.publish_image(image_file, request.force, &mut held)?);
        outputs.image_folder.sync()?;
        Ok(data_files)
    };
    match finish() {
        Ok(data_files) => Ok(Prepared {
            digest: written.digest,
            inodes: written.inodes,
            metadata_bytes: written.bytes,
            data_bytes,
            data_files,
        }),
        Err(error) => {
            published.iter().for_each(Published::take_back);
            Err(error.into())
        }
    }
}

/// The folders and names that are written.
#[derive(Debug)]
struct Outputs<'a> {
    image: &'a Path,
    image_name: &'a OsStr,
    image_folder: Folder,
    data_folder: Folder,
}

impl<'a> Outputs<'a> {
    /// Opens the folders and checks the name of the image.
    fn open(request: &'a Request, names: &TemporaryNames) -> Result<Self, OutputError> {
        let image = request.image.as_path();
        let is_folder = image.as_os_str().as_encoded_bytes().ends_with(b"/");
        let image_name = image.file_name().filter(|_| !is_folder);
        let image_name = image_name.ok_or_else(|| OutputError::NoName { path: image.to_owned() })?;
        let image_folder = Folder::open(image.parent().unwrap_or(Path::new("")), names)?;
        let data_folder = match &request.data_dir {
            Some(path) => Folder::open(path, names)?,
            None => image_folder.clone(),
        };
        let outputs = Self { image, image_name, image_folder, data_folder };
        outputs.check_image(request.force)?;
        Ok(outputs)
    }

    /// Checks that the name of the image is free, or may be replaced.
    fn check_image(&self, force: bool) -> Result<(), OutputError> {
        let path = || self.image.to_owned();
        match self.image_folder.kind_of(self.image_name)? {
            None => Ok(()),
            Some(FileType::RegularFile) if force => Ok(()),
            Some(FileType::RegularFile) => Err(OutputError::Exists { path: path() }),
            Some(_) => Err(OutputError::NotAFile { path: path() }),
        }
    }

    fn publish_image(
        &self,
        file: crate::output::NewFile,
        force: bool,
        names: &mut crate::output::Names,
    ) -> Result<Published, OutputError> {
        if force {
            self.check_image(force)?;
            return file.replace(self.image_name, names);
        }
        match file.publish(self.image_name, names)? {
            Some(published) => Ok(published),
            None => Err(OutputError::Exists { path: self.image.to_owned() }),
        }
    }
}

/// Reads the source into the tree. Returns the data file of each layer that has data.
fn read_source(
    request: &Request,
    outputs: &Outputs<'_>,
    tree: &mut LayerTree,
    progress: &mut dyn Progress,
) -> Result<Vec<Option<LayerData>>, PrepareError> {
    let folder = &outputs.data_folder;
    let images = match &request.source {
        SourceArg::Oci { directory, tag } => {
            let image = OciImage::choose(directory, tag.as_deref())?;
            let files = image.read(tree, (folder, request.align), progress)?;
            return Ok(files.into_iter().map(|file| file.map(LayerData::Written)).collect());
        }
        SourceArg::LayerImages(paths) => Some(paths.as_slice()),
        SourceArg::Path(path) if is_layer_image(path) => Some(std::slice::from_ref(path)),
        SourceArg::Path(_) | SourceArg::StandardInput => None,
    };
    if let Some(paths) = images {
        let tails = layer_images::tails_layer(paths.len())?;
        let mut tails = DataWriter::create(folder, Align::Page, tails)?;
        let files = layer_images::read(paths, (tree, &mut tails), progress)?;
        return Ok(layer_images::with_tails(files, tails.finish()?));
    }
    let mut data = DataWriter::create(folder, request.align, tree.layer())?;
    match &request.source {
        SourceArg::Path(path) if is_directory(path)? => {
            let written = [&outputs.image_folder, &outputs.data_folder];
            let outputs: Vec<_> = written.into_iter().filter_map(Folder::identity).collect();
            let options =
                directory::WalkOptions { one_file_system: request.one_file_system, outputs: &outputs };
            directory::read(path, &options, (tree, &mut data), progress)?;
        }
        SourceArg::Path(path) => {
            let wrong = |source| DirectoryError::Read { path: path.clone(), source };
            let file = File::open(path).map_err(wrong)?;
            let metadata = file.metadata().map_err(wrong)?;
            if metadata.is_file() {
                progress.expect(metadata.len());
            }
            read_tar(&path.display().to_string(), file, (tree, &mut data), progress)?;
        }
        SourceArg::StandardInput => {
            read_tar("standard input", io::stdin().lock(), (tree, &mut data), progress)?;
        }
        SourceArg::Oci { .. } | SourceArg::LayerImages(_) => {}
    }
    Ok(vec![data.finish()?.map(LayerData::Written)])
}

/// Returns whether a path leads to an EROFS image. Other files are opened again as what they are.
fn is_layer_image(path: &Path) -> bool {
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file && File::open(path).is_ok_and(|file| layer_images::is_image(&file))
}

fn is_directory(path: &Path) -> Result<bool, DirectoryError> {
    use std::os::unix::fs::FileTypeExt as _;
    let metadata =
        std::fs::metadata(path).map_err(|source| DirectoryError::Read { path: path.to_owned(), source })?;
    let kind = metadata.file_type();
    if kind.is_block_device() || kind.is_socket() {
        return Err(DirectoryError::Kind { path: path.to_owned() });
    }
    Ok(kind.is_dir())
}

fn read_tar(
    archive: &str,
    source: impl io::Read,
    layer: (&mut LayerTree, &mut DataWriter),
    progress: &mut dyn Progress,
) -> Result<(), PrepareError> {
    let mut bytes = TarBytes::new(archive, Counted::new(source, progress))?;
    tar::read(archive, &mut bytes, tar::TarKind::Archive, layer)
}

/// The data files of an image. Layers with the same data share one.
#[derive(Debug)]
struct Devices {
    files: Vec<LayerData>,
    /// The position in `files` of each layer's data.
    of_layers: Vec<Option<u16>>,
}

impl Devices {
    fn of(layers: Vec<Option<LayerData>>) -> Self {
        let mut known: BTreeMap<VerityDigest, u16> = BTreeMap::new();
        let mut devices = Self { files: Vec::new(), of_layers: Vec::with_capacity(layers.len()) };
        for file in layers {
            let position = file.map(|file| {
                let next = u16::try_from(devices.files.len()).unwrap_or(u16::MAX);
                let position = *known.entry(file.digest()).or_insert(next);
                if position == next {
                    devices.files.push(file);
                }
                position
            });
            devices.of_layers.push(position);
        }
        devices
    }
}
