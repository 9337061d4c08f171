//! Does the daemon serve host mounts below the share correctly, and can the host unmount them?
//!
//! Each test has its own mounts. The share has shared mount propagation, as on a host that runs
//! systemd: the daemon sees each mount and unmount below it.

mod inode_numbers;
mod share;

use std::fs;
use std::process::Command;
use std::time::Duration;

use inode_numbers::share_with_two_equal_inodes;
use pinhole_protocol::client::decode_open;
use pinhole_protocol::{MkDir, Name, NodeId, Open, OpenFlags, Operation, SyncFs, Write, WriteFlags};
use pinhole_tests::daemon::Daemon;
use pinhole_tests::disk_faults::FailingDisk;
use rustix::mount::MountPropagationFlags;
use share::{Guest, Share, errno};

/// `ESTALE`.
const STALE: i32 = 116;

#[test]
fn host_unmounts_once_the_guest_forgot_its_last_inode() {
    for arguments in [&[][..], &["--inode-file-handles=never"]] {
        let share = Share::new();
        share.tmpfs("data", "text");
        let mut guest = share.guest(arguments);
        let nodes = guest.walk("data/file");
        assert_eq!(guest.read(nodes[1]).unwrap(), "text");
        for node in nodes {
            guest.forget(node);
        }
        share.unmount_when_idle("data");
    }
}

#[test]
fn host_unmounts_idle_submounts_within_seconds() {
    let share = Share::new();
    share.tmpfs("memory", "text of memory");
    share.ext4("disk", "text of disk");
    fs::create_dir_all(share.path("disk/inner")).unwrap();
    share.tmpfs("disk/inner", "text of inner");
    fs::write(share.beside("single"), "text of single").unwrap();
    fs::write(share.path("single"), "").unwrap();
    share.bind(&share.beside("single"), "single");
    let mut guest = share.guest(&[]);
    let paths = ["memory/file", "disk/inner/file", "disk/file", "single"];
    let nodes = paths.map(|path| guest.look_up(path));
    for node in nodes {
        guest.attributes(node).unwrap();
        guest.read(node).unwrap();
    }
    for name in ["memory", "disk/inner", "disk", "single"] {
        share.unmount_when_idle(name);
    }
    for node in nodes {
        assert_eq!(errno(guest.attributes(node)), Some(STALE));
        assert_eq!(errno(guest.read(node)), Some(STALE));
    }
}

#[test]
fn idle_nodes_are_found_again_and_stay_the_same() {
    let share = Share::new();
    share.ext4("disk", "text of disk");
    fs::create_dir_all(share.path("disk/inner")).unwrap();
    share.tmpfs("disk/inner", "text of inner");
    let mut guest = share.guest(&[]);
    let nodes = guest.walk("disk/inner/file");
    let before = [guest.attributes(nodes[2]).unwrap().ino, guest.attributes(nodes[1]).unwrap().ino];
    guest.wait_until_idle(0);
    assert_eq!(guest.read(nodes[2]).unwrap(), "text of inner");
    assert_eq!(guest.look_up_in(nodes[1], "file").unwrap().node, nodes[2]);
    assert_eq!([guest.attributes(nodes[2]).unwrap().ino, guest.attributes(nodes[1]).unwrap().ino], before);
    assert_eq!(guest.walk("disk/inner/file"), nodes);
}

#[test]
fn open_file_keeps_its_mount_until_released() {
    let share = Share::new();
    share.tmpfs("data", "text");
    let mut guest = share.guest(&[]);
    let file = guest.look_up("data/file");
    let handle = guest.open(file).unwrap();
    // The open file and its mount need two descriptors. The daemon closes all other descriptors on
    // mounts below the share.
    let other = guest.look_up("data");
    guest.attributes(other).unwrap();
    guest.wait_until_idle(2);
    assert_eq!(share.unmount("data"), Err(rustix::io::Errno::BUSY));
    guest.release(file, handle);
    share.unmount_when_idle("data");
}

#[test]
fn new_file_system_is_not_served_under_old_ids() {
    let share = Share::new();
    share.tmpfs("data", "old");
    let mut guest = share.guest(&[]);
    let old = guest.walk("data/file");
    share.unmount_when_idle("data");
    // The new tmpfs gets the same device number, and its files get the same inode numbers.
    share.tmpfs("data", "new");
    for node in &old {
        assert_eq!(errno(guest.attributes(*node)), Some(STALE));
    }
    assert_eq!(errno(guest.read(old[1])), Some(STALE));
    assert_eq!(errno(guest.look_up_in(old[0], "file")), Some(STALE));
    let new = guest.walk("data/file");
    assert_eq!(guest.read(new[1]).unwrap(), "new");
    assert!(new.iter().all(|node| !old.contains(node)));
    assert_eq!(errno(guest.read(old[1])), Some(STALE));
}

