//! What is true of a share, as the host needs to know it.

use crate::thread_setup::ThreadSetup;
use pinhole_policy::{Limits, PathRules};
use pinhole_protocol::InitFlags;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How much data the guest may cache; `--cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// None: it bypasses the guest's page cache.
    Strict,
    /// Close-to-open: until the next open.
    #[default]
    Auto,
    /// All of it, for as long as the guest likes.
    Exclusive,
}

/// Which holes of a file LSEEK tells. A guest's kernel may hold data that it has not sent yet, where the host still has
/// a hole; a program that copies only data would leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// All of them: the guest holds nothing back.
    All,
    /// Those that are seen through a descriptor to read. Each open makes the guest's kernel send what it holds, but
    /// what a program stores through a mapping later, its own descriptor to read and write does not see: by that, all
    /// is data.
    ToReaders,
    /// None: LSEEK is not served (ENOSYS), and the guest's kernel takes all for data from then on.
    None,
}

/// Whether nodes are found by file handles; `--inode-file-handles`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileHandles {
    /// They are not: each node holds a descriptor, or is found again by its name.
    Never,
    /// Wherever the file system has them and this process may use them.
    #[default]
    Prefer,
    /// A shared directory without them is not served.
    Mandatory,
}

/// A share's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that is shared.
    pub shared_dir: PathBuf,
    /// How much data the guest may cache.
    pub cache: CacheMode,
    /// How long the guest trusts that a name leads to the inode that it was told; `--entry-timeout`.
    pub entry_timeout: Duration,
    /// O_DIRECT of the guest reaches the host's files.
    pub direct_io: bool,
    /// Extended attributes.
    pub xattr: bool,
    /// POSIX ACLs; needs `xattr`.
    pub posix_acl: bool,
    /// Mounts below the share are shown as mounts to the guest.
    pub announce_submounts: bool,
    /// O_NOATIME of the guest reaches the host's files.
    pub preserve_noatime: bool,
    /// Which holes the guest is told.
    pub holes: Holes,
    /// Whether nodes are found by file handles.
    pub file_handles: FileHandles,
    /// Host descriptors that nodes and handles may take together.
    pub descriptors_max: u64,
    /// The policy's limits, of which some are kept here.
    pub limits: Limits,
    /// Whether the policy lets the guest ask for durability, so that what it has changed must not be lost sight of.
    pub syncs: bool,
    /// The policy's path rules: which of them decides is known by node, so here.
    pub rules: Option<Arc<PathRules>>,
}

impl Config {
    /// Returns the settings of a share without any option, with room for 1000 host descriptors.
    pub fn new(shared_dir: impl Into<PathBuf>) -> Self {
        Self {
            shared_dir: shared_dir.into(),
            cache: CacheMode::default(),
            entry_timeout: Duration::from_secs(1),
            direct_io: false,
            xattr: false,
            posix_acl: false,
            announce_submounts: true,
            preserve_noatime: false,
            holes: Holes::All,
            file_handles: FileHandles::default(),
            descriptors_max: 1000,
            limits: Limits::default(),
            syncs: true,
            rules: None,
        }
    }
}

/// What the process around a share gives it.
#[derive(Debug)]
pub struct Surroundings {
    /// The shared directory, wherever it is by now.
    pub root: OwnedFd,
    /// `/proc/self/fd`.
    pub proc_fds: OwnedFd,
    /// Whether requests may be carried out as the guest's users, where the process has what that needs.
    pub as_users: bool,
    /// What each thread does first.
    pub threads: ThreadSetup,
}

/// Flags of INIT that the present guest and the session agreed on.
#[derive(Clone, Debug, Default)]
pub(in crate::passthrough) struct Negotiated(Arc<AtomicU64>);

impl Negotiated {
    pub(in crate::passthrough) fn contains(&self, flag: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.0.load(Ordering::Relaxed)).contains(flag)
    }

    pub(in crate::passthrough) fn set(&self, flags: InitFlags) {
        self.0.store(flags.bits(), Ordering::Relaxed);
    }
}
