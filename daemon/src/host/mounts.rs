//! The host mounts that the guest has reached, so that SYNCFS covers all of them.

use pinhole_protocol::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// One host mount.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Readable, as `syncfs(2)` wants it; `None` where the mount's first node could not be opened (a bind-mounted
    /// device or socket), which then has nothing of its own to sync.
    sync_fd: Option<OwnedFd>,
}

/// The mounts by the kernel's mount id.
#[derive(Debug, Default)]
pub(crate) struct MountTable {
    mounts: Mutex<HashMap<u64, Arc<Mount>>>,
}

impl MountTable {
    /// The mount of an id, opened with `open` when it is first reached.
    pub(crate) fn reach(&self, id: u64, open: impl FnOnce() -> Option<OwnedFd>) -> Arc<Mount> {
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
            if let Some(fd) = &mount.sync_fd {
                outcome = outcome.and(rustix::fs::syncfs(fd).map_err(super::resolve::errno));
            }
        }
        drop(reached);
        self.mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, mount| Arc::strong_count(mount) > 1);
        outcome
    }
}
