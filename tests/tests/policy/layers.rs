//! Does the daemon have the sandbox layers that its command line selects: as root, as a plain user,
//! and on a host that lacks one?
//!
//! The module `sandbox` tests whether each layer holds.

use pinhole_tests::daemon::{pinhole_program, serving_id};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{CREATE, GETATTR, LOOKUP};
use pinhole_tests::frontend::{Frontend, OUT_HEADER_LEN};
use pinhole_tests::linux::ROOT;
use pinhole_tests::program::{Program, run};
use rustix::io::FdFlags;
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Line of a daemon that is ready.
const READY: &str = "Waiting for vhost-user socket connection...\n";
/// User and group of the plain user.
const NOBODY: u32 = 65_534;
/// Upper bound on the time until a daemon ends.
const LIMIT: Duration = Duration::from_secs(20);
/// Kinds of namespaces, as bits of unshare(2).
const NEWCGROUP: u64 = 0x0200_0000;
const NEWUTS: u64 = 0x0400_0000;
const NEWIPC: u64 = 0x0800_0000;
const NEWNET: u64 = 0x4000_0000;

/// Share, a canary beside it and a path for a socket, all owned by a plain user, and a copy of the
/// program that every user can run.
struct LayerPlace {
    folder: TempDir,
}

impl LayerPlace {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "run `sudo -E cargo xtask test`");
        let folder = tempfile::Builder::new().prefix("pinhole-layers-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["share", "run", "mnt"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            chown(folder.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::write(folder.path().join("canary"), "c").unwrap();
        // Another process makes the copy. If this process wrote it, a child that another test
        // starts could have it open for writing, and the kernel would refuse to execute it
        // (ETXTBSY).
        let mut copy = Command::new("cp");
        copy.arg(pinhole_program().unwrap()).arg(folder.path().join("pinhole"));
        assert!(copy.status().unwrap().success());
        Self { folder }
    }

    /// Returns the path of a name in the folder.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the command `pinhole` with these words, in which DIR, MNT and SOCK are replaced,
    /// started through the command in `before`.
    fn command(&self, before: &[&str], words: &str) -> Command {
        let fill = |word: &str| {
            let named = [("DIR", "share"), ("MNT", "mnt"), ("SOCK", "run/socket")];
            named
                .iter()
                .find(|(mark, _)| word == *mark)
                .map_or_else(|| word.into(), |(_, name)| self.path(name))
        };
        let all = before.iter().map(PathBuf::from).chain([self.path("pinhole")]);
        let mut all = all.chain(words.split_whitespace().map(fill));
        let mut command = Command::new(all.next().unwrap());
        command.args(all);
        command
    }

    /// Starts a daemon for the share and waits until it is ready.
    fn start(&self, before: &[&str], words: &str) -> Program {
        let words = format!("--shared-dir DIR --socket-path SOCK {words}");
        let mut program = Program::start(&mut self.command(before, &words)).unwrap();
        program.wait_for(READY).unwrap();
        program
    }

    /// Connects as a guest that mounts the share, makes a file and finds it.
    fn visit(&self, name: &str) -> Frontend {
        let mut guest = Frontend::connect(&self.path("run/socket")).unwrap();
        guest.init().unwrap();
        let create = Frame::new(CREATE, ROOT).u32(2).u32(0o100_644).u32(0).u32(0).name(name).message();
        guest.raw(1, &create, OUT_HEADER_LEN + 128 + 16).unwrap().success().unwrap();
        let lookup = Frame::new(LOOKUP, ROOT).name(name).message();
        guest.raw(1, &lookup, OUT_HEADER_LEN + 128).unwrap().success().unwrap();
        guest
    }
}

