//! Steps as system calls below a folder: on the backing file system, or on a mount of a server.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, RenameFlags, XattrFlags};
use rustix::io::ReadWriteFlags;
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

use super::Driver;
use crate::program::{Allocation, How, Move, Operation, Step, Target};

/// Alignment in bytes of the memory of a direct write: the largest that a file system here needs.
const DIRECT_ALIGNMENT: usize = 4096;

/// Whether `sync` and `syncfs` reach the file system that is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// Yes, as on a local file system.
    Pass,
    /// No: the kernel does not tell the server, or syncs the backing file system by itself.
    Refuse,
    /// Persistence operations do nothing. Such a driver loses data, and the suite must notice.
    Ignore,
}

/// Driver that makes system calls.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Mount point of each guest.
    roots: Vec<PathBuf>,
    folder: String,
    open: BTreeMap<u8, File>,
    syncs: Syncs,
}

impl Calls {
    /// Returns a driver whose guests use these directories.
    pub(crate) const fn new(roots: Vec<PathBuf>, syncs: Syncs) -> Self {
        Self { roots, folder: String::new(), open: BTreeMap::new(), syncs }
    }

    fn path(&self, guest: u8, path: &str) -> io::Result<PathBuf> {
        let index = usize::from(guest.saturating_sub(1));
        let root = self.roots.get(index).ok_or_else(|| io::Error::other(format!("no guest {guest}")))?;
        Ok(root.join(&self.folder).join(if path == "." { "" } else { path }))
    }

    /// Calls `act` with the file of a target, which is opened as `options` say.
    fn with_file<T>(
        &self,
        guest: u8,
        target: &Target,
        options: &OpenOptions,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        match target {
            Target::Path(path) => act(&options.open(self.path(guest, path)?)?),
            Target::Open(number) => act(self.open.get(number).ok_or(io::ErrorKind::NotFound)?),
        }
    }

    fn write(&self, guest: u8, write: &Write<'_>) -> io::Result<()> {
        let flags = match write.how {
            How::Buffered | How::Mapped | How::CallSync | How::CallDataSync => OFlags::empty(),
            How::Direct => OFlags::DIRECT,
            How::Sync => OFlags::SYNC,
            How::DataSync => OFlags::DSYNC,
            How::DirectDataSync => OFlags::DSYNC | OFlags::DIRECT,
        };
        let mut options = read_write();
        options.create(true).custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
        self.with_file(guest, write.target, &options, |mut file| {
            let at = match write.at {
                Some(at) => at,
                None => file.seek(SeekFrom::End(0))?,
            };
            let len = usize::try_from(write.len).map_err(io::Error::other)?;
            let bytes = vec![write.fill; len];
            match write.how {
                How::Buffered | How::Sync | How::DataSync => file.write_all_at(&bytes, at),
                How::Direct | How::DirectDataSync => write_aligned(file, &bytes, at),
                How::CallSync => call(file, &bytes, at, ReadWriteFlags::SYNC),
                How::CallDataSync => call(file, &bytes, at, ReadWriteFlags::DSYNC),
                How::Mapped => store(file, &bytes, at),
            }
        })
    }

    fn sync(&self, guest: u8, operation: &Operation) -> io::Result<()> {
        if self.syncs == Syncs::Ignore {
            return Ok(());
        }
        if let Operation::Sync(target) = operation {
            self.with_file(guest, target, &read_only(), File::sync_all)
        } else if let Operation::DataSync(target) = operation {
            self.with_file(guest, target, &read_only(), File::sync_data)
        } else if self.syncs == Syncs::Refuse {
            Err(io::ErrorKind::Unsupported.into())
        } else {
            // `sync` would wait for all disks of the host. For this file system it is `syncfs`.
            Ok(rustix::fs::syncfs(File::open(self.path(guest, ".")?)?)?)
        }
    }

