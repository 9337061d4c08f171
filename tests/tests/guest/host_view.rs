//! A shared folder as the host sees it: every object below it, with all attributes that a guest can
//! set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::FileType;

/// Largest length in bytes of kept content. The guest's side has the same limit.
const CONTENT_LEN_MAX: u64 = 1 << 20;

/// Folder with 20,000 entries that only the guest checks.
const NOT_ENTERED: &str = "many_entries";

/// Object of the host's file system.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) status: fs::Metadata,
    /// Bytes of a regular file, or the target of a symbolic link.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Object {
    /// Modification time in nanoseconds since 1970.
    pub(crate) fn modified_ns(&self) -> i128 {
        i128::from(self.status.mtime()) * 1_000_000_000 + i128::from(self.status.mtime_nsec())
    }

    /// Mode bits without the type.
    pub(crate) fn permissions(&self) -> u32 {
        self.status.mode() & 0o7777
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.status.mode())
    }
}

/// Shared folder after its guest has ended.
#[derive(Debug, Clone)]
pub(crate) struct HostView {
    objects: BTreeMap<Vec<u8>, Object>,
}

impl HostView {
    /// Reads everything below `top`.
    pub(crate) fn of(top: &Path) -> Self {
        let mut objects = BTreeMap::new();
        read_below(top, b"below", &mut objects);
        Self { objects }
    }

    /// Returns the object at `path` below the shared folder.
    pub(crate) fn at(&self, path: impl AsRef<[u8]>) -> &Object {
        let path = [b"below/", path.as_ref()].concat();
        self.objects.get(&path).unwrap_or_else(|| panic!("the host has no {}", path.escape_ascii()))
    }

    /// Returns whether the host has an object at `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.objects.contains_key(format!("below/{path}").as_bytes())
    }

    /// Returns the kept bytes of a file, or a link's target.
    pub(crate) fn content(&self, path: impl AsRef<[u8]>) -> &[u8] {
        self.at(path).content.as_deref().unwrap_or_default()
    }

    /// Returns one line for every object, in the form of the guest's `posix.py manifest`, sorted.
    pub(crate) fn manifest(&self) -> Vec<String> {
        let mut lines: Vec<_> =
            self.objects.iter().map(|(path, object)| manifest_line(path, object)).collect();
        lines.sort();
        lines
    }
}

/// Returns the line of a manifest for one object.
fn manifest_line(path: &[u8], object: &Object) -> String {
    let kind = object.kind();
    let status = &object.status;
    let content = match (kind, &object.content) {
        (FileType::RegularFile, Some(content)) => format!("{:08x}", crc32(content)),
        (_, Some(target)) => hex(target),
        (_, None) => String::new(),
    };
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    format!(
        "{} {:o} {} {} {} {} {} {} {content}",
        hex(path),
        status.mode(),
        status.uid(),
        status.gid(),
        if kind == FileType::Directory { 0 } else { status.nlink() },
        if kind == FileType::RegularFile { status.len() } else { 0 },
        object.modified_ns(),
        if is_device { status.rdev() } else { 0 },
    )
}

/// Adds all objects below `folder`, by their paths below `relative`.
fn read_below(folder: &Path, relative: &[u8], objects: &mut BTreeMap<Vec<u8>, Object>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let path = entry.path();
        let key = [relative, b"/", name.as_bytes()].concat();
        let status = fs::symlink_metadata(&path).unwrap();
        let content = if status.is_symlink() {
            Some(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else {
            let is_kept = status.is_file() && status.len() <= CONTENT_LEN_MAX;
            is_kept.then(|| fs::read(&path).unwrap())
        };
        if status.is_dir() && name != NOT_ENTERED {
            // Paths of the deepest tree, with a hundred levels, are shorter than PATH_MAX.
            read_below(&path, &key, objects);
        }
        objects.insert(key, Object { status, content, attributes: attributes(&path) });
    }
}

/// Returns the extended attributes of an object, or an empty map if the file system has none.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or_default();
    let names =
        names.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Returns bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// CRC-32 as zlib computes it.
fn crc32(bytes: &[u8]) -> u32 {
    let folded = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    });
    !folded
}

#[test]
fn crc32_is_that_of_zlib() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
