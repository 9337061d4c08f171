//! File operations of a guest at the wire that caches nothing, one message for each. The guest has
//! its own daemon, on a directory that other daemons may serve too.

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

/// Guest and its daemon. An errno of a reply is an [`io::Error`] with its number, as from a system
/// call.
#[derive(Debug)]
pub struct Files {
    guest: Frontend,
    daemon: Serving,
    /// Reply to INIT.
    pub agreed: InitReply,
}

impl From<FrontendError> for io::Error {
    fn from(error: FrontendError) -> Self {
        Self::other(error)
    }
}

/// Returns the error of a message that cannot be encoded or decoded.
fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Calls `with` with `name` as a name in a message.
fn named<T>(name: &str, with: impl FnOnce(Name<'_>) -> io::Result<T>) -> io::Result<T> {
    let text = CString::new(name)?;
    with(Name::parse(&text).map_err(malformed)?)
}

impl Files {
    /// Starts a daemon on `share`, confined to `folder`, and a guest that has sent INIT.
    ///
    /// # Errors
    /// Fails if the daemon does not start or refuses the guest.
    pub fn new(share: &Path, folder: &Path, arguments: &[&str]) -> Result<Self, FrontendError> {
        let daemon = Daemon::pinhole(share)?.confined_to(folder);
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start()?;
        let mut guest = Frontend::connect_with(daemon.socket(), Setup { queues: 2, ..Setup::default() })?;
        let agreed = guest.init()?;
        Ok(Self { guest, daemon, agreed })
    }

    /// Returns the standard error of the daemon.
    pub fn stderr(&self) -> String {
        self.daemon.stderr()
    }

    /// Sends a request and returns the body of its reply, or its errno as an error.
    fn ask(&mut self, node: NodeId, operation: &Operation<'_>, payload: &[u8]) -> io::Result<Vec<u8>> {
        let reply = self.guest.request(1, node, operation, payload)?;
        match reply.error()? {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.raw())),
            None => Ok(reply.success()?.to_vec()),
        }
    }

    /// Sends LOOKUP in the root.
    ///
    /// # Errors
    /// Errno of the reply.
    pub fn lookup(&mut self, name: &str) -> io::Result<(Entry, Timeouts)> {
        named(name, |name| {
            let body = self.ask(NodeId::ROOT, &Operation::Lookup(Lookup { name: name.into() }), &[])?;
            decode_entry(&body).map_err(malformed)
        })
    }

    /// Sends LOOKUP in a directory.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn lookup_in(&mut self, directory: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(directory, &Operation::Lookup(Lookup { name: name.into() }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }

    /// Sends MKDIR in a directory.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn make_dir_in(&mut self, directory: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(directory, &Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }

    /// Sends OPENDIR.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn open_dir(&mut self, directory: NodeId) -> io::Result<Handle> {
        let body = self.ask(directory, &Operation::OpenDir(OpenDir { flags: OpenFlags::empty() }), &[])?;
        decode_open(&body).map(|open| open.handle).map_err(malformed)
    }

    /// Sends READDIR from the beginning and returns the bytes of the reply.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn read_dir(&mut self, directory: NodeId, handle: Handle) -> io::Result<Vec<u8>> {
        let list = ReadDir { handle, offset: 0, size: 4096 };
        self.ask(directory, &Operation::ReadDir(list), &[])
    }

    /// Sends GETATTR.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn attributes(&mut self, node: NodeId) -> io::Result<(Attr, Duration)> {
        let body = self.ask(node, &Operation::GetAttr(GetAttr { handle: None }), &[])?;
        decode_attr(&body).map_err(malformed)
    }

    /// Sends SETATTR of the length.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn truncate(&mut self, node: NodeId, size: u64) -> io::Result<Attr> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        let body = self.ask(node, &Operation::SetAttr(set), &[])?;
        decode_attr(&body).map(|(attr, _)| attr).map_err(malformed)
    }

    /// Sends OPEN.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn open(&mut self, node: NodeId, flags: OpenFlags) -> io::Result<OpenReply> {
        let body = self.ask(node, &Operation::Open(Open { flags, kill_suidgid: false }), &[])?;
        decode_open(&body).map_err(malformed)
    }

    /// Sends CREATE in the root.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn create(&mut self, name: &str, flags: OpenFlags) -> io::Result<Created> {
        named(name, |name| {
            let open = Open { flags, kill_suidgid: false };
            let create = Create { name, open, mode: 0o644, umask: 0 };
            let body = self.ask(NodeId::ROOT, &Operation::Create(create), &[])?;
            decode_created(&body).map(|(created, _)| created).map_err(malformed)
        })
    }

    /// Sends READ.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn read(&mut self, node: NodeId, handle: Handle, (offset, size): (u64, u32)) -> io::Result<Vec<u8>> {
        let read = Read { handle, offset, size, lock_owner: None, flags: OpenFlags::empty() };
        self.ask(node, &Operation::Read(read), &[])
    }

    /// Sends WRITE. With `OpenFlags::APPEND` the offset has no effect.
    ///
    /// # Errors
    /// As [`Files::lookup`].
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

    /// Sends FLUSH with the lock owner 0, which has no locks.
    ///
    /// # Errors
    /// Errno of the reply.
    pub fn flush(&mut self, node: NodeId, handle: Handle) -> io::Result<()> {
        let flush = Flush { handle, lock_owner: LockOwner(0) };
        self.ask(node, &Operation::Flush(flush), &[]).map(drop)
    }

    /// Sends RELEASE.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn release(&mut self, node: NodeId, handle: Handle) -> io::Result<()> {
        let flags = OpenFlags::empty();
        let release = Release { handle, flags, flush: false, flock_unlock: false, lock_owner: LockOwner(0) };
        self.ask(node, &Operation::Release(release), &[]).map(drop)
    }

    /// Sends RENAME2 within the root.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn rename(&mut self, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
        named(from, |name| {
            named(to, |new_name| {
                let rename = Rename { name, new_directory: NodeId::ROOT, new_name, flags };
                self.ask(NodeId::ROOT, &Operation::Rename(rename), &[]).map(drop)
            })
        })
    }

    /// Sends UNLINK in the root.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn unlink(&mut self, name: &str) -> io::Result<()> {
        named(name, |name| self.ask(NodeId::ROOT, &Operation::Unlink(Unlink { name }), &[]).map(drop))
    }

    /// Sends LINK of a node into the root.
    ///
    /// # Errors
    /// As [`Files::lookup`].
    pub fn link(&mut self, target: NodeId, name: &str) -> io::Result<Entry> {
        named(name, |name| {
            let body = self.ask(NodeId::ROOT, &Operation::Link(Link { target, name }), &[])?;
            decode_entry(&body).map(|(entry, _)| entry).map_err(malformed)
        })
    }
}
