//! Are nodes without descriptors opened again correctly, by inode handle or by name, while the host
//! changes the names?
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a test of whole threads has the clock of the host")]
use pinhole::filesystem::{Call, Caller, FileSystem, Pace, Paced};
use pinhole::passthrough::{InodeHandles, Passthrough, ShareConfig};
use pinhole_policy::{NoPlaces, Permitted, Policy, RequiresAccess};
use pinhole_protocol::{
    self as protocol, Create, Created, DirentBuffer, Errno, Forget, GetAttr, Lookup, MkDir, Name, NodeId,
    Open, OpenDir, OpenFlags, ReadDir, ReadDirPlus, Rename, RenameFlags, Timeouts,
};
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use tempfile::TempDir;

/// Limit of descriptors. The tests have many more files.
const BUDGET: u64 = 24;

/// Both ways to open an inode again: by inode handle, and by name.
const BOTH: [InodeHandles; 2] = [InodeHandles::Mandatory, InodeHandles::Never];

fn share(inode_handles: InodeHandles) -> (TempDir, Passthrough) {
    let directory = tempfile::tempdir().unwrap();
    let share = Passthrough::new(config(&directory, inode_handles)).unwrap();
    (directory, share)
}

fn config(directory: &TempDir, inode_handles: InodeHandles) -> ShareConfig {
    ShareConfig { inode_handles, descriptors_max: BUDGET, ..ShareConfig::new(directory.path()) }
}

/// Returns an operation of root on a node, as permitted by a policy that permits everything.
fn at<'a, T>(node: NodeId, operation: T) -> Permitted<Call<'a, T>>
where
    Call<'a, T>: RequiresAccess,
{
    let caller = Caller { uid: 0, gid: 0, groups: None, pid: 1 };
    Policy::full().permit(Call { node, caller, operation }, &NoPlaces).unwrap()
}

/// Calls `then` with a name in the form that operations take.
fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

/// An ext4 with so few inodes that it soon reuses inode numbers. It is unmounted when this is
/// dropped.
struct SmallDisk {
    _image: TempDir,
    mountpoint: std::path::PathBuf,
}

impl SmallDisk {
    const INODES: usize = 256;

    /// Folder on which the disk is mounted.
    fn mounted() -> (TempDir, Self) {
        let (image, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = image.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(4 << 20).unwrap();
        let inodes = Self::INODES.to_string();
        run("mkfs.ext4", &["-q", "-F", "-N", &inodes], &[&file]);
        run("mount", &["-o", "loop"], &[&file, folder.path()]);
        let mountpoint = folder.path().to_owned();
        (folder, Self { _image: image, mountpoint })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("--lazy").arg(&self.mountpoint).status());
    }
}

