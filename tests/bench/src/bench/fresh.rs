//! Creates folders in which the creation of a file always costs the same.
//!
//! ext4 without a journal does not reuse an inode within a minute or more of its deletion. Each
//! creation skips every such inode of its group: after 5000 removals, the creation of a file in
//! that group takes ten times as long. So a row that removes files would slow down the rows after
//! it.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::step::{Failure, Outcome};

/// Returns the folder `name` in `parent`, and creates it if it is missing. File systems of the ext
/// family place its subfolders far apart (`chattr +T`). Other file systems have neither this
/// flag nor this problem.
///
/// # Errors
/// Fails if the folder cannot be created.
pub(crate) fn spread_folder(parent: &Path, name: &str) -> Outcome<PathBuf> {
    let folder = parent.join(name);
    let failed = |error| Failure::new(format!("cannot create {}: {error}", folder.display()));
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

/// Creates a new share in the [`spread_folder`] with this name. Dropping the value removes the
/// share.
///
/// # Errors
/// Fails if the folder cannot be created.
pub(crate) fn new_share(parent: &Path, name: &str) -> Outcome<TempDir> {
    let spread = spread_folder(parent, name)?;
    tempfile::Builder::new()
        .prefix("share-")
        .tempdir_in(&spread)
        .map_err(Failure::io(format!("cannot create a share in {}", spread.display())))
}
