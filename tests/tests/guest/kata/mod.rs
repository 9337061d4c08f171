//! Does a share serve a Kata sandbox: the command lines of both runtimes, containers that appear
//! and disappear while the VM runs, and programs in them?
//!
//! The guest runs under QEMU, because the runtimes give the tag to the VMM and not to the daemon.

mod layout;
mod prepared;
mod runtime;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use layout::Sandbox;
use pinhole_tests::frontend::eventually;
use pinhole_tests::guest::{Guest, Running, Share};
use runtime::{Runtime, Started};

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

fn wait_for(guest: &mut Running, line: &str, daemon: &Started) {
    guest.wait_for_output(line).unwrap_or_else(|error| panic!("{error}\n{}", daemon.stderr()));
}

fn assert_sandbox_works(runtime: Runtime) {
    let sandbox = Sandbox::new();
    let daemon = Started::by(runtime, &sandbox.shared());
    let share = Share::new(daemon.socket(), "kataShared").unmounted();
    let mut guest = Guest::qemu().module("fs/overlayfs/overlay").attach(share).start(SCRIPT).unwrap();
    wait_for(&mut guest, "sandbox ready", &daemon);
    sandbox.add_container("c1");
    sandbox.start_step("c1-start");
    wait_for(&mut guest, "c1 runs", &daemon);
    let in_volume = |name: &str| fs::read_to_string(sandbox.path("volumes").join(name)).unwrap();
    assert_eq!(in_volume("c1/from-guest"), "of c1\n");
    let in_snapshot = |name: &str| fs::read_to_string(sandbox.path("bundles/c1").join(name)).unwrap();
    assert_eq!(in_snapshot("in-place"), "written in place\n");
    assert_eq!(in_snapshot("layer"), "top layer\n");
    assert_eq!(in_snapshot("removed"), "in the base layer\n");
    sandbox.add_container("c2");
    sandbox.start_step("c2-start");
    wait_for(&mut guest, "c1 ended", &daemon);
    let device = fs::metadata(sandbox.snapshot("c1")).unwrap().dev();
    sandbox.remove_container("c1");
    sandbox.start_step("c1-gone");
    wait_for(&mut guest, "c2 runs", &daemon);
    eventually("the daemon keeps files of a container that is gone", || daemon.descriptors_on(device) == 0);
    assert_eq!(in_volume("c2/from-guest"), "of c2\n");
    sandbox.start_step("over");
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
