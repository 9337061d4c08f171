//! The contents of a folder, as a model and on the host, and the acts that change them.

use crate::frontend::client::Opened;
use crate::frontend::frame::Frame;
use crate::frontend::frame::opcode::{CREATE, MKDIR, RENAME2, RMDIR, SETATTR, SETLK, SYMLINK, UNLINK, WRITE};
use crate::frontend::locks::Lock;
use crate::linux::{O_APPEND, O_RDWR};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

const O_CREAT_EXCL: u32 = 0o300;
/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
/// `FATTR_SIZE` and `FATTR_FH`.
const SIZE_OF_HANDLE: u32 = 1 << 3 | 1 << 6;

/// Object that a name stands for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum NamedObject {
    /// File with these bytes.
    File(Vec<u8>),
    /// Empty directory.
    Directory,
    /// Symbolic link to this target.
    Link(String),
}

impl std::fmt::Debug for NamedObject {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(bytes) => write!(out, "a file of {} bytes", bytes.len()),
            Self::Directory => write!(out, "a directory"),
            Self::Link(target) => write!(out, "a link to {target}"),
        }
    }
}

/// All names of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tree(pub BTreeMap<String, NamedObject>);

impl Tree {
    /// Reads a folder of the host.
    ///
    /// # Errors
    /// Fails with the error of the host, or if an object is none of [`NamedObject`].
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        for entry in fs::read_dir(folder)? {
            let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
            let name = entry.file_name().display().to_string();
            let thing = if kind.is_file() {
                NamedObject::File(fs::read(entry.path())?)
            } else if kind.is_symlink() {
                NamedObject::Link(fs::read_link(entry.path())?.display().to_string())
            } else if kind.is_dir() && fs::read_dir(entry.path())?.next().is_none() {
                NamedObject::Directory
            } else {
                return Err(io::Error::other(format!(
                    "{name} is neither a file nor a symbolic link nor an empty directory"
                )));
            };
            tree.0.insert(name, thing);
        }
        Ok(tree)
    }

    /// Returns the names with this prefix and their objects.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> Self {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        Self(named.map(|(name, thing)| (name.clone(), thing.clone())).collect())
    }

    /// Returns the bytes of a file, or an empty slice if the file does not exist.
    pub fn bytes(&self, name: &str) -> &[u8] {
        match self.0.get(name) {
            Some(NamedObject::File(bytes)) => bytes,
            Some(NamedObject::Directory | NamedObject::Link(_)) | None => &[],
        }
    }

    /// Returns whether this tree can be the result of `before`, with `act` carried out or not. If
    /// the act is a write, the tree may have only the first bytes of its data, and the hole before
    /// them. Linux leaves a write(2) in that state if the process is killed during the call.
    pub fn is_outcome(&self, before: &Self, act: Option<&Act>) -> bool {
        let Some(act) = act else { return self == before };
        self == before
            || *self == act.after(before)
            || act.begun(before, self).is_some_and(|part| *self == part)
    }
}

/// Change that one request makes.
#[derive(Clone, PartialEq, Eq)]
pub enum Act {
    /// Creates a file.
    Create(String),
    /// Writes bytes within a file or beyond its end.
    Write(String, usize, Vec<u8>),
    /// Appends bytes to a file.
    Append(String, Vec<u8>),
    /// Changes the length of a file.
    Truncate(String, usize),
    /// Renames a file, possibly over another one.
    Rename(String, String),
    /// Exchanges two names.
    Exchange(String, String),
    /// Removes a file.
    Unlink(String),
    /// Makes a directory.
    MakeDirectory(String),
    /// Removes a directory.
    RemoveDirectory(String),
    /// Makes a symbolic link.
    SymLink(String, String),
    /// Locks bytes of a file, which changes no name and no data.
    Lock(String, Lock),
}

impl std::fmt::Debug for Act {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(name) => write!(out, "CREATE {name}"),
            Self::Write(name, at, bytes) => write!(out, "WRITE {name} {at} +{}", bytes.len()),
            Self::Append(name, bytes) => write!(out, "append {name} +{}", bytes.len()),
            Self::Truncate(name, len) => write!(out, "SETATTR {name} to {len} bytes"),
            Self::Rename(name, to) => write!(out, "RENAME {name} {to}"),
            Self::Exchange(name, to) => write!(out, "exchange {name} {to}"),
            Self::Unlink(name) => write!(out, "UNLINK {name}"),
            Self::MakeDirectory(name) => write!(out, "MKDIR {name}"),
            Self::RemoveDirectory(name) => write!(out, "RMDIR {name}"),
            Self::SymLink(name, target) => write!(out, "SYMLINK {name} {target}"),
            Self::Lock(name, lock) => write!(out, "SETLK {name} {lock:?}"),
        }
    }
}

