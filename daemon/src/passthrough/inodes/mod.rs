//! The inodes that the guest knows: how each is opened on the host, and how old the guest's cache
//! of them may be.
//!
//! - `lookup.rs`: how a name becomes a node
//! - `node.rs`, `table.rs`: nodes and their table
//! - `descriptors.rs`, `fd_cache.rs`, `large.rs`: descriptors of inodes, and which stay open
//! - `mounts.rs`, `mount_fd.rs`, `mount_descriptors.rs`, `idle_mounts.rs`, `host_fs.rs`: mounts
//!   below the share
//! - `inode_numbers.rs`: inode numbers in replies
//! - `path_rules.rs`: which path rule applies to a node
//! - `freshness/`: old names and attributes in the guest's kernel

mod descriptors;
mod fd_cache;
mod freshness;
mod host_fs;
pub(crate) mod idle_mounts;
mod inode_numbers;
mod large;
mod lookup;
mod mount_descriptors;
mod mount_fd;
mod mounts;
mod node;
mod path_rules;
mod table;

pub(crate) use self::host_fs::Traits;
pub(crate) use self::large::BLOCK_LEN;
pub(crate) use self::lookup::Found;
pub(crate) use self::mount_fd::MountFd;
pub(crate) use self::mounts::MountTable;
pub(crate) use self::node::{Descriptor, NodeKey, NodeRef, Pin};

use crate::filesystem::Answer;
use crate::limits::NODES_MAX;
use crate::passthrough::config::{GuestCaching, InodeHandles, Negotiated, ShareConfig};
use crate::passthrough::inodes::fd_cache::FdCache;
use crate::passthrough::inodes::freshness::path_retries::PathRetries;
use crate::passthrough::inodes::idle_mounts::{IdleMounts, MountWatch};
use crate::passthrough::inodes::mount_fd::MountState;
use crate::passthrough::inodes::mounts::FoundMount;
use crate::passthrough::inodes::node::{FoundInode, Reopen};
use crate::passthrough::inodes::table::NodeTable;
use crate::passthrough::open_error::OpenError;
use crate::passthrough::resolve::{self, ProcFds};
use crate::sync::budget::Budget;
use crate::sync::lock::RwLock;
use crate::sys::inode_handle::InodeHandle;
use pinhole_policy::{PathRules, RuleId};
use pinhole_protocol::NodeId;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The inodes of one share. Each file of this module adds functions.
#[derive(Debug)]
pub(crate) struct Inodes {
    table: Arc<NodeTable>,
    fd_cache: Arc<FdCache>,
    mounts: Arc<MountTable>,
    proc_fds: ProcFds,
    /// Counts the host descriptors of nodes and handles.
    descriptors: Budget,
    retries: PathRetries,
    /// See [`Inodes::lock_names`]. A panic under the lock breaks nothing.
    names: RwLock<()>,
    /// The policy's path rules.
    rules: Option<Arc<PathRules>>,
    cache: GuestCaching,
    entry_timeout: Duration,
    negotiated: Negotiated,
    watch: MountWatch,
}

