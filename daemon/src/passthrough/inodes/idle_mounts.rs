//! Closes unused descriptors on mounts below the share, so that the host can unmount them.
//!
//! The thread of [`deferred_close`](crate::passthrough::files::deferred_close) does this.

use crate::passthrough::inodes::fd_cache::FdCache;
use crate::passthrough::inodes::mounts::MountTable;
use crate::passthrough::inodes::table::NodeTable;
use std::fmt;
use std::sync::Arc;

/// The part of [`Inodes`](super::Inodes) that the closing thread uses.
#[derive(Clone, Debug)]
pub(crate) struct IdleMounts {
    pub(super) mounts: Arc<MountTable>,
    pub(super) table: Arc<NodeTable>,
    pub(super) fd_cache: Arc<FdCache>,
}

impl IdleMounts {
    /// Closes descriptors on mounts below the share that were not used since the last call. Returns
    /// whether any descriptor is still open there.
    pub(crate) fn close_idle(&self) -> bool {
        let Self { mounts, table, fd_cache } = self;
        fd_cache.note_use_of_mounts(table);
        let mut is_any_left = false;
        let is_mount_left = mounts.close_idle(|idle| is_any_left = fd_cache.close_on(idle, table));
        is_any_left || is_mount_left
    }

    /// Removes the mounts without nodes, except those with changes to be made durable.
    pub(crate) fn remove_unused(&self) {
        self.mounts.remove_unused();
    }
}

/// A callback for each descriptor that is opened on a mount below the share. It notifies the
/// closing thread.
pub(crate) struct MountWatch(Box<dyn Fn() + Send + Sync>);

impl MountWatch {
    /// Returns a watch that calls `notify`.
    pub(crate) fn new(notify: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(notify))
    }

    pub(super) fn notify(&self) {
        (self.0)();
    }
}

impl fmt::Debug for MountWatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MountWatch").finish_non_exhaustive()
    }
}
