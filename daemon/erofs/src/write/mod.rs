//! The writer: a tree of inodes becomes the bytes of an image.
//!
//! The image holds metadata only; file data is in data files, the extra devices. It is, in order:
//!
//! 1. the superblock and the device table,
//! 2. the inodes: first the root, then the entries of each directory side by side, each inode with
//!    its extended attributes and then its symbolic link, chunks, or last part of its directory,
//! 3. extended attributes that several inodes have,
//! 4. full directory blocks.
//!
//! The same tree gives the same bytes. [`Plan::new`] checks the tree and finds all positions, in
//! memory that grows with the tree; [`Plan::write`] writes the bytes in one pass.

mod bytes;
mod emit;
mod entries;
mod error;
mod file;
mod order;
mod place;
mod plan;
mod tree;
mod xattrs;

pub use bytes::Written;
pub use error::{InodeFault, WriteError};
pub use plan::Plan;
pub use tree::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree};

/// Writes an image. `uuid` identifies it.
///
/// # Errors
///
/// As [`Plan::new`] and [`Plan::write`].
pub fn write(tree: &Tree, uuid: [u8; 16], out: &mut dyn std::io::Write) -> Result<Written, WriteError> {
    Plan::new(tree)?.write(uuid, out)
}

#[cfg(test)]
mod tests {
    use core::ops::ControlFlow;
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture::OwnedBytes;
    use crate::{Extent, Image, Inode, Kind, Nid, Place, Time};

    fn inode(content: Content) -> NewInode {
        NewInode {
            permissions: 0o644,
            uid: 1,
            gid: 2,
            mtime: Time { seconds: -5, nanoseconds: 999_999_999 },
            xattrs: Vec::new(),
            content,
        }
    }

    fn directory(names: &[(&str, u32)]) -> NewInode {
        let entry = |(name, index): &(&str, u32)| (name.as_bytes().to_vec(), InodeIndex(*index));
        inode(Content::Directory(names.iter().map(entry).collect()))
    }

    fn tree(inodes: Vec<NewInode>) -> Tree {
        Tree { inodes, devices: vec![NewDevice { tag: [b'a'; 64], blocks: 100 }] }
    }

    fn bytes(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        let written = write(tree, [7; 16], &mut out).unwrap();
        assert_eq!(written.bytes, out.len() as u64);
        out
    }

    fn open(tree: &Tree) -> Image<OwnedBytes> {
        let devices: Vec<_> = tree.devices.iter().map(|device| device.blocks * 4096).collect();
        Image::open(OwnedBytes(bytes(tree)), &devices).unwrap()
    }

    /// Follows names from the root.
    fn find(image: &Image<OwnedBytes>, path: &[&str]) -> Inode {
        path.iter().fold(image.inode(image.superblock().root).unwrap(), |directory, name| {
            let found = image.lookup(&directory, name.as_bytes()).unwrap().unwrap();
            let inode = image.inode(found.nid).unwrap();
            assert_eq!(inode.kind, found.kind);
            inode
        })
    }

