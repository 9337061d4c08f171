//! Bare host calls in a loop in one process, without a ring, a guest or a daemon: the upper limit
//! of any daemon.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};

use super::error::LoadError;
use super::report::Measured;
use super::row::Row;
use super::row::WARM_UP;
use super::tree::Fresh;
use super::usage::Usage;
use super::{tree, usage};

/// Buffer length for the entries of a directory, as in glibc, in bytes.
const LISTING_LEN: usize = 32 << 10;

/// Open files and folders for the calls.
pub(super) struct Host {
    /// Folder [`tree::KNOWN`].
    known: OwnedFd,
    /// Files of that folder, each with its name.
    files: Vec<(OwnedFd, String)>,
    small: OwnedFd,
    few: OwnedFd,
    many: OwnedFd,
    /// Folders in which files are created.
    created: Vec<OwnedFd>,
    _fresh: Fresh,
    warm: File,
    synced: File,
    buffer: Vec<u8>,
    listing: Vec<u8>,
    /// State of the pseudo-random numbers (xorshift64), and position of sequential transfers.
    random: u64,
}

impl Host {
    /// Opens the files and folders of all rows.
    ///
    /// # Errors
    /// [`LoadError::Host`] if a file cannot be created or opened.
    pub(super) fn open(share: &Path) -> Result<Self, LoadError> {
        let mut prepared = tree::Prepared::new(share.to_path_buf());
        let mut all = Row::ALL.into_iter().map(|(_, row)| row).filter(|row| *row != Row::BesideCold);
        all.try_for_each(|row| prepared.add(row))?;
        let folder = |name: &str| {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(share.join(name), flags, Mode::empty()).map_err(call_failed)
        };
        let file = |name: &str| {
            let opened = File::options().read(true).write(true).open(share.join(name));
            opened.map_err(LoadError::host("cannot open a file of the share"))
        };
        let known = folder(tree::KNOWN.name)?;
        let mut files = Vec::new();
        for number in 0..tree::KNOWN.files {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = tree::name(number);
            files.push((rustix::fs::openat(&known, &name, flags, Mode::empty()).map_err(call_failed)?, name));
        }
        let fresh = Fresh::new(share)?;
        let created = fresh.names().iter().map(|name| folder(name)).collect::<Result<_, _>>()?;
        Ok(Self {
            known,
            files,
            small: folder(tree::SMALL.name)?,
            few: folder(tree::FEW.name)?,
            many: folder(tree::MANY.name)?,
            created,
            _fresh: fresh,
            warm: file(tree::WARM.name)?,
            synced: file(tree::SYNCED.name)?,
            buffer: vec![0x5a; 1 << 20],
            listing: Vec::with_capacity(LISTING_LEN),
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// Measures one row for `time`.
    ///
    /// # Errors
    /// [`LoadError::Host`] if a call fails.
    pub(super) fn measure(&mut self, row: Row, time: Duration) -> Result<Measured, LoadError> {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        let mut latencies = latencies.map_err(|error| LoadError::Memory(error.to_string()))?;
        let begin = Instant::now() + time / WARM_UP;
        let mut now = Instant::now();
        while now < begin {
            self.perform(row)?;
            now = Instant::now();
        }
        usage::reset_peak(std::process::id())?;
        let before = Usage::by(std::process::id())?;
        let begin = Instant::now();
        now = begin;
        while now < begin + time {
            let start = now;
            self.perform(row)?;
            now = Instant::now();
            latencies.saturating_record(u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX));
        }
        let after = Usage::by(std::process::id())?;
        Ok(Measured::new(row, (1, 1), &latencies, now - begin, (before, after)))
    }

    /// Performs the operation of a row once.
    fn perform(&mut self, row: Row) -> Result<(), LoadError> {
        match row {
            Row::GetAttr => self.get_attr(),
            Row::LookupHit => self.look_up(),
            Row::LookupMiss => match stat(&self.known, "missing-00001") {
                Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(error) => Err(call_failed(error)),
                Ok(()) => Err(LoadError::Device("a missing name is there".to_owned())),
            },
            Row::OpenRelease => {
                let at = self.below(self.files.len());
                let Some((_, name)) = self.files.get(at) else { return Ok(()) };
                open(&self.known, name).map(drop)
            }
            Row::SmallFile => self.small_file(),
            Row::Read(blocks) => self.read(blocks.len, blocks.random),
            Row::Write(blocks) => self.write(blocks.len, blocks.random),
            Row::CreateUnlink => self.create_unlink(),
            Row::ReadDirPlus => list(&self.many, &mut self.listing),
            Row::ReadDirPlusMost => Err(LoadError::Device("bare calls list only one folder".to_owned())),
            Row::Fsync => {
                let at = self.below(32) as u64 * 4096;
                let page = self.buffer.get(..4096).unwrap_or_default();
                rustix::io::pwrite(&self.synced, page, at).map_err(call_failed)?;
                rustix::fs::fsync(&self.synced).map_err(call_failed)
            }
            Row::Mixed => self.mixed(),
            Row::BesideCold => Err(LoadError::Device("bare calls have no queue".to_owned())),
        }
    }

    /// Performs a random operation, with the percentages of [`Row::Mixed`].
    fn mixed(&mut self) -> Result<(), LoadError> {
        match self.below(100) {
            0..40 => self.look_up(),
            40..65 => self.get_attr(),
            65..80 => self.small_file(),
            80..90 => self.read(4096, true),
            90..95 => self.write(4096, true),
            _ => list(&self.few, &mut self.listing),
        }
    }

    /// Returns a pseudo-random number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 32).unwrap_or(0) % bound.max(1)
    }

    fn get_attr(&mut self) -> Result<(), LoadError> {
        let at = self.below(self.files.len());
        let Some((file, _)) = self.files.get(at) else { return Ok(()) };
        stat(file, "").map_err(call_failed)
    }

    fn look_up(&mut self) -> Result<(), LoadError> {
        let at = self.below(self.files.len());
        let Some((_, name)) = self.files.get(at) else { return Ok(()) };
        stat(&self.known, name).map_err(call_failed)
    }

    fn small_file(&mut self) -> Result<(), LoadError> {
        let number = self.below(self.files.len());
        let Some((_, name)) = self.files.get(number) else { return Ok(()) };
        let file = open(&self.small, name)?;
        let room = self.buffer.get_mut(..16 << 10).unwrap_or_default();
        let len = rustix::io::pread(&file, room, 0).map_err(call_failed)?;
        if len as u64 == tree::small_len(number) { Ok(()) } else { Err(short_transfer(len)) }
    }

    /// Returns the offset of the next block of `len` bytes.
    fn offset(&mut self, len: usize, random: bool) -> u64 {
        let count = usize::try_from(tree::WARM.len).unwrap_or(0) / len;
        let block = if random {
            self.below(count)
        } else {
            self.random = self.random.wrapping_add(1);
            usize::try_from(self.random).unwrap_or(0) % count
        };
        (block * len) as u64
    }

    fn read(&mut self, len: usize, random: bool) -> Result<(), LoadError> {
        let at = self.offset(len, random);
        let room = self.buffer.get_mut(..len).unwrap_or_default();
        let read = rustix::io::pread(&self.warm, room, at).map_err(call_failed)?;
        if read == len { Ok(()) } else { Err(short_transfer(read)) }
    }

    fn write(&mut self, len: usize, random: bool) -> Result<(), LoadError> {
        let at = self.offset(len, random);
        let data = self.buffer.get(..len).unwrap_or_default();
        let written = rustix::io::pwrite(&self.warm, data, at).map_err(call_failed)?;
        if written == len { Ok(()) } else { Err(short_transfer(written)) }
    }

    fn create_unlink(&mut self) -> Result<(), LoadError> {
        let at = self.below(self.created.len());
        let Some(folder) = self.created.get(at) else { return Ok(()) };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        drop(rustix::fs::openat(folder, "made", flags, Mode::from_raw_mode(0o644)).map_err(call_failed)?);
        rustix::fs::unlinkat(folder, "made", AtFlags::empty()).map_err(call_failed)
    }
}

/// Converts the error of a host call.
fn call_failed(error: rustix::io::Errno) -> LoadError {
    LoadError::host("a host call failed")(error.into())
}

/// Returns the error for a transfer that is shorter than requested.
fn short_transfer(len: usize) -> LoadError {
    LoadError::Device(format!("a transfer of {len} bytes"))
}

/// Reads the attributes of `name` in `file`, or those of `file` if `name` is empty.
fn stat(file: &OwnedFd, name: &str) -> Result<(), rustix::io::Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(file, name, flags, StatxFlags::BASIC_STATS).map(drop)
}

/// Opens a file for reading.
fn open(folder: &OwnedFd, name: &str) -> Result<OwnedFd, LoadError> {
    rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(call_failed)
}

/// Reads all entries of a folder with their attributes.
fn list(folder: &OwnedFd, room: &mut Vec<u8>) -> Result<(), LoadError> {
    rustix::fs::seek(folder, rustix::fs::SeekFrom::Start(0)).map_err(call_failed)?;
    let mut entries = RawDir::new(folder, room.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(call_failed)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statx(folder, entry.file_name(), flags, StatxFlags::BASIC_STATS).map_err(call_failed)?;
    }
    Ok(())
}
