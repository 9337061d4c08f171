//! The parts of the guest folder.

use std::fs;
use std::path::Path;

use crate::step::{Failure, Outcome};

/// Part of the guest folder. Each part is fetched separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// User-mode Linux, busybox, virtiofsd and kernel headers.
    Base,
    /// QEMU and the kernel that it boots.
    Qemu,
    /// A Debian userland.
    Userland,
    /// A disk that logs each write, and the mkfs programs for it.
    Disks,
    /// Programs from crates.io.
    Tools,
}

impl Part {
    /// All parts.
    const ALL: [Self; 5] = [Self::Base, Self::Qemu, Self::Userland, Self::Disks, Self::Tools];

    /// Returns the part with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Returns the name of the part, which is also the name of its folder.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Qemu => "qemu",
            Self::Userland => "userland",
            Self::Disks => "disks",
            Self::Tools => "tools",
        }
    }
}

/// Removes a folder with its contents. Succeeds if the folder does not exist.
pub(crate) fn remove_folder(folder: &Path) -> Outcome {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("cannot remove {}: {error}", folder.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
