//! The sandbox of a command: its plan, and the work of the supervisor.

use super::args::InodeHandlesArg;
use super::config::{ShareSettings, ShareSource};
use super::report;
use crate::passthrough::{self, InodeHandles, Surroundings};
use crate::sandbox::{Confined, Isolation, Layers, Plan, SandboxError, ServingExit, UnconfinedSupervisor};
use crate::sys::process;
use crate::transport::vhost_user::SocketName;
use pinhole_policy::{Facilities, Policy};
use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGKILL, SIGSEGV, SIGSYS, SIGTERM};
use std::io;
use std::path::PathBuf;

/// The exit status of a failed process.
const FAILURE: u8 = 1;

/// Makes the plan of the sandbox. `besides`: additions of the transport and the log.
pub(super) fn plan(share: &ShareSettings, policy: &Policy, besides: Facilities) -> Plan {
    Plan {
        isolation: share.sandbox.isolation,
        id_maps: share.sandbox.id_maps.clone(),
        share: match &share.source {
            ShareSource::Directory(path) => Some(path.clone()),
            ShareSource::Prepared(_) => None,
        },
        reach: policy.granted_anywhere(),
        read_only: policy.is_read_only(),
        facilities: facilities(share) | besides,
        capabilities: share.sandbox.capabilities,
        forbidden: share.sandbox.forbidden,
        file_size: policy.limits().file_size,
        layers: Layers::all(),
        required: share.sandbox.required,
    }
}

/// Returns whether the process has the rights of the host's root. The root of a user namespace does
/// not have them.
fn is_root(share: &ShareSettings) -> bool {
    let own_users = share.sandbox.isolation == Isolation::Namespace && share.sandbox.id_maps.are_given();
    rustix::process::geteuid().is_root() && !own_users
}

fn facilities(share: &ShareSettings) -> Facilities {
    // An image has its own attributes, and no file of the host is used as a guest's user.
    let is_directory = matches!(share.source, ShareSource::Directory(_));
    let identity = is_directory && (is_root(share) || share.sandbox.id_maps.have_root());
    let rows = [
        (Facilities::HANDLES, is_directory && inode_handles(share) != InodeHandles::Never),
        (Facilities::XATTR, is_directory && share.xattr),
        (Facilities::ACL, is_directory && share.posix_acl),
        (Facilities::IDENTITY, identity),
        (Facilities::NOATIME, share.noatime),
        (Facilities::DEBUG, cfg!(debug_assertions)),
        (Facilities::PREPARED, !is_directory),
    ];
    rows.into_iter().filter(|(_, wanted)| *wanted).fold(Facilities::empty(), |all, (one, _)| all | one)
}

/// Returns the use of inode handles: only the host's root can open files by handle.
pub(super) fn inode_handles(share: &ShareSettings) -> InodeHandles {
    match share.inode_handles {
        InodeHandlesArg::Mandatory => InodeHandles::Mandatory,
        InodeHandlesArg::Prefer if is_root(share) => InodeHandles::Prefer,
        InodeHandlesArg::Prefer | InodeHandlesArg::Never => InodeHandles::Never,
    }
}

/// Lets threads keep their capabilities when they act as the guest's users. Called before rights
/// are given up.
pub(super) fn keep_capabilities(facilities: Facilities) -> Result<(), SandboxError> {
    if !facilities.contains(Facilities::IDENTITY) {
        return Ok(());
    }
    let what = "capabilities of threads that act as the guest's users";
    passthrough::keep_capabilities().map_err(|error| SandboxError::Rights { what, source: error.into() })
}

/// Logs the features of the sandbox that this host does not have.
pub(super) fn log_missing(confined: &Confined) {
    for feature in &confined.missing {
        tracing::warn!("sandbox: {feature}");
    }
}

/// Returns the surroundings of a passthrough file system. The calling thread confines itself with
/// the same setup, last of all.
///
/// # Errors
/// The sandbox was made without a shared directory.
pub(super) fn surroundings(confined: Confined, facilities: Facilities) -> Result<Surroundings, SandboxError> {
    let Confined { places, threads, missing: _ } = confined;
    let lost = || SandboxError::Share { path: PathBuf::new(), source: io::ErrorKind::NotFound.into() };
    let as_users = facilities.contains(Facilities::IDENTITY);
    Ok(Surroundings { root: places.share.ok_or_else(lost)?, proc_fds: places.proc_fds, as_users, threads })
}

/// Waits for the end of the serving process, removes the socket, and ends in the same way. Does not
/// return, because the end of `main` takes system calls that the supervisor's filter forbids.
pub(super) fn supervise(supervisor: UnconfinedSupervisor, name: &SocketName) -> ! {
    let serving = supervisor.serving().as_raw_pid();
    let supervisor = match supervisor.confine() {
        Ok(supervisor) => supervisor,
        Err(error) => {
            name.remove();
            report::problem(format_args!("cannot give up rights of the supervisor: {error}"));
            process::end(FAILURE);
        }
    };
    let ended = supervisor.watch();
    name.remove();
    match &ended {
        Ok(ServingExit::Status(_)) => {}
        Ok(ServingExit::Signal(signal)) => log_signal(serving, *signal),
        Err(error) => report::problem(error),
    }
    supervisor.end_as(ended.unwrap_or(ServingExit::Status(FAILURE)))
}

/// Logs the signal that has ended the serving process, and what to do next.
fn log_signal(serving: i32, signal: i32) {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal without a name");
    let cause = explained(serving, signal);
    match signal {
        SIGTERM | SIGINT => tracing::info!("the serving process {serving} was ended by {name}"),
        _ => tracing::error!("the serving process {serving} was ended by {name}{cause}"),
    }
}

/// Explains a signal that has ended the serving process. Only the kernel's log and a tracer have
/// the number of a forbidden call.
fn explained(serving: i32, signal: i32) -> String {
    match signal {
        SIGSYS => format!(
            ": it made a system call that the policy does not need. The kernel's log has the call's number \
             (`journalctl -k --grep 'type=1326.* pid={serving} '`, or `ausearch -m SECCOMP -p {serving}`): please report \
             it. --seccomp log lets such calls pass"
        ),
        SIGABRT => {
            ": it aborted, because it ran out of memory or could not catch a panic; the line before this one \
                    says which"
                .to_owned()
        }
        SIGBUS => ": a bug in the daemon, or the VMM has truncated the file of its memory".to_owned(),
        SIGSEGV => ": a bug in the daemon, or a stack that has overflowed; please report it".to_owned(),
        SIGILL | SIGFPE => ": a bug in the daemon; please report it".to_owned(),
        SIGKILL => ": by another process, or because the host or its cgroup was out of memory".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_call_names_the_log_with_its_number() {
        let text = explained(4711, SIGSYS);
        assert!(text.contains("'type=1326.* pid=4711 '") && text.contains("--seccomp log"), "{text}");
    }
}
