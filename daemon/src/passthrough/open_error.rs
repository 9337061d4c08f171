//! Reason why a directory cannot be shared.

use std::path::PathBuf;

/// Reason why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The shared directory cannot be opened.
    #[error("{}: cannot open the shared directory: {source}; give a directory that this user may search", path.display())]
    Root {
        /// Path of the shared directory.
        path: PathBuf,
        /// Error of the host.
        source: rustix::io::Errno,
    },
    /// `/proc/self/fd` cannot be opened.
    #[error("/proc/self/fd: {0}; mount proc, because a share cannot be served without it")]
    Proc(#[source] rustix::io::Errno),
    /// The share has no inode handles, and the options demand them.
    #[error(
        "--inode-file-handles mandatory: no inode handles for {}: its file system has none, or the process lacks \
         CAP_DAC_READ_SEARCH; use prefer",
        .0.display()
    )]
    InodeHandles(PathBuf),
    /// There are path rules, but the share's file system finds a file under other names too.
    #[error(
        "{}: rules by path cannot be kept here: the file system finds a file by other names too (letter case, short \
         forms); use a policy without them",
        .0.display()
    )]
    FoldsNames(PathBuf),
    /// The host refuses `openat2`.
    #[error("host: no openat2 ({0}): use Linux 5.6 or later, and allow the call in seccomp profiles")]
    Openat2(#[source] rustix::io::Errno),
    /// A thread cannot be prepared to serve.
    #[error(
        "host: cannot start a thread with its own umask and working directory: {source}; allow threads and \
         unshare(CLONE_FS)"
    )]
    Thread {
        /// Error of the host.
        source: std::io::Error,
    },
    /// The process's own identity cannot be read.
    #[error("host: cannot read the capabilities of the process: {0}; allow capget in seccomp profiles")]
    Identity(#[source] rustix::io::Errno),
}
