//! The errors of a guest.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What may go wrong between a description of a guest and its script's exit code.
#[derive(thiserror::Error)]
pub enum GuestError {
    /// A piece of the guest is not on this machine.
    #[error("{path} is missing; run `{command}` to fetch it")]
    Missing {
        /// The file or folder looked for.
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
    /// The time limit passed; everything that the guest started has been killed.
    #[error(
        "the guest was killed after {limit:?}; its script had printed:\n{output}\nkernel log:\n{kernel_log}"
    )]
    TimeLimit {
        /// The limit that passed.
        limit: Duration,
        /// What the script had printed until then.
        output: String,
        /// What the kernel had printed until then.
        kernel_log: String,
    },
    /// The kernel printed a panic, an oops or a BUG.
    #[error("the guest kernel failed: {line}\n{}", log_end(.kernel_log))]
    Kernel {
        /// The first line that says so.
        line: String,
        /// Everything that the kernel printed.
        kernel_log: String,
    },
    /// The guest ended before its script did, or before it could start it.
    #[error(
        "the guest ended without an exit code ({status}); script output:\n{output}\nkernel log:\n{kernel_log}"
    )]
    NoExitCode {
        /// How the guest's process ended.
        status: String,
        /// What the script had printed until then.
        output: String,
        /// What the kernel had printed.
        kernel_log: String,
    },
}

/// Same as [`Display`](std::fmt::Display): tests unwrap these errors, and the log of a kernel is
/// unreadable as one escaped line.
impl std::fmt::Debug for GuestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self}")
    }
}

/// The end of a kernel's log, as far as a message needs it.
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
