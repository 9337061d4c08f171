//! A blob of an OCI image layout, compared with its digest and its size while it is read.

use super::json::Descriptor;
use crate::error::LayoutError;
use crate::hex::Hex;
use crate::limits;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A blob that is being read.
pub(super) struct Blob {
    path: PathBuf,
    file: File,
    size: u64,
    /// Hexadecimal digits of the SHA-256.
    digest: String,
    hasher: Sha256,
    len: u64,
}

impl Blob {
    /// Opens the blob of a reference.
    pub(super) fn open(directory: &Path, descriptor: &Descriptor) -> Result<Self, LayoutError> {
        const DIGITS: usize = 64;
        let digits = descriptor.digest.strip_prefix("sha256:").filter(|digits| {
            digits.len() == DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        });
        let digest = digits.ok_or_else(|| LayoutError::Digest {
            path: directory.to_owned(),
            digest: descriptor.digest.escape_default().take(2 * DIGITS).collect(),
        })?;
        let path = directory.join("blobs").join("sha256").join(digest);
        let wrong = |source| LayoutError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(wrong)?;
        let metadata = file.metadata().map_err(wrong)?;
        if !metadata.is_file() {
            return Err(wrong(io::Error::other("not a regular file")));
        }
        let (size, digest) = (descriptor.size, digest.to_owned());
        if metadata.len() != size {
            let (found, expected) = (metadata.len().to_string(), size.to_string());
            return Err(LayoutError::Blob { path, what: "size", found, expected });
        }
        Ok(Self { path, file, size, digest, hasher: Sha256::new(), len: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a blob that is a JSON file.
    pub(super) fn whole(&mut self) -> Result<Vec<u8>, LayoutError> {
        if self.size > limits::JSON_LEN_MAX {
            let (path, len) = (self.path.clone(), self.size);
            return Err(LayoutError::Long { path, len, most: limits::JSON_LEN_MAX });
        }
        let mut bytes = Vec::new();
        let read = self.by_ref().take(limits::JSON_LEN_MAX).read_to_end(&mut bytes);
        read.map_err(|source| LayoutError::Read { path: self.path.clone(), source })?;
        self.check()?;
        Ok(bytes)
    }

    /// Reads the rest and compares the digest.
    pub(super) fn check(&mut self) -> Result<(), LayoutError> {
        let copied = io::copy(self, &mut io::sink());
        copied.map_err(|source| LayoutError::Read { path: self.path.clone(), source })?;
        let hash = std::mem::take(&mut self.hasher).finalize();
        let found = Hex(&hash).to_string();
        let wrong =
            |what, found, expected| LayoutError::Blob { path: self.path.clone(), what, found, expected };
        if self.len != self.size {
            return Err(wrong("size", self.len.to_string(), self.size.to_string()));
        }
        if found == self.digest { Ok(()) } else { Err(wrong("digest", found, self.digest.clone())) }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        self.len = self.len.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("path", &self.path).finish_non_exhaustive()
    }
}
