//! `cargo xtask guest`: fetches the parts of the test guests, each part once.
//!
//! A part is built in a temporary folder and renamed when it is complete. So an interrupted fetch
//! leaves no incomplete part, and the next fetch continues with the first missing part. Each part
//! contains a key that describes its contents. A part whose key has changed is fetched again.
//!
//! `debian.rs` names the packages and their Debian release. apt fetches them with the configuration
//! of this host. Packages are only unpacked: no script of a package runs.

mod debian;
mod part;
mod tools;

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use pinhole_tests::guest::Parts;
use rustix::fs::FlockOperation;

use crate::console::say;
use crate::step::{Failure, Outcome};

pub(crate) use debian::ensure_program;
pub(crate) use part::{Part, remove_folder};

/// Selects the parts to fetch. Without an option: --base, --qemu and --userland.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct GuestArguments {
    /// User-mode Linux, busybox, virtiofsd and kernel headers; `demo` needs only these
    #[arg(long)]
    base: bool,
    /// QEMU and the kernel that it boots
    #[arg(long)]
    qemu: bool,
    /// A Debian userland with git, sqlite3, fio, gcc and python3
    #[arg(long)]
    userland: bool,
    /// qemu-storage-daemon and mkfs programs, for tests of power loss, disk errors and images
    #[arg(long)]
    disks: bool,
    /// Tools from crates.io: pjdfstest, fsx, cargo-fuzz, cargo-deny
    #[arg(long)]
    tools: bool,
    /// All parts
    #[arg(long)]
    all: bool,
}

/// File in each part that contains its key.
const KEY_FILE: &str = ".key";

/// Fetches the selected parts.
pub(crate) fn main(arguments: &GuestArguments) -> Outcome {
    let chosen = [
        (Part::Base, arguments.base),
        (Part::Qemu, arguments.qemu),
        (Part::Userland, arguments.userland),
        (Part::Disks, arguments.disks),
        (Part::Tools, arguments.tools),
    ];
    let none_chosen = chosen.iter().all(|(_, wanted)| !wanted);
    let parts = chosen.into_iter().filter(|&(part, wanted)| {
        wanted || arguments.all || (none_chosen && !matches!(part, Part::Disks | Part::Tools))
    });
    ensure(&parts.map(|(part, _)| part).collect::<Vec<_>>())
}

/// Fetches those of `parts` that are missing or out of date. Waits while another process fetches
/// parts.
pub(crate) fn ensure(parts: &[Part]) -> Outcome {
    let folder = Parts::locate().root().to_path_buf();
    if parts.iter().all(|&part| is_current(part, &folder)) {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot create {}", folder.display())))?;
    let lock = File::create(folder.join("lock"))
        .map_err(Failure::io("cannot create the lock file of the guest folder"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| Failure::new(format!("cannot lock the guest folder: {error}")))?;
    for &part in parts {
        if !is_current(part, &folder) {
            fetch(part, &folder)?;
        }
    }
    Ok(())
}

/// Returns whether a part has been fetched and its key has not changed.
fn is_current(part: Part, folder: &Path) -> bool {
    let place = folder.join(part.name());
    fs::read_to_string(place.join(KEY_FILE)).is_ok_and(|key| key == key_of(part, &place))
}

/// Returns the key of a part: a text that describes its contents. The key contains `place` if the
/// part works only in that folder.
fn key_of(part: Part, place: &Path) -> String {
    match part {
        Part::Base | Part::Qemu | Part::Userland | Part::Disks => debian::key(part, place),
        Part::Tools => tools::key(),
    }
}

/// Fetches one part and replaces its earlier version.
fn fetch(part: Part, folder: &Path) -> Outcome {
    let began = Instant::now();
    let place = folder.join(part.name());
    let building = folder.join(format!("{}.new", part.name()));
    say(format!("fetching {} ({})", part.name(), content_names(part)));
    match part {
        Part::Base | Part::Qemu | Part::Userland | Part::Disks => {
            remove_folder(&building)?;
            debian::build(part, &building, &place)?;
        }
        // Resumable: keeps programs that are already built.
        Part::Tools => tools::build(&building, &place, &folder.join("tools.build"))?,
    }
    fs::write(building.join(KEY_FILE), key_of(part, &place))
        .map_err(Failure::io("cannot write the key of the part"))?;
    remove_folder(&place)?;
    fs::rename(&building, &place).map_err(Failure::io(format!("cannot move {} into place", part.name())))?;
    say(format!("fetched {} in {:.1} s", part.name(), began.elapsed().as_secs_f64()));
    Ok(())
}

/// Returns the names of the packages or tools in a part, for a message.
fn content_names(part: Part) -> String {
    match part {
        Part::Base | Part::Qemu | Part::Userland | Part::Disks => debian::packages(part).join(", "),
        Part::Tools => tools::names().join(", "),
    }
}