#[test]
fn copy_of_a_disk_is_another_file_system() {
    let share = Share::new();
    share.ext4("disk", "old");
    share.unmount("disk").unwrap();
    fs::copy(share.beside("disk.image"), share.beside("copy")).unwrap();
    share.ext4("disk", "old");
    let mut guest = share.guest(&[]);
    let old = guest.look_up("disk/file");
    assert_eq!(guest.read(old).unwrap(), "old");
    share.unmount_when_idle("disk");
    // The copy has the same UUID, inode numbers and generations.
    fs::rename(share.beside("copy"), share.beside("disk.image")).unwrap();
    share.ext4("disk", "new");
    assert_eq!(errno(guest.read(old)), Some(STALE));
    let new = guest.look_up("disk/file");
    assert_eq!(guest.read(new).unwrap(), "new");
}

#[test]
fn changes_are_synced_before_a_mount_is_closed() {
    let share = Share::new();
    share.ext4("disk", "text");
    let mut guest = share.guest(&[]);
    let disk = guest.look_up("disk");
    guest.wait_until_idle(0);
    let trace = share.beside("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=syncfs", "-p"]).arg(guest.daemon.serving_id().to_string());
    let mut strace =
        strace.arg("-o").arg(&trace).spawn().unwrap_or_else(|error| {
            panic!("cannot start strace ({error}): run `apt-get install --yes strace`")
        });
    let traced = format!("/proc/{}/status", guest.daemon.serving_id());
    let is_traced = || !fs::read_to_string(&traced).unwrap().contains("TracerPid:\t0\n");
    pinhole_tests::frontend::eventually("strace is attached", is_traced);
    let syncs = || fs::read_to_string(&trace).unwrap_or_default().matches("syncfs(").count();
    // After a GETATTR, nothing on the mount has changed, so the daemon closes it without syncfs.
    guest.attributes(disk).unwrap();
    guest.wait_until_idle(0);
    assert_eq!(syncs(), 0);
    let name = Name::parse(c"made").unwrap();
    guest.request(disk, &Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 })).unwrap();
    guest.wait_until_idle(0);
    assert_eq!(syncs(), 1);
    // The mount was synced when it was closed. So SYNCFS makes one call, for the share itself.
    guest.request(NodeId::ROOT, &Operation::SyncFs(SyncFs)).unwrap();
    assert_eq!(syncs(), 2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&strace), rustix::process::Signal::TERM)
        .unwrap();
    strace.wait().unwrap();
}

#[test]
fn error_of_an_idle_mount_fails_the_next_syncfs() {
    const BLOCKS: u8 = 4;
    let share = Share::new();
    let disk = FailingDisk::start().unwrap();
    disk.make_file("data", BLOCKS).unwrap();
    fs::create_dir(share.path("disk")).unwrap();
    share.bind(disk.folder(), "disk");
    let mut guest = share.guest(&[]);
    let data = guest.look_up("disk/data");
    disk.refuse("data", BLOCKS).unwrap();
    let open = Open { flags: OpenFlags::from_bits_retain(1), kill_suidgid: false };
    let handle = decode_open(&guest.request(data, &Operation::Open(open)).unwrap()).unwrap().handle;
    let (flags, write_flags) = (OpenFlags::empty(), WriteFlags::empty());
    let write = Write { handle, offset: 0, size: 4096, write_flags, lock_owner: None, flags };
    guest.wire.request(1, data, &Operation::Write(write), &[7; 4096]).unwrap().success().unwrap();
    guest.release(data, handle);
    // The daemon syncs the mount before it closes it. The write-back fails.
    guest.wait_until_idle(0);
    let said = errno(guest.request(NodeId::ROOT, &Operation::SyncFs(SyncFs)));
    assert!(matches!(said, Some(5 | 28)), "{said:?} is neither EIO nor ENOSPC");
    guest.request(NodeId::ROOT, &Operation::SyncFs(SyncFs)).unwrap();
    disk.repair().unwrap();
    share.unmount_when_idle("disk");
}

#[test]
fn covered_file_is_stale_until_the_covering_mount_is_removed() {
    let share = Share::new();
    share.tmpfs("data", "below");
    let mut guest = share.guest(&[]);
    let below = guest.look_up("data/file");
    guest.wait_until_idle(0);
    share.tmpfs("data", "above");
    assert_eq!(errno(guest.read(below)), Some(STALE));
    let above = guest.look_up("data/file");
    assert_eq!(guest.read(above).unwrap(), "above");
    share.unmount_when_idle("data");
    assert_eq!(guest.read(below).unwrap(), "below");
    assert_eq!(errno(guest.read(above)), Some(STALE));
}

