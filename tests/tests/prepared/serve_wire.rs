//! Does each request of a guest get what the image says?

use std::collections::BTreeMap;

use pinhole_protocol::client::{decode_statfs, decode_statx, decode_u32, decode_u64, dirents, dirents_plus};
use pinhole_protocol::{
    Access, AccessMask, Create, DirentKind, Errno, Fallocate, FallocateMode, Flush, Fsync, FsyncFlags,
    GetStatx, GetXattr, Handle, InitFlags, Link, ListXattr, LockOwner, LookupName, Lseek, MkDir, MkNod, Name,
    NodeId, NodeKind, Open, OpenDir, OpenFlags, Operation, ReadDir, ReadDirPlus, ReadLink, Release,
    RemoveXattr, Rename, RenameFlags, RmDir, SetAttr, SetXattr, SetXattrMode, StatFs, SymLink, TmpFile,
    Unlink, Whence, Write, WriteFlags,
};

use crate::sample::{
    BLOCK, FILE_LEN, Guest, ImageFolder, MANY, SPARSE_DATA, SPARSE_LEN, TIME, data_bytes, file_bytes,
};

#[test]
fn attributes_are_those_of_the_image() {
    let folder = ImageFolder::new(7);
    let mut guest = Guest::of(&folder, &[]);
    let root = guest.attributes(NodeId::ROOT).unwrap();
    assert_eq!((root.mode, root.uid, root.gid, root.nlink), (0o040_755, 7, 100, 4));
    for (path, mode, size, nlink) in [
        ("file", 0o100_640, FILE_LEN as u64, 2),
        ("sparse", 0o100_640, SPARSE_LEN as u64, 1),
        ("empty", 0o100_640, 0, 1),
        ("link", 0o120_640, 9, 1),
        ("null", 0o020_640, 0, 1),
        ("fifo", 0o010_640, 0, 1),
        ("dir/inner", 0o100_640, 10, MANY + 1),
    ] {
        let entry = guest.entry(path).unwrap();
        let attr = entry.attr;
        assert_eq!((attr.mode, attr.size, attr.nlink), (mode, size, nlink), "{path}");
        assert_eq!((attr.uid, attr.gid), (1000, 100), "{path}");
        for time in [attr.mtime, attr.ctime, attr.atime] {
            assert_eq!((time.seconds, time.nanoseconds), (TIME.seconds, TIME.nanoseconds), "{path}");
        }
        assert!(!attr.dax && !attr.submount, "{path}");
        assert_eq!(guest.attributes(entry.node), Ok(attr), "{path}");
        let statx = GetStatx { handle: None, flags: 0, mask: 0x7ff };
        let statx = decode_statx(&guest.ask(entry.node, &Operation::GetStatx(statx)).unwrap()).unwrap().0;
        assert_eq!(
            (u32::from(statx.mode), statx.size, statx.ino),
            (attr.mode, attr.size, attr.ino),
            "{path}"
        );
    }
    let null = guest.entry("null").unwrap();
    assert_eq!(null.attr.rdev, 0x103);
    assert_eq!(guest.entry("missing").map(|entry| entry.node), Ok(NodeId(0)), "the guest may keep that");
    let (again, file) = (guest.entry("dir/again").unwrap(), guest.entry("file").unwrap());
    assert_eq!(again, file, "two names of one inode");
}

