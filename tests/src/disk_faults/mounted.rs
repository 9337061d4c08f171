//! File systems mounted for a test, in its own mount namespace. No mount stays behind, whatever
//! happens to the test.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::UnmountFlags;

use crate::mount_namespace;
use crate::mounted::unmount_when_unused;

/// Upper bound on the time until the disk appears, and until it is gone.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Interval between two checks.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(5);

thread_local! {
    /// Whether this thread has a mount namespace of its own.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread, and the processes that it starts, a mount namespace of their own. Only
/// the first call of a thread has an effect.
///
/// # Errors
/// Fails if the process lacks the right to do this, which root has.
pub fn leave_the_hosts_mounts() -> io::Result<()> {
    if !ALONE.get() {
        mount_namespace::enter_new(&[]).map_err(|error| {
            io::Error::other(format!("mounting takes root ({error}): run `sudo -E cargo xtask test`"))
        })?;
        ALONE.set(true);
    }
    Ok(())
}

/// Runs a command to its end and returns its output. If it fails, its standard error is the error.
pub(super) fn run(command: &mut Command) -> io::Result<String> {
    let outcome =
        command.output().map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))?;
    if outcome.status.success() {
        return Ok(String::from_utf8_lossy(&outcome.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&outcome.stderr);
    Err(io::Error::other(format!("{command:?} ended with {}: {said}", outcome.status)))
}

/// Mounted file system. `drop` unmounts it.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// Mounts `source` on the folder `point`, which it makes, as `mount -t KIND -o OPTIONS` does.
    ///
    /// # Errors
    /// Fails with the output of `mount(8)`.
    pub fn new(kind: &str, options: &str, source: &Path, point: PathBuf) -> io::Result<Self> {
        leave_the_hosts_mounts()?;
        std::fs::create_dir_all(&point)?;
        run(Command::new("mount").args(["-t", kind, "-o", options]).arg(source).arg(&point))?;
        Ok(Self { point })
    }

    /// Returns the mount point.
    pub fn folder(&self) -> &Path {
        &self.point
    }

    /// Unmounts the file system, which writes back its data. Waits while it is in use.
    ///
    /// # Errors
    /// EBUSY if the file system stays in use, or the error of the host.
    pub fn end(self) -> io::Result<()> {
        unmount_when_unused(&self.point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Unmounts lazily, because a daemon of a failed test may still use the mount. After
        // [`Mounted::end`] there is nothing to unmount.
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).unwrap_or_default();
    }
}
