//! A directory of the host as a [`FileSystem`](crate::filesystem::FileSystem).
//!
//! [`Passthrough`] holds the state that operations share: the inodes that the guest knows
//! (`inodes`), the files that it has open (`files`) and its locks (`locks`). `ops` lists the
//! operations and has a file for each family of them.

mod config;
mod files;
mod identity;
mod inodes;
mod locks;
mod open_error;
mod ops;
mod resolve;
mod slots;

/// For tests of a handle that opens an inode which the guest never had.
#[cfg(feature = "test-utils")]
pub use crate::sys::inode_handle::InodeHandle;
pub use config::{GuestCaching, Holes, InodeHandles, ShareConfig, Surroundings};
pub use identity::keep_capabilities;
pub use open_error::OpenError;

use crate::filesystem::{Answer, Caller};
use crate::passthrough::config::Negotiated;
use crate::passthrough::files::Files;
use crate::passthrough::files::deferred_close::DeferredClose;
use crate::passthrough::files::handles::HandleTickets;
use crate::passthrough::files::sync_thread::SyncThread;
use crate::passthrough::identity::{Assumed, Identity};
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::idle_mounts::MountWatch;
use crate::passthrough::locks::Locks;
use crate::sync::event::EventCounter;
use crate::threads::ThreadSetup;
use pinhole_protocol::InitFlags;
use resolve::ProcFds;
use rustix::fs::{Mode, OFlags};
use std::sync::Arc;

/// Serves a directory of the host.
#[derive(Debug)]
pub struct Passthrough {
    config: ShareConfig,
    inodes: Inodes,
    files: Files,
    locks: Locks,
    identity: Identity,
    deferred_close: Arc<DeferredClose>,
    sync_thread: SyncThread,
    negotiated: Negotiated,
}

/// Resources of the host that a guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestResources {
    /// Nodes that are looked up and not forgotten, without the root.
    pub nodes: usize,
    /// Files and directories that are opened and not released.
    pub handles: usize,
    /// Host descriptors of these nodes and handles.
    pub descriptors: u64,
}

impl Passthrough {
    /// Opens the shared directory and serves it without a sandbox.
    ///
    /// # Errors
    /// The reason why the directory cannot be shared.
    pub fn new(config: ShareConfig) -> Result<Self, OpenError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&config.shared_dir, flags, Mode::empty())
            .map_err(|source| OpenError::Root { path: config.shared_dir.clone(), source })?;
        let proc_fds = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty());
        let proc_fds = proc_fds.map_err(OpenError::Proc)?;
        keep_capabilities().map_err(OpenError::Identity)?;
        let threads = ThreadSetup::unconfined().map_err(|source| OpenError::Thread { source })?;
        Self::within(config, Surroundings { root, proc_fds, as_users: true, threads })
    }

    /// Serves an open directory in a prepared process.
    ///
    /// # Errors
    /// The reason why the directory cannot be shared.
    pub fn within(config: ShareConfig, surroundings: Surroundings) -> Result<Self, OpenError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Surroundings { root, proc_fds, as_users, threads } = surroundings;
        let proc_fds = ProcFds::new(proc_fds);
        let resolve = rustix::fs::ResolveFlags::BENEATH;
        rustix::fs::openat2(&root, c".", flags, Mode::empty(), resolve).map_err(OpenError::Openat2)?;
        threads.check().map_err(|source| OpenError::Thread { source })?;
        let identity = Identity::read(as_users).map_err(OpenError::Identity)?;
        identity.log_missing_rights();
        let negotiated = Negotiated::default();
        let mut inodes = Inodes::open(&config, root, proc_fds, negotiated.clone())?;
        let locks = Locks::new(config.limits.locks);
        let wake = Arc::clone(locks.wake_event());
        let sync_thread = SyncThread::new(threads.clone(), inodes.mounts(), wake);
        let deferred_close = Arc::new(DeferredClose::new(threads, inodes.idle_mounts()));
        let watcher = Arc::clone(&deferred_close);
        inodes.set_watch(MountWatch::new(move || watcher.watch_mounts()));
        Ok(Self {
            inodes,
            files: Files::new(&config.limits),
            locks,
            identity,
            deferred_close,
            sync_thread,
            negotiated,
            config,
        })
    }

    /// Takes the right to one more handle.
    ///
    /// # Errors
    /// ENFILE past the limit of handles or of descriptors.
    fn handle_tickets(&self) -> Answer<HandleTickets> {
        let handle = self.files.ticket()?;
        Ok(HandleTickets { _descriptor: self.inodes.descriptor_ticket()?, _handle: handle })
    }

    /// Makes the thread act as the caller. It gets the caller's umask if the guest's kernel leaves
    /// that to the daemon.
    fn assume(&self, caller: &Caller<'_>, umask: u32) -> Answer<Assumed<'_>> {
        self.identity.assume(caller, self.negotiated.contains(InitFlags::DONT_MASK).then_some(umask))
    }

    /// Closes idle mounts below the share. Returns whether any mount is still open. The closing
    /// thread does this too. Tests call it so that they need not wait.
    #[cfg(feature = "test-utils")]
    pub fn close_idle(&self) -> bool {
        self.inodes.idle_mounts().close_idle()
    }

    /// Returns the event that is notified when a request that waits for a lock or for durability
    /// may have its result.
    pub const fn wake_event(&self) -> &Arc<EventCounter> {
        self.locks.wake_event()
    }

    /// Returns the resources that the guest uses now.
    pub fn held(&self) -> GuestResources {
        GuestResources {
            nodes: self.inodes.len(),
            handles: self.files.len(),
            descriptors: self.inodes.descriptors().taken(),
        }
    }
}