#[test]
fn data_holes_and_ends_are_read() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let (file, bytes) = (guest.node("file"), file_bytes());
    for (offset, size) in [(0, 4096), (0, 1 << 20), (1, 5000), (FILE_LEN - 1, 100), (4095, 2), (FILE_LEN, 1)]
    {
        let end = bytes.len().min(offset + size);
        assert_eq!(guest.read(file, offset, size).unwrap(), bytes[offset..end], "{offset} {size}");
    }
    assert_eq!(guest.read(file, usize::MAX, 4096), Ok(Vec::new()));
    let sparse = guest.node("sparse");
    let mut expected = vec![0; SPARSE_LEN];
    let data = SPARSE_DATA;
    expected[data..data + BLOCK].copy_from_slice(&data_bytes()[4 * BLOCK..5 * BLOCK]);
    assert!(guest.read(sparse, 0, 1 << 20).unwrap() == expected);
    assert!(guest.read(sparse, SPARSE_DATA - 10, 5000).unwrap() == expected[data - 10..data + 4990]);
    let inner = guest.node("dir/inner");
    assert_eq!(guest.read(inner, 0, 4096).unwrap(), data_bytes()[5 * BLOCK..][..10]);
    let (dir, fifo) = (guest.node("dir"), guest.node("fifo"));
    assert_eq!(guest.read(dir, 0, 10), Err(Errno::EISDIR));
    assert_eq!(guest.read(fifo, 0, 10), Err(Errno::EINVAL));
    let (begin, end, len) = (SPARSE_DATA as u64, (SPARSE_DATA + BLOCK) as u64, SPARSE_LEN as u64);
    for (offset, whence, found) in [
        (0, Whence::Data, Ok(begin)),
        (0, Whence::Hole, Ok(0)),
        (begin + 5, Whence::Hole, Ok(end)),
        (end, Whence::Data, Err(Errno::ENXIO)),
        (len, Whence::Hole, Err(Errno::ENXIO)),
        (u64::MAX, Whence::Data, Err(Errno::ENXIO)),
        (5, Whence::End, Ok(len + 5)),
        ((-5_i64).cast_unsigned(), Whence::End, Ok(len - 5)),
        ((-1_i64).cast_unsigned() - len, Whence::End, Err(Errno::EINVAL)),
        (i64::MAX.cast_unsigned(), Whence::End, Err(Errno::EOVERFLOW)),
    ] {
        let seek = Operation::Lseek(Lseek { handle: Handle(99), offset, whence });
        let sought = guest.ask(sparse, &seek).map(|body| decode_u64(&body).unwrap());
        assert_eq!(sought, found, "{offset} {whence:?}");
    }
}

/// Lists a directory in replies of `size` bytes. Returns each name with its inode and kind.
fn listed(guest: &mut Guest, node: NodeId, size: u32, plus: bool) -> BTreeMap<Vec<u8>, (u64, DirentKind)> {
    let mut names = BTreeMap::new();
    let mut offset = 0;
    loop {
        let list = ReadDir { handle: Handle(5), offset, size };
        let operation =
            if plus { Operation::ReadDirPlus(ReadDirPlus { list }) } else { Operation::ReadDir(list) };
        let body = guest.ask(node, &operation).unwrap();
        if body.is_empty() {
            return names;
        }
        let entries: Vec<_> = if plus {
            dirents_plus(&body).map(|entry| entry.unwrap().1).map(owned).collect()
        } else {
            dirents(&body).map(|entry| owned(entry.unwrap().1)).collect()
        };
        for (name, ino, next, kind) in entries {
            offset = next;
            assert_eq!(names.insert(name, (ino, kind)), None, "a name comes twice");
        }
    }
}

fn owned(dirent: pinhole_protocol::Dirent<'_>) -> (Vec<u8>, u64, u64, DirentKind) {
    (dirent.name.to_vec(), dirent.ino, dirent.offset, dirent.kind)
}

#[test]
fn listings_are_complete_in_replies_of_any_size() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let many = guest.node("many");
    let inner = guest.entry("dir/inner").unwrap();
    for (size, plus) in [(300, false), (4096, false), (1 << 20, false), (4096, true), (1 << 20, true)] {
        let names = listed(&mut guest, many, size, plus);
        assert_eq!(names.len(), usize::try_from(MANY).unwrap() + 2, "{size}");
        assert_eq!(names[&b"name-02999"[..]], (inner.attr.ino, DirentKind::REGULAR));
        assert!(names.contains_key(&b"."[..]) && names.contains_key(&b".."[..]));
    }
    let list = ReadDir { handle: Handle(0), offset: 0, size: 4096 };
    let body = guest.ask(NodeId::ROOT, &Operation::ReadDirPlus(ReadDirPlus { list })).unwrap();
    for entry in dirents_plus(&body) {
        let (entry, dirent) = entry.unwrap();
        if matches!(dirent.name, b"." | b"..") {
            assert_eq!(entry.unwrap().0.node, NodeId(0), "takes no lookup");
            continue;
        }
        let path = std::str::from_utf8(dirent.name).unwrap();
        assert_eq!(entry.unwrap().0, guest.entry(path).unwrap(), "{path}");
    }
    for (offset, size, errno) in
        [(5, 4096, Errno::EINVAL), (u64::MAX, 4096, Errno::EINVAL), (0, 20, Errno::EINVAL)]
    {
        let list = Operation::ReadDir(ReadDir { handle: Handle(0), offset, size });
        assert_eq!(guest.ask(many, &list), Err(errno), "{offset}");
    }
    let list = Operation::ReadDir(ReadDir { handle: Handle(0), offset: 0, size: 4096 });
    let file = guest.node("file");
    assert_eq!(guest.ask(file, &list), Err(Errno::ENOTDIR));
}

