//! The data file of one layer: its files one after another, on 4 KiB, without the blocks of zeros.
//!
//! The name of a data file is the fs-verity digest of its bytes, which is computed while they are
//! written. Layers with the same files in the same order have the same data file.

use crate::hash_thread::HashThread;
use crate::limits;
use crate::output::{Folder, NewFile, OutputError, Published};
use crate::tree::{FileData, LayerIndex, Placed};
use crate::verity::{BLOCK_LEN, VerityDigest, is_zero};
use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// Bytes of a block.
const BLOCK: u64 = BLOCK_LEN as u64;

/// Where the data of files begins in a data file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// On 4 KiB.
    #[default]
    Page,
    /// That of files of 2 MiB and more on 2 MiB, that of other files on 4 KiB.
    HugePage,
}

/// Length from which [`Align::HugePage`] aligns a file, and to which.
const HUGE_LEN: u64 = 2 << 20;

impl Align {
    const fn of(self, size: u64) -> u64 {
        match self {
            Self::HugePage if size >= HUGE_LEN => HUGE_LEN,
            Self::HugePage | Self::Page => BLOCK,
        }
    }
}

/// A data file that is being written.
#[derive(Debug)]
pub(crate) struct DataWriter {
    file: NewFile,
    align: Align,
    layer: LayerIndex,
    hasher: HashThread,
    /// Bytes that are not written yet. They begin at `flushed`, a multiple of [`BLOCK`].
    buffer: Vec<u8>,
    flushed: u64,
}

/// A data file as a whole, not published yet.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: NewFile,
    pub(crate) digest: VerityDigest,
    /// Bytes, with the hole at the end.
    pub(crate) len: u64,
}

/// A file of the host that is a data file as it is.
#[derive(Clone, Debug)]
pub(crate) struct GivenData {
    pub(crate) path: PathBuf,
    pub(crate) digest: VerityDigest,
    /// Bytes of its whole blocks.
    pub(crate) len: u64,
}

/// The data of a layer.
#[derive(Debug)]
pub(crate) enum LayerData {
    Written(DataFile),
    Given(GivenData),
}

impl LayerData {
    pub(crate) const fn digest(&self) -> VerityDigest {
        match self {
            Self::Written(file) => file.digest,
            Self::Given(file) => file.digest,
        }
    }

    /// Returns its bytes, with the hole at the end.
    pub(crate) const fn len(&self) -> u64 {
        match self {
            Self::Written(file) => file.len,
            Self::Given(file) => file.len,
        }
    }

    /// Returns its bytes, without the hole at the end.
    pub(crate) const fn data_len(&self) -> u64 {
        match self {
            Self::Written(file) => file.data_len(),
            Self::Given(file) => file.len,
        }
    }
}

impl DataWriter {
    pub(crate) fn create(folder: &Folder, align: Align, layer: LayerIndex) -> Result<Self, OutputError> {
        let file = folder.create()?;
        let hasher = HashThread::start().map_err(|source| file.wrong(source))?;
        let buffer = hasher.buffer();
        Ok(Self { file, align, layer, hasher, buffer, flushed: 0 })
    }

    /// Begins a file of `size` bytes whose data is in `ranges`. Returns the places of its regions,
    /// whose bytes must be written next, one after another.
    pub(crate) fn place(&mut self, size: u64, ranges: &[Range<u64>]) -> Result<FileData, OutputError> {
        let mut next =
            self.position().next_multiple_of(if ranges.is_empty() { 1 } else { self.align.of(size) });
        let mut placed = FileData { size, regions: Vec::with_capacity(ranges.len()) };
        for range in ranges {
            let len = range.end.saturating_sub(range.start);
            placed.regions.push(Placed { offset: range.start, layer: self.layer, start: next, len });
            next = next.saturating_add(len.next_multiple_of(BLOCK));
            if next > limits::DATA_LEN_MAX {
                let path = self.file.folder().path_of("".as_ref());
                return Err(OutputError::DataLong { path, most: limits::DATA_LEN_MAX });
            }
        }
        Ok(placed)
    }

