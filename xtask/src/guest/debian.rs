//! The parts that are unpacked Debian packages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::Part;
use crate::console::say;
use crate::step::{Failure, Outcome, run_quietly};

/// The release that the guests come from: the first with User-mode Linux 7.2, whose vhost-user works.
const SUITE: &str = "forky";

/// Raise it when the mending below changes.
const RECIPE: u32 = 1;

/// The packages of a part; apt adds what they depend on.
pub(super) fn packages(part: Part) -> &'static [&'static str] {
    match part {
        Part::Base => &["busybox-static", "linux-libc-dev", "patchelf", "user-mode-linux", "virtiofsd"],
        Part::Qemu => &["linux-image-cloud-amd64", "qemu-system-x86"],
        Part::Userland => &[
            "acl",
            "attr",
            "base-files",
            "base-passwd",
            "bash",
            "coreutils",
            "dash",
            "diffutils",
            "e2fsprogs",
            "findutils",
            "fio",
            "gcc",
            "git",
            "grep",
            "gzip",
            "libc6-dev",
            "make",
            "mawk",
            "mount",
            "python3",
            "sed",
            "sqlite3",
            "tar",
            "util-linux",
            "xz-utils",
        ],
        // qemu-utils has qemu-storage-daemon, the disk that keeps a log.
        Part::Disks => &["btrfs-progs", "e2fsprogs", "qemu-utils", "xfsprogs"],
        Part::Tools => &[],
    }
}

pub(super) fn key(part: Part, place: &Path) -> String {
    format!("{SUITE} {RECIPE} {} at {}\n", packages(part).join(","), place.display())
}

/// Unpacks the part's packages into `building`; it will be used as `place`.
pub(super) fn build(part: Part, building: &Path, place: &Path) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "unpacking a Debian tree needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask guest --all`",
        ));
    }
    ensure_program("mmdebstrap")?;
    run_quietly(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract"])
            // A mirror that lags behind, or one frozen at a date, serves an expired Release file; signatures still count.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(format!("--include={}", packages(part).join(",")))
            .arg(SUITE)
            .arg(building),
    )?;
    match part {
        Part::Base => mend_base(building, place),
        Part::Userland => mend_userland(building),
        Part::Qemu | Part::Disks | Part::Tools => Ok(()),
    }
}

/// Installs a program of this machine's own that is missing, from the Debian package of the same name.
pub(crate) fn ensure_program(name: &str) -> Outcome {
    if Command::new(name).arg("--version").output().is_ok() {
        return Ok(());
    }
    say(format!("installing {name} by apt-get"));
    let install = ["install", "--yes", "--no-install-recommends", name];
    let installed = run_quietly(Command::new("apt-get").arg("update")).and_then(|()| {
        run_quietly(Command::new("apt-get").args(install).env("DEBIAN_FRONTEND", "noninteractive"))
    });
    installed.map_err(|failure| {
        Failure::new(format!(
            "{name} is missing; install it with `apt-get {}` ({failure})",
            install.join(" ")
        ))
    })
}

/// User-mode Linux executes itself again, so it cannot be started through another loader, and the host's C library
/// may be older than the one it needs: it gets the tree's own loader and libraries written into it.
fn mend_base(building: &Path, place: &Path) -> Outcome {
    let libraries = "usr/lib/x86_64-linux-gnu";
    let loader = format!("{libraries}/ld-linux-x86-64.so.2");
    let kernel = building.join("linux");
    fs::copy(building.join("usr/bin/linux.uml"), &kernel)
        .map_err(Failure::io("cannot copy User-mode Linux"))?;
    run_quietly(
        Command::new(building.join(&loader))
            .arg("--library-path")
            .arg(building.join(libraries))
            .arg(building.join("usr/bin/patchelf"))
            .arg("--set-interpreter")
            .arg(place.join(&loader))
            .arg("--set-rpath")
            .arg(place.join(libraries))
            .arg(kernel),
    )
}

/// What the packages' own scripts would have made, as far as a test guest needs it.
fn mend_userland(building: &Path) -> Outcome {
    let templates = building.join("usr/share/base-passwd");
    for (template, name) in [("passwd.master", "etc/passwd"), ("group.master", "etc/group")] {
        fs::copy(templates.join(template), building.join(name))
            .map_err(Failure::io(format!("cannot make {name} of the userland")))?;
    }
    for (target, name) in [("mawk", "usr/bin/awk"), ("gcc", "usr/bin/cc")] {
        symlink(target, building.join(name))
            .map_err(Failure::io(format!("cannot link {name} of the userland")))?;
    }
    // Where the harness mounts a guest's extra files and its shares.
    for name in ["extra", "mnt"] {
        fs::create_dir_all(building.join(name))
            .map_err(Failure::io(format!("cannot make /{name} of the userland")))?;
    }
    Ok(())
}
