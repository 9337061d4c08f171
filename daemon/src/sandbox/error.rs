//! Errors of the sandbox.

use std::io;
use std::path::PathBuf;

/// The remedy for a step that only a restriction around the daemon refuses.
const ALLOW: &str = "allow it in the limits and the seccomp profile of the container or unit";

/// A failure of the sandbox. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The shared directory cannot be opened.
    #[error("{}: cannot open the shared directory: {source}; give a directory that this user may search", path.display())]
    Share {
        /// The path, as it was given.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// `/proc/self/fd` cannot be opened.
    #[error("/proc/self/fd: {source}; mount proc, because a share cannot be served without it")]
    Proc {
        /// The host's error.
        source: io::Error,
    },
    /// The process cannot be split in two.
    #[error("--sandbox: cannot split the process in two: {what}: {source}; {ALLOW}")]
    SecondProcess {
        /// The step that failed.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The process cannot leave the host's namespaces.
    #[error(
        "--sandbox namespace: {what}: {source}; where namespaces are not available, use --sandbox chroot (as root) or \
         --sandbox none, in a container that holds only the share"
    )]
    Namespace {
        /// The step that failed.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The root directory cannot be changed.
    #[error("--sandbox chroot: {what}: {source}; it needs root, use --sandbox namespace")]
    Chroot {
        /// The step that failed.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The ids of the user namespace cannot be mapped.
    #[error("--uid-map, --gid-map: {0}")]
    Maps(String),
    /// A right of the process cannot be restricted.
    #[error("--sandbox: cannot restrict {what}: {source}; {ALLOW}")]
    Rights {
        /// The right.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The kernel has Landlock, and has refused the rules.
    #[error("--sandbox: cannot enforce Landlock rules: {0}; {ALLOW}")]
    Landlock(String),
    /// A filter cannot be made.
    #[error("--seccomp: {0}; --seccomp none does without a filter")]
    Filter(String),
    /// A required layer is missing.
    #[error("--require {layer}: {why}; leave out {layer} to serve without it")]
    Required {
        /// The name of the layer, as `--require` has it.
        layer: String,
        /// The reason.
        why: String,
    },
}

// Each function returns a closure for `map_err` that wraps an error of the host.
impl SandboxError {
    pub(super) fn second_process<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::SecondProcess { what, source: error.into() }
    }

    pub(super) fn namespace<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Namespace { what, source: error.into() }
    }

    pub(super) fn chroot<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Chroot { what, source: error.into() }
    }

    pub(crate) fn rights<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Rights { what, source: error.into() }
    }
}
