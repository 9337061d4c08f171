//! `cargo xtask demo --rootfs`: a guest whose root is a prepared image of a Debian userland.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::guest::{Guest, Parts};
use rustix::fs::XattrFlags;

use super::steps::{build_and_fetch, step, try_next};
use crate::console::say;
use crate::guest::Part;
use crate::step::{Failure, Outcome, cannot_start, ended};
use crate::workspace;

/// Tag of the share.
const TAG: &str = "root";

/// Program with a file capability, in the layer that the demo adds to the userland.
const PROGRAM: &str = "usr/local/bin/show-secret";

/// File that only root may read.
const SECRET: &str = "etc/secret";

/// `security.capability` with CAP_DAC_READ_SEARCH, permitted and effective: `struct vfs_cap_data`
/// of linux/capability.h, revision 2, little-endian.
const MAY_READ_ALL: [u8; 20] = [1, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Prepares an image, serves it, boots a guest on it, and shows what daemon and guest say.
pub(super) fn main() -> Outcome {
    let began = Instant::now();
    step(1, "Build pinhole, and fetch a Linux guest and a Debian userland");
    build_and_fetch(&[Part::Base, Part::Userland])?;
    say(format!("   ready after {:.1} s", began.elapsed().as_secs_f64()));
    let program = workspace::target().join("demo/pinhole");
    // On a disk: a temporary folder in memory could be too small.
    let folder = tempfile::Builder::new().prefix("pinhole-rootfs-").tempdir_in(workspace::target());
    let folder = folder.map_err(Failure::io("cannot create a folder for the image"))?;
    let image = folder.path().join("root.image");

    step(2, "Prepare an image: its metadata is computed once, ahead of time");
    prepare(&program, folder.path(), &image)?;

    step(3, "Serve the image");
    let serve_began = Instant::now();
    let daemon = Daemon::of_image_at(&program, &image)
        .argument(format!("--tag={TAG}"))
        .start()
        .map_err(|error| Failure::new(error.to_string()))?;
    let ready = serve_began.elapsed().as_millis();
    say(format!(
        "   command: {} --prepared {} --socket-path {} --tag {TAG}",
        program.display(),
        image.display(),
        daemon.socket().display()
    ));
    say(format!("   ready after {ready} ms; {}", memory_of(&daemon)?));

    step(4, "Boot a guest whose root is the image, under an overlayfs in the guest's memory");
    boot(&daemon).map_err(|failure| Failure::new(format!("{failure}{}", daemon.stderr())))?;
    say(format!("   The demo took {:.1} s. It now removes the image.", began.elapsed().as_secs_f64()));

    let program = program.display();
    try_next(&[
        (format!("{program} prepare DIR -o IMAGE"), "make an image of your own directory"),
        (format!("{program} inspect IMAGE"), "print what an image contains"),
        (format!("{program} mount --prepared IMAGE MOUNTPOINT"), "serve an image without a VM"),
    ]);
    Ok(())
}

/// Makes the image from a tar stream of the userland and of a second layer.
fn prepare(program: &Path, folder: &Path, image: &Path) -> Outcome {
    let userland = Parts::locate().userland().map_err(|error| Failure::new(error.to_string()))?;
    let layer = second_layer(folder, &userland)?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--xattrs", "--xattrs-include=security.capability", "--file=-", "--directory"]);
    tar.arg(&userland).args([".", "--directory"]).arg(&layer).arg(".").stdout(Stdio::piped());
    let mut packing = tar.spawn().map_err(cannot_start(&tar))?;
    let packed = packing.stdout.take().ok_or_else(|| Failure::new("tar has no output"))?;
    let mut preparing = Command::new(program);
    preparing.args(["prepare", "-", "--output"]).arg(image).stdin(packed);
    say(format!("   command: tar -c ... | {} prepare - -o {}", program.display(), image.display()));
    let began = Instant::now();
    let output = preparing.output().map_err(cannot_start(&preparing))?;
    let tar_ended = packing.wait().map_err(cannot_start(&tar))?;
    ended(&preparing, output.status, &String::from_utf8_lossy(&output.stderr))?;
    ended(&tar, tar_ended, "")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        say(format!("   {line}"));
    }
    say(format!("   prepared in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Makes a folder with a file that only root may read, and a copy of `cat` that may read all files.
fn second_layer(folder: &Path, userland: &Path) -> Outcome<PathBuf> {
    let layer = folder.join("layer");
    for name in ["usr/local/bin", "etc"] {
        fs::create_dir_all(layer.join(name)).map_err(Failure::io("cannot create the second layer"))?;
    }
    let program = layer.join(PROGRAM);
    fs::copy(userland.join("usr/bin/cat"), &program).map_err(Failure::io("cannot copy cat"))?;
    rustix::fs::setxattr(&program, "security.capability", &MAY_READ_ALL, XattrFlags::empty()).map_err(
        |error| Failure::new(format!("cannot set a file capability: {error}; run the demo as root")),
    )?;
    let secret = layer.join(SECRET);
    fs::write(&secret, "Only root may read this, or a program with the right capability.\n")
        .and_then(|()| fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)))
        .map_err(Failure::io("cannot write the second layer"))?;
    Ok(layer)
}

/// Returns a text about the memory of the daemon.
fn memory_of(daemon: &Serving) -> Outcome<String> {
    let memory = daemon.memory().map_err(|error| Failure::new(error.to_string()))?;
    Ok(format!("memory {} KiB, of which {} KiB are not pages of files", memory.pss_kib, memory.anonymous_kib))
}

/// Boots the guest and runs [`SCRIPT`] in it.
fn boot(daemon: &Serving) -> Outcome {
    let guest = Guest::uml().root(daemon.socket(), TAG).limit(Duration::from_mins(5));
    let mut running = guest.start(SCRIPT).map_err(|error| Failure::new(error.to_string()))?;
    running.wait_for_output("listed").map_err(|error| Failure::new(error.to_string()))?;
    let memory = memory_of(daemon)?;
    let finished = running.wait().map_err(|error| Failure::new(error.to_string()))?;
    say(finished.text().trim_matches('\n'));
    say(format!("   the daemon, after the guest has listed the tree: {memory}"));
    if finished.exit_code != 0 {
        return Err(Failure::new(format!("the script in the guest ended with {}", finished.exit_code)));
    }
    say(format!("   The guest booted, ran and shut down in {:.1} s.", finished.elapsed.as_secs_f64()));
    Ok(())
}

/// Script of the guest, which runs in the image.
const SCRIPT: &str = r#"
show() { sed 's/^/   /'; }
. /etc/os-release
echo "   -- the guest: $(uname -sr), $PRETTY_NAME"
grep ' / ' /proc/mounts | show
t() { awk -v a="$1" -v b="$2" -v w="$3" 'BEGIN { printf "   %-44s %.2f s\n", w, b - a }'; }
now() { cut -d' ' -f1 /proc/uptime; }
echo "   -- what it can do"
a=$(now); count=$(find / -xdev | wc -l); t $a $(now) "find: listed $count names"
a=$(now); python3 --version > /dev/null; git --version > /dev/null; t $a $(now) "start python3 and git"
a=$(now); cat /usr/bin/* > /dev/null 2>&1; t $a $(now) "read all files of /usr/bin"
echo "   -- a program with a file capability, as a user without rights"
setpriv --reuid=65534 --regid=65534 --clear-groups cat /etc/secret 2>&1 | show
setpriv --reuid=65534 --regid=65534 --clear-groups /usr/local/bin/show-secret /etc/secret 2>&1 | show
echo "   -- a change goes to the guest's memory, not to the image"
rm -r /usr/share/doc && echo changed > /etc/hostname && cat /etc/hostname | show
"#;
