//! Folder for the files of a benchmark run, on a disk. It is removed when the run ends.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::step::{Failure, Outcome};
use crate::workspace;

/// File system type of tmpfs in `statfs` (`linux/magic.h`).
const TMPFS: i64 = 0x0102_1994;

/// File system type of ramfs in `statfs`.
const RAMFS: i64 = 0x8584_58f6;

/// Folder of a run. Dropping the value removes the folder and permits the next run.
#[derive(Debug)]
pub(crate) struct RunFolder {
    folder: TempDir,
    /// Lock that keeps out other runs.
    _lock: File,
}

/// Prefix of the names of run folders, by which a later run finds those of killed runs.
const PREFIX: &str = "run-";

impl RunFolder {
    /// Creates the folder in the build folder, which must be on a disk: the speed of a tmpfs says
    /// nothing about a disk.
    ///
    /// # Errors
    /// Fails if the build folder is in memory, the folder cannot be created, or another run is
    /// active.
    pub(crate) fn new() -> Outcome<Self> {
        let parent = workspace::target().join("bench");
        std::fs::create_dir_all(&parent)
            .map_err(Failure::io(format!("cannot create {}", parent.display())))?;
        let kind = rustix::fs::statfs(&parent)
            .map_err(|error| {
                Failure::new(format!("cannot find the file system type of {}: {error}", parent.display()))
            })?
            .f_type;
        if kind == TMPFS || kind == RAMFS {
            return Err(Failure::new(format!(
                "{} is in memory (tmpfs or ramfs): set CARGO_TARGET_DIR to a folder on a disk",
                parent.display()
            )));
        }
        let lock = lock_folder(&parent)?;
        remove_stale(&parent)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(Failure::io("cannot create a folder for the benchmark"))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns the path of the folder. Measurements create their shares below this path.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Locks `parent`, so that only one run is active. Two runs at once would disturb each other.
fn lock_folder(parent: &Path) -> Outcome<File> {
    let lock = File::create(parent.join("lock"))
        .map_err(Failure::io("cannot create the lock file of the benchmark"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(Failure::new(
            "another benchmark is running: wait until it ends, or the two disturb each other",
        )),
        Err(error) => Err(Failure::new(format!("cannot lock the folder of the benchmark: {error}"))),
    }
}

/// Removes the folders of killed runs from `parent`.
fn remove_stale(parent: &Path) -> Outcome {
    let entries =
        std::fs::read_dir(parent).map_err(Failure::io("cannot look for folders of earlier runs"))?;
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let path = entry.path();
            std::fs::remove_dir_all(&path)
                .map_err(Failure::io(format!("cannot remove {}", path.display())))?;
        }
    }
    Ok(())
}
