//! Why a directory cannot be shared.

use std::path::PathBuf;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The shared directory cannot be opened.
    #[error("cannot open shared directory {}: {source}", path.display())]
    Root {
        /// Path of the shared directory.
        path: PathBuf,
        /// Error of the host.
        source: rustix::io::Errno,
    },
    /// `/proc/self/fd` cannot be opened.
    #[error("cannot open /proc/self/fd ({source}): mount proc, a share cannot be served without it")]
    Proc {
        /// Error of the host.
        source: rustix::io::Errno,
    },
    /// There are no file handles, and the share must have them.
    #[error(
        "no file handles for {}: the file system has none, or the process missing CAP_DAC_READ_SEARCH",
        path.display()
    )]
    InodeHandles {
        /// The shared directory.
        path: PathBuf,
    },
    /// There are path rules, and the share's file system finds a file by more names than its own.
    #[error(
        "rules by path cannot be kept in {}: its file system finds a file by other names too (letter case, short forms)",
        path.display()
    )]
    FoldsNames {
        /// The shared directory.
        path: PathBuf,
    },
    /// `openat2` is missing.
    #[error(
        "the host kernel has no openat2 ({source}): Linux 5.6 or later is needed, and no filter against it"
    )]
    Openat2 {
        /// Error of the host.
        source: rustix::io::Errno,
    },
    /// A thread cannot be made fit to serve.
    #[error(
        "a thread with a umask and a working directory of its own cannot be had ({source}): allow threads and unshare(CLONE_FS)"
    )]
    Thread {
        /// Error of the host.
        source: std::io::Error,
    },
    /// The process's own identity cannot be read.
    #[error("cannot read the process's capabilities: {source}")]
    Identity {
        /// Error of the host.
        source: rustix::io::Errno,
    },
}
