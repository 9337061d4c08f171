//! File operations of a guest at the wire that caches nothing, one message each. It has its own
//! daemon, on a directory that it shares with others.

use super::{Frontend, FrontendError, Setup};
use crate::daemon::{Daemon, Serving};
use pinhole_protocol::client::{decode_attr, decode_created, decode_entry, decode_open, decode_u32};
use pinhole_protocol::{
    Attr, Create, Created, Entry, Flush, GetAttr, Handle, InitReply, Link, LockOwner, Lookup, MkDir, Name,
    NodeId, Open, OpenDir, OpenFlags, OpenReply, Operation, Read, ReadDir, Release, Rename, RenameFlags,
    SetAttr, Timeouts, Unlink, Write, WriteFlags,
};
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A guest and its daemon. An errno of the daemon's is an [`io::Error`] with its number, as from a
/// system call.
#[derive(Debug)]
pub struct Files {
    guest: Frontend,
    daemon: Serving,
    /// What INIT was answered with.
    pub agreed: InitReply,
}

impl From<FrontendError> for io::Error {
    fn from(error: FrontendError) -> Self {
        Self::other(error)
    }
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// `name` for a message, as long as `with` needs it.
fn named<T>(name: &str, with: impl FnOnce(Name<'_>) -> io::Result<T>) -> io::Result<T> {
    let text = CString::new(name)?;
    with(Name::parse(&text).map_err(malformed)?)
}

impl Files {
    /// A daemon on `share`, confined to `folder`, and its guest, which has said INIT.
    ///
    /// # Errors
    /// Where either does not come up.
    pub fn new(share: &Path, folder: &Path, arguments: &[&str]) -> Result<Self, FrontendError> {
        let daemon = Daemon::pinhole(share)?.confined_to(folder);
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start()?;
        let mut guest = Frontend::connect_with(daemon.socket(), Setup { queues: 2, ..Setup::default() })?;
        let agreed = guest.init()?;
        Ok(Self { guest, daemon, agreed })
    }

    /// What the daemon has printed on standard error.
    pub fn stderr(&self) -> String {
        self.daemon.stderr()
    }

    fn ask(&mut self, node: NodeId, operation: &Operation<'_>, payload: &[u8]) -> io::Result<Vec<u8>> {
        let reply = self.guest.request(1, node, operation, payload)?;
        match reply.error()? {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.raw())),
            None => Ok(reply.success()?.to_vec()),
        }
    }

    /// LOOKUP in the root.
    ///
    /// # Errors
    /// The daemon's, as all of these.
    pub fn lookup(&mut self, name: &str) -> io::Result<(Entry, Timeouts)> {
        named(name, |name| {
            let body = self.ask(NodeId::ROOT, &Operation::Lookup(Lookup { name }), &[])?;
            decode_entry(&body).map_err(malformed)
        })
    }

