//! Files that appear under their name only when they are whole.
//!
//! A new file has no name (`O_TMPFILE`) until it is published, so it vanishes with the process. On
//! a file system without such files it has a temporary name, and [`TemporaryNames`] removes it when
//! the process is interrupted. Until all files are on disk, none is published.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
#[expect(
    clippy::disallowed_types,
    reason = "the daemon's lock is not in this crate, and no thread panics with it"
)]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A failure to write the image or a data file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum OutputError {
    #[error("{}: the file exists; give --force to replace it, or another IMAGE", path.display())]
    Exists { path: PathBuf },
    #[error("{}: it exists and is not a regular file; give another IMAGE", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: not the name of a file; end IMAGE with a file name", path.display())]
    NoName { path: PathBuf },
    #[error("{}: cannot use the folder: {source}; give one that exists and can be written", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "{}: cannot write a file there: {source}; free space, or give another IMAGE or --data-dir",
        path.display()
    )]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: its bytes are not those that its name says; remove the file", path.display())]
    DataChanged { path: PathBuf },
    #[error("{}: the data file has over {most} bytes; give layers with less data", path.display())]
    DataLong { path: PathBuf, most: u64 },
    #[error("prepare: interrupted by a signal; run it again")]
    Interrupted,
}

/// Begin of a temporary name. The process id and a number follow.
const TEMPORARY_PREFIX: &str = ".pinhole-prepare-";

/// Attempts to find a temporary name that is free.
const NAME_TRIES: u32 = 1000;

/// The temporary names of this process.
#[derive(Clone, Debug, Default)]
#[expect(clippy::disallowed_types, reason = "as at the import")]
pub struct TemporaryNames(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
pub(crate) struct Names {
    files: Vec<(Arc<OwnedFd>, OsString)>,
    is_interrupted: bool,
}

impl Names {
    fn forget(&mut self, folder: &Arc<OwnedFd>, name: &OsStr) {
        self.files.retain(|(known, own)| !(Arc::ptr_eq(known, folder) && own == name));
    }
}

impl TemporaryNames {
    /// Removes all temporary files and forbids new ones and new names. Waits for a publication that
    /// has begun, so that its files are there as a whole. The process should end then.
    pub fn interrupt(&self) {
        let mut names = self.lock();
        names.is_interrupted = true;
        for (folder, name) in names.files.drain(..) {
            remove(&folder, &name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the names for as long as files are published: an interruption waits.
    pub(crate) fn hold(&self) -> Result<MutexGuard<'_, Names>, OutputError> {
        let names = self.lock();
        if names.is_interrupted { Err(OutputError::Interrupted) } else { Ok(names) }
    }
}

/// A folder in which files are written.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    descriptor: Arc<OwnedFd>,
    names: TemporaryNames,
}

impl Folder {
    /// Opens a folder.
    pub(crate) fn open(path: &Path, names: &TemporaryNames) -> Result<Self, OutputError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| OutputError::Folder { path: path.to_owned(), source: errno.into() })?;
        Ok(Self { path: path.to_owned(), descriptor: Arc::new(descriptor), names: names.clone() })
    }

    /// Returns device and inode of the folder.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        rustix::fs::fstat(&self.descriptor).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        if self.path == Path::new(".") { PathBuf::from(name) } else { self.path.join(name) }
    }

    /// Returns the kind of a file in the folder, if there is one.
    pub(crate) fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, OutputError> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(OutputError::Folder { path: self.path.clone(), source: errno.into() }),
        }
    }

    /// Opens a regular file in the folder to read it.
    pub(crate) fn read(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())?))
    }

    /// Creates a file without a name, or with a temporary one.
    pub(crate) fn create(&self) -> Result<NewFile, OutputError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.descriptor, ".", flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(NewFile { file: File::from(file), folder: self.clone(), temporary_name: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => self.create_named(),
            Err(errno) => Err(self.wrong(errno.into())),
        }
    }

    fn create_named(&self) -> Result<NewFile, OutputError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let mut names = self.names.hold()?;
        let (name, file) = self.with_free_name(|name| {
            rustix::fs::openat(&self.descriptor, name, flags, Mode::from_raw_mode(0o666))
        })?;
        names.files.push((Arc::clone(&self.descriptor), name.clone()));
        Ok(NewFile { file: File::from(file), folder: self.clone(), temporary_name: Some(name) })
    }

    /// Calls `make` with temporary names until one is free.
    fn with_free_name<T>(
        &self,
        mut make: impl FnMut(&OsStr) -> rustix::io::Result<T>,
    ) -> Result<(OsString, T), OutputError> {
        let process = std::process::id();
        for number in 0..NAME_TRIES {
            let name = OsString::from(format!("{TEMPORARY_PREFIX}{process}-{number}"));
            match make(&name) {
                Ok(result) => return Ok((name, result)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.wrong(errno.into())),
            }
        }
        Err(self.wrong(Errno::EXIST.into()))
    }

    fn wrong(&self, source: io::Error) -> OutputError {
        OutputError::Write { path: self.path.clone(), source }
    }

    /// Writes the names of the folder to disk.
    pub(crate) fn sync(&self) -> Result<(), OutputError> {
        rustix::fs::fsync(&self.descriptor).map_err(|errno| self.wrong(errno.into()))
    }
}

