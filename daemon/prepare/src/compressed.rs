//! Tar files, plain or compressed with gzip or zstd, recognized by their first bytes.

use crate::error::ArchiveError;
use crate::limits;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};

/// First bytes of formats that are refused, and their names.
const REFUSED: [(&[u8], &str); 4] =
    [(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4"), (b"PK\x03\x04", "zip")];

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// A zstd frame without data. The lower half of its first byte is any number.
const ZSTD_EMPTY: &[u8] = b"\x2a\x4d\x18";

/// A source whose first bytes were looked at.
type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The bytes of a tar file.
pub(crate) enum TarBytes<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<Frames<Source<R>>>),
}

impl<R: Read> TarBytes<R> {
    /// Looks at the first bytes and begins to decompress.
    ///
    /// # Errors
    /// [`ArchiveError::Read`] and [`ArchiveError::Compression`].
    pub(crate) fn new(archive: &str, mut source: R) -> Result<Self, ArchiveError> {
        const LONGEST_MAGIC: u64 = 6;
        let mut first = Vec::new();
        let read = source.by_ref().take(LONGEST_MAGIC).read_to_end(&mut first);
        read.map_err(|source| ArchiveError::Read { archive: archive.to_owned(), source })?;
        if let Some((_, with)) = REFUSED.iter().find(|(magic, _)| first.starts_with(magic)) {
            return Err(ArchiveError::Compression { archive: archive.to_owned(), with });
        }
        let is_empty_frame =
            first.get(1..4) == Some(ZSTD_EMPTY) && first.first().is_some_and(|byte| byte >> 4 == 5);
        let is_zstd = first.starts_with(ZSTD) || is_empty_frame;
        let is_gzip = first.starts_with(GZIP);
        let reader = BufReader::with_capacity(limits::READ_LEN, Cursor::new(first).chain(source));
        Ok(if is_gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(reader)))
        } else if is_zstd {
            let decoder = FrameDecoder::new();
            Self::Zstd(Box::new(Frames { reader, decoder, is_within: false, without_data: 0 }))
        } else {
            Self::Plain(reader)
        })
    }
}

impl<R: Read> fmt::Debug for TarBytes<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "TarBytes::Plain",
            Self::Gzip(_) => "TarBytes::Gzip",
            Self::Zstd(_) => "TarBytes::Zstd",
        })
    }
}

impl<R: Read> Read for TarBytes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// The frames of a zstd stream, one after another. Its checksums are compared.
pub(crate) struct Frames<R> {
    reader: R,
    decoder: FrameDecoder,
    is_within: bool,
    without_data: usize,
}

impl<R: io::BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within {
                if self.reader.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
                continue;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.reader, one).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let (written, computed) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if written.is_some() && written != computed {
                return Err(io::Error::other("a checksum of the zstd stream is wrong"));
            }
            self.is_within = false;
        }
    }
}

impl<R: io::BufRead> Frames<R> {
    /// Begins the next frame, or skips one without data.
    fn begin(&mut self) -> io::Result<()> {
        match self.decoder.init(&mut self.reader) {
            Ok(()) => self.is_within = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                self.without_data += 1;
                let skipped = io::copy(&mut self.reader.by_ref().take(length.into()), &mut io::sink())?;
                if skipped < u64::from(length) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        if self.without_data > limits::EMPTY_FRAMES_MAX {
            return Err(io::Error::other("the zstd stream has too many frames without data"));
        }
        Ok(())
    }
}