    fn temp_file(&self, guest: u8, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(guest, path)?;
        let mut options = read_write();
        options.custom_flags(i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default()).mode(0o644);
        let file = options.open(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all_at(bytes, 0)?;
        let nameless = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        Ok(rustix::fs::linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn change_names(&mut self, guest: u8, operation: &Operation) -> io::Result<()> {
        let at = |path: &str| self.path(guest, path);
        match operation {
            Operation::Create(path) => File::create_new(at(path)?).map(drop),
            Operation::MakeDir(path) => fs::create_dir(at(path)?),
            Operation::Link(from, to) => fs::hard_link(at(from)?, at(to)?),
            Operation::SymLink(text, path) => symlink(text, at(path)?),
            Operation::Unlink(path) => fs::remove_file(at(path)?),
            Operation::RemoveDir(path) => fs::remove_dir(at(path)?),
            Operation::Rename(from, to, Move::Replace) => fs::rename(at(from)?, at(to)?),
            Operation::Rename(from, to, Move::Exchange) => {
                Ok(rustix::fs::renameat_with(CWD, at(from)?, CWD, at(to)?, RenameFlags::EXCHANGE)?)
            }
            Operation::SetXattr(path, name, value) => {
                Ok(rustix::fs::setxattr(at(path)?, name, value.as_bytes(), XattrFlags::empty())?)
            }
            Operation::RemoveXattr(path, name) => Ok(rustix::fs::removexattr(at(path)?, name)?),
            Operation::SetMode(path, mode) => fs::set_permissions(at(path)?, Permissions::from_mode(*mode)),
            Operation::Open(number, path) => {
                let path = at(path)?;
                let options = if path.is_dir() { read_only() } else { read_write() };
                let file = options.open(path)?;
                self.open.insert(*number, file);
                Ok(())
            }
            Operation::Close(number) => {
                drop(self.open.remove(number));
                Ok(())
            }
            Operation::Write { .. }
            | Operation::Truncate(..)
            | Operation::Allocate(..)
            | Operation::TempFile { .. }
            | Operation::Sync(_)
            | Operation::DataSync(_)
            | Operation::SyncAll
            | Operation::SyncFs => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Carries out an operation of a guest.
    ///
    /// # Errors
    /// Errno of the system call.
    pub(crate) fn carry_out(&mut self, guest: u8, operation: &Operation) -> io::Result<()> {
        match operation {
            Operation::Write { target, at, len, fill, how } => {
                let how = if self.syncs == Syncs::Ignore && how.is_durable() { How::Buffered } else { *how };
                self.write(guest, &Write { target, at: *at, len: *len, fill: *fill, how })
            }
            Operation::Truncate(target, len) => {
                self.with_file(guest, target, &read_write(), |file| file.set_len(*len))
            }
            Operation::Allocate(target, mode, range) => {
                let flags = allocation_flags(*mode);
                self.with_file(guest, target, &read_write(), |file| {
                    Ok(rustix::fs::fallocate(file, flags, range.at, range.len)?)
                })
            }
            Operation::TempFile { path, len, fill } => {
                let len = usize::try_from(*len).map_err(io::Error::other)?;
                self.temp_file(guest, path, &vec![*fill; len])
            }
            Operation::Sync(_) | Operation::DataSync(_) | Operation::SyncAll | Operation::SyncFs => {
                self.sync(guest, operation)
            }
            Operation::Create(_)
            | Operation::MakeDir(_)
            | Operation::Link(..)
            | Operation::SymLink(..)
            | Operation::Unlink(_)
            | Operation::RemoveDir(_)
            | Operation::Rename(..)
            | Operation::SetXattr(..)
            | Operation::RemoveXattr(..)
            | Operation::SetMode(..)
            | Operation::Open(..)
            | Operation::Close(_) => self.change_names(guest, operation),
        }
    }
}

impl Driver for Calls {
    fn begin(&mut self, folder: &str) -> io::Result<()> {
        folder.clone_into(&mut self.folder);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> io::Result<()> {
        self.carry_out(step.guest, &step.operation)
    }

    fn finish(&mut self) {
        self.open.clear();
    }
}

/// Write of one letter.
struct Write<'o> {
    target: &'o Target,
    at: Option<u64>,
    len: u64,
    fill: u8,
    how: How,
}

fn read_only() -> OpenOptions {
    OpenOptions::new().read(true).clone()
}

fn read_write() -> OpenOptions {
    OpenOptions::new().read(true).write(true).clone()
}

const fn allocation_flags(mode: Allocation) -> FallocateFlags {
    match mode {
        Allocation::Reserve => FallocateFlags::empty(),
        Allocation::Keep => FallocateFlags::KEEP_SIZE,
        Allocation::Punch => FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
        Allocation::Zero => FallocateFlags::ZERO_RANGE,
        Allocation::ZeroKeep => FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
        Allocation::Collapse => FallocateFlags::COLLAPSE_RANGE,
        Allocation::Insert => FallocateFlags::INSERT_RANGE,
    }
}

/// Writes from memory that is aligned for O_DIRECT.
fn write_aligned(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut memory = vec![0; bytes.len() + DIRECT_ALIGNMENT];
    let start = memory.as_ptr().align_offset(DIRECT_ALIGNMENT);
    let part = memory.get_mut(start..start + bytes.len()).unwrap_or_default();
    part.copy_from_slice(bytes);
    file.write_all_at(part, at)
}

/// Writes by `pwritev2` with flags.
fn call(file: &File, bytes: &[u8], at: u64, flags: ReadWriteFlags) -> io::Result<()> {
    let written = rustix::io::pwritev2(file, &[IoSlice::new(bytes)], at, flags)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Stores through a shared mapping. The file must be long enough.
fn store(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let at = usize::try_from(at).map_err(io::Error::other)?;
    let len = at + bytes.len();
    // A store behind the last page would be a SIGBUS.
    if file.metadata()?.len() < len as u64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let place = FileOffset::new(file.try_clone()?, 0);
    let region: MmapRegion = MmapRegion::from_file(place, len).map_err(io::Error::other)?;
    region.as_volatile_slice().write_slice(bytes, at).map_err(io::Error::other)
}