/// A file that is not published yet. Dropped before that, it is removed.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    folder: Folder,
    /// The temporary name of a file that has to have one.
    temporary_name: Option<OsString>,
}

impl NewFile {
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    pub(crate) const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the error for a failed write.
    pub(crate) fn wrong(&self, source: io::Error) -> OutputError {
        self.folder.wrong(source)
    }

    /// Writes the bytes to disk.
    pub(crate) fn sync(&self) -> Result<(), OutputError> {
        self.file.sync_all().map_err(|source| self.wrong(source))
    }

    /// Gives the file a name that no file has. Returns `None` if one has it.
    pub(crate) fn publish(
        mut self,
        name: &OsStr,
        names: &mut Names,
    ) -> Result<Option<Published>, OutputError> {
        let done = match &self.temporary_name {
            None => self.link(name),
            Some(temporary) => rename_to_new(&self.folder.descriptor, temporary, name),
        };
        match done {
            Ok(()) => self.forget_temporary(names),
            Err(Errno::EXIST) => {
                self.discard(names);
                return Ok(None);
            }
            Err(errno) => {
                let error = self.wrong(errno.into());
                self.discard(names);
                return Err(error);
            }
        }
        Ok(Some(Published { folder: self.folder.clone(), name: name.to_owned() }))
    }

    /// Gives the file a name, in place of the file that has it.
    pub(crate) fn replace(mut self, name: &OsStr, names: &mut Names) -> Result<Published, OutputError> {
        let temporary = match self.temporary_name.clone() {
            Some(temporary) => temporary,
            None => self.folder.with_free_name(|name| self.link(name))?.0,
        };
        let folder = &self.folder.descriptor;
        if let Err(errno) = rustix::fs::renameat(folder, &temporary, folder, name) {
            let error = self.wrong(errno.into());
            remove(folder, &temporary);
            self.forget_temporary(names);
            return Err(error);
        }
        self.forget_temporary(names);
        Ok(Published { folder: self.folder.clone(), name: name.to_owned() })
    }

    /// Links a file without a name.
    fn link(&self, name: &OsStr) -> rustix::io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(rustix::fs::CWD, own, self.folder.descriptor.as_fd(), name, flags)
    }

    /// Removes the temporary name. The lock on all names is held already.
    fn discard(&mut self, names: &mut Names) {
        if let Some(temporary) = &self.temporary_name {
            remove(&self.folder.descriptor, temporary);
        }
        self.forget_temporary(names);
    }

    fn forget_temporary(&mut self, names: &mut Names) {
        if let Some(temporary) = self.temporary_name.take() {
            names.forget(&self.folder.descriptor, &temporary);
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let Some(temporary) = self.temporary_name.take() else { return };
        remove(&self.folder.descriptor, &temporary);
        // While files are published, this thread holds the names. One that stays in the list names
        // no file any more.
        if let Ok(mut names) = self.folder.names.0.try_lock() {
            names.forget(&self.folder.descriptor, &temporary);
        }
    }
}

/// A file that has its name. It can be removed again if a later step fails.
#[derive(Debug)]
pub(crate) struct Published {
    folder: Folder,
    name: OsString,
}

impl Published {
    /// Removes the file.
    pub(crate) fn take_back(&self) {
        remove(&self.folder.descriptor, &self.name);
    }
}

/// Renames a file unless the new name exists.
fn rename_to_new(folder: &OwnedFd, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // A file system without this flag, such as NFS.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(folder, from, folder, to, AtFlags::empty())?;
            rustix::fs::unlinkat(folder, from, AtFlags::empty())
        }
        done => done,
    }
}

/// Removes a file. A failure cannot be helped: the error that led here is reported.
fn remove(folder: &OwnedFd, name: &OsStr) {
    rustix::fs::unlinkat(folder, name, AtFlags::empty()).ok();
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