/// Returns the rest of a line, after its name, of a file in the serving process's folder of /proc.
fn proc_value(program: &Program, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/{file}", serving_id(program.id()))).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the identity of a process's namespace of this kind.
fn namespace(process: &str, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap()
}

/// A plain user's daemon makes its user namespace by itself, with its own id mapped to itself or to
/// root.
#[test]
fn a_plain_users_daemon_serves_from_namespaces_of_its_own() {
    for maps in ["", "--uid-map :0:65534:1: --gid-map :0:65534:1:"] {
        let place = LayerPlace::new();
        let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut program = place.start(&setpriv, &format!("--require namespace,landlock,seccomp {maps}"));
        let guest = place.visit("made");
        let made = place.path("share/made").metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (NOBODY, NOBODY), "{maps}");
        let serving = serving_id(program.id()).to_string();
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_ne!(namespace(&serving, kind), namespace("self", kind), "{kind} {maps}");
        }
        let mounts = fs::read_to_string(format!("/proc/{serving}/mountinfo")).unwrap();
        let [mount] = mounts.lines().collect::<Vec<_>>()[..] else { panic!("{maps}: {mounts}") };
        assert_eq!(mount.split(' ').nth(4), Some("/"), "{mounts}");
        assert!(mount.contains("nosuid") && mount.contains("nodev"), "{mounts}");
        // From outside, the root directory of the serving process leads to the share.
        assert!(PathBuf::from(format!("/proc/{serving}/root/made")).exists(), "{maps}");
        assert_eq!(proc_value(&program, "status", "Uid:"), "65534 65534 65534 65534", "{maps}");
        assert_eq!(
            (proc_value(&program, "status", "NoNewPrivs:"), proc_value(&program, "status", "Seccomp:")),
            ("1".into(), "2".into())
        );
        drop(guest);
        assert_eq!(program.wait(LIMIT).unwrap().and_then(|end| end.code()), Some(0));
    }
}

/// Returns NoNewPrivs, Seccomp and Seccomp_filters from /proc/PID/status.
fn seccomp(process: u32) -> [String; 3] {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    ["NoNewPrivs:", "Seccomp:", "Seccomp_filters:"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    })
}

/// Filter and NoNewPrivs are in place before the daemon is ready, so before any guest connects.
#[test]
fn the_supervisor_has_a_filter_and_gains_no_privileges() {
    let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for (before, words, expected) in [
        (&[][..], "", ["1", "2", "1"]),
        (&setpriv[..], "", ["1", "2", "1"]),
        (&[], "--sandbox chroot", ["1", "2", "1"]),
        (&[], "--sandbox none --seccomp log", ["1", "2", "1"]),
        (&[], "--seccomp none", ["1", "0", "0"]),
    ] {
        let place = LayerPlace::new();
        let program = place.start(before, words);
        assert_ne!(program.id(), serving_id(program.id()));
        assert_eq!(seccomp(program.id()), expected, "{before:?} {words}");
    }
}

/// A supervisor that created its socket needs capabilities to remove it from a folder of any user.
/// If the socket was passed in, the supervisor needs only the capability to signal any process.
#[test]
fn the_supervisor_keeps_no_capability_that_it_does_not_need() {
    const DAC_OVERRIDE: u64 = 1 << 1;
    const FOWNER: u64 = 1 << 3;
    const KILL: u64 = 1 << 5;
    let kept = |program: &Program| {
        let text = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
        let set =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        ["CapPrm:", "CapEff:", "CapBnd:"].map(|name| u64::from_str_radix(&set(name), 16).unwrap())
    };
    let place = LayerPlace::new();
    let program = place.start(&[], "");
    let all = DAC_OVERRIDE | FOWNER | KILL;
    assert_eq!(kept(&program), [all, all, 0]);
    let place = LayerPlace::new();
    let listens = UnixListener::bind(place.path("run/socket")).unwrap();
    rustix::io::fcntl_setfd(&listens, FdFlags::empty()).unwrap();
    let words = format!("--shared-dir DIR --fd {}", listens.as_raw_fd());
    let mut program = Program::start(&mut place.command(&[], &words)).unwrap();
    program.wait_for(READY).unwrap();
    assert_eq!(kept(&program), [KILL, KILL, 0]);
    assert_eq!(seccomp(program.id()), ["1", "2", "1"]);
    drop(place.visit("made"));
    assert_eq!(program.wait(LIMIT).unwrap().and_then(|end| end.code()), Some(0));
}

