//! Bytes of an image in order, with zeros between its parts and a checksum in the superblock.

use std::io::Write;

use super::error::WriteError;
use crate::crc32c::crc32c;
use crate::limits::BLOCK_LEN;

/// Bytes that are collected before they are written.
const BUFFER: usize = 64 * 1024;

/// Offsets of the superblock and its checksum.
const SUPER: usize = 1024;
const CHECKSUM: std::ops::Range<usize> = SUPER + 4..SUPER + 8;

/// Writes parts at increasing positions.
pub(super) struct Emitter<'o> {
    out: &'o mut dyn Write,
    buffer: Vec<u8>,
    /// Position of the buffer in the image.
    start: u64,
}

impl<'o> Emitter<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        Self { out, buffer: Vec::with_capacity(2 * BUFFER), start: 0 }
    }

    /// Returns the position of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.start.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX))
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        for part in bytes.chunks(BUFFER) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends zeros up to a position.
    pub(super) fn zeros_to(&mut self, position: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        while let Some(missing) = position.checked_sub(self.position()).filter(|missing| *missing > 0) {
            let missing = usize::try_from(missing).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
            self.bytes(ZEROS.get(..missing).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    /// Writes the last bytes.
    pub(super) fn finish(mut self) -> Result<(), WriteError> {
        self.flush()?;
        self.out.flush().map_err(WriteError::Io)
    }

    /// Writes the collected bytes. The first ones contain the first block with the superblock.
    fn flush(&mut self) -> Result<(), WriteError> {
        if self.start == 0 {
            let crc = self.buffer.get(SUPER..BLOCK_LEN).map(|block| crc32c(!0, block));
            if let (Some(crc), Some(checksum)) = (crc, self.buffer.get_mut(CHECKSUM)) {
                checksum.copy_from_slice(&crc.to_le_bytes());
            }
        }
        self.out.write_all(&self.buffer).map_err(WriteError::Io)?;
        self.start = self.position();
        self.buffer.clear();
        Ok(())
    }
}
