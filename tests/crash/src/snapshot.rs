//! The content of a program's folder: what a program, or a reader after a loss of power, finds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::io::Errno;

/// Prefix of the extended attributes that are compared.
const ATTRIBUTE_PREFIX: &str = "user.";

/// Longest list of attribute names, and longest value, in bytes.
const ATTRIBUTES_LEN_MAX: usize = 4096;

/// Object with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Regular file.
    File(Vec<u8>),
    /// Directory.
    Directory,
    /// Symbolic link with its text.
    Link(String),
    /// Object of another kind, or one that cannot be read: the reason.
    Unreadable(String),
}

/// Object that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Inode number: two names with the same number are one object.
    pub(crate) inode: u64,
    /// Content.
    pub(crate) content: Content,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Number of names. Directories have 0 here, because file systems count differently.
    pub(crate) links: u64,
    /// Extended attributes of users.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// Paths below a folder and their objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) BTreeMap<String, Found>);

impl Snapshot {
    /// Reads a folder. A missing folder is empty.
    ///
    /// # Errors
    /// Fails if a directory cannot be listed.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let mut snapshot = Self::default();
        match snapshot.add(folder, "") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => read.map(|()| snapshot),
        }
    }

    fn add(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().display());
            let found = read(&path);
            if found.content == Content::Directory {
                self.add(&path, &format!("{name}/"))?;
            }
            self.0.insert(name, found);
        }
        Ok(())
    }

    /// Returns the object of a path.
    pub(crate) fn get(&self, path: &str) -> Option<&Found> {
        self.0.get(path)
    }

    /// Returns the bytes of a file.
    pub(crate) fn bytes(&self, path: &str) -> Option<&[u8]> {
        match &self.get(path)?.content {
            Content::File(bytes) => Some(bytes),
            Content::Directory | Content::Link(_) | Content::Unreadable(_) => None,
        }
    }
}

/// Reads an object.
fn read(path: &Path) -> Found {
    let unreadable = |error: io::Error| Found {
        inode: 0,
        content: Content::Unreadable(error.to_string()),
        mode: 0,
        links: 0,
        attributes: BTreeMap::new(),
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(error),
    };
    let content = if metadata.is_file() {
        fs::read(path).map(Content::File)
    } else if metadata.is_dir() {
        Ok(Content::Directory)
    } else if metadata.is_symlink() {
        fs::read_link(path).map(|text| Content::Link(text.display().to_string()))
    } else {
        Ok(Content::Unreadable("not a file, directory or symbolic link".to_owned()))
    };
    let is_link = metadata.is_symlink();
    let attributes = if is_link { Ok(BTreeMap::new()) } else { attributes(path) };
    match (content, attributes) {
        (Ok(content), Ok(attributes)) => Found {
            inode: metadata.ino(),
            links: if metadata.is_dir() { 0 } else { metadata.nlink() },
            content,
            mode: metadata.mode() & 0o7777,
            attributes,
        },
        (Err(error), _) => unreadable(error),
        (_, Err(error)) => unreadable(error.into()),
    }
}

/// Reads the extended attributes of users.
fn attributes(path: &Path) -> Result<BTreeMap<String, String>, Errno> {
    let mut names = [0; ATTRIBUTES_LEN_MAX];
    let len = match rustix::fs::listxattr(path, &mut names) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    let names = names.get(..len).unwrap_or_default();
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(ATTRIBUTE_PREFIX.as_bytes())) {
        let mut value = [0; ATTRIBUTES_LEN_MAX];
        let len = rustix::fs::getxattr(path, std::ffi::OsStr::from_bytes(name), &mut value)?;
        let value = value.get(..len).unwrap_or_default();
        let [name, value] = [name, value].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        found.insert(name, value);
    }
    Ok(found)
}
