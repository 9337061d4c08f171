//! Does `pinhole mount` give the host's kernel a file system that appears, works and goes away?
//!
//! Needs root and /dev/fuse. If they are missing, the failing line says what provides them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pinhole_tests::daemon::pinhole_program;
use pinhole_tests::mounted::unmount_when_unused;
use pinhole_tests::program::{Program, pinhole, run};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use tempfile::TempDir;

/// Folder with the directories `host`, which is shared, and `mnt`, where `pinhole mount` mounts it.
/// `drop` unmounts it.
struct Mounted {
    program: Program,
    folder: TempDir,
}

impl Mounted {
    fn new(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["host", "mnt"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self::over(folder, options)
    }

    /// Runs `pinhole mount` in a folder that has the two directories.
    fn over(folder: TempDir, options: &[&str]) -> Self {
        let mut command = pinhole(["mount"]).unwrap();
        command.args(options).arg(folder.path().join("host")).arg(folder.path().join("mnt"));
        let mut program = Program::start(&mut command).unwrap();
        program.wait_for("Mounted ").unwrap();
        Self { program, folder }
    }

    fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn mnt(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn is_mounted(&self) -> bool {
        is_mount_point(&self.mnt())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that ends the program has no mount left here. A failed test may leave one.
        if rustix::mount::unmount(self.mnt(), UnmountFlags::DETACH).is_ok() {
            println!("{} was still mounted", self.mnt().display());
        }
    }
}

/// Returns whether the host's mount table has this mount point.
fn is_mount_point(mountpoint: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == mountpoint.to_str())
}

#[test]
fn mount_and_host_see_the_same_files() {
    let mounted = Mounted::new(&[]);
    let (host, mnt) = (mounted.host(), mounted.mnt());
    fs::create_dir_all(mnt.join("a/b")).unwrap();
    fs::write(mnt.join("a/b/file"), "through the kernel").unwrap();
    assert_eq!(fs::read_to_string(host.join("a/b/file")).unwrap(), "through the kernel");
    fs::write(host.join("a/theirs"), "from the host").unwrap();
    assert_eq!(fs::read_to_string(mnt.join("a/theirs")).unwrap(), "from the host");

    fs::rename(mnt.join("a/b/file"), mnt.join("a/moved")).unwrap();
    symlink("moved", mnt.join("a/link")).unwrap();
    fs::hard_link(mnt.join("a/moved"), mnt.join("a/second")).unwrap();
    fs::set_permissions(mnt.join("a/moved"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::read_to_string(mnt.join("a/link")).unwrap(), "through the kernel");
    assert_eq!(host.join("a/second").metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let list = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(&mnt.join("a")), list(&host.join("a")));
    assert_eq!(list(&mnt.join("a")).len(), 5);

    fs::remove_file(mnt.join("a/moved")).unwrap();
    fs::remove_dir(mnt.join("a/b")).unwrap();
    assert!(!host.join("a/moved").exists() && !host.join("a/b").exists());
}

#[test]
fn megabytes_at_odd_offsets_are_read_back_unchanged() {
    for cache in ["--cache=strict", "--cache=auto", "--cache=exclusive", "--cache=never"] {
        let mounted = Mounted::new(&[cache]);
        let bytes: Vec<u8> = (0..5_000_011_u32).flat_map(u32::to_le_bytes).take(5_000_011).collect();
        let mut file = File::create_new(mounted.mnt().join("file")).unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        let mut file = File::open(mounted.mnt().join("file")).unwrap();
        assert!(fs::read(mounted.host().join("file")).unwrap()[3..] == bytes[..], "{cache}");
        let mut back = vec![0; 4_000_000];
        file.read_exact_at(&mut back, 1_000_004).unwrap();
        assert!(back == bytes[1_000_001..5_000_001], "{cache}");
        let mut rest = Vec::new();
        file.seek(SeekFrom::Start(5_000_000)).unwrap();
        file.read_to_end(&mut rest).unwrap();
        assert!(rest == bytes[4_999_997..], "{cache}");
    }
}

#[test]
fn sigterm_unmounts_and_is_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut mounted = Mounted::new(&[]);
        assert!(mounted.is_mounted());
        assert_eq!(mounted.program.end_by(signal).unwrap(), Some(0), "{}", mounted.program.stderr());
        assert!(!mounted.is_mounted());
    }
}

#[test]
fn sigterm_ends_a_mount_with_open_files() {
    let mut mounted = Mounted::new(&[]);
    let mut held = File::create(mounted.mnt().join("held")).unwrap();
    held.write_all(b"before").unwrap();
    assert_eq!(mounted.program.end_by(Signal::TERM).unwrap(), Some(0), "{}", mounted.program.stderr());
    assert!(!mounted.is_mounted());
    assert!(held.metadata().is_err(), "a file works although its server has ended");
}

