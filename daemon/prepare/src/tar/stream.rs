//! The blocks of a tar file, with the position for error messages.

use super::header::BLOCK_LEN;
use crate::error::{ArchiveError, PrepareError};
use crate::limits;
use std::io::{self, Read};

/// A tar file that is read from its beginning to its end.
pub(super) struct TarStream<'a> {
    /// The name of the file, for messages.
    pub(super) archive: &'a str,
    source: &'a mut dyn Read,
    /// Bytes that were read.
    offset: u64,
    buffer: Vec<u8>,
}

impl<'a> TarStream<'a> {
    pub(super) fn new(archive: &'a str, source: &'a mut dyn Read) -> Self {
        Self { archive, source, offset: 0, buffer: vec![0; limits::READ_LEN] }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads one block. Returns `None` at the end of the file.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK_LEN]>, ArchiveError> {
        let mut block = [0; BLOCK_LEN];
        let mut filled = 0;
        while filled < BLOCK_LEN {
            let read = self.read(|source| source.read(block.get_mut(filled..).unwrap_or_default()))?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        match filled {
            0 => Ok(None),
            BLOCK_LEN => Ok(Some(block)),
            _ => Err(self.cut()),
        }
    }

    /// Gives the next `len` bytes to `each`, in parts.
    pub(super) fn copy(
        &mut self,
        len: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let mut left = len;
        let mut buffer = std::mem::take(&mut self.buffer);
        while left > 0 {
            let wanted = usize::try_from(left).map_or(limits::READ_LEN, |left| left.min(limits::READ_LEN));
            let read = self.read(|source| source.read(buffer.get_mut(..wanted).unwrap_or_default()))?;
            if read == 0 {
                return Err(self.cut().into());
            }
            each(buffer.get(..read).unwrap_or_default())?;
            left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Skips the rest of the last block of an entry of `len` bytes.
    pub(super) fn skip_padding(&mut self, len: u64) -> Result<(), PrepareError> {
        const BLOCK: u64 = BLOCK_LEN as u64;
        self.copy((BLOCK - len % BLOCK) % BLOCK, |_padding| Ok(()))
    }

    /// Reads everything behind the end of the archive, which must be zeros.
    pub(super) fn finish(&mut self) -> Result<(), PrepareError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let before = self.offset;
            let read = self.read(|source| source.read(&mut buffer))?;
            if read == 0 {
                return Ok(());
            }
            if buffer.iter().take(read).any(|byte| *byte != 0) {
                return Err(
                    ArchiveError::Trailing { archive: self.archive.to_owned(), offset: before }.into()
                );
            }
        }
    }

    pub(super) fn cut(&self) -> ArchiveError {
        ArchiveError::Cut { archive: self.archive.to_owned(), offset: self.offset }
    }

    fn read(
        &mut self,
        mut read: impl FnMut(&mut dyn Read) -> io::Result<usize>,
    ) -> Result<usize, ArchiveError> {
        loop {
            match read(self.source) {
                Ok(count) => {
                    self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.cut()),
                Err(source) => return Err(ArchiveError::Read { archive: self.archive.to_owned(), source }),
            }
        }
    }
}
