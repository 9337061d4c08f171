//! Errors of a guest.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error that keeps a guest from starting, or its script from running to the end.
#[derive(thiserror::Error)]
pub enum GuestError {
    /// A part of the guest is missing on this host.
    #[error("{path} is missing; run `{command}` to fetch it")]
    Missing {
        /// File or folder that is missing.
        path: PathBuf,
        /// The command that provides it.
        command: &'static str,
    },
    /// A host operation of the harness itself failed.
    #[error("{what}: {source}")]
    Host {
        /// What the harness was doing.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The time limit passed, and all processes of the guest were killed.
    #[error(
        "the guest was killed after {limit:?}; its script had printed:\n{output}\nkernel log:\n{kernel_log}"
    )]
    TimeLimit {
        /// Limit that passed.
        limit: Duration,
        /// Output of the script up to then.
        output: String,
        /// Output of the kernel up to then.
        kernel_log: String,
    },
    /// The kernel printed a panic, an oops or a BUG.
    #[error("the guest kernel failed: {line}\n{}", log_end(.kernel_log))]
    Kernel {
        /// First line of the panic, oops or BUG.
        line: String,
        /// Output of the kernel.
        kernel_log: String,
    },
    /// The guest ended before its script, or before it could start the script.
    #[error(
        "the guest ended without an exit code ({status}); script output:\n{output}\nkernel log:\n{kernel_log}"
    )]
    NoExitCode {
        /// End of the guest's process.
        status: String,
        /// Output of the script up to then.
        output: String,
        /// Output of the kernel.
        kernel_log: String,
    },
}

/// Prints the same as [`Display`](std::fmt::Display): tests unwrap these errors, and the log of a
/// kernel is unreadable as one escaped line.
impl std::fmt::Debug for GuestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self}")
    }
}

/// Returns the end of a kernel's log, as far as a message needs it.
fn log_end(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let left_out = lines.len().saturating_sub(40);
    let end = lines.get(left_out..).unwrap_or_default().join("\n");
    format!("kernel log, without its first {left_out} lines:\n{end}")
}

impl GuestError {
    pub(super) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}
