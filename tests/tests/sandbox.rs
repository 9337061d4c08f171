//! Does each wall around the daemon hold, and does it hold by itself? A program enters the daemon's own sandbox as the
//! daemon does and tries to get out, with the walls in front of the one in question left away, and at last with none,
//! which shows that the attempt is a real one. It acts on a canary in a folder of this test's.
#![cfg(test)]

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const ALL: &str = "namespace,capabilities,landlock,seccomp";
/// `killed` by SIGSYS: the filter.
const FILTER: &str = "killed 31";
const NO_ENTRY: &str = "errno 2";
const NOT_PERMITTED: &str = "errno 1";
const NO_PROCESS: &str = "errno 3";
const DENIED: &str = "errno 13";
const READ_ONLY: &str = "errno 30";
const STALE: &str = "errno 116";
const UNREACHABLE: &str = "errno 101";
const REFUSED: &str = "errno 111";
const DONE: &str = "done";

/// A share, and a canary beside it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "run `sudo -E cargo xtask test`");
        let folder = tempfile::Builder::new().prefix("pinhole-sandbox-").tempdir().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::write(folder.path().join("share/foreign"), "f").unwrap();
        std::os::unix::fs::chown(folder.path().join("share/foreign"), Some(1), Some(1)).unwrap();
        fs::write(folder.path().join("canary"), "c").unwrap();
        Self { folder }
    }

    fn canary(&self) -> PathBuf {
        self.folder.path().join("canary")
    }

    /// What becomes of an attempt of a thread under a profile, within these walls.
    fn tried(&self, attempt: &str, profile: &str, thread: &str, (isolation, walls): (&str, &str)) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intruder"));
        command.arg(self.folder.path().join("share")).arg(self.canary());
        command.args([profile, isolation, walls, thread, attempt]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(!said.is_empty(), "{attempt}: {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The same of a worker under `share`.
    fn outcome(&self, attempt: &str, walls: &str) -> String {
        self.tried(attempt, "share", "worker", ("namespace", walls))
    }

    #[track_caller]
    fn check(&self, attempt: &str, rows: &[(&str, &str)]) {
        for (walls, expected) in rows {
            assert_eq!(&self.outcome(attempt, walls), expected, "{attempt} within {walls}");
        }
    }
}

#[test]
fn a_path_leads_nowhere_outside() {
    Place::new().check(
        "path",
        &[
            (ALL, FILTER),
            ("namespace,capabilities,landlock", NO_ENTRY),
            ("capabilities,landlock", DENIED),
            ("no", DONE),
        ],
    );
}

#[test]
fn there_is_no_way_up() {
    Place::new().check(
        "dot-dot",
        &[(ALL, NO_ENTRY), ("capabilities,landlock,seccomp", DENIED), ("landlock", DENIED), ("no", DONE)],
    );
}

/// The clone of `/proc/self/fd` is attached nowhere, whatever else there is.
#[test]
fn proc_is_no_way_out() {
    Place::new().check("proc", &[(ALL, NO_ENTRY), ("capabilities,landlock", NO_ENTRY), ("no", NO_ENTRY)]);
}

#[test]
fn a_handle_of_another_mount_opens_nothing() {
    let place = Place::new();
    let mount = place.folder.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "canary"]).arg(&mount).status().unwrap();
    assert!(mounted.success(), "mounting a tmpfs needs root");
    fs::write(mount.join("canary"), "c").unwrap();
    let canary = mount.join("canary");
    let tried = |walls: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intruder"));
        command.arg(place.folder.path().join("share")).arg(&canary);
        command.args(["share", "namespace", walls, "worker", "handle"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let outcomes = [tried(ALL), tried("namespace")];
    drop(Command::new("umount").arg("--lazy").arg(&mount).status());
    assert_eq!(outcomes, [STALE, STALE]);
}

#[test]
fn nothing_is_executed() {
    Place::new()
        .check("exec", &[(ALL, FILTER), ("namespace,capabilities,landlock", NO_ENTRY), ("landlock", DENIED)]);
}

#[test]
fn nothing_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let attempt = format!("connect={}", listener.local_addr().unwrap());
    Place::new()
        .check(&attempt, &[(ALL, FILTER), ("namespace", UNREACHABLE), ("landlock", DENIED), ("no", DONE)]);
    let name = format!("pinhole-sandbox-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    Place::new().check(
        &format!("connect-abstract={name}"),
        &[(ALL, FILTER), ("namespace", REFUSED), ("landlock", NOT_PERMITTED), ("no", DONE)],
    );
}

#[test]
fn the_keeper_is_neither_looked_into_nor_signalled() {
    let place = Place::new();
    place.check(
        "ptrace",
        &[
            (ALL, FILTER),
            ("namespace", NO_PROCESS),
            ("landlock", NOT_PERMITTED),
            ("capabilities", NOT_PERMITTED),
        ],
    );
    place.check(
        "kill",
        &[(ALL, FILTER), ("namespace", NO_PROCESS), ("landlock", NOT_PERMITTED), ("no", DONE)],
    );
}

#[test]
fn nothing_is_mounted_and_nothing_unshared() {
    let place = Place::new();
    place.check(
        "mount",
        &[(ALL, FILTER), ("landlock", NOT_PERMITTED), ("capabilities", NOT_PERMITTED), ("no", DONE)],
    );
    place.check("unshare", &[(ALL, FILTER), ("capabilities", NOT_PERMITTED), ("no", DONE)]);
}

/// Only the filter sees what is mapped.
#[test]
fn no_memory_is_made_executable() {
    Place::new().check(
        "execute-memory",
        &[(ALL, FILTER), ("seccomp", FILTER), ("namespace,capabilities,landlock", DONE)],
    );
}

/// Landlock does not look at modes: there the read-only mount and the missing capability stand. The filter does not see
/// the flags of an open: there the mount and Landlock do.
#[test]
fn nothing_changes_in_a_read_only_share() {
    let place = Place::new();
    for (walls, chmod, create) in [
        (ALL, FILTER, READ_ONLY),
        ("namespace", READ_ONLY, READ_ONLY),
        ("capabilities", NOT_PERMITTED, DONE),
        ("seccomp", FILTER, DONE),
        ("landlock", DONE, DENIED),
        ("no", DONE, DONE),
    ] {
        let tried = |attempt| place.tried(attempt, "rootfs", "worker", ("namespace", walls));
        assert_eq!(tried("chmod"), chmod, "chmod within {walls}");
        assert_eq!(tried("create"), create, "create within {walls}");
        drop(fs::remove_file(place.folder.path().join("share/new")));
    }
}

#[test]
fn every_kind_of_thread_under_every_profile_and_isolation_is_held() {
    let place = Place::new();
    for profile in ["full", "share", "rootfs"] {
        for thread in ["control", "worker", "offload"] {
            for attempt in
                ["path", "exec", "connect=127.0.0.1:1", "mount", "unshare", "kill", "execute-memory"]
            {
                for isolation in ["namespace", "chroot", "none"] {
                    let outcome = place.tried(attempt, profile, thread, (isolation, ALL));
                    assert_eq!(outcome, FILTER, "{attempt} of {thread} under {profile} in {isolation}");
                }
            }
        }
    }
}