impl Act {
    /// Returns the tree after this act.
    #[must_use]
    pub fn after(&self, before: &Tree) -> Tree {
        let mut tree = before.clone();
        let Tree(names) = &mut tree;
        match self {
            Self::Create(name) => drop(names.insert(name.clone(), NamedObject::File(Vec::new()))),
            Self::Write(name, at, bytes) => {
                drop(names.insert(name.clone(), written(before, name, *at, bytes)));
            }
            Self::Append(name, bytes) => {
                let at = before.bytes(name).len();
                drop(names.insert(name.clone(), written(before, name, at, bytes)));
            }
            Self::Truncate(name, len) => {
                let mut bytes = before.bytes(name).to_vec();
                bytes.resize(*len, 0);
                names.insert(name.clone(), NamedObject::File(bytes));
            }
            Self::Rename(name, to) => {
                if let Some(thing) = names.remove(name) {
                    names.insert(to.clone(), thing);
                }
            }
            Self::Exchange(name, to) => {
                if let (Some(one), Some(other)) = (names.remove(name), names.remove(to)) {
                    names.insert(to.clone(), one);
                    names.insert(name.clone(), other);
                }
            }
            Self::Unlink(name) | Self::RemoveDirectory(name) => drop(names.remove(name)),
            Self::MakeDirectory(name) => drop(names.insert(name.clone(), NamedObject::Directory)),
            Self::SymLink(name, target) => {
                drop(names.insert(name.clone(), NamedObject::Link(target.clone())));
            }
            Self::Lock(..) => {}
        }
        tree
    }

    /// Returns the tree after the first bytes of a write, as many as `found` contains. Returns
    /// `None` if the act is not a write.
    fn begun(&self, before: &Tree, found: &Tree) -> Option<Tree> {
        let (name, at, bytes) = match self {
            Self::Write(name, at, bytes) => (name, *at, bytes),
            Self::Append(name, bytes) => (name, before.bytes(name).len(), bytes),
            Self::Create(_)
            | Self::Truncate(..)
            | Self::Rename(..)
            | Self::Exchange(..)
            | Self::Unlink(_)
            | Self::MakeDirectory(_)
            | Self::RemoveDirectory(_)
            | Self::SymLink(..)
            | Self::Lock(..) => return None,
        };
        let there = found.bytes(name).get(at..)?;
        let len = bytes.iter().zip(there).take_while(|(wanted, here)| wanted == here).count();
        Some(Self::Write(name.clone(), at, bytes.get(..len)?.to_vec()).after(before))
    }

    /// Returns the request of this act and the largest length of its reply's body in bytes. Returns
    /// `None` if the file is not open. `opened` returns the open file of a name.
    pub fn message(&self, directory: u64, opened: impl Fn(&str) -> Option<Opened>) -> Option<(Frame, usize)> {
        let write = |(node, handle): Opened, at: u64, flags: u32, bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let frame = Frame::new(WRITE, node).u64(handle).u64(at).u32(len).u32(0).u64(0);
            (frame.u32(O_RDWR | flags).u32(0).bytes(bytes), 8)
        };
        let rename = |name: &str, to: &str, flags: u32| {
            (Frame::new(RENAME2, directory).u64(directory).u32(flags).u32(0).name(name).name(to), 0)
        };
        let of = |opcode: u32| Frame::new(opcode, directory);
        Some(match self {
            Self::Create(name) => {
                let frame = of(CREATE).u32(O_RDWR | O_CREAT_EXCL).u32(0o100_644).u32(0).u32(0);
                (frame.name(name), 144)
            }
            Self::Write(name, at, bytes) => write(opened(name)?, *at as u64, 0, bytes),
            Self::Append(name, bytes) => write(opened(name)?, 0, O_APPEND, bytes),
            Self::Truncate(name, len) => {
                let (node, handle) = opened(name)?;
                let frame = Frame::new(SETATTR, node).u32(SIZE_OF_HANDLE).u32(0).u64(handle).u64(*len as u64);
                (frame.bytes(&[0; 64]), 104)
            }
            Self::Rename(name, to) => rename(name, to, 0),
            Self::Exchange(name, to) => rename(name, to, EXCHANGE),
            Self::Unlink(name) => (of(UNLINK).name(name), 0),
            Self::MakeDirectory(name) => (of(MKDIR).u32(0o755).u32(0).name(name), 128),
            Self::RemoveDirectory(name) => (of(RMDIR).name(name), 0),
            Self::SymLink(name, target) => (of(SYMLINK).name(name).name(target), 128),
            Self::Lock(name, lock) => (lock.frame(SETLK, opened(name)?), 0),
        })
    }
}

/// Returns the file `name` after `bytes` were written at the offset `at`.
fn written(before: &Tree, name: &str, at: usize, bytes: &[u8]) -> NamedObject {
    let mut content = before.bytes(name).to_vec();
    content.resize(content.len().max(at + bytes.len()), 0);
    if let Some(place) = content.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
    NamedObject::File(content)
}
