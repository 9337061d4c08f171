//! Does a share serve a Kata sandbox: the command lines of both runtimes, containers that appear
//! and disappear while the VM runs, and programs in them?
//!
//! The guest runs under QEMU, because the runtimes give the tag to the VMM and not to the daemon.

mod layout;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use layout::{Access, Sandbox};
use pinhole_tests::daemon::{pinhole_program, serving_id};
use pinhole_tests::frontend::eventually;
use pinhole_tests::guest::{Guest, Running, Share};
use tempfile::TempDir;

/// Line for which runtime-rs waits on standard error.
const READY: &str = "Waiting for vhost-user socket connection";

/// Upper bound on the time until the daemon prints [`READY`].
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Script of the guest. `C` is where Kata's agent mounts the share, `c1` and `c2` are containers.
/// The guest waits for a name in the share before each step, and the host for a line of output.
const SCRIPT: &str = r#"
C=/run/kata-containers/shared/containers
await() { until [ -e "$C/$1" ]; do sleep 0.1; done; }
refused() { "$@" 2> /dev/null && { echo "succeeded: $*"; exit 1; }; true; }
# Starts a container as the agent does: overlayfs over its root, then its bind mounts. The root is a
# mount of the host, which the guest mounts at the first walk through it: `/.` makes overlayfs do so.
start() {
    mkdir -p /run/$1/upper /run/$1/work /run/$1/root
    mount -t overlay -o lowerdir=$C/$1/rootfs/.,upperdir=/run/$1/upper,workdir=/run/$1/work overlay /run/$1/root
    mount -o bind $C/$1-resolv.conf /run/$1/root/etc/resolv.conf
    mount -o bind $C/$1-hosts /run/$1/root/etc/hosts
    mount -o bind $C/$1-config /run/$1/root/etc/config
    mount -o bind $C/$1-data /run/$1/root/data
    mount -t proc proc /run/$1/root/proc
}
set -e
mkdir -p $C /run
mount -t tmpfs run /run
mkdir -p $C
mount -t virtiofs -o nodev kataShared $C
refused touch $C/new
echo "sandbox ready"
await c1-start
start c1
chroot /run/c1/root /bin/sh -c '
    set -e
    cat /layer /etc/resolv.conf /etc/hosts /etc/config
    id -u
    echo "of c1" > /data/from-guest
    cat /data/from-host
    echo changed > /layer
    rm /removed
    mkdir /data/folder
    ls /proc/self > /dev/null
'
refused chroot /run/c1/root /bin/sh -c 'echo x > /etc/config'
refused chroot /run/c1/root /bin/sh -c 'echo x > /etc/resolv.conf'
# A device node in the share has no driver behind it: the agent mounts with nodev.
refused dd if=$C/c1/rootfs/zero of=/dev/null bs=1 count=1
# Without the overlay, the container writes to the snapshot of the host.
echo "written in place" > $C/c1/rootfs/in-place
exec 7< /run/c1/root/layer
echo "c1 runs"
await c2-start
start c2
chroot /run/c2/root /bin/cat /layer
exec 7<&-
for place in proc data etc/config etc/hosts etc/resolv.conf; do umount /run/c1/root/$place; done
umount /run/c1/root
echo "c1 ended"
await c1-gone
# The cache mode of Kata keeps a name for a second.
while [ -e $C/c1 ]; do sleep 0.1; done
refused stat $C/c1/rootfs
ls $C | sed 's/^/left: /'
chroot /run/c2/root /bin/sh -c 'cat /data/from-host; echo "of c2" > /data/from-guest'
echo "c2 runs"
await over
"#;

/// Runtime of Kata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    /// `virtcontainers/virtiofsd.go`. It passes the listening socket as descriptor 3.
    Go,
    /// runtime-rs, `share_virtio_fs_standalone.rs`. It waits for [`READY`].
    Rust,
}

