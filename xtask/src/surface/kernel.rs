//! The functions of the host's kernel that each daemon reaches: counted in a QEMU guest that plays the host, since
//! machines differ in whether they allow the function tracer.
//!
//! The guest gets a root of its own: the programs, and for all of them the C library of the peer's Debian release. The
//! share is ext4, as on most hosts, in a file behind a loop device; what the loop device's own threads do counts for
//! nobody. Each daemon finds a file system made anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pinhole_tests::guest::{Guest, Pieces};

use super::subject::{ALL, Programs, Subject};
use crate::step::{Failure, Outcome};

/// Of the guest: half of it may become the tracer's buffer.
const MEMORY_MIB: u32 = 3072;

/// The whole run, on a machine that does other things too.
const LIMIT: Duration = Duration::from_mins(15);

/// Libraries of pinhole, the load and virtiofsd, from the peer's tree.
const BASE_LIBRARIES: [&str; 6] =
    ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libcap-ng.so.0", "libseccomp.so.2"];

/// Libraries of mke2fs, from the userland.
const USERLAND_LIBRARIES: [&str; 5] =
    ["libext2fs.so.2", "libcom_err.so.2", "libblkid.so.1", "libuuid.so.1", "libe2p.so.2"];

/// Where Debian keeps libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The functions that one daemon reached, by name. A name that two functions have stands there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// From the daemon's first instruction to its ready line.
    pub(super) start: Vec<String>,
    /// The VMM's set-up of the device, and INIT.
    pub(super) connect: Vec<String>,
    /// The load.
    pub(super) steady: Vec<String>,
}

impl Reached {
    /// Names of the load's functions that `other` has not.
    pub(super) fn beyond(&self, other: &Self) -> Vec<&str> {
        let others: BTreeSet<&String> = other.steady.iter().collect();
        self.steady.iter().filter(|name| !others.contains(name)).map(String::as_str).collect()
    }
}

/// Boots the guest and counts for each of [`ALL`].
///
/// # Errors
/// Where something is not fetched, the guest does not come up, or a daemon fails in it.
pub(super) fn measure(programs: &Programs) -> Outcome<Vec<(Subject, Reached)>> {
    let guest = pack(Guest::qemu().memory_mib(MEMORY_MIB).limit(LIMIT), programs)?;
    let finished = guest.run(SCRIPT).map_err(|error| Failure::new(error.to_string()))?;
    if finished.exit_code != 0 {
        let text = finished.text();
        let said = text.lines().filter(|line| !is_function(line));
        // What a filter has killed is told by the kernel alone.
        let killed = finished.kernel_log.lines().filter(|line| line.contains("audit: type=1326"));
        return Err(Failure::new(format!(
            "the guest that plays the host ended with {}:\n{}",
            finished.exit_code,
            said.chain(killed).collect::<Vec<_>>().join("\n")
        )));
    }
    read(&finished.text())
}

fn is_function(line: &str) -> bool {
    ["start ", "connect ", "steady ", "request "].iter().any(|word| line.starts_with(word))
}

/// What the guest needs beside its busybox.
fn pack(mut guest: Guest, programs: &Programs) -> Outcome<Guest> {
    let missing = |error: pinhole_tests::guest::GuestError| Failure::new(error.to_string());
    let pieces = Pieces::locate();
    let (base, userland) = (pieces.base().map_err(missing)?, pieces.userland().map_err(missing)?);
    let modules = pieces.qemu().map_err(missing)?.join("usr/lib/modules");
    let mut add = |name: &str, from: &Path| {
        let bytes = fs::read(from).map_err(Failure::io(format!("cannot read {}", from.display())))?;
        guest = guest.clone().file(&format!("host/{name}"), 0o755, bytes);
        Ok(())
    };
    add("usr/bin/pinhole", &programs.pinhole)?;
    add("usr/bin/surface", &programs.surface)?;
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
    let words: Vec<String> = ALL.iter().map(|subject| line(*subject)).collect();
    Ok(guest.file("host/subjects", 0o644, words.concat()).file("host/inside", 0o644, INSIDE))
}

/// `NAME FLAG PROGRAM ARGUMENTS`, as the script reads it.
fn line(subject: Subject) -> String {
    let malformed = if subject.outlives_malformed() { "--malformed" } else { "" };
    let arguments = subject.arguments.join(" ");
    format!("one {} '{malformed}' {} {arguments}\n", subject.name, subject.program_in_guest())
}

/// A root that is no initramfs: nothing can be pivoted out of one.
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

/// Each daemon on a file system of its own, made the same.
const INSIDE: &str = r#"
set -e
export PATH=/usr/bin:/usr/sbin:/bin
one() {
    name=$1 malformed=$2
    shift 2
    echo "== $name"
    truncate -s 128M /tmp/disk
    /usr/sbin/mke2fs -q -t ext4 -I 256 /tmp/disk
    losetup /dev/loop0 /tmp/disk
    mount -t ext4 /dev/loop0 /srv
    mkdir /srv/share
    surface trace --share /srv/share --tracing /sys/kernel/tracing $malformed -- "$@"
    umount /srv
    losetup -d /dev/loop0
    rm /tmp/disk
}
. /subjects
"#;

/// The guest's output: `== NAME`, then a function a line behind its phase.
fn read(output: &str) -> Outcome<Vec<(Subject, Reached)>> {
    let mut all: Vec<(Subject, Reached)> = Vec::new();
    for line in output.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "==" {
            let subject = ALL.into_iter().find(|subject| subject.name == rest);
            let subject = subject.ok_or_else(|| Failure::new(format!("the guest speaks of `{rest}`")))?;
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
        return Err(Failure::new(format!("the tracer saw nothing of {}", subject.name)));
    }
    if all.len() == ALL.len() { Ok(all) } else { Err(Failure::new("the guest left a daemon out")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_belong_to_the_daemon_and_the_phase_before_them() {
        let part =
            |name: &str| format!("== {name}\nstart a\nstart a\nconnect b\nsteady c\nrequest 1 33 2:6\n");
        let output = ALL.map(|subject| part(subject.name)).concat();
        let all = read(&output).unwrap();
        assert_eq!(all.len(), 4);
        let reached = &all[3].1;
        assert_eq!((reached.start.len(), reached.connect.len(), reached.steady.len()), (2, 1, 1));
        assert_eq!(all[3].0.name, "virtiofsd");
    }

    #[test]
    fn a_daemon_of_which_nothing_was_seen_is_an_error() {
        assert!(read("== rootfs\nstart a\n").unwrap_err().to_string().contains("nothing of rootfs"));
        assert!(read("== rootfs\nsteady a\n").unwrap_err().to_string().contains("left a daemon out"));
        read("== nobody\n").unwrap_err();
    }

    #[test]
    fn what_one_reaches_beyond_another_is_named() {
        let reached = |names: &[&str]| Reached {
            steady: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Reached::default()
        };
        assert_eq!(reached(&["a", "b"]).beyond(&reached(&["b", "c"])), ["a"]);
    }
}