#[test]
fn attributes_by_name_are_listed_and_read() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    let list = |size| Operation::ListXattr(ListXattr { size });
    let expected = b"security.capability\0user.comment\0";
    let mut names = guest.ask(file, &list(4096)).unwrap();
    let mut names: Vec<_> = names.split_inclusive_mut(|byte| *byte == 0).map(|name| name.to_vec()).collect();
    names.sort();
    assert_eq!(names.concat(), expected, "trusted.* needs a policy that grants it");
    assert_eq!(decode_u32(&guest.ask(file, &list(0)).unwrap()), Ok(u32::try_from(expected.len()).unwrap()));
    assert_eq!(guest.ask(file, &list(5)), Err(Errno::ERANGE));
    let get = |name, size| Operation::GetXattr(GetXattr { name, size });
    assert_eq!(guest.ask(file, &get(c"user.comment", 100)).unwrap(), b"text");
    assert_eq!(decode_u32(&guest.ask(file, &get(c"user.comment", 0)).unwrap()), Ok(4));
    assert_eq!(guest.ask(file, &get(c"user.comment", 3)), Err(Errno::ERANGE));
    assert_eq!(guest.ask(file, &get(c"user.other", 100)), Err(Errno::ENODATA));
    assert_eq!(guest.ask(file, &get(c"security.capability", 100)).unwrap(), [7; 20]);
    assert_eq!(guest.ask(file, &get(c"trusted.secret", 100)), Err(Errno::EOPNOTSUPP));
    let empty = guest.node("empty");
    assert_eq!(guest.ask(empty, &list(4096)), Ok(Vec::new()));
}

#[test]
fn a_policy_may_grant_trusted_attributes() {
    let folder = ImageFolder::new(0);
    let policy = folder.folder().join("policy.toml");
    std::fs::write(&policy, "profile = \"rootfs\"\nallow = [\"xattr-read-trusted\"]\n").unwrap();
    let mut guest = Guest::of(&folder, &["--policy", policy.to_str().unwrap()]);
    let file = guest.node("file");
    let names = guest.ask(file, &Operation::ListXattr(ListXattr { size: 4096 })).unwrap();
    assert!(names.split(|byte| *byte == 0).any(|name| name == b"trusted.secret"), "{names:?}");
    let get = Operation::GetXattr(GetXattr { name: c"trusted.secret", size: 100 });
    assert_eq!(guest.ask(file, &get).unwrap(), b"hidden");
}

#[test]
fn links_figures_and_access_are_answered() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let (link, file) = (guest.node("link"), guest.node("file"));
    assert_eq!(guest.ask(link, &Operation::ReadLink(ReadLink)).unwrap(), b"dir/inner");
    assert_eq!(guest.ask(file, &Operation::ReadLink(ReadLink)), Err(Errno::EINVAL));
    let figures = decode_statfs(&guest.ask(NodeId::ROOT, &Operation::StatFs(StatFs)).unwrap()).unwrap();
    assert_eq!((figures.bfree, figures.ffree, figures.namelen, figures.bsize), (0, 0, 255, 4096));
    assert!(figures.blocks > 520 && figures.files >= 10, "{figures:?}");
    let access = |mask| Operation::Access(Access { mask });
    assert_eq!(guest.ask(file, &access(AccessMask::READ)), Ok(Vec::new()));
    assert_eq!(guest.ask(file, &access(AccessMask::WRITE)), Err(Errno::EROFS));
    assert_eq!(guest.ask(file, &access(AccessMask::EXECUTE)), Err(Errno::EACCES));
    let null = guest.node("null");
    assert_eq!(guest.ask(null, &access(AccessMask::WRITE)), Ok(Vec::new()));
}

#[test]
fn dots_are_looked_up_in_the_image() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let (dir, file) = (guest.node("dir"), guest.node("file"));
    let root = guest.attributes(NodeId::ROOT).unwrap();
    for (node, name, found) in [
        (dir, LookupName::Parent, NodeId::ROOT),
        (NodeId::ROOT, LookupName::Parent, NodeId::ROOT),
        (NodeId::ROOT, LookupName::Itself, NodeId::ROOT),
        (dir, LookupName::Itself, dir),
        (file, LookupName::Itself, file),
    ] {
        let entry = guest.look_up(node, name).unwrap();
        assert_eq!(entry.node, found, "{node:?} {name:?}");
        assert_eq!(guest.attributes(node).map(|attr| attr.ino == root.ino).unwrap(), node == NodeId::ROOT);
    }
    assert_eq!(guest.look_up(file, LookupName::Parent).err(), Some(Errno::ENOTDIR));
}

