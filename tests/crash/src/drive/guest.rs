//! A guest at the wire: sends the FUSE requests that Linux would send for a system call, without
//! any cache. Data that a cache would hold is sent at once.

use std::ffi::CString;
use std::io;
use std::path::Path;

use pinhole_protocol::client::{decode_attr, decode_created, decode_entry, decode_open, decode_u32};
use pinhole_protocol::{
    Attr, Create, Created, Entry, Flush, Fsync, FsyncDir, FsyncFlags, GetAttr, Handle, LockOwner, Lookup,
    Name, NodeId, Open, OpenDir, OpenFlags, OpenReplyFlags, Operation, Release, ReleaseDir, SyncFs, Write,
    WriteFlags,
};
use pinhole_tests::frontend::{Frontend, FrontendError, Setup};
use rustix::io::Errno;

/// Index of the queue for all requests.
const QUEUE: usize = 1;

/// Longest WRITE in bytes. Linux sends no longer one without large buffers of its own.
const WRITE_LEN_MAX: usize = 32 << 10;

/// Bits of a mode that say that the object is a directory (`S_IFMT`, `S_IFDIR`).
const TYPE_BITS: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

/// Open file or directory of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFile {
    pub(super) node: NodeId,
    pub(super) handle: Handle,
    /// Flags with which the file was opened.
    flags: OpenFlags,
    /// Whether no FSYNC follows a synchronous write, as for FOPEN_DIRECT_IO.
    is_uncached: bool,
    is_directory: bool,
}

/// Guest with its connection.
#[derive(Debug)]
pub(super) struct Guest {
    wire: Frontend,
}

fn wire(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the daemon cannot be used: {error}"))
}

