//! Loss of power: a real file system on a disk that keeps a log of its requests, and the disk that
//! is left if the power fails at a chosen moment.
//!
//! The disk is a file that `qemu-storage-daemon` serves by FUSE from a `blklogwrites` node, with a
//! loop device on it. So no kernel module is needed, no mount is visible to other processes, and
//! nothing waits for the host's disk. The host's kernel recovers the file system. The programs come
//! from `cargo xtask guest --disks`.

mod failing;
mod log;
mod mounted;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::child::wait_for_exit;
use crate::guest::Parts;

pub use failing::FailingDisk;
pub use log::Moment;
use mounted::{CHECK_INTERVAL, LIMIT, run};
pub use mounted::{Mounted, leave_the_hosts_mounts};

/// Largest length of the log in bytes. It uses only as much of the host's disk as it contains.
const LOG_LEN: u64 = 4 << 30;

/// A file system of the host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, with a journal.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs, on one device.
    Btrfs,
}

impl FileSystem {
    /// All file systems.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Returns the name as `mount -t` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Returns the length in bytes of a disk for it: near the least that its `mkfs` accepts.
    const fn disk_len(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Btrfs => 160 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    /// Makes the file system on a disk, with features that a kernel of 2022 knows. It discards
    /// nothing first, because the disk is empty.
    ///
    /// # Errors
    /// Fails if the part `disks` is not fetched, or with the output of `mkfs`.
    pub fn make(self, disk: &Path) -> io::Result<()> {
        self.make_with(disk, &[])
    }

    /// As [`FileSystem::make`], with more arguments of `mkfs`.
    fn make_with(self, disk: &Path, features: &[&str]) -> io::Result<()> {
        let mut command = fetched_program(&format!("usr/sbin/mkfs.{}", self.name()))?;
        match self {
            Self::Ext4 => command.args(["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0"]),
            Self::Xfs => {
                let features = disks()?.join("usr/share/xfsprogs/mkfs/lts_6.1.conf");
                command.args(["-q", "-f", "-K", "-c"]).arg(format!("options={}", features.display()))
            }
            Self::Btrfs => command.args(["--quiet", "--force", "--nodiscard"]),
        };
        run(command.args(features).arg(disk)).map(drop)
    }
}

/// Returns the tree of the part `disks`.
fn disks() -> io::Result<PathBuf> {
    Parts::locate().disks().map_err(io::Error::other)
}

/// Returns a program of the fetched tree by its path there. It runs with the tree's own libraries.
///
/// # Errors
/// Fails if the part `disks` is not fetched.
pub fn fetched_program(path: &str) -> io::Result<Command> {
    let tree = disks()?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(tree.join(path));
    Ok(command)
}

/// Mounted file system on a disk that keeps a log. `drop` unmounts it and removes the disk.
#[derive(Debug)]
pub struct LoggedDisk {
    kind: FileSystem,
    // Dropped in this order.
    mounted: Option<Mounted>,
    loop_device: PathBuf,
    server: Server,
    work: Work,
}

/// Folder in a tmpfs, because replaying a log to a disk of the host is slow.
#[derive(Debug)]
struct Work {
    memory: Mounted,
    _folder: TempDir,
}

impl Work {
    fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("pinhole-power-").tempdir()?;
        let memory = Mounted::new("tmpfs", "size=50%", Path::new("power"), folder.path().to_path_buf())?;
        Ok(Self { memory, _folder: folder })
    }

    fn join(&self, name: &str) -> PathBuf {
        self.memory.folder().join(name)
    }
}