#[test]
fn nothing_is_opened_and_every_handle_exists() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::before_init(folder.serve(&[]));
    let agreed = guest.frontend.init().unwrap().flags;
    assert!(agreed.contains(InitFlags::NO_OPEN_SUPPORT | InitFlags::NO_OPENDIR_SUPPORT));
    assert!(agreed.contains(InitFlags::EXPORT_SUPPORT | InitFlags::CACHE_SYMLINKS));
    assert!(!agreed.intersects(InitFlags::ATOMIC_O_TRUNC | InitFlags::WRITEBACK_CACHE));
    let (file, dir) = (guest.node("file"), guest.node("dir"));
    let open = |flags| Open { flags: OpenFlags::from_bits_retain(flags), kill_suidgid: false };
    assert_eq!(guest.ask(file, &Operation::Open(open(0))), Err(Errno::ENOSYS));
    assert_eq!(guest.ask(file, &Operation::Open(open(1))), Err(Errno::EROFS), "O_WRONLY");
    assert_eq!(guest.ask(file, &Operation::Open(open(2))), Err(Errno::EROFS), "O_RDWR");
    let open_dir = Operation::OpenDir(OpenDir { flags: OpenFlags::empty() });
    assert_eq!(guest.ask(dir, &open_dir), Err(Errno::ENOSYS));
    let flush = Operation::Flush(Flush { handle: Handle(0), lock_owner: LockOwner(1) });
    assert_eq!(guest.ask(file, &flush), Err(Errno::ENOSYS));
    let release = Release {
        handle: Handle(u64::MAX),
        flags: OpenFlags::empty(),
        flush: false,
        flock_unlock: false,
        lock_owner: LockOwner(0),
    };
    assert_eq!(guest.ask(file, &Operation::Release(release)), Ok(Vec::new()));
    let sync = Fsync { handle: Handle(0), flags: FsyncFlags::empty() };
    assert_eq!(guest.ask(file, &Operation::Fsync(sync)), Ok(Vec::new()));
}

#[test]
fn every_change_is_refused() {
    let folder = ImageFolder::new(0);
    let before = (std::fs::read(folder.image()).unwrap(), std::fs::read(folder.data()).unwrap());
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    let name = Name::parse(c"new").unwrap();
    let open = Open { flags: OpenFlags::from_bits_retain(2), kill_suidgid: false };
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    let changes = [
        Operation::SetAttr(set),
        Operation::SetAttr(SetAttr { mode: Some(0o777), ..SetAttr::default() }),
        Operation::SetAttr(SetAttr { uid: Some(0), ..SetAttr::default() }),
        Operation::SymLink(SymLink { name, target: c"t" }),
        Operation::MkNod(MkNod { name, kind: NodeKind::Regular, mode: 0o644, umask: 0 }),
        Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 }),
        Operation::Link(Link { target: file, name }),
        Operation::Unlink(Unlink { name }),
        Operation::RmDir(RmDir { name }),
        Operation::Rename(Rename {
            name,
            new_directory: NodeId::ROOT,
            new_name: name,
            flags: RenameFlags::empty(),
        }),
        Operation::Create(Create { name, open, mode: 0o644, umask: 0 }),
        Operation::TmpFile(TmpFile { open, mode: 0o644, umask: 0 }),
        Operation::Fallocate(Fallocate {
            handle: Handle(0),
            offset: 0,
            length: 1,
            mode: FallocateMode::empty(),
        }),
        Operation::SetXattr(SetXattr {
            name: c"user.a",
            value: b"b",
            mode: SetXattrMode::Any,
            acl_kill_sgid: false,
        }),
        Operation::RemoveXattr(RemoveXattr { name: c"user.comment" }),
    ];
    for change in changes {
        let is_of_file = matches!(
            change,
            Operation::SetAttr(_)
                | Operation::SetXattr(_)
                | Operation::RemoveXattr(_)
                | Operation::Fallocate(_)
        );
        let node = if is_of_file { file } else { NodeId::ROOT };
        assert_eq!(guest.ask(node, &change), Err(Errno::EROFS), "{change:?}");
    }
    let write = Operation::Write(Write {
        handle: Handle(0),
        offset: 0,
        size: 4,
        write_flags: WriteFlags::empty(),
        lock_owner: None,
        flags: OpenFlags::empty(),
    });
    assert_eq!(guest.ask_with(file, &write, b"data"), Err(Errno::EROFS));
    assert_eq!(guest.read(file, 0, 8192).unwrap(), file_bytes()[..8192]);
    drop(guest);
    assert!(before == (std::fs::read(folder.image()).unwrap(), std::fs::read(folder.data()).unwrap()));
}
