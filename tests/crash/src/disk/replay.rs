//! A disk that takes the content of any crash state and is mounted, so that the kernel recovers the
//! file system.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pinhole_tests::disk_faults::FileSystem;
use pinhole_tests::mounted::unmount_when_unused;

use super::image::Image;
use super::mounts::{Purpose, Work, attach, mount};

/// Disk for crash states, one after another. Its loop device stays attached to one file, whose
/// content changes between two mounts: that saves most of the time of a state.
#[derive(Debug)]
pub(crate) struct ReplayDisk {
    kind: FileSystem,
    file: File,
    device: PathBuf,
    point: PathBuf,
    _detach: DetachAtEnd,
}

impl ReplayDisk {
    /// Makes a disk of `len` bytes in the folder `replay` of `work`.
    ///
    /// # Errors
    /// Fails without root or loop devices.
    pub(crate) fn new(kind: FileSystem, len: u64, work: &Work) -> io::Result<Self> {
        let path = work.join("state");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len(len)?;
        let device = attach(&path)?;
        let detach = DetachAtEnd::start(&device)?;
        Ok(Self { kind, file, device, point: work.make_folder("replayed")?, _detach: detach })
    }

    /// Gives the disk the content of a crash state. It must not be mounted.
    ///
    /// # Errors
    /// Fails if the host has no memory for it.
    pub(crate) fn fill(&mut self, image: &Image) -> io::Result<()> {
        image.store(&self.file)
    }

    /// Mounts the file system, to read it or also to write to it.
    ///
    /// # Errors
    /// Fails if the file system cannot be mounted, which is a loss of all data.
    pub(crate) fn mount(&mut self, purpose: Purpose) -> io::Result<Recovered<'_>> {
        mount(self.kind, purpose, &self.device, &self.point)?;
        Ok(Recovered { disk: self })
    }
}

/// Mounted file system of a crash state. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Recovered<'d> {
    disk: &'d ReplayDisk,
}

impl Recovered<'_> {
    /// Returns the mount point.
    pub(crate) fn folder(&self) -> &Path {
        &self.disk.point
    }
}

impl Drop for Recovered<'_> {
    fn drop(&mut self) {
        // If it stays mounted, the next mount of the device reports that.
        unmount_when_unused(&self.disk.point).unwrap_or_default();
    }
}

/// Process that detaches a loop device when this process ends, even by SIGKILL: it waits for the
/// end of a pipe.
#[derive(Debug)]
struct DetachAtEnd(Child);

impl DetachAtEnd {
    fn start(device: &Path) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r never; exec losetup --detach \"$0\""]).arg(device);
        // An interrupt from the terminal must not end it first.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
        child.map(Self).map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))
    }
}

impl Drop for DetachAtEnd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Ignore the result: a device that another process detached is no fault.
        drop(self.0.wait());
    }
}
