//! Counts the kernel functions that each daemon reaches.
//!
//! The count needs the function tracer of the kernel, which not every host permits. So the daemons
//! run in a QEMU guest, and this guest plays the host.
//!
//! The root file system of the guest has the programs, and the C library of the Debian release that
//! virtiofsd comes from. The share is an ext4 file system, as on most hosts, on a loop device. It
//! is created again for each daemon. Kernel functions that the threads of the loop device call are
//! not counted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pinhole_tests::guest::{Guest, Parts};

use super::subject::{ALL, Subject, SurfacePrograms};
use crate::step::{Failure, Outcome};

/// Memory of the guest, in MiB. The buffer of the tracer may take half of it.
const MEMORY_MIB: u32 = 3072;

/// Time limit of the whole run. It is long enough for a host that is busy with other work.
const LIMIT: Duration = Duration::from_mins(15);

/// Libraries that pinhole, the load generator and virtiofsd need. They come from the guest part
/// `base` (see [`Parts`]).
const BASE_LIBRARIES: [&str; 6] =
    ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libcap-ng.so.0", "libseccomp.so.2"];

/// Libraries that mke2fs needs. They come from the guest part `userland`.
const USERLAND_LIBRARIES: [&str; 5] =
    ["libext2fs.so.2", "libcom_err.so.2", "libblkid.so.1", "libuuid.so.1", "libe2p.so.2"];

/// Folder of libraries in Debian.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Names of the kernel functions that one daemon reached. If two functions have the same name, the
/// list has it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Functions called between the first instruction of the daemon and its ready line.
    pub(super) start: Vec<String>,
    /// Functions called while the VMM sets up the device, and during INIT.
    pub(super) connect: Vec<String>,
    /// Functions called under the load.
    pub(super) steady: Vec<String>,
}

impl Reached {
    /// Returns the names of the functions that this daemon reaches under the load and `other` does
    /// not.
    pub(super) fn beyond(&self, other: &Self) -> Vec<&str> {
        let others: BTreeSet<&String> = other.steady.iter().collect();
        self.steady.iter().filter(|name| !others.contains(name)).map(String::as_str).collect()
    }
}

/// Boots the guest and collects the functions of each daemon in [`ALL`].
///
/// # Errors
/// Fails if a part of the guest has not been fetched, the guest does not boot, or a daemon fails.
pub(super) fn measure(programs: &SurfacePrograms) -> Outcome<Vec<(Subject, Reached)>> {
    let guest = add_files(Guest::qemu().memory_mib(MEMORY_MIB).limit(LIMIT), programs)?;
    let finished = guest.run(SCRIPT).map_err(|error| Failure::new(error.to_string()))?;
    if finished.exit_code != 0 {
        let text = finished.text();
        let said = text.lines().filter(|line| !is_function(line));
        // Only the log of the kernel reports that a filter killed a process.
        let killed = finished.kernel_log.lines().filter(|line| line.contains("audit: type=1326"));
        return Err(Failure::new(format!(
            "the guest that acts as the host ended with {}:\n{}",
            finished.exit_code,
            said.chain(killed).collect::<Vec<_>>().join("\n")
        )));
    }
    parse_output(&finished.text())
}

/// Returns whether a line of the output names a function or counts a request, and so is not an
/// error message.
fn is_function(line: &str) -> bool {
    ["start ", "connect ", "steady ", "request "].iter().any(|word| line.starts_with(word))
}

/// Adds the files that the guest needs in addition to its busybox.
fn add_files(mut guest: Guest, programs: &SurfacePrograms) -> Outcome<Guest> {
    let missing = |error: pinhole_tests::guest::GuestError| Failure::new(error.to_string());
    let parts = Parts::locate();
    let (base, userland) = (parts.base().map_err(missing)?, parts.userland().map_err(missing)?);
    let modules = parts.qemu().map_err(missing)?.join("usr/lib/modules");
    let mut add = |name: &str, from: &Path| {
        let bytes = fs::read(from).map_err(Failure::io(format!("cannot read {}", from.display())))?;
        guest = guest.clone().file(&format!("host/{name}"), 0o755, bytes);
        Ok(())
    };
    add("usr/bin/pinhole", &programs.pinhole)?;
    add("usr/bin/pinhole-bench", &programs.bench)?;
    add("usr/libexec/virtiofsd", &base.join("usr/libexec/virtiofsd"))?;
    add("usr/sbin/mke2fs", &userland.join("usr/sbin/mke2fs"))?;
    for library in BASE_LIBRARIES {
        add(&format!("{LIBRARIES}/{library}"), &base.join(LIBRARIES).join(library))?;
    }
    for library in USERLAND_LIBRARIES {
        add(&format!("{LIBRARIES}/{library}"), &userland.join(LIBRARIES).join(library))?;
    }
    for release in fs::read_dir(&modules).map_err(Failure::io("cannot list the guest's modules"))? {
        let release = release.map_err(Failure::io("cannot list the guest's modules"))?.path();
        add("loop.ko.xz", &release.join("kernel/drivers/block/loop.ko.xz"))?;
    }
    let words: Vec<String> = ALL.iter().map(|subject| script_line(*subject)).collect();
    Ok(guest.file("host/subjects", 0o644, words.concat()).file("host/inside", 0o644, INSIDE))
}

