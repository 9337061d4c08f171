//! Steps as FUSE requests over vhost-user: each guest has its own connection.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use pinhole_protocol::{
    Fallocate, FallocateMode, Link, MkDir, Open, OpenFlags, Operation as Request, RemoveXattr, Rename,
    RenameFlags, RmDir, SetAttr, SetXattr, SetXattrMode, SymLink, TmpFile, Unlink,
};
use rustix::io::Errno;

use super::Driver;
use super::guest::{Guest, OpenFile, created, named};
use crate::program::{Allocation, How, Move, Operation, Range, Step, Target};

/// `O_RDWR`.
const READ_WRITE: OpenFlags = OpenFlags::from_bits_retain(2);

/// Driver that sends requests.
#[derive(Debug)]
pub(crate) struct Wire {
    guests: Vec<Guest>,
    folder: String,
    open: BTreeMap<u8, (u8, OpenFile)>,
}

/// Write of one letter.
struct Data<'o> {
    target: &'o Target,
    at: Option<u64>,
    bytes: Vec<u8>,
    how: How,
}

impl Wire {
    /// Returns a driver with these guests.
    pub(super) const fn new(guests: Vec<Guest>) -> Self {
        Self { guests, folder: String::new(), open: BTreeMap::new() }
    }

    fn guest(&mut self, number: u8) -> io::Result<&mut Guest> {
        let index = usize::from(number.saturating_sub(1));
        self.guests.get_mut(index).ok_or_else(|| io::Error::other(format!("no guest {number}")))
    }

    fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.folder)
    }

    /// Calls `act` with the open file of a target. A path is opened before and closed after that.
    fn with_file<T>(
        &mut self,
        guest: u8,
        target: &Target,
        flags: OpenFlags,
        act: impl FnOnce(&mut Guest, OpenFile) -> io::Result<T>,
    ) -> io::Result<T> {
        match target {
            Target::Open(number) => {
                let (guest, file) = *self.open.get(number).ok_or(io::ErrorKind::NotFound)?;
                act(self.guest(guest)?, file)
            }
            Target::Path(path) => {
                let path = self.path(path);
                let guest = self.guest(guest)?;
                let file = guest.open(&path, flags)?;
                let done = act(guest, file);
                guest.close(file)?;
                done
            }
        }
    }

    fn write(&mut self, guest: u8, data: &Data<'_>) -> io::Result<()> {
        let (open, call) = match data.how {
            How::Buffered => (OpenFlags::empty(), OpenFlags::empty()),
            How::Direct => (OpenFlags::DIRECT, OpenFlags::empty()),
            How::Sync => (OpenFlags::SYNC, OpenFlags::empty()),
            How::DataSync => (OpenFlags::DSYNC, OpenFlags::empty()),
            How::CallSync => (OpenFlags::empty(), OpenFlags::SYNC),
            How::CallDataSync => (OpenFlags::empty(), OpenFlags::DSYNC),
            How::DirectDataSync => (OpenFlags::DIRECT | OpenFlags::DSYNC, OpenFlags::empty()),
            // A store is no request; this guest has no page cache.
            How::Mapped => return Err(io::ErrorKind::Unsupported.into()),
        };
        if let Target::Path(path) = data.target {
            self.create_if_missing(guest, path)?;
        }
        let len = match data.at {
            Some(_) => 0,
            None => self.len(guest, data.target)?,
        };
        self.with_file(guest, data.target, READ_WRITE | open, |guest, file| {
            guest.write(file, data.at.unwrap_or(len), &data.bytes, call)
        })
    }

    fn create_if_missing(&mut self, guest: u8, path: &str) -> io::Result<()> {
        let path = self.path(path);
        let guest = self.guest(guest)?;
        match guest.look_up(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = guest.create(&path, READ_WRITE)?;
                guest.close(file)
            }
            found => found.map(drop),
        }
    }

    /// Returns the length of a file.
    fn len(&mut self, guest: u8, target: &Target) -> io::Result<u64> {
        self.with_file(guest, target, OpenFlags::empty(), Guest::len)
    }

    fn set_attributes(&mut self, guest: u8, target: &Target, set: SetAttr) -> io::Result<()> {
        if let Target::Path(path) = target {
            let path = self.path(path);
            let guest = self.guest(guest)?;
            let (node, _) = guest.look_up(&path)?;
            return guest.ask(node, &Request::SetAttr(set), &[]).map(drop);
        }
        self.with_file(guest, target, READ_WRITE, |guest, file| {
            let set = SetAttr { handle: Some(file.handle), ..set };
            guest.ask(file.node, &Request::SetAttr(set), &[]).map(drop)
        })
    }

    fn allocate(&mut self, guest: u8, target: &Target, (mode, range): (Allocation, Range)) -> io::Result<()> {
        let mode = match mode {
            Allocation::Reserve => FallocateMode::empty(),
            Allocation::Keep => FallocateMode::KEEP_SIZE,
            Allocation::Punch => FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE,
            Allocation::Zero => FallocateMode::ZERO_RANGE,
            Allocation::ZeroKeep => FallocateMode::ZERO_RANGE | FallocateMode::KEEP_SIZE,
            // Linux's FUSE client refuses these by itself.
            Allocation::Collapse | Allocation::Insert => return Err(Errno::OPNOTSUPP.into()),
        };
        self.with_file(guest, target, READ_WRITE, |guest, file| {
            let allocate = Fallocate { handle: file.handle, offset: range.at, length: range.len, mode };
            guest.ask(file.node, &Request::Fallocate(allocate), &[]).map(drop)
        })
    }

    fn temp_file(&mut self, guest: u8, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(path);
        let guest = self.guest(guest)?;
        let (folder, name) = guest.parent(&path)?;
        let flags = READ_WRITE | OpenFlags::TMPFILE;
        let open = Open { flags, kill_suidgid: false };
        let request = Request::TmpFile(TmpFile { open, mode: 0o644, umask: 0 });
        let file = created(&guest.ask(folder, &request, &[])?, READ_WRITE)?;
        guest.write(file, 0, bytes, OpenFlags::empty())?;
        named(name, |name| guest.ask(folder, &Request::Link(Link { target: file.node, name }), &[]))?;
        guest.close(file)
    }

    /// Sends a request about the last component of a path.
    fn in_folder(
        &mut self,
        guest: u8,
        path: &str,
        request: impl for<'n> FnOnce(pinhole_protocol::Name<'n>) -> Request<'n>,
    ) -> io::Result<()> {
        let path = self.path(path);
        let guest = self.guest(guest)?;
        let (folder, name) = guest.parent(&path)?;
        named(name, |name| guest.ask(folder, &request(name), &[])).map(drop)
    }

    fn rename(&mut self, guest: u8, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let guest = self.guest(guest)?;
        // Linux knows both names before it asks for the rename.
        guest.look_up(&from)?;
        let (folder, name) = guest.parent(&from)?;
        let (new_directory, new_name) = guest.parent(&to)?;
        named(name, |name| {
            named(new_name, |new_name| {
                let rename = Rename { name, new_directory, new_name, flags };
                guest.ask(folder, &Request::Rename(rename), &[]).map(drop)
            })
        })
    }

    fn link(&mut self, guest: u8, from: &str, to: &str) -> io::Result<()> {
        let from = self.path(from);
        let (target, _) = self.guest(guest)?.look_up(&from)?;
        self.in_folder(guest, to, |name| Request::Link(Link { target, name }))
    }

    fn change_names(&mut self, guest: u8, operation: &Operation) -> io::Result<()> {
        match operation {
            Operation::Create(path) => {
                let path = self.path(path);
                let guest = self.guest(guest)?;
                let file = guest.create(&path, READ_WRITE | OpenFlags::EXCL)?;
                guest.close(file)
            }
            Operation::MakeDir(path) => {
                self.in_folder(guest, path, |name| Request::MkDir(MkDir { name, mode: 0o755, umask: 0 }))
            }
            Operation::Link(from, to) => self.link(guest, from, to),
            Operation::SymLink(text, path) => {
                let (target, path) = (CString::new(text.as_str())?, self.path(path));
                let guest = self.guest(guest)?;
                let (folder, name) = guest.parent(&path)?;
                named(name, |name| {
                    let link = SymLink { name, target: &target };
                    guest.ask(folder, &Request::SymLink(link), &[]).map(drop)
                })
            }
            Operation::Unlink(path) => self.in_folder(guest, path, |name| Request::Unlink(Unlink { name })),
            Operation::RemoveDir(path) => self.in_folder(guest, path, |name| Request::RmDir(RmDir { name })),
            Operation::Rename(from, to, Move::Replace) => self.rename(guest, from, to, RenameFlags::empty()),
            Operation::Rename(from, to, Move::Exchange) => {
                self.rename(guest, from, to, RenameFlags::EXCHANGE)
            }
            Operation::SetXattr(path, name, value) => self.change_attribute(guest, (path, name), Some(value)),
            Operation::RemoveXattr(path, name) => self.change_attribute(guest, (path, name), None),
            Operation::Open(number, path) => {
                let path = self.path(path);
                let file = self.guest(guest)?.open(&path, READ_WRITE)?;
                self.open.insert(*number, (guest, file));
                Ok(())
            }
            Operation::Close(number) => match self.open.remove(number) {
                Some((guest, file)) => self.guest(guest)?.close(file),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Operation::Write { .. }
            | Operation::Truncate(..)
            | Operation::Allocate(..)
            | Operation::TempFile { .. }
            | Operation::SetMode(..)
            | Operation::Sync(_)
            | Operation::DataSync(_)
            | Operation::SyncAll
            | Operation::SyncFs => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Sets an extended attribute, or removes it if `value` is `None`.
    fn change_attribute(
        &mut self,
        guest: u8,
        (path, name): (&str, &str),
        value: Option<&str>,
    ) -> io::Result<()> {
        let (path, name) = (self.path(path), CString::new(name)?);
        let guest = self.guest(guest)?;
        let (node, _) = guest.look_up(&path)?;
        let request = match value {
            Some(value) => Request::SetXattr(SetXattr {
                name: &name,
                value: value.as_bytes(),
                mode: SetXattrMode::Any,
                acl_kill_sgid: false,
            }),
            None => Request::RemoveXattr(RemoveXattr { name: &name }),
        };
        guest.ask(node, &request, &[]).map(drop)
    }
}

impl Driver for Wire {
    fn begin(&mut self, folder: &str) -> io::Result<()> {
        folder.clone_into(&mut self.folder);
        Ok(())
    }

    fn step(&mut self, Step { guest, operation }: &Step) -> io::Result<()> {
        let guest = *guest;
        match operation {
            Operation::Write { target, at, len, fill, how } => {
                let bytes = vec![*fill; usize::try_from(*len).map_err(io::Error::other)?];
                self.write(guest, &Data { target, at: *at, bytes, how: *how })
            }
            Operation::Truncate(target, len) => {
                self.set_attributes(guest, target, SetAttr { size: Some(*len), ..SetAttr::default() })
            }
            Operation::SetMode(path, mode) => {
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                self.set_attributes(guest, &Target::Path(path.clone()), set)
            }
            Operation::Allocate(target, mode, range) => self.allocate(guest, target, (*mode, *range)),
            Operation::TempFile { path, len, fill } => {
                let len = usize::try_from(*len).map_err(io::Error::other)?;
                self.temp_file(guest, path, &vec![*fill; len])
            }
            Operation::Sync(target) => {
                self.with_file(guest, target, OpenFlags::empty(), |guest, file| guest.sync(file, false))
            }
            Operation::DataSync(target) => {
                self.with_file(guest, target, OpenFlags::empty(), |guest, file| guest.sync(file, true))
            }
            Operation::SyncAll | Operation::SyncFs => self.guest(guest)?.sync_all(),
            Operation::Create(_)
            | Operation::MakeDir(_)
            | Operation::Link(..)
            | Operation::SymLink(..)
            | Operation::Unlink(_)
            | Operation::RemoveDir(_)
            | Operation::Rename(..)
            | Operation::SetXattr(..)
            | Operation::RemoveXattr(..)
            | Operation::Open(..)
            | Operation::Close(_) => self.change_names(guest, operation),
        }
    }

    fn finish(&mut self) {
        for (guest, file) in std::mem::take(&mut self.open).into_values() {
            // Ignore the result: a daemon that has ended is noticed by the next step.
            drop(self.guest(guest).and_then(|guest| guest.close(file)));
        }
    }
}
