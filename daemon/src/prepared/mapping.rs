//! The bytes of IMAGE: a mapping that is served until it is known to have changed.

use crate::sys::fault_copy::ReadOnlyMapping;
use pinhole_erofs::{Source, SourceError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The mapping of IMAGE.
#[derive(Debug)]
pub(super) struct ImageMapping {
    mapping: ReadOnlyMapping,
    /// The path of IMAGE, for the log.
    path: PathBuf,
    /// Whether a request still gets bytes of the mapping.
    is_intact: AtomicBool,
}

/// The mapping as the source of the reader, and for the thread that learns of changes.
#[derive(Clone, Debug)]
pub(super) struct SharedMapping(Arc<ImageMapping>);

impl SharedMapping {
    pub(super) fn new(mapping: ReadOnlyMapping, path: PathBuf) -> Self {
        Self(Arc::new(ImageMapping { mapping, path, is_intact: AtomicBool::new(true) }))
    }

    /// Returns whether IMAGE has not changed, as far as it is known.
    pub(super) fn is_intact(&self) -> bool {
        self.0.is_intact.load(Ordering::Relaxed)
    }

    /// Notes that a process has written or truncated IMAGE. From now on it yields no bytes.
    pub(super) fn note_change(&self) {
        self.end("was changed while it was served");
    }

    fn end(&self, why: &str) {
        if self.0.is_intact.swap(false, Ordering::Relaxed) {
            tracing::error!(
                "{}: the image {why}: every request fails with EIO from now on; restart the daemon with a whole \
                 image, and replace images by rename only",
                self.0.path.display()
            );
        }
    }
}

impl Source for SharedMapping {
    fn len(&self) -> u64 {
        u64::try_from(self.0.mapping.len()).unwrap_or(u64::MAX)
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let len = u64::try_from(into.len()).map_err(|_large| SourceError)?;
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        if !is_inside || !self.is_intact() {
            return Err(SourceError);
        }
        self.0.mapping.copy(offset, into).map_err(|_fault| {
            self.end("was truncated or cannot be read any more");
            SourceError
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    fn mapped(len: usize) -> (std::fs::File, SharedMapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        let mapping = ReadOnlyMapping::new(file.as_fd(), len).unwrap();
        (file, SharedMapping::new(mapping, "i".into()))
    }

    #[test]
    fn an_offset_outside_is_an_error_and_no_change() {
        let (_file, image) = mapped(8192);
        for (offset, len) in [(8192, 1), (8191, 2), (u64::MAX, 1), (u64::MAX, 2), (1 << 40, 1)] {
            assert_eq!(image.copy(offset, &mut vec![0; len]), Err(SourceError), "{offset} {len}");
        }
        let mut into = [0; 8192];
        assert_eq!(image.copy(0, &mut into), Ok(()));
        assert!(into == [7; 8192] && image.is_intact());
    }

    #[test]
    fn a_fault_or_a_change_ends_all_reads() {
        let (file, image) = mapped(8192);
        file.set_len(100).unwrap();
        assert_eq!(image.copy(4096, &mut [0]), Err(SourceError));
        assert_eq!(image.copy(0, &mut [0]), Err(SourceError), "its first page still exists");
        assert!(!image.is_intact());
        let (_file, image) = mapped(10);
        image.clone().note_change();
        assert_eq!(image.copy(0, &mut [0]), Err(SourceError));
    }
}
