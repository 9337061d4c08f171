//! The start: opens IMAGE and its data files, and checks them as far as was asked.
//!
//! This is the only file of the module that uses paths. It runs before the process gives up its
//! rights.

use super::Prepared;
use super::config::{ImageDigest, PreparedConfig};
use super::data_digest::{check_digests, digest_in_table};
use super::data_file::DataFile;
use super::ids::NodeIds;
use super::image_error::ImageError;
use super::mapping::SharedMapping;
use crate::file_id::FileId;
use crate::log_budget::Source as LogSource;
use crate::sys::fault_copy::ReadOnlyMapping;
use pinhole_erofs::{Image, Superblock};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are read at once to compute a digest.
const HASHED_AT_ONCE: usize = 1 << 20;

/// IMAGE and its data files, open and checked.
#[derive(Debug)]
pub struct PreparedFiles {
    image: Image<SharedMapping>,
    image_file: DataFile,
    data: Vec<DataFile>,
    ids: NodeIds,
    changes: Option<ImageChanges>,
}

/// Reports that a process has written or truncated IMAGE.
#[derive(Debug)]
pub struct ImageChanges {
    inotify: OwnedFd,
    mapping: SharedMapping,
}

impl ImageChanges {
    /// Watches IMAGE by its descriptor, because another file may have got its name since.
    fn watch(image: BorrowedFd<'_>, mapping: SharedMapping) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        inotify::add_watch(&inotify, path, WatchFlags::MODIFY)?;
        Ok(Self { inotify, mapping })
    }

    /// Returns the descriptor that is readable after a change.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Ends the service of the image if a change was reported.
    pub fn look(&self) {
        // At least one event of a file without a name fits.
        let mut events = [0; 1024];
        while matches!(rustix::io::read(&self.inotify, &mut events), Ok(1..)) {
            self.mapping.note_change();
        }
    }
}

impl PreparedFiles {
    /// Opens the image and its data files.
    ///
    /// # Errors
    /// [`ImageError`], one line for the user.
    pub fn open(config: &PreparedConfig) -> Result<Self, ImageError> {
        let path = &config.image;
        let (file, len) = open_file(path, |source| ImageError::Image { path: path.clone(), source })?;
        let unreadable = |source| ImageError::Image { path: path.clone(), source };
        let mapped = usize::try_from(len).map_err(|_large| io::ErrorKind::FileTooLarge.into());
        let mapping = mapped.and_then(|len| ReadOnlyMapping::new(file.file.as_fd(), len));
        let mapping = SharedMapping::new(mapping.map_err(unreadable)?, path.clone());
        // Before the digest is computed: bytes that change after that have another digest.
        let changes = ImageChanges::watch(file.file.as_fd(), mapping.clone());
        if let Some(wanted) = config.digest {
            let found = digest(file.file.as_fd(), len).map_err(unreadable)?;
            if found != wanted {
                return Err(ImageError::Digest { path: path.clone(), wanted, found });
            }
            if let Ok(changes) = &changes {
                changes.look();
            }
        }
        let format = |source| ImageError::Format { path: path.clone(), source };
        let superblock = Image::probe(&mapping).map_err(format)?;
        let paths = data_paths(config, &superblock)?;
        let opened: Result<Vec<_>, _> = paths.iter().map(|path| open_data(path)).collect();
        let opened = opened?;
        check_digests(&superblock.devices, &opened, config.verify_data)?;
        let (data, lens): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let image = Image::open(mapping.clone(), &lens).map_err(format)?;
        let ids = NodeIds::of(&mapping, image.superblock()).map_err(|error| format(error.into()))?;
        let changes = changes.inspect_err(|error| {
            tracing::warn!(%error, "{}: changes of the image while it is served go unnoticed", path.display());
        });
        Ok(Self { image, image_file: file, data, ids, changes: changes.ok() })
    }

    /// Returns the reports of changes, for the thread that waits for them. `None`: the host has
    /// none.
    pub fn take_changes(&mut self) -> Option<ImageChanges> {
        self.changes.take()
    }
}

impl Prepared {
    /// Serves open files. `has_window`: the share has a DAX window, so replies tell which files it
    /// can map.
    pub fn new(files: PreparedFiles, has_window: bool) -> Self {
        let PreparedFiles { image, image_file, data, ids, changes: _ } = files;
        Self { image, image_file, data, ids, has_window, malformed: LogSource::new() }
    }
}

/// Returns the paths of the data files: those that were given, or those that have the names in the
/// device table.
fn data_paths(config: &PreparedConfig, superblock: &Superblock) -> Result<Vec<PathBuf>, ImageError> {
    let devices = &superblock.devices;
    if !config.data.is_empty() {
        let (needed, given) = (devices.len(), config.data.len());
        let complete = needed == given;
        return if complete { Ok(config.data.clone()) } else { Err(ImageError::DataCount { needed, given }) };
    }
    let beside = config.image.parent().unwrap_or(Path::new(""));
    let folder = config.data_dir.as_deref().unwrap_or(beside);
    let named = devices.iter().enumerate().map(|(index, device)| {
        let nameless = || ImageError::NamelessData {
            path: config.image.clone(),
            number: index.saturating_add(1),
            count: devices.len(),
        };
        digest_in_table(device).map(|digest| folder.join(format!("{digest}.data"))).ok_or_else(nameless)
    });
    named.collect()
}

fn open_data(path: &Path) -> Result<(DataFile, u64), ImageError> {
    open_file(path, |source| ImageError::Data { path: path.to_owned(), source })
}

/// Opens a regular file for reading. Also returns its length in bytes.
fn open_file(path: &Path, failed: impl Fn(io::Error) -> ImageError) -> Result<(DataFile, u64), ImageError> {
    // Without NONBLOCK, a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ImageError::NotAFile { path: path.to_owned() });
    }
    let id = FileId::of(&file).map_err(|error| failed(error.into()))?;
    let len = u64::try_from(stat.st_size).unwrap_or_default();
    Ok((DataFile::new(Arc::new(file), id, path.to_owned()), len))
}

/// Computes the SHA-256 of a file.
fn digest(file: BorrowedFd<'_>, len: u64) -> io::Result<ImageDigest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASHED_AT_ONCE];
    let mut done = 0;
    while done < len {
        let read = rustix::io::pread(file, &mut buffer, done)?;
        hash.update(buffer.get(..read).unwrap_or_default());
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done = done.saturating_add(u64::try_from(read).unwrap_or_default());
    }
    Ok(ImageDigest(hash.finalize().into()))
}
