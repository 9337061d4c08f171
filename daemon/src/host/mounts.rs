//! The host mounts that the guest has reached, so that SYNCFS covers all of them.

use super::resolve::sync_errno;
use pinhole_protocol::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// One host mount.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Readable, as `syncfs(2)` wants it, or why not. `None` where the mount is a bind-mounted device or socket, which
    /// has nothing of its own to sync.
    sync_fd: Option<Result<OwnedFd, Errno>>,
}

/// The mounts by the kernel's mount id.
#[derive(Debug, Default)]
pub(crate) struct MountTable {
    mounts: Mutex<HashMap<u64, Arc<Mount>>>,
}

impl MountTable {
    /// The mount of an id, opened with `open` when it is first reached.
    pub(crate) fn reach(&self, id: u64, open: impl FnOnce() -> Option<Result<OwnedFd, Errno>>) -> Arc<Mount> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(mounts.entry(id).or_insert_with(|| Arc::new(Mount { sync_fd: open() })))
    }

    /// Makes every reached mount durable, then lets go of those that no node lives on.
    ///
    /// # Errors
    /// The first error, after all were tried.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        let reached: Vec<Arc<Mount>> = {
            let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            mounts.values().map(Arc::clone).collect()
        };
        let mut outcome = Ok(());
        for mount in &reached {
            // A mount that could not be opened is not durable, and the guest must not believe so.
            outcome = outcome.and(match &mount.sync_fd {
                Some(Ok(fd)) => rustix::fs::syncfs(fd).map_err(sync_errno),
                Some(Err(errno)) => Err(*errno),
                None => Ok(()),
            });
        }
        drop(reached);
        self.mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, mount| Arc::strong_count(mount) > 1);
        outcome
    }
}
