//! Does a sandbox whose container roots are prepared images work, and do guests on one image share
//! the host's page cache?

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_tests::daemon::{Daemon, pinhole_program};
use pinhole_tests::guest::{Guest, Share};
use rustix::fs::Advice;
use tempfile::TempDir;

use super::layout::{Sandbox, fill};
use super::runtime::{Runtime, Started};

/// Length of the file that three guests read, in bytes.
const LARGE: usize = 48 << 20;

/// Upper bound on the memory of a daemon without that of its guest, in KiB. The program itself is
/// most of it.
const DAEMON_MAX_KIB: u64 = 16 << 10;

/// Script of the guest in the sandbox. `C` is the share of Kata, `I` the image.
const SCRIPT: &str = r#"
C=/run/kata-containers/shared/containers
I=/run/kata-containers/images/0
await() { until [ -e "$C/$1" ]; do sleep 0.1; done; }
refused() { "$@" 2> /dev/null && { echo "succeeded: $*"; exit 1; }; true; }
start() {
    mkdir -p /run/$1/upper /run/$1/work /run/$1/root
    mount -t overlay -o lowerdir=$I,upperdir=/run/$1/upper,workdir=/run/$1/work,index=on,nfs_export=on \
        overlay /run/$1/root
    grep -q " /run/$1/root overlay .*nfs_export=on" /proc/mounts
    mount -o bind $C/$1-resolv.conf /run/$1/root/etc/resolv.conf
    mount -o bind $C/$1-config /run/$1/root/etc/config
    mount -o bind $C/$1-data /run/$1/root/data
}
set -e
mkdir -p /run
mount -t tmpfs run /run
mkdir -p $C $I
mount -t virtiofs -o nodev kataShared $C
mount -t virtiofs -o ro,nodev image-0 $I
refused touch $I/new
refused dd if=$I/zero of=/dev/null bs=1 count=1
echo "sandbox ready"
await c1-start
start c1
chroot /run/c1/root /bin/sh -c '
    set -e
    cat /etc/resolv.conf /etc/config /data/from-host /removed
    echo "of c1" > /data/from-guest
    echo changed > /removed
    cat /removed
'
refused chroot /run/c1/root /bin/sh -c 'echo x > /etc/config'
echo "c1 runs"
await c2-start
start c2
chroot /run/c2/root /bin/cat /removed
for place in data etc/config etc/resolv.conf; do umount /run/c1/root/$place; done
umount /run/c1/root
echo "c1 ended"
await c1-gone
chroot /run/c2/root /bin/cat /data/from-host
"#;

/// A prepared image of a container's root, and the folder that it was made of.
struct ImageOfRoot {
    folder: TempDir,
}

impl ImageOfRoot {
    fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("kata-image-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let large: Vec<u8> =
            (0..LARGE / 4).flat_map(|word| u32::try_from(word).unwrap().to_le_bytes()).collect();
        fs::write(root.join("large"), large).unwrap();
        let image = Self { folder };
        let mut prepare = Command::new(pinhole_program().unwrap());
        prepare.arg("prepare").arg(&root).arg("-o").arg(image.path());
        let output = prepare.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("root.image")
    }

    /// Returns the only data file.
    fn data(&self) -> PathBuf {
        let files = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "data")).max().unwrap()
    }
}

#[test]
fn sandbox_with_roots_from_an_image_runs_containers() {
    let image = ImageOfRoot::new();
    let sandbox = Sandbox::new();
    let daemon = Started::by(Runtime::Rust, &sandbox.shared());
    let of_image = Daemon::of_image(image.path()).unwrap().start().unwrap();
    let said = || format!("{}\n{}", daemon.stderr(), of_image.stderr());
    let mut guest = Guest::qemu()
        .module("fs/overlayfs/overlay")
        .attach(Share::new(daemon.socket(), "kataShared").unmounted())
        .attach(Share::new(of_image.socket(), "image-0").unmounted())
        .start(SCRIPT)
        .unwrap();
    let mut wait_for = |line: &str| {
        guest.wait_for_output(line).unwrap_or_else(|error| panic!("{error}\n{}", said()));
    };
    wait_for("sandbox ready");
    sandbox.add_files("c1");
    sandbox.start_step("c1-start");
    wait_for("c1 runs");
    assert_eq!(fs::read_to_string(sandbox.path("volumes/c1/from-guest")).unwrap(), "of c1\n");
    sandbox.add_files("c2");
    sandbox.start_step("c2-start");
    wait_for("c1 ended");
    sandbox.remove_files("c1");
    sandbox.start_step("c1-gone");
    let finished = guest.wait().unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", said());
    let expected = [
        "sandbox ready",
        "resolv.conf of c1",
        "config of c1",
        "volume of c1",
        "in the base layer",
        "changed",
        "c1 runs",
        "in the base layer",
        "c1 ended",
        "volume of c2",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", said());
}

/// Bytes of a file that are in the page cache of the host.
fn cached(file: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(file);
    let output = fincore.output().unwrap_or_else(|error| panic!("fincore: {error}: install util-linux"));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn guests_on_one_image_share_the_hosts_page_cache() {
    let image = ImageOfRoot::new();
    let data = File::open(image.data()).unwrap();
    data.sync_all().unwrap();
    rustix::fs::fadvise(&data, 0, None, Advice::DontNeed).unwrap();
    assert!(cached(&image.data()) < LARGE as u64 / 2, "the host gave up the pages of the file");
    let serve = || Daemon::of_image(image.path()).unwrap().argument("--tag=root").start().unwrap();
    let daemons = [serve(), serve(), serve()];
    let sum = "md5sum < /mnt/root/large; echo read; sleep 1000";
    let mut guests = daemons.each_ref().map(|daemon| {
        Guest::uml().attach(Share::new(daemon.socket(), "root").options("ro")).start(sum).unwrap()
    });
    for guest in &mut guests {
        guest.wait_for_output("read").unwrap();
    }
    let in_cache = cached(&image.data());
    let memory = daemons.each_ref().map(|daemon| daemon.memory().unwrap().pss_kib);
    let sums = guests.each_ref().map(|guest| String::from_utf8(guest.output()).unwrap());
    assert!(sums.iter().all(|text| *text == sums[0]), "{sums:?}");
    let expected = Command::new("md5sum").arg(image.folder.path().join("root/large")).output().unwrap();
    let expected = String::from_utf8(expected.stdout).unwrap();
    assert_eq!(sums[0].split_whitespace().next(), expected.split_whitespace().next());
    // The pages of the file are there once, and none is in the memory of a daemon.
    println!("{in_cache} bytes of the data file cached; memory of the daemons {memory:?} KiB");
    assert!(in_cache >= LARGE as u64 && in_cache <= fs::metadata(image.data()).unwrap().len(), "{in_cache}");
    assert!(memory.iter().all(|kib| *kib < DAEMON_MAX_KIB), "{memory:?}");
}
