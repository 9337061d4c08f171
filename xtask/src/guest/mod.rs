//! `cargo xtask guest`: everything that a test guest is made of, in parts, each fetched once.
//!
//! A part is built in a folder beside its final one and renamed when it is whole, so an interrupted fetch leaves
//! nothing half-made and the next one goes on with the first part that is missing. A key of the part's contents lies
//! in it; a part whose key has changed is fetched again. Packages come by name from the Debian release below,
//! through apt as this machine has it configured, and are only unpacked: no script of theirs runs.

mod debian;
mod tools;

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use pinhole_tests::guest::Pieces;
use rustix::fs::FlockOperation;

use crate::console::say;
use crate::step::{Failure, Outcome};

pub(crate) use debian::ensure_program;

/// Which parts to fetch; without any flag, all of the guest trees but neither disks nor tools.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Arguments {
    /// Only User-mode Linux, busybox, virtiofsd and the kernel's headers: what `demo` needs
    #[arg(long)]
    base: bool,
    /// Only QEMU and its kernel
    #[arg(long)]
    qemu: bool,
    /// Only the Debian userland
    #[arg(long)]
    userland: bool,
    /// Only what makes disks and file systems that lose their power: qemu-storage-daemon, mkfs
    #[arg(long)]
    disks: bool,
    /// Only the tools from crates.io: pjdfstest, fsx, cargo-fuzz, cargo-deny
    #[arg(long)]
    tools: bool,
    /// Everything
    #[arg(long)]
    all: bool,
}

/// One separately fetched part of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// User-mode Linux, busybox, virtiofsd, the kernel's headers.
    Base,
    /// QEMU and the kernel that it boots.
    Qemu,
    /// A Debian userland.
    Userland,
    /// A disk that keeps a log, and the makers of file systems for it.
    Disks,
    /// Programs from crates.io.
    Tools,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Qemu => "qemu",
            Self::Userland => "userland",
            Self::Disks => "disks",
            Self::Tools => "tools",
        }
    }

    /// What the part is made of; another key means another part. Paths are in it where the part depends on its place.
    fn key(self, place: &Path) -> String {
        match self {
            Self::Base | Self::Qemu | Self::Userland | Self::Disks => debian::key(self, place),
            Self::Tools => tools::key(),
        }
    }
}

/// The file in each part that holds its key.
const KEY_FILE: &str = ".key";

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    let chosen = [
        (Part::Base, arguments.base),
        (Part::Qemu, arguments.qemu),
        (Part::Userland, arguments.userland),
        (Part::Disks, arguments.disks),
        (Part::Tools, arguments.tools),
    ];
    let none = chosen.iter().all(|(_, wanted)| !wanted);
    let parts = chosen.into_iter().filter(|&(part, wanted)| {
        wanted || arguments.all || (none && !matches!(part, Part::Disks | Part::Tools))
    });
    ensure(&parts.map(|(part, _)| part).collect::<Vec<_>>())
}

/// Fetches those of `parts` that are missing or out of date. One process at a time; another one waits.
pub(crate) fn ensure(parts: &[Part]) -> Outcome {
    let folder = Pieces::locate().root().to_path_buf();
    if parts.iter().all(|&part| is_current(part, &folder)) {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot make {}", folder.display())))?;
    let lock = File::create(folder.join("lock"))
        .map_err(Failure::io("cannot make the lock of the guest's folder"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| Failure::new(format!("cannot lock the guest's folder: {error}")))?;
    for &part in parts {
        if !is_current(part, &folder) {
            fetch(part, &folder)?;
        }
    }
    Ok(())
}

fn is_current(part: Part, folder: &Path) -> bool {
    let place = folder.join(part.name());
    fs::read_to_string(place.join(KEY_FILE)).is_ok_and(|key| key == part.key(&place))
}

fn fetch(part: Part, folder: &Path) -> Outcome {
    let began = Instant::now();
    let place = folder.join(part.name());
    let building = folder.join(format!("{}.new", part.name()));
    say(format!("fetching {} ({})", part.name(), contents(part)));
    match part {
        Part::Base | Part::Qemu | Part::Userland | Part::Disks => {
            remove(&building)?;
            debian::build(part, &building, &place)?;
        }
        // Resumable: programs that are already built are kept.
        Part::Tools => tools::build(&building, &place, &folder.join("tools.build"))?,
    }
    fs::write(building.join(KEY_FILE), part.key(&place))
        .map_err(Failure::io("cannot write the part's key"))?;
    remove(&place)?;
    fs::rename(&building, &place).map_err(Failure::io(format!("cannot move {} into place", part.name())))?;
    say(format!("fetched {} in {:.1} s", part.name(), began.elapsed().as_secs_f64()));
    Ok(())
}

fn contents(part: Part) -> String {
    match part {
        Part::Base | Part::Qemu | Part::Userland | Part::Disks => debian::packages(part).join(", "),
        Part::Tools => tools::names().join(", "),
    }
}

pub(crate) fn remove(folder: &Path) -> Outcome {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("cannot remove {}: {error}", folder.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