    /// LOOKUP in a directory.
    ///
    /// # Errors
    /// As above.
    pub fn lookup_in(&mut self, directory: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(directory, &Operation::Lookup(Lookup { name }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }

    /// MKDIR in a directory.
    ///
    /// # Errors
    /// As above.
    pub fn make_dir_in(&mut self, directory: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(directory, &Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }

    /// OPENDIR.
    ///
    /// # Errors
    /// As above.
    pub fn open_dir(&mut self, directory: NodeId) -> io::Result<Handle> {
        let body = self.ask(directory, &Operation::OpenDir(OpenDir { flags: OpenFlags::empty() }), &[])?;
        decode_open(&body).map(|open| open.handle).map_err(malformed)
    }

    /// READDIR from the beginning; the bytes of the reply.
    ///
    /// # Errors
    /// As above.
    pub fn read_dir(&mut self, directory: NodeId, handle: Handle) -> io::Result<Vec<u8>> {
        let list = ReadDir { handle, offset: 0, size: 4096 };
        self.ask(directory, &Operation::ReadDir(list), &[])
    }

    /// GETATTR.
    ///
    /// # Errors
    /// As above.
    pub fn attributes(&mut self, node: NodeId) -> io::Result<(Attr, Duration)> {
        let body = self.ask(node, &Operation::GetAttr(GetAttr { handle: None }), &[])?;
        decode_attr(&body).map_err(malformed)
    }

    /// SETATTR of the length.
    ///
    /// # Errors
    /// As above.
    pub fn truncate(&mut self, node: NodeId, size: u64) -> io::Result<Attr> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        let body = self.ask(node, &Operation::SetAttr(set), &[])?;
        decode_attr(&body).map(|(attr, _)| attr).map_err(malformed)
    }

    /// OPEN.
    ///
    /// # Errors
    /// As above.
    pub fn open(&mut self, node: NodeId, flags: OpenFlags) -> io::Result<OpenReply> {
        let body = self.ask(node, &Operation::Open(Open { flags, kill_suidgid: false }), &[])?;
        decode_open(&body).map_err(malformed)
    }

    /// CREATE in the root.
    ///
    /// # Errors
    /// As above.
    pub fn create(&mut self, name: &str, flags: OpenFlags) -> io::Result<Created> {
        named(name, |name| {
            let open = Open { flags, kill_suidgid: false };
            let create = Create { name, open, mode: 0o644, umask: 0 };
            let body = self.ask(NodeId::ROOT, &Operation::Create(create), &[])?;
            decode_created(&body).map(|(created, _)| created).map_err(malformed)
        })
    }

    /// READ.
    ///
    /// # Errors
    /// As above.
    pub fn read(&mut self, node: NodeId, handle: Handle, (offset, size): (u64, u32)) -> io::Result<Vec<u8>> {
        let read = Read { handle, offset, size, lock_owner: None, flags: OpenFlags::empty() };
        self.ask(node, &Operation::Read(read), &[])
    }

    /// WRITE; with `OpenFlags::APPEND` the offset says nothing.
    ///
    /// # Errors
    /// As above.
    pub fn write(
        &mut self,
        (node, handle): (NodeId, Handle),
        (offset, flags): (u64, OpenFlags),
        bytes: &[u8],
    ) -> io::Result<u32> {
        let size = u32::try_from(bytes.len()).map_err(malformed)?;
        let write_flags = WriteFlags::empty();
        let write = Write { handle, offset, size, write_flags, lock_owner: None, flags };
        decode_u32(&self.ask(node, &Operation::Write(write), bytes)?).map_err(malformed)
    }

    /// FLUSH, by no owner of locks.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn flush(&mut self, node: NodeId, handle: Handle) -> io::Result<()> {
        let flush = Flush { handle, lock_owner: LockOwner(0) };
        self.ask(node, &Operation::Flush(flush), &[]).map(drop)
    }

    /// RELEASE.
    ///
    /// # Errors
    /// As above.
    pub fn release(&mut self, node: NodeId, handle: Handle) -> io::Result<()> {
        let flags = OpenFlags::empty();
        let release = Release { handle, flags, flush: false, flock_unlock: false, lock_owner: LockOwner(0) };
        self.ask(node, &Operation::Release(release), &[]).map(drop)
    }

    /// RENAME2 within the root.
    ///
    /// # Errors
    /// As above.
    pub fn rename(&mut self, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
        named(from, |name| {
            named(to, |new_name| {
                let rename = Rename { name, new_directory: NodeId::ROOT, new_name, flags };
                self.ask(NodeId::ROOT, &Operation::Rename(rename), &[]).map(drop)
            })
        })
    }

    /// UNLINK in the root.
    ///
    /// # Errors
    /// As above.
    pub fn unlink(&mut self, name: &str) -> io::Result<()> {
        named(name, |name| self.ask(NodeId::ROOT, &Operation::Unlink(Unlink { name }), &[]).map(drop))
    }

    /// LINK of a node into the root.
    ///
    /// # Errors
    /// As above.
    pub fn link(&mut self, target: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(NodeId::ROOT, &Operation::Link(Link { target, name }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }
}