#[test]
fn mount_moved_by_the_host_is_found_again() {
    let share = Share::new();
    // A mount cannot be moved out of a mount that propagates changes.
    rustix::mount::mount_change(share.path(""), MountPropagationFlags::PRIVATE).unwrap();
    share.tmpfs("data", "text");
    fs::create_dir(share.path("there")).unwrap();
    let mut guest = share.guest(&["--sandbox=none"]);
    let file = guest.look_up("data/file");
    guest.wait_until_idle(0);
    rustix::mount::mount_move(share.path("data"), share.path("there")).unwrap();
    assert_eq!(errno(guest.read(file)), Some(STALE));
    assert_eq!(guest.look_up("there/file"), file);
    guest.wait_until_idle(0);
    assert_eq!(guest.read(file).unwrap(), "text");
}

#[test]
fn without_handles_a_forgotten_directory_releases_its_mount() {
    let share = Share::new();
    share.tmpfs("data", "text");
    fs::write(share.beside("single"), "single").unwrap();
    fs::write(share.path("single"), "").unwrap();
    share.bind(&share.beside("single"), "single");
    let mut guest = share.guest(&["--inode-file-handles=never"]);
    let nodes = guest.walk("data/file");
    let single = guest.look_up("single");
    guest.attributes(nodes[1]).unwrap();
    // Without inode handles, the daemon finds a file again by its name. It keeps a directory open
    // as long as the guest knows it.
    share.unmount_when_idle("single");
    assert_eq!(errno(guest.attributes(single)), Some(STALE));
    guest.wait_until_idle(1);
    assert_eq!(share.unmount("data"), Err(rustix::io::Errno::BUSY));
    for node in nodes {
        guest.forget(node);
    }
    share.unmount_when_idle("data");
}

/// Script of a User-mode Linux guest. It reads files on two mounts, and unmounts one of them in the
/// guest. After the host has unmounted both, it lists them, and compares and copies the files `one`
/// and `two`.
const LOOKS: &str = r#"
    cd /mnt/data
    cat idle/file dropped/file; echo
    ls -l idle dropped > /dev/null
    cd /
    umount /mnt/data/dropped
    echo 2 > /proc/sys/vm/drop_caches
    echo looked
    while [ ! -e /run/channel/unmounted ]; do sleep 0.1; done
    echo "left: $(ls -A /mnt/data/idle /mnt/data/dropped | wc -w) words"
    cat /mnt/data/idle/file && echo "still there"
    cd /mnt/data
    cmp -s one two; echo "cmp $?"
    diff -q one two > /dev/null; echo "diff $?"
    cp one two; echo "cp $?"
    cat two; echo
    stat -c %i one two
    "#;

#[test]
fn linux_guest_tells_equal_inodes_apart_and_lets_host_unmount() {
    let (share, sources) = share_with_two_equal_inodes();
    share.ext4("idle", "text of idle, ");
    share.tmpfs("dropped", "text of dropped");
    let number = |guest: &mut Guest, name| guest.look_up_in(NodeId::ROOT, name).unwrap().attr.ino;
    let mut other = share.guest(&[]);
    let numbers = ["one", "two"].map(|name| number(&mut other, name));
    drop(other);
    let daemon = Daemon::pinhole(share.path("")).unwrap().argument("--tag=data").start().unwrap();
    let guest = pinhole_tests::guest::Guest::uml().userland().limit(Duration::from_mins(4));
    let mut running = guest.share(daemon.socket(), "data").start(LOOKS).unwrap();
    running.wait_for_output("looked\n").unwrap();
    share.unmount_when_idle("dropped");
    share.unmount_when_idle("idle");
    fs::write(running.channel().join("unmounted"), "").unwrap();
    let ended = running.wait().unwrap();
    let said = ended.text();
    for line in [
        "text of idle, text of dropped",
        "left: 2 words",
        "cmp 1",
        "diff 1",
        "cp 0",
        "text of one",
        &numbers[0].to_string(),
        &numbers[1].to_string(),
    ] {
        assert!(said.lines().any(|said| said == line), "`{line}` is missing in {said}{}", daemon.stderr());
    }
    assert!(!said.contains("still there"), "{said}");
    assert_eq!(fs::read_to_string(&sources[1]).unwrap(), "text of one");
}
