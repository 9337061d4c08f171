//! The walls around what is built: what they are made for, and who waits outside.

use super::args;
use super::config::Share;
use super::report;
use crate::passthrough::{self, Surroundings};
use crate::sandbox::{
    Confined, Ended, Isolation, Layers, MissingFeature, Plan, SandboxError, UnconfinedSupervisor,
};
use crate::sys::process;
use crate::thread_setup::ThreadSetup;
use crate::transport::vhost_user::SocketName;
use pinhole_policy::{Facilities, Policy};
use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGKILL, SIGSEGV, SIGSYS, SIGTERM};
use std::io;

/// The status of a process that could not do what it was started for.
const FAILURE: u8 = 1;

/// What the walls are made for. `besides`: what the transport and the log add.
pub(super) fn plan(share: &Share, policy: &Policy, besides: Facilities) -> Plan {
    Plan {
        isolation: share.sandbox.isolation,
        id_maps: share.sandbox.id_maps.clone(),
        share: share.directory.clone(),
        reach: policy.reach(),
        read_only: policy.is_read_only(),
        facilities: facilities(share) | besides,
        capabilities: share.sandbox.capabilities,
        forbidden: share.sandbox.forbidden,
        file_size: policy.limits().file_size,
        layers: Layers::all(),
        required: share.sandbox.required,
    }
}

/// Whether the process has the rights of the host's root; those of a user namespace's do not go as far.
fn is_root(share: &Share) -> bool {
    let own_users = share.sandbox.isolation == Isolation::Namespace && share.sandbox.id_maps.are_given();
    rustix::process::geteuid().is_root() && !own_users
}

fn facilities(share: &Share) -> Facilities {
    let identity = is_root(share) || share.sandbox.id_maps.have_root();
    let rows = [
        (Facilities::HANDLES, file_handles(share) != args::FileHandles::Never),
        (Facilities::XATTR, share.xattr),
        (Facilities::ACL, share.posix_acl),
        (Facilities::IDENTITY, identity),
        (Facilities::NOATIME, share.noatime),
        (Facilities::DEBUG, cfg!(debug_assertions)),
    ];
    rows.into_iter().filter(|(_, wanted)| *wanted).fold(Facilities::empty(), |all, (one, _)| all | one)
}

/// Whether file handles are used: only the host's root finds files by them.
pub(super) fn file_handles(share: &Share) -> args::FileHandles {
    match share.file_handles {
        args::FileHandles::Prefer if !is_root(share) => args::FileHandles::Never,
        wanted @ (args::FileHandles::Never | args::FileHandles::Prefer | args::FileHandles::Mandatory) => {
            wanted
        }
    }
}

/// Before rights are given up: lets threads keep the rest of them when they act as the guest's users.
pub(super) fn keep_capabilities(facilities: Facilities) -> Result<(), SandboxError> {
    if !facilities.contains(Facilities::IDENTITY) {
        return Ok(());
    }
    let what = "capabilities of threads that act as the guest's users";
    passthrough::keep_capabilities().map_err(|error| SandboxError::Rights { what, source: error.into() })
}

/// Returns what the file system gets from the process around it. The calling thread confines itself
/// with the same setup, last of all.
pub(super) fn surroundings(confined: Confined, facilities: Facilities) -> io::Result<Surroundings> {
    let Confined { places, filters, missing } = confined;
    say(&missing);
    let threads = ThreadSetup::new(places.proc_fds.try_clone()?, move |kind| filters.install(kind));
    let as_users = facilities.contains(Facilities::IDENTITY);
    Ok(Surroundings { root: places.root, proc_fds: places.proc_fds, as_users, threads })
}

/// Says what of the walls this host does not have.
pub(super) fn say(missing: &[MissingFeature]) {
    for lack in missing {
        tracing::warn!("sandbox: {lack}");
    }
}

/// Waits outside until the process inside has ended, removes the socket, and ends as that did. It does not return, because
/// the end of `main` takes system calls that the supervisor's filter forbids.
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
        Ok(Ended::Status(_)) => {}
        Ok(Ended::Signal(signal)) => tell(serving, *signal),
        Err(error) => report::problem(error),
    }
    supervisor.end_as(ended.unwrap_or(Ended::Status(FAILURE)))
}

/// Says by which signal the process that served has ended, and what to do next.
fn tell(serving: i32, signal: i32) {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal without a name");
    match signal {
        SIGTERM | SIGINT => tracing::info!("the serving process {serving} was ended by {name}"),
        _ => {
            tracing::error!(
                "the serving process {serving} was ended by {name}{}",
                explained(serving, signal)
            );
        }
    }
}

/// What is known of a signal that ends a process which did not ask for it. The number of a forbidden call is in the
/// kernel's log alone: only a tracer could have it from the process.
fn explained(serving: i32, signal: i32) -> String {
    match signal {
        SIGSYS => format!(
            ": it made a system call that the policy does not need. The kernel's log has the call's number \
             (`journalctl -k --grep 'type=1326.* pid={serving} '`, or `ausearch -m SECCOMP -p {serving}`): please report \
             it. --seccomp log lets such calls pass"
        ),
        SIGABRT => ": it gave up, because memory could not be had or a panic could not be caught; the line before this \
                    one says which"
            .to_owned(),
        SIGBUS => ": a fault in the daemon, or memory of the VMM whose file was cut short".to_owned(),
        SIGSEGV => ": a fault in the daemon, or a stack that has overflowed; please report it".to_owned(),
        SIGILL | SIGFPE => ": a fault in the daemon; please report it".to_owned(),
        SIGKILL => ": by another process, or because the host or its cgroup was out of memory".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_call_is_explained_with_where_its_number_is() {
        let text = explained(4711, SIGSYS);
        assert!(text.contains("'type=1326.* pid=4711 '") && text.contains("--seccomp log"), "{text}");
    }
}
