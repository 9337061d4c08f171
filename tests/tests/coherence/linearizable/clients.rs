//! The clients that make the calls. [`Wire`] sends FUSE requests to a daemon. [`Directory`] is a
//! process that makes system calls in a directory, which is a mount or the host's own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pinhole_protocol::{Created, Handle, NodeId, OpenFlags, RenameFlags};
use pinhole_tests::frontend::files::Files;
use rustix::io::Errno;

/// Files that every client has open. `registers` has bytes that are read and written one by one,
/// `log` grows by appends, and of `length` only the length matters.
pub(crate) const OPEN: [&str; 3] = ["registers", "log", "length"];

/// Calls of a client. The host carries out each call atomically. `file` is an index of [`OPEN`],
/// and `place` an offset in bytes, for a read with the number of bytes. All names are in one
/// folder.
pub(crate) trait Client: Send {
    fn read(&mut self, file: usize, place: (u64, usize)) -> io::Result<Vec<u8>>;
    fn write(&mut self, file: usize, place: u64, bytes: &[u8]) -> io::Result<()>;
    fn append(&mut self, file: usize, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, file: usize, len: u64) -> io::Result<()>;
    /// Returns the length of an open file.
    fn stat(&mut self, file: usize) -> io::Result<u64>;
    /// Returns the length of the file with this name.
    fn find(&mut self, name: &str) -> io::Result<u64>;
    fn rename(&mut self, from: &str, to: &str, swap: bool) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Creates a file with O_EXCL.
    fn make(&mut self, name: &str) -> io::Result<()>;
    /// Returns whether a rename is atomic even if other clients rename the same names.
    ///
    /// In a mount it is not: the kernel looks up both names, one after the other, before it sends
    /// the RENAME. If another client moves the file from the one name to the other in between, the
    /// kernel takes them for two links of one file. Then it does nothing and reports success, as
    /// POSIX demands for two links of one file.
    fn renames_atomically(&self) -> bool;
}

/// Process that makes system calls in a directory.
pub(crate) struct Directory {
    folder: PathBuf,
    files: Vec<File>,
    appended: Vec<File>,
    is_mount: bool,
}

impl Directory {
    pub(crate) fn new(folder: &Path, is_mount: bool) -> io::Result<Self> {
        let open = |options: &mut OpenOptions| -> io::Result<Vec<File>> {
            OPEN.iter().map(|name| options.open(folder.join(name))).collect()
        };
        let files = open(OpenOptions::new().read(true).write(true))?;
        let appended = open(OpenOptions::new().append(true))?;
        Ok(Self { folder: folder.to_path_buf(), files, appended, is_mount })
    }
}

impl Client for Directory {
    fn read(&mut self, file: usize, (place, len): (u64, usize)) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let len = self.files[file].read_at(&mut bytes, place)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write(&mut self, file: usize, place: u64, bytes: &[u8]) -> io::Result<()> {
        self.files[file].write_all_at(bytes, place)
    }

    fn append(&mut self, file: usize, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut &self.appended[file], bytes)
    }

    fn truncate(&mut self, file: usize, len: u64) -> io::Result<()> {
        self.files[file].set_len(len)
    }

    fn stat(&mut self, file: usize) -> io::Result<u64> {
        Ok(self.files[file].metadata()?.len())
    }

    fn find(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.folder.join(name).metadata()?.len())
    }

    fn rename(&mut self, from: &str, to: &str, swap: bool) -> io::Result<()> {
        let flags = if swap { rustix::fs::RenameFlags::EXCHANGE } else { rustix::fs::RenameFlags::empty() };
        let (from, to) = (self.folder.join(from), self.folder.join(to));
        Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn make(&mut self, name: &str) -> io::Result<()> {
        File::create_new(self.folder.join(name)).map(drop)
    }

    fn renames_atomically(&self) -> bool {
        !self.is_mount
    }
}

/// `O_RDWR`.
const RDWR: OpenFlags = OpenFlags::from_bits_retain(2);

/// Test client that sends FUSE requests. The root of its share has all files.
pub(crate) struct Wire<'g> {
    guest: &'g mut Files,
    open: Vec<(NodeId, Handle)>,
}

impl<'g> Wire<'g> {
    pub(crate) fn new(guest: &'g mut Files) -> io::Result<Self> {
        let open = OPEN.iter().map(|name| {
            let node = guest.lookup(name)?.0.node;
            Ok((node, guest.open(node, RDWR)?.handle))
        });
        let open = open.collect::<io::Result<_>>()?;
        Ok(Self { guest, open })
    }
}

impl Client for Wire<'_> {
    fn read(&mut self, file: usize, (place, len): (u64, usize)) -> io::Result<Vec<u8>> {
        let (node, handle) = self.open[file];
        self.guest.read(node, handle, (place, u32::try_from(len).map_err(io::Error::other)?))
    }

    fn write(&mut self, file: usize, place: u64, bytes: &[u8]) -> io::Result<()> {
        self.guest.write(self.open[file], (place, RDWR), bytes).map(drop)
    }

    fn append(&mut self, file: usize, bytes: &[u8]) -> io::Result<()> {
        self.guest.write(self.open[file], (0, RDWR | OpenFlags::APPEND), bytes).map(drop)
    }

    fn truncate(&mut self, file: usize, len: u64) -> io::Result<()> {
        self.guest.truncate(self.open[file].0, len).map(drop)
    }

    fn stat(&mut self, file: usize) -> io::Result<u64> {
        Ok(self.guest.attributes(self.open[file].0)?.0.size)
    }

    fn find(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.guest.lookup(name)?.0.attr.size)
    }

    fn rename(&mut self, from: &str, to: &str, swap: bool) -> io::Result<()> {
        let flags = if swap { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        self.guest.rename(from, to, flags)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.guest.unlink(name)
    }

    fn make(&mut self, name: &str) -> io::Result<()> {
        let Created { entry, open } = self.guest.create(name, RDWR | OpenFlags::EXCL)?;
        self.guest.release(entry.node, open.handle)
    }

    fn renames_atomically(&self) -> bool {
        true
    }
}

/// Returns whether a call succeeded. If it failed, its errno must be `not`, which says that the
/// name was missing or already existed.
pub(crate) fn had_effect(answer: io::Result<()>, not: Errno) -> bool {
    match answer {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(not), "{error}");
            false
        }
    }
}