/// A user that may rename the folder above the mount point can put another mount at the old path.
/// The program must not unmount the other mount.
#[test]
fn mount_is_removed_at_the_end_even_if_moved() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["host", "above", "above/a mnt"] {
        fs::create_dir(path(name)).unwrap();
    }
    let mut program =
        Program::start(pinhole(["mount"]).unwrap().arg(path("host")).arg(path("above/a mnt"))).unwrap();
    program.wait_for("Mounted ").unwrap();
    fs::rename(path("above"), path("moved")).unwrap();
    fs::create_dir_all(path("above/a mnt")).unwrap();
    let decoy = Command::new("mount").args(["-t", "tmpfs", "decoy"]).arg(path("above/a mnt")).status();
    assert!(decoy.unwrap().success(), "mounting a tmpfs needs root");
    fs::write(path("above/a mnt/canary"), "c").unwrap();
    let ended = program.end_by(Signal::TERM).unwrap();
    let canary = path("above/a mnt/canary").exists();
    let own = fs::read_to_string("/proc/self/mounts").unwrap().contains(path("moved").to_str().unwrap());
    for name in ["above/a mnt", "moved/a mnt"] {
        rustix::mount::unmount(path(name), UnmountFlags::DETACH).unwrap_or_default();
    }
    assert_eq!(ended, Some(0), "{}", program.stderr());
    assert!(canary, "the program unmounted another mount");
    assert!(!own, "the program did not unmount its own mount");
}

#[test]
fn external_umount_ends_the_mount_process() {
    let mut mounted = Mounted::new(&["--threads=3"]);
    unmount_when_unused(&mounted.mnt()).unwrap();
    let status = mounted.program.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", mounted.program.stderr());
}

#[test]
fn two_mounts_at_once_are_independent() {
    let (first, second) = (Mounted::new(&[]), Mounted::new(&["--threads", "1"]));
    fs::write(first.mnt().join("file"), "first").unwrap();
    fs::write(second.mnt().join("file"), "second").unwrap();
    assert_eq!(fs::read_to_string(first.mnt().join("file")).unwrap(), "first");
    assert_eq!(fs::read_to_string(second.host().join("file")).unwrap(), "second");
}

#[test]
fn lock_waiter_gets_the_lock_or_is_interrupted() {
    let mounted = Mounted::new(&[]);
    fs::write(mounted.mnt().join("file"), "content").unwrap();
    let open = || File::options().read(true).write(true).open(mounted.mnt().join("file")).unwrap();
    let (holder, waiter) = (open(), open());
    rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rustix::fs::flock(&waiter, FlockOperation::LockExclusive));
        // The test kills this process during its wait. The kernel then sends INTERRUPT, and no
        // unlock.
        let mut killed = Command::new("flock").arg(mounted.mnt().join("file")).arg("true").spawn().unwrap();
        // The file begins with the number of the system call in which the process waits. flock(2)
        // is 73 on x86-64 and 32 on AArch64.
        let waits_in_flock = |call: String| call.starts_with("73 ") || call.starts_with("32 ");
        while !waits_in_flock(fs::read_to_string(format!("/proc/{}/syscall", killed.id())).unwrap()) {
            std::thread::yield_now();
        }
        killed.kill().unwrap();
        assert!(!killed.wait().unwrap().success());
        assert!(!waiting.is_finished());
        rustix::fs::flock(&holder, FlockOperation::Unlock).unwrap();
        waiting.join().unwrap().unwrap();
    });
    rustix::fs::flock(&holder, FlockOperation::NonBlockingLockShared).unwrap_err();
    rustix::fs::flock(&waiter, FlockOperation::Unlock).unwrap();
    rustix::fs::flock(&holder, FlockOperation::NonBlockingLockShared).unwrap();
}

#[test]
fn read_only_share_refuses_changes_through_a_writable_mount() {
    let mounted = Mounted::new(&["--readonly", "-o", "rw"]);
    let error = File::create(mounted.mnt().join("file")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let mounted = Mounted::new(&["-o", "ro,noexec"]);
    let error = File::create(mounted.mnt().join("file")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn error_names_a_mount_whose_server_was_killed() {
    let mut mounted = Mounted::new(&[]);
    assert_eq!(mounted.program.end_by(Signal::KILL).unwrap(), None);
    let again = run(pinhole(["mount"]).unwrap().arg(mounted.host()).arg(mounted.mnt())).unwrap();
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("whose server is gone: run `umount "), "{again:?}");
}

#[test]
fn a_share_cannot_be_mounted_inside_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mnt")).unwrap();
    let ended = run(pinhole(["mount"]).unwrap().arg(folder.path()).arg(folder.path().join("mnt"))).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("lies inside the shared directory"), "{ended:?}");
    assert!(!is_mount_point(&folder.path().join("mnt")));
}

#[test]
fn without_dev_fuse_the_error_says_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["host", "mnt"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"])
        .arg(pinhole_program().unwrap())
        .arg("mount")
        .arg(folder.path().join("host"))
        .arg(folder.path().join("mnt"));
    let ended = run(&mut command).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("/dev/fuse is missing: load the kernel's module with `modprobe fuse`"),
        "{ended:?}"
    );
}

#[test]
fn missing_fusermount3_error_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["host", "mnt", "empty"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    // The test runs a copy, because another user may not be able to read cargo's target folder.
    let program = folder.path().join("pinhole");
    fs::copy(pinhole_program().unwrap(), &program).unwrap();
    let mut command = Command::new(program);
    command
        .arg("mount")
        .arg(folder.path().join("host"))
        .arg(folder.path().join("mnt"))
        .env("PATH", folder.path().join("empty"))
        .gid(65_534)
        .uid(65_534);
    let ended = run(&mut command).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("install the package fuse3"), "{ended:?}");
}
