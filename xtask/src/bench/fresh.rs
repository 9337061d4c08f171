//! Folders in which making files costs the same each time.
//!
//! ext4 without a journal does not take an inode again within a minute or more of its deletion, and steps over each such
//! inode of a group at every creation: five thousand files removed make the next ones there ten times as slow. A row
//! that removes files would so decide what the rows behind it show.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::step::{Failure, Outcome};

/// The folder of this name in `place`, made if it is missing, whose own folders a file system of the ext family lays
/// far from one another (`chattr +T`). Others have no such flag and no such trouble.
///
/// # Errors
/// Where it cannot be made.
pub(crate) fn spread(place: &Path, name: &str) -> Outcome<PathBuf> {
    let folder = place.join(name);
    let failed = |error| Failure::new(format!("cannot make {}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let opened = File::open(&folder).map_err(failed)?;
    let set = rustix::fs::ioctl_getflags(&opened)
        .and_then(|flags| rustix::fs::ioctl_setflags(&opened, flags | IFlags::TOPDIR));
    match set {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::PERM | Errno::NOSYS) => {
            Ok(folder)
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// A new folder in a [`spread`] one; it is gone with the value.
///
/// # Errors
/// Where it cannot be made.
pub(crate) fn folder(place: &Path, name: &str) -> Outcome<TempDir> {
    let parent = spread(place, name)?;
    tempfile::Builder::new()
        .prefix("share-")
        .tempdir_in(&parent)
        .map_err(Failure::io(format!("cannot make a share in {}", parent.display())))
}
