//! A file system on a disk whose requests are recorded.

use std::io;
use std::path::{Path, PathBuf};

use pinhole_tests::disk_faults::FileSystem;

use super::image::Image;
use super::log::{Log, Moment};
use super::loop_device::LoopDevice;
use super::mounts::{MountPoint, Purpose, Work, mount};
use super::server::DiskFile;

/// Mounted file system on a disk whose requests are recorded. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct RecordedDisk {
    // Dropped in this order.
    mounted: Option<MountPoint>,
    point: PathBuf,
    disk: DiskFile,
}

impl RecordedDisk {
    /// Mounts a disk with this content on the folder `recorded` of `work`.
    ///
    /// # Errors
    /// Fails without root, /dev/fuse or loop devices.
    pub(crate) fn start(kind: FileSystem, image: Image, work: &Work) -> io::Result<Self> {
        let point = work.make_folder("recorded")?;
        let path = work.join("disk");
        let disk = DiskFile::serve(image, &path)?;
        let device = LoopDevice::attach(&path)?;
        let mounted = mount(kind, Purpose::Record, device.path(), &point).map(|()| MountPoint(point.clone()));
        // The device is in use, so it is detached when its last user ends.
        drop(device);
        Ok(Self { mounted: Some(mounted?), point, disk })
    }

    /// Returns the mount point.
    pub(crate) fn folder(&self) -> &Path {
        &self.point
    }

    /// Returns the current moment. Everything that the disk has answered is before it.
    pub(crate) fn now(&self) -> Moment {
        self.disk.now()
    }

    /// Unmounts the file system and returns the log.
    ///
    /// # Errors
    /// Fails if the file system stays in use.
    pub(crate) fn end(mut self) -> io::Result<Log> {
        if let Some(mounted) = self.mounted.take() {
            mounted.end()?;
        }
        // The file is in use until the last copy of the mount is gone. A process that was killed
        // holds its copy until shortly after its end.
        self.disk.end()
    }
}