/// A mount has NoNewPrivs, because root unmounts without another program. The main thread keeps the
/// capability to unmount.
#[test]
fn a_mount_of_root_gains_no_privileges() {
    let place = LayerPlace::new();
    let mut program = Program::start(&mut place.command(&[], "mount DIR MNT")).unwrap();
    program.wait_for("Mounted ").unwrap();
    let found = seccomp(program.id());
    assert_eq!(program.end_by(Signal::TERM).unwrap(), Some(0));
    assert_eq!(found[0], "1");
}

/// A filter around the daemon makes system calls fail, as on a kernel that lacks them.
#[test]
fn incomplete_required_layer_prevents_serving() {
    let unshare = |bits: u64| format!("unshare={bits}");
    for (lacking, layer, said) in [
        ("landlock_create_ruleset".to_owned(), "landlock", "no Landlock: this kernel has none"),
        (unshare(NEWNET), "namespace", "no namespace of its own for network"),
        (unshare(NEWIPC), "namespace", "no namespace of its own for ipc"),
        (unshare(NEWUTS), "namespace", "no namespace of its own for uts"),
        (unshare(NEWCGROUP), "namespace", "no namespace of its own for cgroup"),
        ("mount_setattr".to_owned(), "namespace", "read-only, nosuid, nodev"),
    ] {
        let place = LayerPlace::new();
        let without = [env!("CARGO_BIN_EXE_deny_syscall"), &lacking];
        let words = format!("--shared-dir DIR --socket-path SOCK --require {layer}");
        let ended = run(&mut place.command(&without, &words)).unwrap();
        assert_eq!(ended.code, Some(1), "{lacking}: {ended:?}");
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with(&format!("pinhole: --require {layer}: ")) && last.contains(said), "{last}");
        assert!(!ended.stderr.contains(READY) && !place.path("run/socket").exists(), "{lacking}");
        // If the layer is not required, the daemon reports that it is missing and serves.
        let others = if layer == "landlock" { "namespace,seccomp" } else { "landlock,seccomp" };
        let program = place.start(&without, &format!("--require {others}"));
        assert!(
            program.stderr().contains("sandbox: ") && program.stderr().contains(said),
            "{}",
            program.stderr()
        );
        drop(place.visit("made"));
    }
}

#[test]
fn missing_required_layer_prevents_a_mount() {
    let place = LayerPlace::new();
    let without = [env!("CARGO_BIN_EXE_deny_syscall"), "landlock_create_ruleset"];
    let ended = run(&mut place.command(&without, "mount DIR MNT --require landlock")).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("--require landlock: no Landlock") && !ended.stderr.contains("Mounted "));
    let mut program =
        Program::start(&mut place.command(&without, "mount DIR MNT --require seccomp")).unwrap();
    program.wait_for("Mounted ").unwrap();
    assert!(program.stderr().contains("sandbox: no Landlock"), "{}", program.stderr());
    assert_eq!(program.end_by(Signal::TERM).unwrap(), Some(0));
}

