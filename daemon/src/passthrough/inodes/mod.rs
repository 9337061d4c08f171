//! The inodes that the guest knows: their table, how to reach each of them on the host, and what
//! the guest believes of them.

pub(in crate::passthrough) mod fd_cache;
pub(in crate::passthrough) mod freshness;
pub(in crate::passthrough) mod inode_handle;
pub(in crate::passthrough) mod inode_numbers;
pub(in crate::passthrough) mod mount_fd;
pub(in crate::passthrough) mod mounts;
pub(in crate::passthrough) mod path_rules;
pub(in crate::passthrough) mod table;

use crate::limits::NODES_MAX;
use crate::passthrough::config::{Config, FileHandles};
use crate::passthrough::inodes::fd_cache::FdCache;
use crate::passthrough::inodes::freshness::retries::Retries;
use crate::passthrough::inodes::inode_handle::InodeHandle;
use crate::passthrough::inodes::mount_fd::MountFd;
use crate::passthrough::inodes::mounts::{MountTable, Reached};
use crate::passthrough::inodes::table::{Descriptor, Newcomer, NodeTable, WayBack};
use crate::passthrough::resolve::{self, ProcFds};
use crate::passthrough::{OpenError, open_for_sync};
use crate::sync::budget::Budget;
use pinhole_policy::RuleId;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, RwLock};

/// The inodes of one share.
#[derive(Debug)]
pub(in crate::passthrough) struct Inodes {
    pub(in crate::passthrough) table: Arc<NodeTable>,
    pub(in crate::passthrough) fd_cache: Arc<FdCache>,
    pub(in crate::passthrough) mounts: Arc<MountTable>,
    pub(in crate::passthrough) proc_fds: ProcFds,
    /// Counts the host descriptors that nodes and handles take together.
    pub(in crate::passthrough) descriptors: Budget,
    pub(in crate::passthrough) retries: Retries,
    /// See [`super::Passthrough::hold_names`]. A panic under the lock breaks nothing.
    pub(in crate::passthrough) names: RwLock<()>,
}

impl Inodes {
    /// Starts with the shared directory as the only inode.
    ///
    /// # Errors
    /// What is missing on the host, by name.
    pub(in crate::passthrough) fn open(
        config: &Config,
        root: OwnedFd,
        proc_fds: ProcFds,
    ) -> Result<Self, OpenError> {
        let root_error = |errno: pinhole_protocol::Errno| OpenError::Root {
            path: config.shared_dir.clone(),
            source: rustix::io::Errno::from_raw_os_error(errno.raw()),
        };
        let stat = resolve::stat(root.as_fd()).map_err(root_error)?;
        let mounts = MountTable::new(config.file_handles != FileHandles::Never, config.syncs);
        let reached = Reached { inode: root.as_fd(), stat: &stat, place: None };
        let opened = || open_for_sync(&proc_fds, root.as_fd());
        let mount = mounts
            .reach(reached, || Ok(opened().map(|opened| opened.map(|fd| MountFd::new(fd, None)))))
            .map_err(root_error)?;
        if config.rules.is_some() && mount.traits.folds_names {
            return Err(OpenError::FoldsNames { path: config.shared_dir.clone() });
        }
        if config.file_handles == FileHandles::Mandatory && !mount.has_handles() {
            return Err(OpenError::FileHandles { path: config.shared_dir.clone() });
        }
        let way_back = match InodeHandle::of(root.as_fd()) {
            Ok((handle, _)) if mount.has_handles() => WayBack::Handle(handle),
            Ok(_) | Err(_) => WayBack::None,
        };
        let newcomer = Newcomer {
            inode: stat.inode(),
            mount,
            kind: stat.kind(),
            descriptor: Some(Descriptor::new(root, None)),
            way_back,
            rule: config.rules.as_ref().map_or(RuleId::SHARE, |rules| rules.root()),
            verified: true,
        };
        let live_inodes = config.limits.live_inodes.and_then(|limit| u32::try_from(limit.get()).ok());
        let table = NodeTable::new(newcomer, live_inodes.map_or(NODES_MAX, |limit| limit.min(NODES_MAX)));
        Ok(Self {
            table: Arc::new(table),
            fd_cache: Arc::new(FdCache::new(config.descriptors_max)),
            mounts: Arc::new(mounts),
            proc_fds,
            descriptors: Budget::new(config.descriptors_max),
            retries: Retries::default(),
            names: RwLock::new(()),
        })
    }
}
