//! Does each layer of the sandbox hold by itself?
//!
//! A program enters the daemon's own sandbox as the daemon does, and tries to escape: with all
//! layers, with each layer alone, and with none. The last case shows that the attempt is real. It
//! acts on a canary in a folder of the test.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// All layers.
const ALL: &str = "namespace,capabilities,landlock,seccomp";
/// Isolation and layers of each attempt: all layers with each isolation, each layer alone, and
/// none. Namespaces and the root directory of `chroot` are two forms of one layer.
const WITHIN: [(&str, &str); 9] = [
    ("namespace", ALL),
    ("chroot", ALL),
    ("none", ALL),
    ("namespace", "namespace"),
    ("chroot", "namespace"),
    ("none", "capabilities"),
    ("none", "landlock"),
    ("none", "seccomp"),
    ("none", "no"),
];
/// Value of `--inode-file-handles`. `prefer` is the default of root.
const PREFER: &str = "prefer";
const NEVER: &str = "never";
/// Outcome of an attempt that the filter ends by SIGSYS.
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

/// Share, and a canary beside it.
struct SandboxPlace {
    folder: TempDir,
}

impl SandboxPlace {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "run `sudo -E cargo xtask test`");
        let folder = tempfile::Builder::new().prefix("pinhole-sandbox-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::write(folder.path().join("share/foreign"), "f").unwrap();
        std::os::unix::fs::chown(folder.path().join("share/foreign"), Some(1), Some(1)).unwrap();
        fs::write(folder.path().join("canary"), "c").unwrap();
        Self { folder }
    }

    /// Returns the path of the canary.
    fn canary(&self) -> PathBuf {
        self.folder.path().join("canary")
    }

    /// Returns the outcome of an attempt of a thread under a profile, with these layers.
    fn outcome_of_attempt(
        &self,
        attempt: &str,
        (profile, handles): (&str, &str),
        thread: &str,
        within: (&str, &str),
    ) -> String {
        let intruder = Command::new(env!("CARGO_BIN_EXE_intruder"));
        self.outcome(intruder, [profile, handles, within.0, within.1, thread, attempt])
    }

    /// Runs the program `intruder` with these arguments and returns the outcome of its attempt.
    fn outcome(&self, mut intruder: Command, words: [&str; 6]) -> String {
        intruder.arg(self.folder.path().join("share")).arg(self.canary()).args(words);
        let output = intruder.stdin(Stdio::null()).output().unwrap();
        drop(fs::remove_file(self.folder.path().join("share/new")));
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // The supervisor cannot report its own end.
        if let (true, Some(signal)) = (said.is_empty(), output.status.signal()) {
            return format!("killed {signal}");
        }
        assert!(!said.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Checks the outcome of a queue thread's attempt with each of [`WITHIN`].
    #[track_caller]
    fn check(&self, attempt: &str, (profile, handles): (&str, &str), expected: [&str; 9]) {
        let outcomes =
            WITHIN.map(|within| self.outcome_of_attempt(attempt, (profile, handles), "queue", within));
        assert_eq!(
            outcomes, expected,
            "{attempt} under {profile}, file handles: {handles}, within {WITHIN:?}"
        );
    }
}

/// Checks an attempt that does not depend on inode handles.
#[track_caller]
fn check(attempt: &str, expected: [&str; 9]) {
    let place = SandboxPlace::new();
    place.check(attempt, ("share", PREFER), expected);
    place.check(attempt, ("share", NEVER), expected);
}

/// If root uses inode handles, Landlock does not restrict opens, unless the share is a mount of the
/// daemon's own.
#[test]
fn a_path_leads_nowhere_outside() {
    let place = SandboxPlace::new();
    let [ns, chroot] = [NO_ENTRY; 2];
    let expected = |landlock| [FILTER, FILTER, FILTER, ns, chroot, DONE, landlock, FILTER, DONE];
    place.check("path", ("share", NEVER), expected(DENIED));
    place.check("path", ("share", PREFER), expected(DONE));
}

/// A filter does not see where `openat2` leads. So with inode handles and `--sandbox none`, the
/// daemon of root can reach files outside, which it reports at the start.
#[test]
fn there_is_no_way_up() {
    let place = SandboxPlace::new();
    let expected = |landlock| [NO_ENTRY, NO_ENTRY, landlock, NO_ENTRY, NO_ENTRY, DONE, landlock, DONE, DONE];
    place.check("dot-dot", ("share", NEVER), expected(DENIED));
    place.check("dot-dot", ("share", PREFER), expected(DONE));
}

/// The clone of `/proc/self/fd` is not attached to any directory, so `..` leads nowhere. The daemon
/// of a plain user without a namespace cannot make such a clone. Landlock then closes that path,
/// see `a_plain_user_gets_out_no_more_than_root_does`.
#[test]
fn proc_is_no_way_out() {
    check("proc", [NO_ENTRY; 9]);
}

/// No layer stops an invented inode handle of the share's own file system. Decision 0009 records
/// that.
#[test]
fn inode_handle_reaches_outside_only_where_handles_are_used() {
    let place = SandboxPlace::new();
    place.check("handle", ("share", PREFER), [DONE; 9]);
    place.check(
        "handle",
        ("share", NEVER),
        [FILTER, FILTER, FILTER, DONE, DONE, NOT_PERMITTED, DENIED, FILTER, DONE],
    );
}

/// The kernel resolves an inode handle only on the file system of the share, so no layer is needed.
#[test]
fn a_handle_of_another_file_system_is_stale() {
    let place = SandboxPlace::new();
    let mount = place.folder.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "canary"]).arg(&mount).status().unwrap();
    assert!(mounted.success(), "mounting a tmpfs needs root");
    fs::write(mount.join("canary"), "c").unwrap();
    let canary = mount.join("canary");
    let outcome = |layers: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intruder"));
        command.arg(place.folder.path().join("share")).arg(&canary);
        command.args(["share", PREFER, "namespace", layers, "queue", "handle"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let outcomes = [outcome(ALL), outcome("namespace"), outcome("no")];
    drop(Command::new("umount").arg("--lazy").arg(&mount).status());
    assert_eq!(outcomes, [STALE, STALE, STALE]);
}

#[test]
fn exec_is_impossible() {
    check("exec", [FILTER, FILTER, FILTER, NO_ENTRY, NO_ENTRY, DONE, DENIED, FILTER, DONE]);
}

#[test]
fn connect_is_impossible() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let attempt = format!("connect={}", listener.local_addr().unwrap());
    check(&attempt, [FILTER, FILTER, FILTER, UNREACHABLE, DONE, DONE, DENIED, FILTER, DONE]);
    let name = format!("pinhole-sandbox-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let attempt = format!("connect-abstract={name}");
    check(&attempt, [FILTER, FILTER, FILTER, REFUSED, DONE, DONE, NOT_PERMITTED, FILTER, DONE]);
}

#[test]
fn supervisor_is_neither_traced_nor_signaled() {
    let (pid, own) = (NO_PROCESS, NOT_PERMITTED);
    check("ptrace", [FILTER, FILTER, FILTER, pid, DONE, NOT_PERMITTED, own, FILTER, DONE]);
    check("kill", [FILTER, FILTER, FILTER, pid, DONE, DONE, own, FILTER, DONE]);
}

#[test]
fn mount_and_unshare_are_impossible() {
    check("mount", [FILTER, FILTER, FILTER, DONE, DONE, NOT_PERMITTED, NOT_PERMITTED, FILTER, DONE]);
    check("unshare", [FILTER, FILTER, FILTER, DONE, DONE, NOT_PERMITTED, DONE, FILTER, DONE]);
}

/// Only the filter sees the protection of a mapping.
#[test]
fn no_memory_is_made_executable() {
    check("execute-memory", [FILTER, FILTER, FILTER, DONE, DONE, DONE, DONE, FILTER, DONE]);
}

/// Landlock does not restrict chmod. The read-only mount, the missing capability and the filter do.
/// The filter does not see the flags of `openat2`, so the mount and Landlock protect the content of
/// files. Landlock protects an existing file only if it restricts opens.
#[test]
fn read_only_share_cannot_be_changed() {
    let place = SandboxPlace::new();
    for (handles, landlock) in [(NEVER, DENIED), (PREFER, DONE)] {
        let rootfs = ("rootfs", handles);
        place.check(
            "chmod",
            rootfs,
            [FILTER, FILTER, FILTER, READ_ONLY, DONE, NOT_PERMITTED, DONE, FILTER, DONE],
        );
        place.check("create", rootfs, [READ_ONLY, DENIED, DENIED, READ_ONLY, DONE, DONE, DENIED, DONE, DONE]);
        let writing = place.folder.path().join("share/foreign");
        fs::set_permissions(&writing, fs::Permissions::from_mode(0o666)).unwrap();
        place.check(
            "write",
            rootfs,
            [READ_ONLY, landlock, landlock, READ_ONLY, DONE, DONE, landlock, DONE, DONE],
        );
    }
}

/// The daemon installs its own filters without flags. A flag would install a filter for all
/// threads, or one whose listener answers in place of the kernel.
#[test]
fn a_filter_with_flags_is_not_installed() {
    let place = SandboxPlace::new();
    let outcome =
        |within| place.outcome_of_attempt("filter-with-flags", ("share", PREFER), "control", within);
    assert_eq!(outcome(("namespace", ALL)), FILTER);
    assert_eq!(outcome(("none", "seccomp")), FILTER);
    assert_eq!(outcome(("none", "no")), DONE);
}

/// The supervisor is in the host's own namespaces, so only its filter prevents these attempts.
/// Without the filter, each is possible.
#[test]
fn the_supervisor_is_held_by_its_filter() {
    let place = SandboxPlace::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!("connect={}", listener.local_addr().unwrap());
    for attempt in ["path", "exec", &connect, "kill", "execute-memory"] {
        let outcome = |within| place.outcome_of_attempt(attempt, ("share", PREFER), "supervisor", within);
        let outcomes = [("namespace", ALL), ("none", "seccomp"), ("none", "no")].map(outcome);
        assert_eq!(outcomes, [FILTER, FILTER, DONE], "{attempt}");
    }
}

/// A plain user's user namespace is one more layer, and the user's own limits remain.
#[test]
fn a_plain_user_gets_out_no_more_than_root_does() {
    let place = SandboxPlace::new();
    let intruder = place.folder.path().join("intruder");
    // Another process makes the copy. If this process wrote it, a child that another test starts
    // could have it open for writing, and the kernel would refuse to execute it (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_intruder")).arg(&intruder).status().unwrap();
    assert!(copied.success());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!("connect={}", listener.local_addr().unwrap());
    // All layers; each of two alone; none.
    let within = [("namespace", ALL), ("namespace", "namespace"), ("none", "landlock"), ("none", "no")];
    for (attempt, expected) in [
        ("path", [FILTER, NO_ENTRY, DENIED, DONE]),
        ("dot-dot", [NO_ENTRY, NO_ENTRY, DENIED, DONE]),
        ("proc", [NO_ENTRY, NO_ENTRY, DENIED, DONE]),
        ("handle", [FILTER, NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED]),
        ("exec", [FILTER, NO_ENTRY, DENIED, DONE]),
        (&connect, [FILTER, UNREACHABLE, DENIED, DONE]),
        ("kill", [FILTER, NO_PROCESS, NOT_PERMITTED, DONE]),
        ("ptrace", [FILTER, NO_PROCESS, NOT_PERMITTED, NOT_PERMITTED]),
        ("mount", [FILTER, DONE, NOT_PERMITTED, NOT_PERMITTED]),
        ("unshare", [FILTER, DONE, NOT_PERMITTED, NOT_PERMITTED]),
        ("execute-memory", [FILTER, DONE, DONE, DONE]),
        ("chmod", [NOT_PERMITTED; 4]),
    ] {
        let outcomes = within.map(|(isolation, layers)| {
            let mut plain = Command::new("setpriv");
            plain.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&intruder);
            place.outcome(plain, ["share", NEVER, isolation, layers, "queue", attempt])
        });
        assert_eq!(outcomes, expected, "{attempt} within {within:?}");
    }
}

#[test]
fn filter_holds_every_thread_under_every_profile_and_isolation() {
    let place = SandboxPlace::new();
    for profile in ["full", "share", "rootfs"] {
        for thread in ["control", "queue", "offload", "supervisor"] {
            for attempt in
                ["path", "exec", "connect=127.0.0.1:1", "mount", "unshare", "kill", "execute-memory"]
            {
                for isolation in ["namespace", "chroot", "none"] {
                    let outcome =
                        place.outcome_of_attempt(attempt, (profile, PREFER), thread, (isolation, ALL));
                    assert_eq!(outcome, FILTER, "{attempt} of {thread} under {profile} in {isolation}");
                }
            }
        }
    }
}
