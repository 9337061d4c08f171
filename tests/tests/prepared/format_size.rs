//! How many bytes of metadata does an image have per inode, names included?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use pinhole_erofs::Time;
use pinhole_erofs::write::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree, write};
use pinhole_tests::guest::Parts;

/// Bytes per inode that a Debian userland may have.
const LIMIT: u64 = 100;

/// Tree of a folder of the host, whose files follow each other in one data file.
#[derive(Default)]
struct FolderTree {
    tree: Tree,
    blocks: u64,
    links: BTreeMap<(u64, u64), InodeIndex>,
}

impl FolderTree {
    fn add(&mut self, path: &Path) -> InodeIndex {
        let status = fs::symlink_metadata(path).unwrap();
        let kind = status.file_type();
        if let Some(known) = self.links.get(&(status.dev(), status.ino())) {
            return *known;
        }
        let index = InodeIndex(u32::try_from(self.tree.inodes.len()).unwrap());
        let inode = NewInode {
            permissions: u16::try_from(status.mode() & 0o7777).unwrap(),
            uid: status.uid(),
            gid: status.gid(),
            mtime: Time { seconds: status.mtime(), nanoseconds: u32::try_from(status.mtime_nsec()).unwrap() },
            xattrs: Vec::new(),
            content: Content::Fifo,
        };
        self.tree.inodes.push(inode);
        let content = if kind.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
            let entry =
                |entry: fs::DirEntry| (entry.file_name().as_bytes().to_vec(), self.add(&entry.path()));
            Content::Directory(entries.map(entry).collect())
        } else if kind.is_symlink() {
            Content::Symlink(fs::read_link(path).unwrap().into_os_string().into_vec())
        } else if kind.is_file() {
            Content::File(self.file(status.size()))
        } else if kind.is_char_device() {
            Content::CharacterDevice(0)
        } else {
            Content::Fifo
        };
        if !kind.is_dir() {
            self.links.insert((status.dev(), status.ino()), index);
        }
        self.tree.inodes[index.0 as usize].content = content;
        index
    }

    fn file(&mut self, size: u64) -> NewFile {
        let start = self.blocks * 4096;
        self.blocks += size.div_ceil(4096);
        let extent = DataExtent { offset: 0, device: 0, start, length: size };
        NewFile { size, extents: if size == 0 { Vec::new() } else { vec![extent] } }
    }
}

#[test]
fn debian_userland_has_few_bytes_per_inode() {
    let mut folder = FolderTree::default();
    folder.add(&Parts::locate().userland().unwrap());
    folder.tree.devices.push(NewDevice { tag: [0; 64], blocks: folder.blocks });
    let written = write(&folder.tree, [0; 16], &mut std::io::sink()).unwrap();
    let tenths = written.bytes * 10 / written.inodes;
    println!("{written:?}: {}.{} bytes per inode", tenths / 10, tenths % 10);
    assert!(written.inodes > 5000, "the userland is not complete");
    assert!(tenths <= LIMIT * 10, "more than {LIMIT} bytes per inode");
}