fn run(program: &str, words: &[&str], paths: &[&std::path::Path]) {
    let done = std::process::Command::new(program).args(words).args(paths).output();
    let done =
        done.unwrap_or_else(|error| panic!("{program}: {error}: run `apt-get install e2fsprogs mount`"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program}: {said}; as root, with loop devices: `modprobe loop`");
}

fn look_up_in(share: &Passthrough, parent: NodeId, name: &str) -> Result<protocol::Entry, Errno> {
    with_name(name, |name| share.lookup(at(parent, Lookup { name: name.into() })))
}

fn look_up(share: &Passthrough, name: &str) -> protocol::Entry {
    look_up_in(share, NodeId::ROOT, name).unwrap()
}

fn inode(share: &Passthrough, node: NodeId) -> Result<u64, Errno> {
    share.get_attr(at(node, GetAttr { handle: None })).map(|attr| attr.ino)
}

fn open(share: &Passthrough, node: NodeId) -> Result<protocol::OpenReply, Errno> {
    let open = Open { flags: OpenFlags::empty(), kill_suidgid: false };
    share.open(at(node, open), Pace::Patient).and_then(Paced::ready)
}

fn release(share: &Passthrough, handle: protocol::Handle) {
    let flags = OpenFlags::empty();
    let lock_owner = protocol::LockOwner(0);
    let release = protocol::Release { handle, flags, flush: false, flock_unlock: false, lock_owner };
    share.release(at(NodeId::ROOT, release), Pace::Patient).and_then(Paced::ready).unwrap();
}

fn rename(share: &Passthrough, name: &str, new_name: &str) {
    with_name(name, |name| {
        with_name(new_name, |new_name| {
            let (new_directory, flags) = (NodeId::ROOT, RenameFlags::empty());
            share.rename(at(NodeId::ROOT, Rename { name, new_directory, new_name, flags })).unwrap();
        });
    });
}

fn host_inode(directory: &TempDir, name: &str) -> u64 {
    std::fs::symlink_metadata(directory.path().join(name)).unwrap().ino()
}

/// Makes the share close the descriptors of all nodes that were used before.
fn push_out(directory: &TempDir, share: &Passthrough) {
    for n in 0..100 {
        let name = format!("filler-{n}");
        std::fs::write(directory.path().join(&name), "").unwrap();
        let node = look_up(share, &name).node;
        for _ in 0..3 {
            inode(share, node).unwrap();
        }
        share.forget(at(node, Forget { count: 1 }));
    }
    let filler = look_up(share, "filler-0").node;
    let handles: Vec<_> =
        std::iter::from_fn(|| open(share, filler).ok()).map(|opened| opened.handle).collect();
    for handle in handles {
        release(share, handle);
    }
}

#[test]
fn more_files_are_known_than_there_are_descriptors() {
    for way in BOTH {
        let (directory, share) = share(way);
        let names: Vec<String> = (0..500).map(|n| format!("f{n}")).collect();
        for name in &names {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let nodes: Vec<NodeId> = names.iter().map(|name| look_up(&share, name).node).collect();
        for _ in 0..3 {
            for (node, name) in nodes.iter().zip(&names) {
                assert_eq!(inode(&share, *node), Ok(host_inode(&directory, name)), "{way:?} {name}");
                let handle = open(&share, *node).unwrap().handle;
                release(&share, handle);
                assert_eq!(look_up(&share, name).node, *node, "{way:?} {name}");
            }
        }
        let held = share.held();
        assert_eq!((held.nodes, held.handles), (500, 0), "{way:?}");
        assert!(held.descriptors <= BUDGET, "{way:?} {held:?}");
    }
}

/// The kernel opens no file by its handle for a daemon that is not root.
#[test]
fn without_the_capability_files_are_opened_by_name() {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(rustix::thread::CapabilitySet::DAC_READ_SEARCH);
    // This affects only the thread of this test.
    rustix::thread::set_capabilities(None, sets).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let refused = Passthrough::new(config(&directory, InodeHandles::Mandatory)).unwrap_err();
    assert!(refused.to_string().contains("CAP_DAC_READ_SEARCH"), "{refused}");
    let share = Passthrough::new(config(&directory, InodeHandles::Prefer)).unwrap();
    for n in 0..100 {
        std::fs::write(directory.path().join(format!("f{n}")), "").unwrap();
    }
    let nodes: Vec<NodeId> = (0..100).map(|n| look_up(&share, &format!("f{n}")).node).collect();
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(inode(&share, *node), Ok(host_inode(&directory, &format!("f{n}"))));
    }
    assert!(share.held().descriptors <= BUDGET);
}

#[test]
fn open_files_displace_descriptors_of_nodes() {
    for way in BOTH {
        let (directory, share) = share(way);
        for n in 0..40 {
            std::fs::write(directory.path().join(format!("f{n}")), "").unwrap();
        }
        let nodes: Vec<NodeId> = (0..40).map(|n| look_up(&share, &format!("f{n}")).node).collect();
        for node in &nodes {
            inode(&share, *node).unwrap();
        }
        let mut opened = 0;
        let refused = loop {
            // The descriptor of this node was closed for a later node, so the share must open the
            // inode again.
            match open(&share, nodes[opened]) {
                Ok(_) => opened += 1,
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::ENFILE, "{way:?}");
        // A node that is found by name keeps its descriptor while its file is open.
        let least = if way == InodeHandles::Never { BUDGET / 2 - 1 } else { BUDGET - 2 };
        assert!(opened as u64 >= least, "{way:?}: only {opened}");
        assert!(share.held().descriptors >= BUDGET - 1, "{way:?}");
    }
}

#[test]
fn listing_leaves_descriptors_for_other_uses() {
    let (directory, share) = share(InodeHandles::Mandatory);
    for n in 0..200 {
        std::fs::write(directory.path().join(format!("f{n}")), "").unwrap();
    }
    let opened = share.open_dir(at(NodeId::ROOT, OpenDir { flags: OpenFlags::empty() })).unwrap();
    let mut bytes = Vec::new();
    let mut into = DirentBuffer::new(&mut bytes, 1 << 20, Some(Timeouts::default()));
    let list = ReadDir { handle: opened.handle, offset: 0, size: 1 << 20 };
    share.read_dir_plus(at(NodeId::ROOT, ReadDirPlus { list }), &mut into).unwrap();
    assert_eq!(share.held().nodes, 200);
    // The descriptor of the open directory.
    assert_eq!(share.held().descriptors, 1);
}

#[test]
fn reused_inode_number_is_another_node() {
    for way in BOTH {
        for hot in [false, true] {
            let (directory, disk) = SmallDisk::mounted();
            let share = Passthrough::new(config(&directory, way)).unwrap();
            let path = directory.path().join("a");
            std::fs::write(&path, "first").unwrap();
            let (first, number) = (look_up(&share, "a"), host_inode(&directory, "a"));
            if hot {
                for _ in 0..3 {
                    assert_eq!(look_up(&share, "a").node, first.node);
                }
            } else {
                push_out(&directory, &share);
            }
            std::fs::remove_file(&path).unwrap();
            // The host reuses the number only if no descriptor holds the inode, and before the disk
            // has used up all numbers.
            let reused = (0..SmallDisk::INODES).any(|n| {
                let other = directory.path().join(format!("other-{n}"));
                let same =
                    std::fs::write(&other, "").is_ok() && std::fs::metadata(&other).unwrap().ino() == number;
                if same {
                    std::fs::rename(&other, &path).unwrap();
                }
                same
            });
            assert_eq!(reused, !hot, "{way:?}");
            if reused {
                let second = look_up(&share, "a");
                assert_ne!(second.node, first.node, "{way:?}");
                assert_eq!(inode(&share, second.node), Ok(number), "{way:?}");
                assert_eq!(inode(&share, first.node), Err(Errno::ESTALE), "{way:?}");
                // FORGET of the old node does not affect the new one.
                share.forget(at(first.node, Forget { count: 100 }));
                assert_eq!(look_up(&share, "a").node, second.node, "{way:?}");
            } else {
                assert_eq!(inode(&share, first.node), Ok(number), "{way:?}");
            }
            drop((share, disk, directory));
        }
    }
}

#[test]
fn file_that_the_host_renames_keeps_its_node_with_handles() {
    for way in BOTH {
        let (directory, share) = share(way);
        std::fs::write(directory.path().join("a"), "").unwrap();
        let (node, number) = (look_up(&share, "a").node, host_inode(&directory, "a"));
        push_out(&directory, &share);
        std::fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
        let expected = if way == InodeHandles::Never { Err(Errno::ESTALE) } else { Ok(number) };
        assert_eq!(inode(&share, node), expected, "{way:?}");
        // A look-up finds the same node.
        assert_eq!(look_up(&share, "b").node, node, "{way:?}");
        assert_eq!(inode(&share, node), Ok(number), "{way:?}");
    }
}

#[test]
fn file_that_the_guest_renames_keeps_its_node() {
    for way in BOTH {
        let (directory, share) = share(way);
        std::fs::write(directory.path().join("a"), "").unwrap();
        let (node, number) = (look_up(&share, "a").node, host_inode(&directory, "a"));
        push_out(&directory, &share);
        rename(&share, "a", "b");
        assert_eq!(inode(&share, node), Ok(number), "{way:?}");
        push_out(&directory, &share);
        assert_eq!(inode(&share, node), Ok(number), "{way:?}");
    }
}

#[test]
fn open_file_outlives_its_name() {
    for way in BOTH {
        let (directory, share) = share(way);
        let create = |name: Name<'_>| {
            let open = Open { flags: OpenFlags::from_bits_retain(2), kill_suidgid: false };
            let made = Create { name, open, mode: 0o644, umask: 0 };
            share.create(at(NodeId::ROOT, made), Pace::Patient).and_then(Paced::ready).unwrap()
        };
        let Created { entry, open: opened } = with_name("a", create);
        std::fs::remove_file(directory.path().join("a")).unwrap();
        let attr = share.get_attr(at(entry.node, GetAttr { handle: Some(opened.handle) })).unwrap();
        assert_eq!((attr.ino, attr.nlink), (entry.attr.ino, 0), "{way:?}");
        assert_eq!(inode(&share, entry.node), Ok(entry.attr.ino), "{way:?}");
    }
}

#[test]
fn fifo_in_place_of_a_deleted_file_is_not_opened() {
    for way in BOTH {
        let (directory, share) = share(way);
        let path = directory.path().join("a");
        std::fs::write(&path, "first").unwrap();
        let first = look_up(&share, "a");
        push_out(&directory, &share);
        std::fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let second = look_up(&share, "a");
        assert_ne!(second.node, first.node, "{way:?}");
        // Opening it would wait for a writer.
        assert_eq!(open(&share, second.node).err(), Some(Errno::ENXIO), "{way:?}");
        // A process that another test has just forked keeps the deleted file open for a moment.
        let gone = || open(&share, first.node).map(|opened| release(&share, opened.handle)).err();
        let looks = (0..4000).map(|_| {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
            gone()
        });
        assert_eq!(looks.flatten().next(), Some(Errno::ESTALE), "{way:?}");
    }
}

#[test]
fn open_file_is_found_without_its_name() {
    for way in BOTH {
        let (directory, share) = share(way);
        std::fs::write(directory.path().join("a"), "").unwrap();
        let (node, number) = (look_up(&share, "a").node, host_inode(&directory, "a"));
        let handle = open(&share, node).unwrap().handle;
        with_name("a", |name| share.unlink(at(NodeId::ROOT, protocol::Unlink { name })).unwrap());
        push_out(&directory, &share);
        assert_eq!(inode(&share, node), Ok(number), "{way:?}");
        release(&share, handle);
    }
}

#[test]
fn linked_file_is_found_by_its_other_name() {
    for way in BOTH {
        let (directory, share) = share(way);
        std::fs::write(directory.path().join("a"), "").unwrap();
        let (node, number) = (look_up(&share, "a").node, host_inode(&directory, "a"));
        with_name("b", |name| share.link(at(NodeId::ROOT, protocol::Link { target: node, name })).unwrap());
        with_name("a", |name| share.unlink(at(NodeId::ROOT, protocol::Unlink { name })).unwrap());
        push_out(&directory, &share);
        assert_eq!(inode(&share, node), Ok(number), "{way:?}");
    }
}

#[test]
fn large_deleted_file_is_closed_by_another_thread() {
    let (directory, share) = share(InodeHandles::Mandatory);
    std::fs::write(directory.path().join("a"), vec![1; 16 << 20]).unwrap();
    let node = look_up(&share, "a").node;
    let handle = open(&share, node).unwrap().handle;
    with_name("a", |name| share.unlink(at(NodeId::ROOT, protocol::Unlink { name })).unwrap());
    // The node is open too, so that FORGET closes the last descriptor.
    inode(&share, node).unwrap();
    release(&share, handle);
    share.forget(at(node, Forget { count: 1 }));
    assert_eq!((share.held().nodes, share.held().handles), (0, 0));
    let start = std::time::Instant::now();
    while share.held().descriptors > 0 {
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", share.held());
        std::thread::yield_now();
    }
}

#[test]
fn deep_directories_are_found_again() {
    for way in BOTH {
        let (directory, share) = share(way);
        let mut node = NodeId::ROOT;
        let depth = if way == InodeHandles::Never { 10 } else { 200 };
        for _ in 0..depth {
            let mkdir =
                |name: Name<'_>| share.mk_dir(at(node, MkDir { name, mode: 0o755, umask: 0 })).unwrap().node;
            node = with_name("d", mkdir);
        }
        push_out(&directory, &share);
        inode(&share, node).unwrap();
        assert_eq!(look_up_in(&share, node, "missing").err(), Some(Errno::ENOENT), "{way:?}");
    }
}

/// Files are created and removed under the same names while other threads look them up, stat them
/// and forget them. A node must never become another inode.
#[test]
fn node_stays_the_same_inode_while_names_change() {
    for way in BOTH {
        let (directory, share) = share(way);
        let (share, directory) = (&share, &directory);
        let end = std::time::Instant::now() + std::time::Duration::from_millis(700);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for round in 0u32.. {
                    let path = directory.path().join(format!("f{}", round % 40));
                    std::fs::write(&path, "x").unwrap();
                    if round % 3 == 0 {
                        std::fs::remove_file(&path).unwrap();
                    }
                    if std::time::Instant::now() > end {
                        break;
                    }
                }
            });
            for seed in 0..3u32 {
                scope.spawn(move || {
                    for round in seed.. {
                        if let Ok(entry) = look_up_in(share, NodeId::ROOT, &format!("f{}", round * 7 % 40)) {
                            match inode(share, entry.node) {
                                Ok(number) => assert_eq!(number, entry.attr.ino, "{way:?}"),
                                Err(errno) => assert_eq!(errno, Errno::ESTALE, "{way:?}"),
                            }
                            share.forget(at(entry.node, Forget { count: 1 }));
                        }
                        if std::time::Instant::now() > end {
                            break;
                        }
                    }
                });
            }
        });
        assert_eq!(share.held().nodes, 0, "{way:?}");
    }
}