/// Calls `with` with a name as it is in a message.
pub(super) fn named<T>(name: &str, with: impl FnOnce(Name<'_>) -> io::Result<T>) -> io::Result<T> {
    let text = CString::new(name)?;
    with(Name::parse(&text).map_err(wire)?)
}

/// Returns whether attributes are those of a directory.
const fn is_directory(attr: &Attr) -> bool {
    attr.mode & TYPE_BITS == DIRECTORY
}

impl Guest {
    /// Connects and sends INIT.
    pub(super) fn connect(socket: &Path) -> Result<Self, FrontendError> {
        let mut wire = Frontend::connect_with(socket, Setup { queues: 2, ..Setup::default() })?;
        wire.init()?;
        Ok(Self { wire })
    }

    /// Sends a request and returns the body of its reply, or its errno as an error.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        operation: &Operation<'_>,
        data: &[u8],
    ) -> io::Result<Vec<u8>> {
        let reply = self.wire.request(QUEUE, node, operation, data).map_err(wire)?;
        match reply.error().map_err(wire)? {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.raw())),
            None => Ok(reply.success().map_err(wire)?.to_vec()),
        }
    }

    fn look_up_in(&mut self, folder: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(folder, &Operation::Lookup(Lookup { name: name.into() }), &[])?;
            let (entry, _) = decode_entry(&body).map_err(wire)?;
            // Node 0 is a name that does not exist, which the guest may remember.
            if entry.node == NodeId(0) { Err(Errno::NOENT.into()) } else { Ok(entry) }
        })
    }

    /// Looks up each component of a path. `None` is the root.
    pub(super) fn look_up(&mut self, path: &str) -> io::Result<(NodeId, Option<Attr>)> {
        let mut found = (NodeId::ROOT, None);
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let entry = self.look_up_in(found.0, name)?;
            found = (entry.node, Some(entry.attr));
        }
        Ok(found)
    }

    /// Looks up the parent of a path. Returns its node and the last component.
    pub(super) fn parent<'p>(&mut self, path: &'p str) -> io::Result<(NodeId, &'p str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.look_up(folder)?.0, name))
    }

    /// Opens a path, and also a directory.
    pub(super) fn open(&mut self, path: &str, flags: OpenFlags) -> io::Result<OpenFile> {
        match self.open_once(path, flags) {
            // Linux looks the path up again.
            Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => {
                self.open_once(path, flags)
            }
            opened => opened,
        }
    }

    fn open_once(&mut self, path: &str, flags: OpenFlags) -> io::Result<OpenFile> {
        let (node, attr) = self.look_up(path)?;
        let is_directory = attr.as_ref().is_none_or(is_directory);
        let operation = if is_directory {
            Operation::OpenDir(OpenDir { flags: OpenFlags::DIRECTORY })
        } else {
            Operation::Open(Open { flags, kill_suidgid: false })
        };
        let open = decode_open(&self.ask(node, &operation, &[])?).map_err(wire)?;
        let is_uncached = open.flags.contains(OpenReplyFlags::DIRECT_IO);
        Ok(OpenFile { node, handle: open.handle, flags, is_uncached, is_directory })
    }

    /// Creates a file and leaves it open.
    pub(super) fn create(&mut self, path: &str, flags: OpenFlags) -> io::Result<OpenFile> {
        let (folder, name) = self.parent(path)?;
        let body = named(name, |name| {
            let open = Open { flags: flags | OpenFlags::CREAT, kill_suidgid: false };
            self.ask(folder, &Operation::Create(Create { name, open, mode: 0o644, umask: 0 }), &[])
        })?;
        created(&body, flags)
    }

    /// Closes a file: FLUSH and RELEASE.
    pub(super) fn close(&mut self, file: OpenFile) -> io::Result<()> {
        let OpenFile { node, handle, flags, .. } = file;
        if file.is_directory {
            return self.ask(node, &Operation::ReleaseDir(ReleaseDir { handle }), &[]).map(drop);
        }
        let flush = Flush { handle, lock_owner: LockOwner(0) };
        let flushed = self.ask(node, &Operation::Flush(flush), &[]);
        let release = Release { handle, flags, flush: false, flock_unlock: false, lock_owner: LockOwner(0) };
        self.ask(node, &Operation::Release(release), &[])?;
        is_known(flushed).map(drop)
    }

    /// Writes bytes. `sync` are the flags of the call, as for `pwritev2`.
    pub(super) fn write(&mut self, file: OpenFile, at: u64, bytes: &[u8], sync: OpenFlags) -> io::Result<()> {
        let sync = sync | file.flags & OpenFlags::SYNC;
        let flags = file.flags | sync;
        let mut offset = at;
        for piece in bytes.chunks(WRITE_LEN_MAX) {
            let size = u32::try_from(piece.len()).map_err(wire)?;
            let write_flags = WriteFlags::empty();
            let write = Write { handle: file.handle, offset, size, write_flags, lock_owner: None, flags };
            let written = decode_u32(&self.ask(file.node, &Operation::Write(write), piece)?).map_err(wire)?;
            if written != size {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += u64::from(size);
        }
        if sync.is_empty() || file.is_uncached {
            return Ok(());
        }
        // Linux syncs after each other synchronous write, also if the file has O_DIRECT.
        self.sync(file, !sync.contains(OpenFlags::SYNC))
    }

    /// Syncs a file or directory.
    pub(super) fn sync(&mut self, file: OpenFile, data_only: bool) -> io::Result<()> {
        let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
        let operation = if file.is_directory {
            Operation::FsyncDir(FsyncDir { handle: file.handle, flags })
        } else {
            Operation::Fsync(Fsync { handle: file.handle, flags })
        };
        is_known(self.ask(file.node, &operation, &[])).map(drop)
    }

    /// Returns the length of an open file.
    pub(super) fn len(&mut self, file: OpenFile) -> io::Result<u64> {
        let request = Operation::GetAttr(GetAttr { handle: Some(file.handle) });
        let (attr, _) = decode_attr(&self.ask(file.node, &request, &[])?).map_err(wire)?;
        Ok(attr.size)
    }

    /// Syncs the whole share.
    pub(super) fn sync_all(&mut self) -> io::Result<()> {
        is_known(self.ask(NodeId::ROOT, &Operation::SyncFs(SyncFs), &[])).map(drop)
    }
}

/// Decodes the reply to CREATE and TMPFILE.
pub(super) fn created(body: &[u8], flags: OpenFlags) -> io::Result<OpenFile> {
    let (Created { entry, open }, _) = decode_created(body).map_err(wire)?;
    let is_uncached = open.flags.contains(OpenReplyFlags::DIRECT_IO);
    Ok(OpenFile { node: entry.node, handle: open.handle, flags, is_uncached, is_directory: false })
}

/// Returns the result of FLUSH, FSYNC, FSYNCDIR or SYNCFS as a guest's program gets it: Linux takes
/// ENOSYS for success.
fn is_known(result: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => Ok(Vec::new()),
        result => result,
    }
}
