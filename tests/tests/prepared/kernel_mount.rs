//! Programs of erofs-utils, and mounts of images by the host's kernel.
//!
//! The programs come from `cargo xtask guest --disks`. The host's kernel mounts image files
//! directly, which takes Linux 6.12 with `CONFIG_EROFS_FS_BACKED_BY_FILE`.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_tests::disk_faults::{fetched_program, leave_the_hosts_mounts};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Makes an image of a folder, or of several images, with `mkfs.erofs`.
pub(crate) fn make(image: &Path, arguments: &[impl AsRef<OsStr>], sources: &[PathBuf]) -> io::Result<()> {
    let mut command = fetched_program("usr/bin/mkfs.erofs")?;
    run(command.arg("--quiet").args(arguments).arg(image).args(sources))
}

/// Checks an image with `fsck.erofs`.
pub(crate) fn check(image: &Path, data_files: &[PathBuf]) -> io::Result<()> {
    let mut command = fetched_program("usr/bin/fsck.erofs")?;
    for file in data_files {
        command.arg("--device").arg(file);
    }
    run(command.arg(image))
}

/// Runs a program to its end. If it fails, all it said is the error.
fn run(command: &mut Command) -> io::Result<()> {
    let outcome = command.output()?;
    if outcome.status.success() {
        return Ok(());
    }
    let said = [outcome.stdout, outcome.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Err(io::Error::other(format!("{command:?} ended with {}: {said}", outcome.status)))
}

/// Image that the host's kernel has mounted. `drop` unmounts it.
#[derive(Debug)]
pub(crate) struct KernelMount {
    point: PathBuf,
}

impl KernelMount {
    /// Mounts an image with its data files on the folder `point`, which it makes, in a mount
    /// namespace of the calling thread.
    pub(crate) fn new(image: &Path, data_files: &[PathBuf], point: PathBuf) -> io::Result<Self> {
        leave_the_hosts_mounts()?;
        fs::create_dir_all(&point)?;
        let devices: Vec<_> = data_files
            .iter()
            .map(|file| [b"device=".as_slice(), file.as_os_str().as_bytes()].concat())
            .collect();
        let options = CString::new(devices.join(&b','))?;
        match rustix::mount::mount(image, &point, "erofs", MountFlags::RDONLY, options.as_c_str()) {
            Ok(()) => Ok(Self { point }),
            Err(error @ (Errno::NOTBLK | Errno::NODEV)) => Err(io::Error::other(format!(
                "this kernel does not mount EROFS files ({error}): use Linux 6.12 or later with \
                 CONFIG_EROFS_FS_BACKED_BY_FILE"
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the mount point.
    pub(crate) fn folder(&self) -> &Path {
        &self.point
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        // Lazily, because a failed test may still use a file of it.
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).unwrap_or_default();
    }
}
