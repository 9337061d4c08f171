//! A disk that takes the content of any crash state and is mounted, so that the kernel recovers the
//! file system.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use pinhole_tests::disk_faults::FileSystem;
use pinhole_tests::mounted::unmount_when_unused;

use super::image::Image;
use super::loop_device::LoopDevice;
use super::mounts::{Purpose, Work, mount};

/// Disk for crash states, one after another. Its loop device stays attached to one file, whose
/// content changes between two mounts: that saves most of the time of a state.
#[derive(Debug)]
pub(crate) struct ReplayDisk {
    kind: FileSystem,
    file: File,
    device: LoopDevice,
    point: PathBuf,
}

impl ReplayDisk {
    /// Makes a disk of `len` bytes in the folder `replay` of `work`.
    ///
    /// # Errors
    /// Fails without root or loop devices.
    pub(crate) fn new(kind: FileSystem, len: u64, work: &Work) -> io::Result<Self> {
        // The number of the process tells its loop devices from those of other runs.
        let path = work.join(&format!("state-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len(len)?;
        let device = LoopDevice::attach(&path)?;
        Ok(Self { kind, file, device, point: work.make_folder("replayed")? })
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
        mount(self.kind, purpose, self.device.path(), &self.point)?;
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
