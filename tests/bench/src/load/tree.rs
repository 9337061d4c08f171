//! Files in the share: the same for each daemon and for bare host calls. Existing files are kept.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::IFlags;

use super::error::LoadError;
use super::row::Row;

/// Folder with a number of files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder {
    pub(super) name: &'static str,
    pub(super) files: usize,
}

/// Big file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Big {
    pub(super) name: &'static str,
    /// Length in bytes.
    pub(super) len: u64,
}

/// Empty files that the guest knows.
pub(super) const KNOWN: Folder = Folder { name: "known", files: 300 };
/// Files of 1 to 16 KiB.
pub(super) const SMALL: Folder = Folder { name: "small", files: 300 };
/// A small directory.
pub(super) const FEW: Folder = Folder { name: "few", files: 40 };
/// A big directory.
pub(super) const MANY: Folder = Folder { name: "many", files: 10_000 };
/// A bigger directory.
pub(super) const MOST: Folder = Folder { name: "most", files: 20_000 };
/// Parent of the directories in which rows create files.
pub(super) const MADE: &str = "made";
/// File in the page cache.
pub(super) const WARM: Big = Big { name: "warm", len: 256 << 20 };
/// File outside the page cache. It is small enough to be dropped and read again quickly.
pub(super) const COLD: Big = Big { name: "cold", len: 256 << 20 };
/// File that is written with FSYNC.
pub(super) const SYNCED: Big = Big { name: "synced", len: 4 << 20 };

/// Returns the name of a file in a folder.
pub(super) fn name(number: usize) -> String {
    format!("file-{number:05}")
}

/// Returns the length of a small file in bytes: 1 to 16 KiB, different from its neighbors.
pub(super) const fn small_len(number: usize) -> u64 {
    1024 + (number as u64 * 7919) % (15 * 1024 + 1)
}

/// Record of the files that exist for rows.
#[derive(Debug)]
pub(super) struct Prepared {
    share: PathBuf,
    names: Vec<&'static str>,
}

impl Prepared {
    /// Starts without a record of files below `share`.
    pub(super) const fn new(share: PathBuf) -> Self {
        Self { share, names: Vec::new() }
    }

    /// Creates the missing files of `row`, and reads those that have to be in the page cache.
    ///
    /// # Errors
    /// [`LoadError::Host`] if a file cannot be created.
    pub(super) fn add(&mut self, row: Row) -> Result<(), LoadError> {
        for name in needs(row) {
            if !self.names.contains(name) {
                create(&self.share, name)?;
                self.names.push(name);
            }
        }
        Ok(())
    }
}

/// Creates the file or folder `name` of the tables in this file.
fn create(share: &Path, name: &str) -> Result<(), LoadError> {
    if name == MADE {
        return create_spread_folder(&share.join(MADE));
    }
    if let Some(folder) = [KNOWN, FEW, MANY, MOST, SMALL].into_iter().find(|folder| folder.name == name) {
        let len = if name == SMALL.name { small_len } else { |_number: usize| 0 };
        return fill_folder(&share.join(name), folder.files, len);
    }
    let Some(big) = [WARM, COLD, SYNCED].into_iter().find(|big| big.name == name) else { return Ok(()) };
    let path = share.join(name);
    if fs::metadata(&path).map_or(0, |found| found.len()) != big.len {
        write_big(&path, big.len)?;
    }
    if name == WARM.name {
        let mut warm = File::open(path).map_err(LoadError::host("cannot open the warm file"))?;
        std::io::copy(&mut warm, &mut std::io::sink())
            .map_err(LoadError::host("cannot read the warm file"))?;
    }
    Ok(())
}

/// Returns the files and folders of a row.
const fn needs(row: Row) -> &'static [&'static str] {
    match row {
        Row::GetAttr | Row::LookupHit | Row::LookupMiss | Row::OpenRelease => &[KNOWN.name],
        Row::SmallFile => &[SMALL.name],
        Row::Read(_) | Row::Write(_) => &[WARM.name],
        Row::CreateUnlink => &[MADE],
        Row::ReadDirPlus => &[MANY.name],
        Row::ReadDirPlusMost => &[MOST.name],
        Row::Fsync => &[SYNCED.name],
        Row::Mixed => &[KNOWN.name, SMALL.name, WARM.name, FEW.name],
        Row::BesideCold => &[KNOWN.name, COLD.name],
    }
}

/// New directories in which a row creates files. Dropping the value removes them.
///
/// ext4 without a journal does not reuse an inode within a minute or more of its deletion, and
/// skips each such inode of a group at every creation. In one directory, this would slow down the
/// fastest daemon most. In several directories of different groups, each daemon leaves few such
/// inodes.
pub(super) struct Fresh {
    share: PathBuf,
    names: Vec<String>,
}

/// Number of directories of one row in one thread.
const FRESH_FOLDERS: usize = 32;

impl Fresh {
    /// Creates the directories below `share`.
    pub(super) fn new(share: &Path) -> Result<Self, LoadError> {
        static MADE_SO_FAR: AtomicUsize = AtomicUsize::new(0);
        let mut fresh = Self { share: share.to_path_buf(), names: Vec::new() };
        for _ in 0..FRESH_FOLDERS {
            let number = MADE_SO_FAR.fetch_add(1, Ordering::Relaxed);
            let name = format!("{MADE}/{}-{number}", std::process::id());
            fs::create_dir(share.join(&name)).map_err(LoadError::host("cannot create a folder"))?;
            fresh.names.push(name);
        }
        Ok(fresh)
    }

    /// Returns their paths from the share.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for name in &self.names {
            // Ignore the result: the removal of the share removes the files of a failed row.
            drop(fs::remove_dir(self.share.join(name)));
        }
    }
}

/// Creates a folder whose subfolders file systems of the ext family place far apart (`chattr +T`).
/// Other file systems have neither this flag nor the problem of [`Fresh`].
fn create_spread_folder(folder: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(folder).map_err(LoadError::host("cannot create a folder"))?;
    let opened = File::open(folder).map_err(LoadError::host("cannot open a folder"))?;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&opened)
        && rustix::fs::ioctl_setflags(&opened, flags | IFlags::TOPDIR).is_err()
    {
        // The flag is refused, for example without the privilege. Then figures vary more between
        // runs.
        return Ok(());
    }
    Ok(())
}

/// Creates the missing files of a folder. `len` returns the length of a file in bytes.
fn fill_folder(folder: &Path, files: usize, len: impl Fn(usize) -> u64) -> Result<(), LoadError> {
    fs::create_dir_all(folder).map_err(LoadError::host("cannot create a folder"))?;
    for number in 0..files {
        let path = folder.join(name(number));
        if !path.exists() {
            let bytes = vec![b'x'; usize::try_from(len(number)).unwrap_or(0)];
            fs::write(&path, bytes).map_err(LoadError::host("cannot write a file"))?;
        }
    }
    Ok(())
}

/// Writes a big file and syncs it: only clean pages can be dropped from the page cache.
fn write_big(path: &Path, len: u64) -> Result<(), LoadError> {
    let mut file = File::create(path).map_err(LoadError::host("cannot create a big file"))?;
    let block = vec![0xa7; 1 << 20];
    for _ in 0..len.div_ceil(1 << 20) {
        file.write_all(&block).map_err(LoadError::host("cannot write a big file"))?;
    }
    file.set_len(len).map_err(LoadError::host("cannot size a big file"))?;
    file.sync_all().map_err(LoadError::host("cannot sync a big file"))
}