/// Returns the line of the file `subjects` for one daemon: `one NAME FLAGS PROGRAM ARGUMENTS`.
/// FLAGS is in quotes: `--malformed` for a load with malformed requests, `--image` for a daemon
/// that serves an image of the share, both, or neither.
fn script_line(subject: Subject) -> String {
    let malformed = subject.outlives_malformed().then_some("--malformed");
    let image = subject.serves_an_image().then_some("--image");
    let flags: Vec<_> = malformed.into_iter().chain(image).collect();
    let (flags, arguments) = (flags.join(" "), subject.arguments.join(" "));
    format!("one {} '{flags}' {} {arguments}\n", subject.name, subject.program_in_guest())
}

/// First script of the guest. Creates a root file system on a tmpfs, moves into it and runs
/// [`INSIDE`] there. In the initramfs the daemons could not call pivot_root.
const SCRIPT: &str = r"
set -e
insmod /extra/host/loop.ko.xz
mkdir /new
mount -t tmpfs -o mode=755 new /new
cp -r /extra/host/* /new
cp -r /bin /new
cd /new
mkdir -p dev proc sys tmp srv run etc lib64
ln -s usr/lib lib
ln -s /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 lib64/ld-linux-x86-64.so.2
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mount -t tracefs tracing sys/kernel/tracing
mount -t tmpfs tmp tmp
exec unshare -m sh -c 'mount -o move . / && exec chroot . /bin/sh /inside'
";

/// Second script of the guest. Traces each daemon under the load, on a new ext4 file system.
///
/// The script defines a shell function `one` and then reads the file `subjects`, which calls `one`
/// for each daemon ([`script_line`]).
const INSIDE: &str = r#"
set -e
export PATH=/usr/bin:/usr/sbin:/bin
one() {
    name=$1 flags=$2
    shift 2
    echo "== $name"
    truncate -s 128M /tmp/disk
    /usr/sbin/mke2fs -q -t ext4 -I 256 /tmp/disk
    losetup /dev/loop0 /tmp/disk
    mount -t ext4 /dev/loop0 /srv
    mkdir /srv/share
    pinhole-bench surface-load trace --share /srv/share --tracing /sys/kernel/tracing $flags -- "$@"
    umount /srv
    losetup -d /dev/loop0
    rm /tmp/disk
}
. /subjects
"#;

/// Parses the output of the guest. For each daemon, it has a line `== NAME` and then a line `PHASE
/// FUNCTION` for each kernel function. PHASE is the name of a field of [`Reached`]. Other lines are
/// ignored.
fn parse_output(output: &str) -> Outcome<Vec<(Subject, Reached)>> {
    let mut all: Vec<(Subject, Reached)> = Vec::new();
    for line in output.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "==" {
            let subject = ALL.into_iter().find(|subject| subject.name == rest);
            let subject = subject
                .ok_or_else(|| Failure::new(format!("the guest printed the unknown daemon `{rest}`")))?;
            all.push((subject, Reached::default()));
            continue;
        }
        let Some((_, reached)) = all.last_mut() else { continue };
        match word {
            "start" => reached.start.push(rest.to_owned()),
            "connect" => reached.connect.push(rest.to_owned()),
            "steady" => reached.steady.push(rest.to_owned()),
            _other => {}
        }
    }
    if let Some((subject, _)) = all.iter().find(|(_, reached)| reached.steady.is_empty()) {
        return Err(Failure::new(format!("the tracer recorded no function of {}", subject.name)));
    }
    if all.len() == ALL.len() { Ok(all) } else { Err(Failure::new("the guest did not measure all daemons")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_belong_to_their_daemon_and_phase() {
        let part =
            |name: &str| format!("== {name}\nstart a\nstart a\nconnect b\nsteady c\nrequest 1 33 2:6\n");
        let output = ALL.map(|subject| part(subject.name)).concat();
        let all = parse_output(&output).unwrap();
        assert_eq!(all.len(), 5);
        let reached = &all[4].1;
        assert_eq!((reached.start.len(), reached.connect.len(), reached.steady.len()), (2, 1, 1));
        assert_eq!(all[4].0.name, "virtiofsd");
    }

    #[test]
    fn daemon_without_recorded_functions_is_an_error() {
        assert!(
            parse_output("== rootfs\nstart a\n").unwrap_err().to_string().contains("no function of rootfs")
        );
        assert!(parse_output("== rootfs\nsteady a\n").unwrap_err().to_string().contains("not measure all"));
        parse_output("== unknown\n").unwrap_err();
    }

    #[test]
    fn functions_beyond_another_daemon_are_named() {
        let reached = |names: &[&str]| Reached {
            steady: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Reached::default()
        };
        assert_eq!(reached(&["a", "b"]).beyond(&reached(&["b", "c"])), ["a"]);
    }
}
