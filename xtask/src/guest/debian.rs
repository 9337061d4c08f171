//! Parts of a guest that are unpacked Debian packages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::part::Part;
use crate::console::say;
use crate::step::{Failure, Outcome, run_quietly};

/// Debian release of the guests: the first with User-mode Linux 7.2, whose vhost-user works.
const RELEASE: &str = "forky";

/// Version of the changes that `set_library_paths` and `complete_userland` make to the unpacked
/// packages. Raise the version with each change of the two, so that the parts are fetched again.
const RECIPE: u32 = 1;

/// Returns the packages of a part. apt adds their dependencies.
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
        // qemu-utils contains qemu-storage-daemon: it serves a disk and logs each write to the
        // disk.
        Part::Disks => &["btrfs-progs", "e2fsprogs", "erofs-utils", "fsverity", "qemu-utils", "xfsprogs"],
        Part::Tools => &[],
    }
}

/// Returns the key of a part: Debian release, version of the recipe, packages and folder. The
/// folder counts because `set_library_paths` writes it into a program.
pub(super) fn key(part: Part, place: &Path) -> String {
    format!("{RELEASE} {RECIPE} {} at {}\n", packages(part).join(","), place.display())
}

/// Unpacks the packages of a part into the folder `building`. The caller then renames that folder
/// to `place`.
pub(super) fn build(part: Part, building: &Path, place: &Path) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "unpacking Debian packages needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask guest --all`",
        ));
    }
    ensure_program("mmdebstrap")?;
    run_quietly(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract"])
            // A mirror that lags behind, or is frozen at a date, serves an expired Release file.
            // apt still checks signatures.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(format!("--include={}", packages(part).join(",")))
            .arg(RELEASE)
            .arg(building),
    )?;
    match part {
        Part::Base => set_library_paths(building, place),
        Part::Userland => complete_userland(building),
        Part::Qemu | Part::Disks | Part::Tools => Ok(()),
    }
}

/// Debian packages of programs that have another name than their package.
const PACKAGES: [(&str, &str); 3] =
    [("fincore", "util-linux-extra"), ("mkfs.ext4", "e2fsprogs"), ("xz", "xz-utils")];

/// Returns the Debian package of a program.
fn package_of(program: &str) -> &str {
    PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

/// Installs the program `name` on this host if it is missing, from its Debian package.
pub(crate) fn ensure_program(name: &str) -> Outcome {
    if Command::new(name).arg("--version").output().is_ok() {
        return Ok(());
    }
    say(format!("installing {name} with apt-get"));
    let install = ["install", "--yes", "--no-install-recommends", package_of(name)];
    let installed = run_quietly(Command::new("apt-get").arg("update")).and_then(|()| {
        run_quietly(Command::new("apt-get").args(install).env("DEBIAN_FRONTEND", "noninteractive"))
    });
    installed.map_err(|failure| {
        Failure::new(format!(
            "{name} is missing, and apt-get did not install it: install it by other means ({failure})"
        ))
    })
}

/// Writes the paths of the loader and the libraries of this part into User-mode Linux.
///
/// The host may have an older C library than User-mode Linux needs. To start User-mode Linux
/// through the loader of this part is not enough, because the program executes itself again.
fn set_library_paths(building: &Path, place: &Path) -> Outcome {
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

/// Creates the files that a test guest needs and that scripts of packages would create.
fn complete_userland(building: &Path) -> Outcome {
    let templates = building.join("usr/share/base-passwd");
    for (template, name) in [("passwd.master", "etc/passwd"), ("group.master", "etc/group")] {
        fs::copy(templates.join(template), building.join(name))
            .map_err(Failure::io(format!("cannot create {name} of the userland")))?;
    }
    for (target, name) in [("mawk", "usr/bin/awk"), ("gcc", "usr/bin/cc")] {
        symlink(target, building.join(name))
            .map_err(Failure::io(format!("cannot link {name} of the userland")))?;
    }
    // Mount points: the harness mounts the extra files of a guest and its shares at these.
    for name in ["extra", "mnt"] {
        fs::create_dir_all(building.join(name))
            .map_err(Failure::io(format!("cannot create /{name} of the userland")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_comes_from_its_package() {
        assert_eq!(["xz", "strace", "fincore"].map(package_of), ["xz-utils", "strace", "util-linux-extra"]);
    }
}