impl Inodes {
    /// Returns the inodes of a share, with the shared directory as the only one.
    ///
    /// # Errors
    /// The reason why the directory cannot be shared.
    pub(crate) fn open(
        config: &ShareConfig,
        root: OwnedFd,
        proc_fds: ProcFds,
        negotiated: Negotiated,
    ) -> Result<Self, OpenError> {
        let root_error = |errno: pinhole_protocol::Errno| OpenError::Root {
            path: config.shared_dir.clone(),
            source: rustix::io::Errno::from_raw_os_error(errno.raw()),
        };
        let stat = resolve::stat(root.as_fd()).map_err(root_error)?;
        let mounts = MountTable::new(config.inode_handles != InodeHandles::Never, config.syncs);
        let found = FoundMount { inode: root.as_fd(), stat: &stat, place: None };
        let mount = mounts.get_or_add(found, || Ok(MountState::open(&proc_fds, root.as_fd(), None)));
        let mount = mount.map_err(root_error)?;
        if config.rules.is_some() && mount.traits.folds_names {
            return Err(OpenError::FoldsNames(config.shared_dir.clone()));
        }
        if config.inode_handles == InodeHandles::Mandatory && !mount.has_handles() {
            return Err(OpenError::InodeHandles(config.shared_dir.clone()));
        }
        let reopen = match InodeHandle::of(root.as_fd()) {
            Ok((handle, _)) if mount.has_handles() => Reopen::ByHandle(handle),
            Ok(_) | Err(_) => Reopen::Never,
        };
        let found_inode = FoundInode {
            inode: stat.inode(),
            mount,
            kind: stat.kind(),
            descriptor: Some(Descriptor::new(root, None)),
            reopen,
            rule: config.rules.as_ref().map_or(RuleId::SHARE, |rules| rules.root()),
            verified: true,
        };
        let live_inodes = config.limits.live_inodes.and_then(|limit| u32::try_from(limit.get()).ok());
        let table = NodeTable::new(found_inode, live_inodes.map_or(NODES_MAX, |limit| limit.min(NODES_MAX)));
        Ok(Self {
            table: Arc::new(table),
            fd_cache: Arc::new(FdCache::new(config.descriptors_max)),
            mounts: Arc::new(mounts),
            proc_fds,
            descriptors: Budget::new(config.descriptors_max),
            retries: PathRetries::default(),
            names: RwLock::new(()),
            rules: config.rules.clone(),
            cache: config.cache,
            entry_timeout: config.entry_timeout,
            negotiated,
            watch: MountWatch::new(|| {}),
        })
    }

    /// Sets the callback for each descriptor that is opened on a mount below the share.
    pub(crate) fn set_watch(&mut self, watch: MountWatch) {
        self.watch = watch;
    }

    /// Returns the part that closes idle mounts.
    pub(crate) fn idle_mounts(&self) -> IdleMounts {
        IdleMounts {
            mounts: Arc::clone(&self.mounts),
            table: Arc::clone(&self.table),
            fd_cache: Arc::clone(&self.fd_cache),
        }
    }

    /// Returns the mounts that the guest has reached.
    pub(crate) fn mounts(&self) -> Arc<MountTable> {
        Arc::clone(&self.mounts)
    }

    /// Returns `/proc/self/fd`.
    pub(crate) const fn proc_fds(&self) -> &ProcFds {
        &self.proc_fds
    }

    /// Returns the node of an id.
    ///
    /// # Errors
    /// ESTALE for an id that is forgotten or was never given out.
    pub(crate) fn node(&self, id: NodeId) -> Answer<NodeRef> {
        self.table.get(id)
    }

    /// Returns the node with this key, whether or not its inode still exists.
    pub(crate) fn find(&self, key: NodeKey) -> Option<NodeRef> {
        self.table.find(key)
    }

    /// Takes back `count` look-ups, or all if there are fewer. Returns the node if no look-up is
    /// left: closing its descriptor may wait for the host.
    pub(crate) fn forget(&self, id: NodeId, count: u64) -> Option<NodeRef> {
        self.table.forget(id, count)
    }

    /// Fails if no node can be added. Called before an inode is created on the host.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn check_room(&self) -> Answer<()> {
        self.table.check_room()
    }

    /// Returns the number of nodes, without the root.
    pub(crate) fn len(&self) -> usize {
        self.table.len().saturating_sub(1)
    }

    /// Returns the budget of host descriptors of nodes and handles.
    pub(crate) const fn descriptors(&self) -> &Budget {
        &self.descriptors
    }

    /// Forgets every inode but the root, and all notes about the guest.
    pub(crate) fn reset(&self) {
        self.table.clear();
        self.fd_cache.clear();
        self.retries.clear();
        self.mounts.remove_all_unused();
    }
}
