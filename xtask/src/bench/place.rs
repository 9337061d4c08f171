//! Where the benchmark keeps its files: a folder on a real file system, gone when the run ends.

use std::path::Path;

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
}

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
        let folder = tempfile::Builder::new()
            .prefix("share-")
            .tempdir_in(&parent)
            .map_err(Failure::io("cannot make a folder for the benchmark"))?;
        Ok(Self { folder })
    }

    /// The folder itself. Each part makes its own shares beneath it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}