/// Process that serves the disk, in its own mount namespace. The file of the disk is visible only
/// there, and the disk is mounted in another namespace. Otherwise this process could be the last
/// one in the namespace of the mount. Its end would then unmount the disk, and the unmount would
/// wait forever for a disk that no process serves.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Ignore the result: the process may have ended. In both cases it is reaped.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Server {
    /// Starts the process on the files `disk` and `log` of `work`, as the file `device` there, and
    /// waits until that file is the disk.
    fn start(work: &Work, len: u64) -> io::Result<Self> {
        let file = |name: &str| {
            format!("driver=file,node-name={name},filename={},cache.no-flush=on", work.join(name).display())
        };
        let device = work.join("device");
        File::create(&device)?;
        let stderr = File::create(work.join("stderr"))?;
        let mut disk = fetched_program("usr/bin/qemu-storage-daemon")?;
        disk.args(["--blockdev", &file("disk"), "--blockdev", &file("log")])
            .args(["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"])
            .arg("--export")
            .arg(format!("type=fuse,id=disk,node-name=logged,writable=on,mountpoint={}", device.display()));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        // If this process dies by a signal, the process of the disk dies too.
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(disk.get_program()).args(disk.get_args());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let server =
            Self(child.map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))?);
        let began = Instant::now();
        while fs::metadata(server.seen(&device)).map(|file| file.len()).ok() != Some(len) {
            if wait_for_exit(&server.0, Some(CHECK_INTERVAL))? || began.elapsed() > LIMIT {
                let said = fs::read_to_string(work.join("stderr"))?;
                return Err(io::Error::other(format!("no disk: {command:?}: {said}")));
            }
        }
        Ok(server)
    }

    /// Returns the path at which the server sees `path`.
    fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.0.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Mounts the disk, which is the file `device`, on `point` through a loop device. Also returns
    /// the path of the loop device.
    fn mount(&self, kind: FileSystem, device: &Path, point: PathBuf) -> io::Result<(Mounted, PathBuf)> {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.0.id());
        let mut attach = Command::new("nsenter");
        attach.arg(namespace).args(["losetup", "--find", "--show"]).arg(device);
        let loop_device = PathBuf::from(run(&mut attach)?.trim());
        let mounted = Mounted::new(kind.name(), "rw", &loop_device, point);
        // The device is in use, so this takes effect when its last user ends.
        run(Command::new("losetup").arg("--detach").arg(&loop_device))?;
        Ok((mounted?, loop_device))
    }

    /// Waits until the loop device no longer uses the file `device`. A daemon that was killed holds
    /// its copy of the mount until shortly after it was reaped.
    fn wait_until_unused(&self, device: &Path, loop_device: &Path) -> io::Result<()> {
        let number = fs::metadata(self.seen(device))?.dev();
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let began = Instant::now();
        loop {
            let mut list = Command::new("losetup");
            list.args(["--list", "--noheadings", "--output", "BACK-MAJ:MIN"]).arg(loop_device);
            // The command fails if the file is gone.
            if run(&mut list).map_or(true, |listed| listed.trim() != number) {
                return Ok(());
            }
            if wait_for_exit(&self.0, Some(CHECK_INTERVAL))? || began.elapsed() > LIMIT {
                return Err(io::Error::other("the file system is still mounted somewhere"));
            }
        }
    }
}

impl LoggedDisk {
    /// Starts a new disk with an empty file system.
    ///
    /// # Errors
    /// Fails without root, without /dev/fuse, or if the part `disks` is not fetched.
    pub fn start(kind: FileSystem) -> io::Result<Self> {
        let work = Work::new()?;
        let len = kind.disk_len();
        File::create(work.join("disk"))?.set_len(len)?;
        File::create(work.join("log"))?.set_len(LOG_LEN)?;
        let server = Server::start(&work, len)?;
        let device = work.join("device");
        kind.make(&server.seen(&device))?;
        let (mounted, loop_device) = server.mount(kind, &device, work.join("mnt"))?;
        Ok(Self { kind, mounted: Some(mounted), loop_device, server, work })
    }

    /// Returns the mount point.
    pub fn folder(&self) -> PathBuf {
        self.work.join("mnt")
    }

    /// Returns the current moment. A loss of power at this moment leaves only the data that has
    /// been flushed up to now.
    ///
    /// # Errors
    /// Fails if the log cannot be read.
    pub fn now(&self) -> io::Result<Moment> {
        log::last_flush(&File::open(self.work.join("log"))?)
    }

    /// Unmounts the file system and returns the history of its disk.
    ///
    /// # Errors
    /// Fails if the file system stays in use.
    pub fn end(mut self) -> io::Result<Recording> {
        if let Some(mounted) = self.mounted.take() {
            mounted.end()?;
            self.server.wait_until_unused(&self.work.join("device"), &self.loop_device)?;
        }
        drop(self.server);
        Ok(Recording { kind: self.kind, work: self.work })
    }
}

/// History of all requests to a disk.
#[derive(Debug)]
pub struct Recording {
    kind: FileSystem,
    work: Work,
}

impl Recording {
    /// Returns the file system after a loss of power at a moment. Only one of them may be mounted
    /// at a time: all have the same UUID, and the kernel does not mount one UUID twice.
    ///
    /// # Errors
    /// Fails if the file system cannot be mounted, which is a loss of all data.
    pub fn after_power_loss(&self, at: Moment) -> io::Result<Mounted> {
        let path = self.work.join("left");
        let image = File::create(&path)?;
        image.set_len(self.kind.disk_len())?;
        log::replay(&File::open(self.work.join("log"))?, at, &image)?;
        Mounted::new(self.kind.name(), "loop", &path, self.work.join("mnt"))
    }
}
