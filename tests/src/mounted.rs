//! One directory mounted several times over /dev/fuse, each time by its own `pinhole mount`. The
//! host's kernel keeps a cache for each mount, as the kernels of as many guests would, at native
//! speed and without a VM.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::daemon::DaemonError;
use crate::program::{Program, pinhole};

/// Upper bound on the time for which a mount stays in use after its last user has ended.
const UNUSED_LIMIT: Duration = Duration::from_secs(20);

/// Unmounts `place`. Waits while it is in use.
///
/// A process that was told to end may still use it. So may a process that another test starts:
/// until that process executes its program, it has copies of all files of this process.
///
/// # Errors
/// EBUSY if the mount stays in use, or the error of the host.
pub fn unmount_when_unused(place: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match rustix::mount::unmount(place, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) if began.elapsed() < UNUSED_LIMIT => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            ended => return Ok(ended?),
        }
    }
}

/// A directory and its mounts. `drop` unmounts them.
#[derive(Debug)]
pub struct Mounts<P = ()> {
    // Each program ends together with its mount, so the programs are dropped before the folder.
    mounted: Vec<MountedShare>,
    /// Value that the preparation of the directory returned.
    _prepared: P,
    folder: TempDir,
}

#[derive(Debug)]
struct MountedShare {
    program: Program,
    place: PathBuf,
}

impl Mounts {
    /// Mounts a new directory once for each list of arguments.
    ///
    /// # Errors
    /// [`DaemonError`] with the output of the program. The mounts need /dev/fuse and root.
    pub fn new(arguments: &[&[&str]]) -> Result<Self, DaemonError> {
        Mounts::prepared(arguments, |_share| ())
    }
}

impl<P> Mounts<P> {
    /// As [`Mounts::new`], with a directory that `prepare` has filled or has mounted something on.
    /// The value that it returns lives until the directory is unmounted.
    ///
    /// # Errors
    /// As [`Mounts::new`].
    pub fn prepared(arguments: &[&[&str]], prepare: impl FnOnce(&Path) -> P) -> Result<Self, DaemonError> {
        let host = |what| move |source| DaemonError::Host { what, source };
        let made = tempfile::Builder::new().prefix("pinhole-mounts-").tempdir();
        let folder = made.map_err(host("cannot make a folder"))?;
        let share = folder.path().join("share");
        std::fs::create_dir(&share).map_err(host("cannot make the share"))?;
        let mut mounts = Self { mounted: Vec::new(), _prepared: prepare(&share), folder };
        for (index, arguments) in arguments.iter().enumerate() {
            let place = mounts.folder.path().join(format!("mnt{index}"));
            std::fs::create_dir(&place).map_err(host("cannot make a mount point"))?;
            let mut command = pinhole(["mount"])?;
            let mut program = Program::start(command.args(*arguments).arg(mounts.host()).arg(&place))?;
            program.wait_for("Mounted ")?;
            mounts.mounted.push(MountedShare { program, place });
        }
        Ok(mounts)
    }

    /// Returns the directory on the host.
    pub fn host(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// Returns the mount points, in the order of the arguments.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.mounted.iter().map(|mount| mount.place.as_path())
    }

    /// Returns the standard error of the daemons.
    pub fn stderr(&self) -> String {
        self.mounted.iter().map(|mount| mount.program.stderr()).collect()
    }
}

impl<P> Drop for Mounts<P> {
    fn drop(&mut self) {
        for mount in &self.mounted {
            // Ignore the result: the mount may already be gone.
            drop(io::Result::from(
                rustix::mount::unmount(&mount.place, UnmountFlags::DETACH).map_err(io::Error::from),
            ));
        }
    }
}