    fn names(image: &Image<OwnedBytes>, directory: &Inode) -> Vec<(Vec<u8>, Nid)> {
        let mut names = Vec::new();
        let mut take = |entry: crate::DirEntry<'_>| {
            names.push((entry.name.to_vec(), entry.nid));
            ControlFlow::Continue(())
        };
        image.read_dir(directory, 0, &mut take).unwrap();
        names
    }

    #[test]
    fn every_kind_is_read_back() {
        let flat = NewFile {
            size: 5000,
            extents: vec![DataExtent { offset: 0, device: 0, start: 8192, length: 5000 }],
        };
        let sparse = NewFile {
            size: 20_000,
            extents: vec![DataExtent { offset: 8192, device: 0, start: 0, length: 8192 }],
        };
        let tree = tree(vec![
            directory(&[("flat", 1), ("sparse", 2), ("link", 3), ("tty", 4), ("sub", 5)]),
            inode(Content::File(flat)),
            inode(Content::File(sparse)),
            inode(Content::Symlink(b"target".to_vec())),
            inode(Content::CharacterDevice(0x0501)),
            directory(&[("again", 1), ("pipe", 6)]),
            inode(Content::Fifo),
            inode(Content::Socket),
        ]);
        let image = open(&tree);
        assert_eq!(image.superblock().inodes, 7);
        assert_eq!(image.devices()[0].tag, [b'a'; 64]);
        let root = find(&image, &[]);
        assert_eq!((root.nlink, root.mode), (3, 0o040_644));
        let flat = find(&image, &["flat"]);
        assert_eq!(find(&image, &["sub", "again"]), flat);
        assert_eq!((flat.nlink, flat.uid, flat.gid, flat.size), (2, 1, 2, 5000));
        assert_eq!(flat.mtime, Time { seconds: -5, nanoseconds: 999_999_999 });
        let place = Place::Device { index: 0, offset: 8192 };
        assert_eq!(image.extent(&flat, 0), Ok(Extent { place, length: 5000 }));
        let sparse = find(&image, &["sparse"]);
        assert_eq!(image.extent(&sparse, 0), Ok(Extent { place: Place::Hole, length: 8192 }));
        assert_eq!(image.seek_data(&sparse, 0), Ok(Some(8192)));
        assert_eq!(image.seek_hole(&sparse, 8192), Ok(Some(16_384)));
        let mut target = Vec::new();
        image.read_link(&find(&image, &["link"]), &mut target).unwrap();
        assert_eq!(target, b"target");
        assert_eq!(find(&image, &["tty"]).rdev, 0x0501);
        assert_eq!(find(&image, &["sub", "pipe"]).kind, Kind::Fifo);
        assert_eq!(find(&image, &["sub", ".."]), root);
    }

    #[test]
    fn directories_of_every_size_are_read_back() {
        for count in [0, 1, 80, 81, 82, 83, 200, 700, 5000] {
            let name = |at: u32| format!("{at:05}{}", "x".repeat(at as usize % 50));
            let entries: BTreeMap<_, _> =
                (0..count).map(|at| (name(at).into_bytes(), InodeIndex(1 + at))).collect();
            let wanted: Vec<_> = entries.keys().cloned().collect();
            let mut inodes = vec![inode(Content::Directory(entries))];
            inodes.extend((0..count).map(|_| inode(Content::Fifo)));
            let image = open(&tree(inodes));
            let root = find(&image, &[]);
            let found: Vec<_> = names(&image, &root)
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| name[0] != b'.')
                .collect();
            assert_eq!(found, wanted);
            for name in &wanted {
                let found = image.lookup(&root, name).unwrap().unwrap();
                assert_eq!(image.inode(found.nid).unwrap().kind, Kind::Fifo);
            }
        }
    }

    #[test]
    fn symlinks_of_every_length_are_read_back() {
        for length in [1, 100, 4000, 4063, 4064, 4065, 4095] {
            let target = vec![b't'; length];
            let root = directory(&[("a", 1), ("b", 1), ("c", 2)]);
            let image =
                open(&tree(vec![root, inode(Content::Symlink(target.clone())), inode(Content::Fifo)]));
            let mut found = Vec::new();
            image.read_link(&find(&image, &["b"]), &mut found).unwrap();
            assert_eq!(found, target);
        }
    }

    #[test]
    fn attributes_are_shared_when_that_is_smaller() {
        let acl = (b"system.posix_acl_access".to_vec(), vec![1; 44]);
        let label = (b"security.selinux".to_vec(), b"system_u:object_r:usr_t:s0\0".to_vec());
        let only = (b"user.only".to_vec(), b"x".to_vec());
        let mut inodes = vec![directory(&[("a", 1), ("b", 2), ("c", 3)])];
        for xattrs in [vec![label.clone(), acl.clone()], vec![acl.clone(), only.clone()], vec![label.clone()]]
        {
            inodes.push(NewInode { xattrs, ..inode(Content::Fifo) });
        }
        let tree = tree(inodes);
        let image = open(&tree);
        for (path, expected) in [("a", [&label, &acl].as_slice()), ("b", &[&acl, &only]), ("c", &[&label])] {
            let inode = find(&image, &[path]);
            for (name, value) in expected {
                let mut out = Vec::new();
                assert_eq!(image.get_xattr(&inode, name, &mut out), Ok(Some(value.len())));
                assert_eq!(&out, value);
            }
        }
        let all = bytes(&tree);
        let occurrences = |text: &[u8]| all.windows(text.len()).filter(|window| *window == text).count();
        assert_eq!((occurrences(&label.1), occurrences(b"only")), (1, 1));
    }

    #[test]
    fn order_of_the_tree_does_not_matter_for_attributes() {
        let pairs = [(b"user.a".to_vec(), vec![1]), (b"user.b".to_vec(), vec![2])];
        let with = |xattrs: Vec<_>| tree(vec![NewInode { xattrs, ..directory(&[]) }]);
        let forward = with(pairs.to_vec());
        let backward = with(pairs.iter().rev().cloned().collect());
        assert_eq!(bytes(&forward), bytes(&backward));
    }

    #[test]
    fn wrong_trees_are_refused_by_name() {
        let fault = |inodes: Vec<NewInode>| match write(&tree(inodes), [0; 16], &mut Vec::new()) {
            Err(WriteError::Inode { index, fault }) => (index, fault),
            other => panic!("{other:?}"),
        };
        let root = || directory(&[("a", 1)]);
        let with = |child: NewInode| fault(vec![root(), child]);
        let xattr = |name: &[u8], length| {
            let pair = (name.to_vec(), vec![0; length]);
            with(NewInode { xattrs: vec![pair], ..inode(Content::Fifo) })
        };
        assert_eq!(fault(vec![directory(&[("a", 0)])]), (0, InodeFault::DirectoryLink));
        let twice = fault(vec![directory(&[("a", 1), ("b", 1)]), directory(&[])]);
        assert_eq!(twice, (1, InodeFault::DirectoryLink));
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(fault(vec![directory(&[(name, 1)]), inode(Content::Fifo)]), (0, InodeFault::Name));
        }
        let long = "n".repeat(256);
        assert_eq!(
            fault(vec![directory(&[(&long, 1)]), inode(Content::Fifo)]),
            (0, InodeFault::NameLength(256))
        );
        for (target, expected) in [
            (vec![], InodeFault::SymlinkLength(0)),
            (vec![1; 4096], InodeFault::SymlinkLength(4096)),
            (vec![0], InodeFault::SymlinkNul),
        ] {
            assert_eq!(with(inode(Content::Symlink(target))), (1, expected));
        }
        assert_eq!(
            with(NewInode { permissions: 0o10_000, ..inode(Content::Fifo) }),
            (1, InodeFault::Permissions(0o10_000))
        );
        assert_eq!(xattr(b"lustre.x", 0), (1, InodeFault::XattrPrefix));
        assert_eq!(xattr(b"user.", 0), (1, InodeFault::XattrPrefix));
        assert_eq!(xattr(b"system.posix_acl_accessX", 0), (1, InodeFault::XattrPrefix));
        assert_eq!(xattr(&[b'u'; 256], 0), (1, InodeFault::XattrName));
        assert_eq!(xattr(b"user.x", 65_536), (1, InodeFault::XattrValue(65_536)));
        let none = write(&tree(vec![]), [0; 16], &mut Vec::new());
        assert!(matches!(none, Err(WriteError::NoRoot)));
        let missing = write(&tree(vec![root()]), [0; 16], &mut Vec::new());
        assert!(matches!(missing, Err(WriteError::NoInode { index: 1 })));
    }

    #[test]
    fn data_files_have_limits_in_number_and_size() {
        let device = |blocks| NewDevice { tag: [0; 64], blocks };
        let write = |devices| {
            let tree = Tree { inodes: vec![directory(&[])], devices };
            write(&tree, [0; 16], &mut Vec::new())
        };
        assert!(matches!(write(vec![device(1); 4097]), Err(WriteError::TooManyDevices(4097))));
        assert!(matches!(write(vec![device((1 << 32) - 1)]), Err(WriteError::TooManyBlocks(_))));
        write(vec![device((1 << 32) - 2)]).unwrap();
        write(vec![device(1); 4096]).unwrap();
    }
}
