//! Where the benchmark keeps its files: a folder on a real file system, gone when the run ends.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::TempDir;

use crate::step::{Failure, Outcome};
use crate::workspace;

/// What `statfs` calls a tmpfs (`linux/magic.h`).
const TMPFS: i64 = 0x0102_1994;

/// What `statfs` calls a ramfs.
const RAMFS: i64 = 0x8584_58f6;

/// The benchmark's folder.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    _alone: File,
}

/// What the folders of runs are called.
const PREFIX: &str = "share-";

impl Place {
    /// In the build folder, which must not lie in memory: a figure of a tmpfs says nothing about a disk.
    ///
    /// # Errors
    /// Where it does, or cannot be made.
    pub(crate) fn new() -> Outcome<Self> {
        let parent = workspace::target().join("bench");
        std::fs::create_dir_all(&parent).map_err(Failure::io(format!("cannot make {}", parent.display())))?;
        let kind = rustix::fs::statfs(&parent)
            .map_err(|error| Failure::new(format!("cannot look at {}: {error}", parent.display())))?
            .f_type;
        if kind == TMPFS || kind == RAMFS {
            return Err(Failure::new(format!(
                "{} lies in memory; name a build folder on a disk by CARGO_TARGET_DIR",
                parent.display()
            )));
        }
        let alone = alone(&parent)?;
        remove_left(&parent)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(Failure::io("cannot make a folder for the benchmark"))?;
        Ok(Self { folder, _alone: alone })
    }

    /// The folder itself. Each part makes its own shares beneath it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The lock of the one run in `parent`: two at once would measure each other.
fn alone(parent: &Path) -> Outcome<File> {
    let lock = File::create(parent.join("lock")).map_err(Failure::io("cannot make the benchmark's lock"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            Err(Failure::new("another benchmark runs here: the figures would be of both"))
        }
        Err(error) => Err(Failure::new(format!("cannot lock the benchmark's folder: {error}"))),
    }
}

/// What a run that was killed has left behind.
fn remove_left(parent: &Path) -> Outcome {
    let entries = std::fs::read_dir(parent).map_err(Failure::io("cannot look for what earlier runs left"))?;
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let path = entry.path();
            std::fs::remove_dir_all(&path)
                .map_err(Failure::io(format!("cannot remove {}", path.display())))?;
        }
    }
    Ok(())
}