impl Runtime {
    /// Returns exactly the arguments that the runtime gives.
    fn arguments(self, shared: &Path, socket: &Path) -> Vec<String> {
        let (shared, socket) = (shared.display().to_string(), socket.display().to_string());
        let words: Vec<&str> = match self {
            Self::Go => {
                let shared = format!("--shared-dir={shared}");
                let before = ["--syslog", "--cache=auto"].map(str::to_owned);
                let after = ["--fd=3", "--thread-pool-size=1", "--announce-submounts"].map(str::to_owned);
                return before.into_iter().chain([shared]).chain(after).collect();
            }
            Self::Rust => vec![
                "--socket-path",
                &socket,
                "--shared-dir",
                &shared,
                "--cache",
                "auto",
                "--thread-pool-size=1",
                "-o",
                "announce_submounts",
            ],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Daemon that a runtime has started. `drop` kills it, as the Go runtime does.
struct Started {
    child: Child,
    work: TempDir,
}

impl Started {
    fn by(runtime: Runtime, shared: &Path) -> Self {
        let work = tempfile::tempdir().unwrap();
        let (socket, log) = (work.path().join("socket"), work.path().join("stderr"));
        let mut command = Command::new("sh");
        command.stderr(File::create(&log).unwrap()).stdout(Stdio::null());
        match runtime {
            Runtime::Go => {
                let listener = UnixListener::bind(&socket).unwrap();
                command.args(["-c", r#"exec "$@" 3<&0 < /dev/null"#, "sh"]);
                command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
            }
            Runtime::Rust => {
                command.args(["-c", r#"exec "$@""#, "sh"]).stdin(Stdio::null());
            }
        }
        command.arg(pinhole_program().unwrap()).args(runtime.arguments(shared, &socket));
        let started = Self { child: command.spawn().unwrap(), work };
        let began = Instant::now();
        while !started.stderr().contains(READY) {
            assert!(began.elapsed() < READY_LIMIT, "{}", started.stderr());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        started
    }

    fn socket(&self) -> PathBuf {
        self.work.path().join("socket")
    }

    /// Returns how many open files of the daemon are on the file system `device`.
    fn descriptors_on(&self, device: u64) -> usize {
        let folder = format!("/proc/{}/fd", serving_id(self.child.id()));
        let files = fs::read_dir(folder).unwrap().map(|file| fs::metadata(file.unwrap().path()));
        // A descriptor may be closed between the listing and the look at it.
        files.filter(|file| file.as_ref().is_ok_and(|file| file.dev() == device)).count()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.work.path().join("stderr")).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Makes a container appear in a running sandbox: its root, two files, a volume and a read-only
/// file.
fn add_container(sandbox: &Sandbox, name: &str) {
    sandbox.add_root(name);
    for file in ["resolv.conf", "hosts", "config"] {
        let source = sandbox.path("volumes").join(format!("{name}-{file}"));
        fs::write(&source, format!("{file} of {name}\n")).unwrap();
        sandbox.bind(&source, &format!("{name}-{file}"), Access::ReadOnly);
    }
    let volume = sandbox.path("volumes").join(name);
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("from-host"), format!("volume of {name}\n")).unwrap();
    sandbox.bind(&volume, &format!("{name}-data"), Access::ReadWrite);
}

fn remove_container(sandbox: &Sandbox, name: &str) {
    for part in ["resolv.conf", "hosts", "config", "data"] {
        sandbox.remove(&format!("{name}-{part}"));
    }
    sandbox.remove_root(name);
}

/// Tells the guest to take its next step.
fn start_step(sandbox: &Sandbox, step: &str) {
    fs::write(sandbox.path("mounts").join(step), "").unwrap();
}

fn wait_for(guest: &mut Running, line: &str, daemon: &Started) {
    guest.wait_for_output(line).unwrap_or_else(|error| panic!("{error}\n{}", daemon.stderr()));
}

fn assert_sandbox_works(runtime: Runtime) {
    let sandbox = Sandbox::new();
    let daemon = Started::by(runtime, &sandbox.shared());
    let share = Share::new(daemon.socket(), "kataShared").unmounted();
    let mut guest = Guest::qemu().module("overlay").attach(share).start(SCRIPT).unwrap();
    wait_for(&mut guest, "sandbox ready", &daemon);
    add_container(&sandbox, "c1");
    start_step(&sandbox, "c1-start");
    wait_for(&mut guest, "c1 runs", &daemon);
    let in_volume = |name: &str| fs::read_to_string(sandbox.path("volumes").join(name)).unwrap();
    assert_eq!(in_volume("c1/from-guest"), "of c1\n");
    let in_snapshot = |name: &str| fs::read_to_string(sandbox.path("bundles/c1").join(name)).unwrap();
    assert_eq!(in_snapshot("in-place"), "written in place\n");
    assert_eq!(in_snapshot("layer"), "top layer\n");
    assert_eq!(in_snapshot("removed"), "in the base layer\n");
    add_container(&sandbox, "c2");
    start_step(&sandbox, "c2-start");
    wait_for(&mut guest, "c1 ended", &daemon);
    let device = fs::metadata(sandbox.snapshot("c1")).unwrap().dev();
    remove_container(&sandbox, "c1");
    start_step(&sandbox, "c1-gone");
    wait_for(&mut guest, "c2 runs", &daemon);
    eventually("the daemon keeps files of a container that is gone", || daemon.descriptors_on(device) == 0);
    assert_eq!(in_volume("c2/from-guest"), "of c2\n");
    start_step(&sandbox, "over");
    let finished = guest.wait().unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", daemon.stderr());
    let expected = [
        "sandbox ready",
        "top layer",
        "resolv.conf of c1",
        "hosts of c1",
        "config of c1",
        "0",
        "volume of c1",
        "c1 runs",
        "top layer",
        "c1 ended",
        "left: c1-gone",
        "left: c1-start",
        "left: c2",
        "left: c2-config",
        "left: c2-data",
        "left: c2-hosts",
        "left: c2-resolv.conf",
        "left: c2-start",
        "volume of c2",
        "c2 runs",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", daemon.stderr());
}

#[test]
fn sandbox_of_the_go_runtime_runs_containers() {
    assert_sandbox_works(Runtime::Go);
}

#[test]
fn sandbox_of_the_rust_runtime_runs_containers() {
    assert_sandbox_works(Runtime::Rust);
}
