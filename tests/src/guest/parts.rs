//! Places of the parts of a guest on this host, and the command that fetches a missing part.

use std::path::{Path, PathBuf};

use super::error::GuestError;

/// Folder that `cargo xtask guest` fills, part by part.
#[derive(Debug, Clone)]
pub struct Parts {
    root: PathBuf,
}

impl Parts {
    /// Returns `.guest` in the workspace, or the folder in `PINHOLE_GUEST_DIR`.
    pub fn locate() -> Self {
        let root = std::env::var_os("PINHOLE_GUEST_DIR").map_or_else(
            || {
                let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
                manifest.parent().unwrap_or(manifest).join(".guest")
            },
            PathBuf::from,
        );
        Self { root }
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the tree of User-mode Linux, busybox, virtiofsd and the kernel's headers.
    ///
    /// # Errors
    /// [`GuestError::Missing`], as for all functions below.
    pub fn base(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("base"), "cargo xtask guest")
    }

    /// Returns the executable User-mode Linux kernel.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn uml_kernel(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("base/linux"), "cargo xtask guest")
    }

    /// Returns a statically linked busybox.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn busybox(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("base/usr/bin/busybox"), "cargo xtask guest")
    }

    /// Returns the kernel's `linux/fuse.h`, from the release of the guest.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn fuse_header(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("base/usr/include/linux/fuse.h"), "cargo xtask guest")
    }

    /// Returns the tree of QEMU and the kernel that it boots.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn qemu(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("qemu"), "cargo xtask guest --qemu")
    }

    /// Returns the Debian userland.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn userland(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("userland"), "cargo xtask guest --userland")
    }

    /// Returns the tree of qemu-storage-daemon and the programs that make ext4, XFS and btrfs.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn disks(&self) -> Result<PathBuf, GuestError> {
        present(self.root.join("disks"), "cargo xtask guest --disks")
    }

    /// Returns a program built from crates.io: `pjdfstest`, `fsx`, `cargo-fuzz`, `cargo-deny`.
    ///
    /// # Errors
    /// [`GuestError::Missing`].
    pub fn tool(&self, name: &str) -> Result<PathBuf, GuestError> {
        present(self.root.join("tools/bin").join(name), "cargo xtask guest --tools")
    }

    /// Returns the only entry of `parent`, for a path such as `usr/lib/uml/modules/*`.
    pub(super) fn only_child(parent: &Path, command: &'static str) -> Result<PathBuf, GuestError> {
        let missing = || GuestError::Missing { path: parent.join("*"), command };
        let mut children = std::fs::read_dir(parent).map_err(|_error| missing())?.filter_map(Result::ok);
        children.next().map(|entry| entry.path()).ok_or_else(missing)
    }
}

/// Returns `path` if it exists. Otherwise fails with the command that provides it.
fn present(path: PathBuf, command: &'static str) -> Result<PathBuf, GuestError> {
    if path.exists() { Ok(path) } else { Err(GuestError::Missing { path, command }) }
}
