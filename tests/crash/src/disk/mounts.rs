//! Mounts and commands of the disks. All mounts are in the mount namespace of the
//! calling thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pinhole_tests::disk_faults::{FileSystem, leave_the_hosts_mounts};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// Upper bound on the time for which a device may be busy.
const BUSY_LIMIT: Duration = Duration::from_secs(20);

/// Interval between two attempts.
const LOOK: Duration = Duration::from_millis(1);

/// Runs a command to its end and returns its output. If it fails, its output is the error.
pub(crate) fn run(command: &mut Command) -> io::Result<String> {
    let outcome =
        command.output().map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))?;
    let said = [outcome.stdout, outcome.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if outcome.status.success() {
        let [stdout, _stderr] = said;
        return Ok(stdout);
    }
    Err(io::Error::other(format!("{command:?} ended with {}: {}", outcome.status, said.concat())))
}

/// Purpose of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To record: the file system writes only when a program or a sync asks for it, as far as it
    /// has an option for that.
    Record,
    /// To recover a crash state and read it: without flushes, which take time and change nothing.
    Read,
    /// To recover a crash state and write to it.
    Write,
}

/// Mounts a disk.
pub(super) fn mount(kind: FileSystem, purpose: Purpose, device: &Path, point: &Path) -> io::Result<()> {
    let flags = match purpose {
        Purpose::Read => MountFlags::NODEV | MountFlags::RDONLY,
        Purpose::Record | Purpose::Write => MountFlags::NODEV,
    };
    let options = match (kind, purpose) {
        (FileSystem::Ext4, Purpose::Record) => c"commit=300",
        (FileSystem::Ext4, Purpose::Read) => c"nobarrier",
        (FileSystem::Ext4, Purpose::Write) => c"",
        // Several disks with one UUID are mounted at the same time.
        (FileSystem::Xfs, _) => c"nouuid",
        (FileSystem::Btrfs, Purpose::Record) => c"commit=300,nodiscard",
        (FileSystem::Btrfs, Purpose::Read) => c"nobarrier,nodiscard",
        (FileSystem::Btrfs, Purpose::Write) => c"nodiscard",
    };
    let began = Instant::now();
    loop {
        match rustix::mount::mount(device, point, kind.name(), flags, Some(options)) {
            // A process that another thread starts holds copies of all files until it executes its
            // program, and a program may look at all loop devices.
            Err(Errno::BUSY) if began.elapsed() < BUSY_LIMIT => std::thread::park_timeout(LOOK),
            Err(error) => {
                return Err(io::Error::other(format!("cannot mount {}: {error}", kind.name())));
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Folder in a tmpfs for the files of a thread. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Work {
    folder: TempDir,
}

impl Work {
    /// Gives the calling thread its own mount namespace, and makes the folder there.
    ///
    /// # Errors
    /// Fails without root.
    pub(crate) fn new() -> io::Result<Self> {
        leave_the_hosts_mounts()?;
        let folder = tempfile::Builder::new().prefix("pinhole-crash-").tempdir()?;
        rustix::mount::mount("crash", folder.path(), "tmpfs", MountFlags::empty(), Some(c"size=50%"))?;
        Ok(Self { folder })
    }

    /// Returns the path of a name in the folder.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder in the folder, if it does not exist, and returns its path.
    pub(crate) fn make_folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Mount point. Dropping it unmounts it lazily.
#[derive(Debug)]
pub(super) struct MountPoint(pub(super) PathBuf);

impl MountPoint {
    /// Unmounts the file system and waits until it is unused.
    pub(super) fn end(self) -> io::Result<()> {
        pinhole_tests::mounted::unmount_when_unused(&self.0)
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap_or_default();
    }
}
