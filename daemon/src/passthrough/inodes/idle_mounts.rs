//! What is open on mounts below the share is closed if it is not used, so that the host can unmount
//! them. The thread that closes files does this; see
//! [`deferred_close`](crate::passthrough::files::deferred_close).

use crate::passthrough::inodes::fd_cache::FdCache;
use crate::passthrough::inodes::mounts::MountTable;
use crate::passthrough::inodes::table::NodeTable;
use std::fmt;
use std::sync::Arc;

/// Closes what is not used; the closing thread's share of [`super::Inodes`].
#[derive(Clone, Debug)]
pub(in crate::passthrough) struct IdleMounts {
    pub(super) mounts: Arc<MountTable>,
    pub(super) table: Arc<NodeTable>,
    pub(super) fd_cache: Arc<FdCache>,
}

impl IdleMounts {
    /// Closes what is open on mounts below the share and was not used since the last call. Returns
    /// whether anything is still open there.
    pub(in crate::passthrough) fn close_idle(&self) -> bool {
        let Self { mounts, table, fd_cache } = self;
        fd_cache.note_use_of_mounts(table);
        let mut is_any_left = false;
        let is_mount_left = mounts.close_idle(|idle| is_any_left = fd_cache.close_on(idle, table));
        is_any_left || is_mount_left
    }

    /// Lets go of the mounts that no node lives on and that need not be made durable first.
    pub(in crate::passthrough) fn let_go_of_unused(&self) {
        self.mounts.remove_unused();
    }
}

/// Tells the closing thread that something was opened on a mount below the share.
pub(in crate::passthrough) struct MountWatch(Box<dyn Fn() + Send + Sync>);

impl MountWatch {
    /// Calls `tell` each time.
    pub(in crate::passthrough) fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }

    pub(super) fn tell(&self) {
        (self.0)();
    }
}

impl fmt::Debug for MountWatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MountWatch").finish_non_exhaustive()
    }
}
