//! Does fs-verity of the host protect the bytes of data files: is another file refused, and are
//! damaged bytes an error?
//!
//! A QEMU guest plays the host, because not every host's kernel has fs-verity. Its disk is an ext4
//! image with two folders: `good` has an image and its data file, `other` the same image and a file
//! with other bytes under the name of the data file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_tests::daemon::pinhole_program;
use pinhole_tests::guest::{Guest, Parts};
use tempfile::TempDir;

/// Block of ext4 in bytes.
const BLOCK: usize = 4096;

/// Blocks of the file in the image. No two have the same bytes.
const BLOCKS: usize = 64;

/// Block of the file that the test damages on the disk.
const DAMAGED: usize = 40;

/// Length of the disk in bytes.
const DISK: u64 = 24 << 20;

/// Libraries that pinhole and `fsverity` need.
const LIBRARIES: [&str; 8] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libcrypto.so.3",
    "libfsverity.so.0",
    "libz.so.1",
    "libzstd.so.1",
];

/// Script of the guest that plays the host. `BLOCK_OF_DISK` is the place of the damaged block.
const SCRIPT: &str = r#"
set -e
run() { program=$1; shift; /extra/host/ld-linux-x86-64.so.2 --library-path /extra/host /extra/host/$program "$@"; }
serve() {
    : > /tmp/log
    run pinhole mount --prepared $1/root.image /m > /tmp/log 2>&1 &
    daemon=$!
    until grep -q Mounted /tmp/log; do
        if ! kill -0 $daemon 2> /dev/null; then cat /tmp/log; return 1; fi
        sleep 0.1
    done
}
mkdir /disk /m
cp /extra/disk /tmp/disk
losetup /dev/loop0 /tmp/disk
mount -t ext4 /dev/loop0 /disk
for file in /disk/good/*.data /disk/other/*.data; do run fsverity enable $file; done
run fsverity measure /disk/good/*.data
serve /disk/good
md5sum < /m/file
umount /m
wait $daemon
if serve /disk/other; then echo "served other bytes"; fi
umount /disk
dd if=/dev/zero of=/tmp/disk bs=4096 count=1 seek=BLOCK_OF_DISK conv=notrunc 2> /dev/null
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/loop0 /disk
serve /disk/good
dd if=/m/file bs=4096 count=1 2> /dev/null | md5sum
dd if=/m/file of=/dev/null bs=4096 skip=40 count=1 || true
umount /m
wait $daemon
echo over
"#;

/// Returns the bytes of a block of the file.
fn block(number: usize, salt: u32) -> Vec<u8> {
    let first = u32::try_from(number * BLOCK / 4).unwrap();
    (0..1024)
        .flat_map(|word| (first + word).wrapping_mul(0x9e37_79b9).wrapping_add(salt).to_le_bytes())
        .collect()
}

/// Prepares an image of a folder with one file. Returns the folder of the image.
fn image_of(folder: &Path, name: &str, salt: u32) -> PathBuf {
    let (tree, made) = (folder.join(format!("{name}-tree")), folder.join("disk").join(name));
    fs::create_dir(&tree).unwrap();
    fs::create_dir_all(&made).unwrap();
    let bytes: Vec<u8> = (0..BLOCKS).flat_map(|number| block(number, salt)).collect();
    fs::write(tree.join("file"), bytes).unwrap();
    let mut prepare = Command::new(pinhole_program().unwrap());
    run(prepare.arg("prepare").arg(tree).arg("-o").arg(made.join("root.image")));
    made
}

/// Returns the only data file in a folder.
fn data_file(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "data")).max().unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the disk. Returns its bytes, and the digest in the name of the data file.
fn disk(folder: &Path) -> (Vec<u8>, String) {
    let (good, other) = (image_of(folder, "good", 0), image_of(folder, "other", 1));
    let name = data_file(&good).file_name().unwrap().to_owned();
    fs::rename(data_file(&other), other.join(&name)).unwrap();
    fs::copy(good.join("root.image"), other.join("root.image")).unwrap();
    let disk = folder.join("disk.ext4");
    fs::File::create(&disk).unwrap().set_len(DISK).unwrap();
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-b", "4096", "-O", "verity", "-d"]).arg(folder.join("disk")).arg(&disk);
    run(&mut mkfs);
    let digest = name.to_str().unwrap().strip_suffix(".data").unwrap().to_owned();
    (fs::read(disk).unwrap(), digest)
}

/// Returns a guest with the programs and their libraries in `/extra/host`.
fn host(disk: &[u8]) -> Guest {
    let tree = Parts::locate().disks().unwrap();
    let mut guest = Guest::qemu().module("drivers/block/loop").file("disk", 0o644, disk);
    let mut add = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        guest = guest.clone().file(&format!("host/{name}"), 0o755, bytes);
    };
    add(&pinhole_program().unwrap());
    add(&tree.join("usr/bin/fsverity"));
    for library in LIBRARIES {
        add(&tree.join("usr/lib/x86_64-linux-gnu").join(library));
    }
    guest
}

/// Returns the MD5 of bytes, as the guest prints it.
fn md5(folder: &Path, bytes: &[u8]) -> String {
    let path = folder.join("sum");
    fs::write(&path, bytes).unwrap();
    let printed = run(Command::new("md5sum").arg(path));
    format!("{}  -", printed.split_whitespace().next().unwrap())
}

#[test]
fn other_data_is_refused_and_damaged_data_is_an_error() {
    let folder = TempDir::new().unwrap();
    let (disk, digest) = disk(folder.path());
    let damaged = block(DAMAGED, 0);
    let places: Vec<usize> = disk
        .chunks(BLOCK)
        .enumerate()
        .filter(|(_, bytes)| *bytes == damaged)
        .map(|(place, _)| place)
        .collect();
    assert_eq!(places.len(), 1, "the block is on the disk once");
    let script = SCRIPT.replace("BLOCK_OF_DISK", &places[0].to_string());
    let finished = host(&disk).run(&script).unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let whole: Vec<u8> = (0..BLOCKS).flat_map(|number| block(number, 0)).collect();
    assert!(lines[0].starts_with(&format!("sha256:{digest} ")), "Linux computes the same digest: {text}");
    assert_eq!(lines[1], md5(folder.path(), &whole), "{text}");
    let refused = format!(", not {digest}: give the data file of this image");
    assert!(lines[2].contains(": its fs-verity digest is ") && lines[2].ends_with(&refused), "{text}");
    assert_eq!(lines[3], md5(folder.path(), &block(0, 0)), "undamaged bytes are served: {text}");
    assert_eq!(lines[4..], ["dd: /m/file: Input/output error", "over"], "{text}");
}