#[test]
fn capabilities_come_from_policy_and_command_line() {
    const CHOWN: u32 = 0;
    const DAC_OVERRIDE: u32 = 1;
    const DAC_READ_SEARCH: u32 = 2;
    const MKNOD: u32 = 27;
    let kept = |words: &str| {
        let place = LayerPlace::new();
        let program = place.start(&[], words);
        let set = |name| u64::from_str_radix(&proc_value(&program, "status", name), 16).unwrap();
        let (permitted, bounding) = (set("CapPrm:"), set("CapBnd:"));
        assert_eq!((bounding, set("CapInh:"), set("CapAmb:")), (0, 0, 0), "{words}");
        move |number: u32| permitted & (1 << number) != 0
    };
    let plain = kept("");
    assert_eq!([CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, MKNOD].map(plain), [true, true, true, false]);
    let changed = kept("--modcaps +mknod:-chown");
    assert_eq!([CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, MKNOD].map(changed), [false, true, true, true]);
    let without_handles = kept("--inode-file-handles never");
    assert_eq!(
        [CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, MKNOD].map(without_handles),
        [true, true, false, false]
    );
    // A daemon that only reads files of any mode keeps CAP_DAC_READ_SEARCH instead of
    // CAP_DAC_OVERRIDE.
    let reading = kept("--inode-file-handles never --profile rootfs");
    assert_eq!([CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, MKNOD].map(reading), [false, false, true, false]);
}

#[test]
fn the_limits_of_the_process_are_set() {
    let place = LayerPlace::new();
    let policy = place.path("policy.toml");
    fs::write(&policy, "profile = \"share\"\n[limits]\nfile-size = 8192\n").unwrap();
    let program = place.start(&[], &format!("--policy {}", policy.display()));
    for (name, expected) in [
        ("Max core file size", "1 1 bytes"),
        ("Max locked memory", "0 0 bytes"),
        ("Max msgqueue size", "0 0 bytes"),
        ("Max file size", "8192 8192 bytes"),
    ] {
        assert_eq!(proc_value(&program, "limits", name), expected, "{name}");
    }
}

/// A program at the other end of a pipe or socket gets a core whatever the limit on core files is,
/// once a thread has acted as a user of the guest: the kernel then forgets that the process must
/// not be dumped.
#[test]
fn core_has_no_memory_after_a_user_created_a_file() {
    let place = LayerPlace::new();
    fs::set_permissions(place.path("share"), fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.start(&[], "");
    let mut guest = place.visit("made");
    let create = Frame::new(CREATE, ROOT).caller(1000, 1000).u32(2).u32(0o100_644).u32(0).u32(0).name("user");
    guest.raw(1, &create.message(), OUT_HEADER_LEN + 128 + 16).unwrap().success().unwrap();
    assert_eq!(place.path("share/user").metadata().unwrap().uid(), 1000);
    for process in [program.id(), serving_id(program.id())] {
        let filter = fs::read_to_string(format!("/proc/{process}/coredump_filter")).unwrap();
        assert_eq!(filter.trim(), "00000000", "bits of memory that a core holds");
    }
    // For a pipe the kernel has no other limit that prevents a core (core(5), fs/coredump.c).
    assert_eq!(proc_value(&program, "limits", "Max core file size"), "1 1 bytes");
}

#[test]
fn a_mount_leaves_memory_out_of_cores_too() {
    let place = LayerPlace::new();
    let mut program = Program::start(&mut place.command(&[], "mount DIR MNT")).unwrap();
    program.wait_for("Mounted ").unwrap();
    let filter = fs::read_to_string(format!("/proc/{}/coredump_filter", program.id())).unwrap();
    assert_eq!(program.end_by(Signal::TERM).unwrap(), Some(0));
    assert_eq!(filter.trim(), "00000000");
}

#[test]
fn a_descriptor_that_its_starter_left_open_is_closed() {
    let place = LayerPlace::new();
    let canary = File::open(place.path("canary")).unwrap();
    rustix::io::fcntl_setfd(&canary, FdFlags::empty()).unwrap();
    let program = place.start(&[], "");
    let mut guest = place.visit("made");
    for process in [program.id(), serving_id(program.id())] {
        let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let links: Vec<_> = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
        assert!(!links.is_empty() && !links.contains(&place.path("canary")), "{links:?}");
    }
    let frame = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0);
    guest.raw(1, &frame.message(), OUT_HEADER_LEN + 104).unwrap().success().unwrap();
}
