//! Settings of a share.

use crate::threads::ThreadSetup;
use pinhole_policy::{Limits, PathRules};
use pinhole_protocol::InitFlags;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How much data the guest may cache; `--cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestCaching {
    /// No data: reads and writes bypass the guest's page cache.
    Strict,
    /// Data until the next open of the file (close-to-open).
    #[default]
    Auto,
    /// All data, without a time limit.
    Exclusive,
}

/// Which holes of a file LSEEK reports.
///
/// The guest's kernel may have data that it has not sent yet, for a range where the host still has
/// a hole. A program that copies only data would leave that range out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// All holes: the guest sends all data at once.
    All,
    /// Holes that are requested through a read-only handle. Each open makes the guest's kernel send
    /// its data. But data that a program stores through a mapping later is not sent. So LSEEK
    /// through a handle for reading and writing reports no holes.
    ToReaders,
    /// No holes: LSEEK gets ENOSYS, and the guest's kernel then treats the whole file as data.
    None,
}

/// Whether inodes are opened by inode handles; `--inode-file-handles`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeHandles {
    /// No: each node keeps its descriptor, or is opened by its name.
    Never,
    /// If the file system has them and the process may use them.
    #[default]
    Prefer,
    /// Yes: a shared directory without them is an error.
    Mandatory,
}

/// A share's settings.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// The shared directory.
    pub shared_dir: PathBuf,
    /// How much data the guest may cache.
    pub cache: GuestCaching,
    /// How long the guest trusts a name; `--entry-timeout`.
    pub entry_timeout: Duration,
    /// Whether O_DIRECT of the guest applies to the host's files.
    pub direct_io: bool,
    /// Whether there are extended attributes.
    pub xattr: bool,
    /// Whether there are POSIX ACLs. They need `xattr`.
    pub posix_acl: bool,
    /// Whether mounts below the share are mounts in the guest.
    pub announce_submounts: bool,
    /// Whether O_NOATIME of the guest applies to the host's files.
    pub preserve_noatime: bool,
    /// Which holes LSEEK reports.
    pub holes: Holes,
    /// Whether inodes are opened by inode handles.
    pub inode_handles: InodeHandles,
    /// Limit of host descriptors for nodes and handles together.
    pub descriptors_max: u64,
    /// Limits of the policy. The file system enforces some of them.
    pub limits: Limits,
    /// Whether the policy lets the guest request durability. If so, changed mounts are remembered.
    pub syncs: bool,
    /// Path rules of the policy. The file system knows which rule applies to a node.
    pub rules: Option<Arc<PathRules>>,
}

impl ShareConfig {
    /// Returns the settings of a share without any option, with room for 1000 host descriptors.
    pub fn new(shared_dir: impl Into<PathBuf>) -> Self {
        Self {
            shared_dir: shared_dir.into(),
            cache: GuestCaching::default(),
            entry_timeout: Duration::from_secs(1),
            direct_io: false,
            xattr: false,
            posix_acl: false,
            announce_submounts: true,
            preserve_noatime: false,
            holes: Holes::All,
            inode_handles: InodeHandles::default(),
            descriptors_max: 1000,
            limits: Limits::default(),
            syncs: true,
            rules: None,
        }
    }
}

/// Descriptors and rights that the process gives a share.
#[derive(Debug)]
pub struct Surroundings {
    /// The shared directory, in the namespace of the process.
    pub root: OwnedFd,
    /// `/proc/self/fd`.
    pub proc_fds: OwnedFd,
    /// Whether files may be created as users of the guest, if the process has the rights for that.
    pub as_users: bool,
    /// Steps of each thread before it serves.
    pub threads: ThreadSetup,
}

/// Flags of INIT on which the session and the present guest have agreed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Negotiated(Arc<AtomicU64>);

impl Negotiated {
    pub(crate) fn contains(&self, flag: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.0.load(Ordering::Relaxed)).contains(flag)
    }

    pub(crate) fn set(&self, flags: InitFlags) {
        self.0.store(flags.bits(), Ordering::Relaxed);
    }
}
