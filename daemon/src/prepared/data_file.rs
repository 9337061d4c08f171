//! One open file of the host with data of the image.

use crate::file_id::FileId;
use crate::filesystem::{Answer, Pace, Paced};
use crate::io_vectors::{IoVectors, TransferFlags};
use pinhole_protocol::Errno;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of the host with data of the image: a data file, or IMAGE itself. It was opened
/// `O_RDONLY` and is open as long as the daemon.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) file: Arc<OwnedFd>,
    pub(super) id: FileId,
    /// The path of the file, for the log.
    pub(super) path: PathBuf,
    /// The host's file system does not say whether data is in memory, so every read may block.
    always_blocks: AtomicBool,
    /// A line of the log says that the file is too short.
    is_reported: AtomicBool,
}

impl DataFile {
    pub(super) const fn new(file: Arc<OwnedFd>, id: FileId, path: PathBuf) -> Self {
        Self { file, id, path, always_blocks: AtomicBool::new(false), is_reported: AtomicBool::new(false) }
    }

    /// Fills the memory from the file at `offset`.
    ///
    /// # Errors
    /// EIO if the file ends before: the image says that it has these bytes.
    pub(super) fn fill(&self, into: IoVectors<'_>, offset: u64, pace: Pace) -> Answer<Paced<()>> {
        if pace == Pace::Now {
            return self.fill_cached(into, offset);
        }
        let mut filled = 0;
        while filled < into.len() {
            let at = offset.saturating_add(filled as u64);
            let more = into.after(filled).fill_from(self.file.as_fd(), at, TransferFlags::empty());
            match more.map_err(|error| errno(&error))? {
                0 => return Err(self.too_short()),
                more => filled = filled.saturating_add(more),
            }
        }
        Ok(Paced::Ready(()))
    }

    /// Fills the memory from the host's page cache, unless any of the data is missing there.
    fn fill_cached(&self, into: IoVectors<'_>, offset: u64) -> Answer<Paced<()>> {
        if self.always_blocks.load(Ordering::Relaxed) {
            return Ok(Paced::WouldBlock);
        }
        let filled = into.fill_from(self.file.as_fd(), offset, TransferFlags::NOWAIT);
        match filled.map_err(|error| errno(&error)) {
            Ok(filled) if filled == into.len() => Ok(Paced::Ready(())),
            // The rest is not in memory, or the file ends here. A patient read finds out.
            Ok(_) | Err(Errno::EAGAIN) => Ok(Paced::WouldBlock),
            Err(Errno::EOPNOTSUPP) => {
                self.always_blocks.store(true, Ordering::Relaxed);
                Ok(Paced::WouldBlock)
            }
            Err(error) => Err(error),
        }
    }

    /// Logs once that the file is too short, and returns the error for the guest.
    fn too_short(&self) -> Errno {
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "{}: the file is shorter than the image says: reads past its end fail with EIO; restart the daemon \
                 with whole data files",
                self.path.display()
            );
        }
        Errno::EIO
    }
}

/// Returns the guest's errno for an error of the host.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