    /// Writes zeros up to a position.
    pub(crate) fn seek(&mut self, position: u64) -> Result<(), OutputError> {
        let mut gap = position.saturating_sub(self.position());
        let fill = (BLOCK - self.position() % BLOCK) % BLOCK;
        let fill = fill.min(gap);
        self.buffer.resize(self.buffer.len() + usize::try_from(fill).unwrap_or_default(), 0);
        gap -= fill;
        let blocks = gap - gap % BLOCK;
        if blocks > 0 {
            self.flush()?;
            self.zeros(blocks)?;
            self.flushed += blocks;
        }
        let rest = usize::try_from(gap - blocks).unwrap_or_default();
        self.buffer.resize(self.buffer.len() + rest, 0);
        Ok(())
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        for part in bytes.chunks(limits::READ_LEN) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= limits::READ_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends at most `wanted` bytes of a file from byte `at` on, without a copy in between.
    /// Returns their number, or the error of the read.
    pub(crate) fn write_from(
        &mut self,
        file: &OwnedFd,
        at: u64,
        wanted: u64,
    ) -> Result<rustix::io::Result<usize>, OutputError> {
        let before = self.buffer.len();
        let read = || rustix::io::pread(file, rustix::buffer::spare_capacity(&mut self.buffer), at);
        if let Err(errno) = rustix::io::retry_on_intr(read) {
            return Ok(Err(errno));
        }
        // The room may be longer than what is wanted.
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.buffer.truncate(before.saturating_add(wanted));
        let read = self.buffer.len() - before;
        if self.buffer.len() >= limits::READ_LEN {
            self.flush()?;
        }
        Ok(Ok(read))
    }

    fn position(&self) -> u64 {
        self.flushed.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX))
    }

    /// Writes the whole blocks of the buffer, except zeros.
    fn flush(&mut self) -> Result<(), OutputError> {
        let mut blocks = std::mem::replace(&mut self.buffer, self.hasher.buffer());
        let whole = blocks.len() - blocks.len() % BLOCK_LEN;
        self.buffer.extend_from_slice(blocks.get(whole..).unwrap_or_default());
        blocks.truncate(whole);
        let mut at = self.flushed;
        for run in runs(&blocks) {
            let len = u64::try_from(run.len()).unwrap_or(u64::MAX);
            if !run.get(..BLOCK_LEN).is_some_and(is_zero) {
                self.file.file().write_all_at(run, at).map_err(|source| self.file.wrong(source))?;
            }
            at = at.saturating_add(len);
        }
        self.flushed = at;
        self.hasher.bytes(blocks).map_err(|source| self.file.wrong(source))
    }

    /// Appends zeros to the stream that is hashed.
    fn zeros(&self, len: u64) -> Result<(), OutputError> {
        self.hasher.zeros(len).map_err(|source| self.file.wrong(source))
    }

    /// Ends the data file. Returns `None` if no file had data.
    pub(crate) fn finish(mut self) -> Result<Option<DataFile>, OutputError> {
        let end = self.position().next_multiple_of(BLOCK);
        if end == 0 {
            return Ok(None);
        }
        self.seek(end)?;
        self.flush()?;
        self.zeros(limits::TRAILING_HOLE_LEN)?;
        let len = end.saturating_add(limits::TRAILING_HOLE_LEN);
        self.file.file().set_len(len).map_err(|source| self.file.wrong(source))?;
        self.file.sync()?;
        let digest = self.hasher.finish().map_err(|source| self.file.wrong(source))?;
        let data = DataFile { file: self.file, digest, len };
        // A file that is there is checked now, not while files are published.
        let folder = data.file.folder();
        if folder.kind_of(&DataFile::name_of(data.digest))?.is_some() {
            DataFile::check(folder, data.digest, len)?;
        }
        Ok(Some(data))
    }
}

/// Splits whole blocks into runs of zero blocks and runs of other blocks.
fn runs(blocks: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        let first = is_zero(rest.get(..BLOCK_LEN)?);
        let same = rest.chunks_exact(BLOCK_LEN).take_while(|block| is_zero(block) == first).count();
        let (run, behind) = rest.split_at_checked(same.saturating_mul(BLOCK_LEN))?;
        rest = behind;
        Some(run)
    })
}

impl DataFile {
    /// Returns its bytes, without the hole at the end.
    pub(crate) const fn data_len(&self) -> u64 {
        self.len.saturating_sub(limits::TRAILING_HOLE_LEN)
    }

    /// Returns the name of a data file.
    pub(crate) fn name_of(digest: VerityDigest) -> OsString {
        format!("{digest}.data").into()
    }

    /// Gives the file its name. Returns `None` if a file with the same bytes has it already.
    pub(crate) fn publish(self, names: &mut crate::output::Names) -> Result<Option<Published>, OutputError> {
        let Self { file, digest, len } = self;
        let (name, folder) = (Self::name_of(digest), file.folder().clone());
        match file.publish(&name, names)? {
            Some(published) => Ok(Some(published)),
            None => Self::check(&folder, digest, len).map(|()| None),
        }
    }

    /// Checks that the data file of this name has these bytes.
    pub(crate) fn check(folder: &Folder, digest: VerityDigest, len: u64) -> Result<(), OutputError> {
        let name = Self::name_of(digest);
        let path = folder.path_of(&name);
        let wrong = |source| OutputError::Folder { path: path.clone(), source };
        let file = folder.read(&name).map_err(wrong)?;
        let metadata = file.metadata().map_err(wrong)?;
        let is_alike = metadata.is_file() && metadata.len() == len;
        if is_alike && VerityDigest::of(&file).map_err(wrong)? == digest {
            return Ok(());
        }
        Err(OutputError::DataChanged { path })
    }
}

/// Returns the regions of a file that its data file has, for ranges of data in ascending order: on
/// whole blocks, or on the larger chunks of a long file with holes.
pub(crate) fn regions(size: u64, data: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut unit = BLOCK;
    while size.div_ceil(unit) > limits::CHUNKS_MAX {
        unit = unit.saturating_mul(2);
    }
    let mut regions: Vec<Range<u64>> = Vec::new();
    for range in data.iter().filter(|range| range.start < range.end.min(size)) {
        let start = range.start - range.start % unit;
        let end = range.end.checked_next_multiple_of(unit).map_or(size, |end| end.min(size));
        match regions.last_mut().filter(|last| last.end >= start) {
            Some(last) => last.end = last.end.max(end),
            None => regions.push(start..end),
        }
    }
    regions
}

#[cfg(test)]
#[path = "data_file_tests.rs"]
mod tests;
