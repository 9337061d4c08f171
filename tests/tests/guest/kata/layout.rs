//! The host's side of a Kata sandbox: the shared directory, and the mounts of its containers.
//!
//! The steps are those of Kata's `virtcontainers/fs_share_linux.go` and `mount_linux.go`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pinhole_tests::disk_faults::leave_the_hosts_mounts;
use pinhole_tests::guest::Parts;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use tempfile::TempDir;

/// Commands in the root file system of a container, as links to busybox.
const COMMANDS: [&str; 8] = ["sh", "cat", "ls", "mkdir", "rm", "stat", "touch", "id"];

/// Folders of a sandbox on the host, in a mount namespace of the calling thread.
pub(crate) struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    /// Makes the folder `mounts` and its read-only copy `shared`, which later mounts below `mounts`
    /// reach by propagation.
    pub(crate) fn new() -> Self {
        leave_the_hosts_mounts().unwrap();
        // On the disk of the build folder, because the layers of a container need an upper folder
        // of overlayfs with `trusted.*` attributes.
        let folder =
            tempfile::Builder::new().prefix("kata-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sandbox = Self { folder };
        // On a host with systemd every mount is shared.
        rustix::mount::mount_bind(sandbox.folder.path(), sandbox.folder.path()).unwrap();
        rustix::mount::mount_change(sandbox.folder.path(), MountPropagationFlags::SHARED).unwrap();
        for name in ["mounts", "shared", "layers", "bundles", "volumes"] {
            fs::create_dir(sandbox.path(name)).unwrap();
        }
        let shared = sandbox.shared();
        rustix::mount::mount_bind(sandbox.path("mounts"), &shared).unwrap();
        rustix::mount::mount_change(&shared, MountPropagationFlags::DOWNSTREAM).unwrap();
        read_only(&shared);
        sandbox
    }

    /// Returns a path in the folder of the sandbox.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the folder that the daemon serves.
    pub(crate) fn shared(&self) -> PathBuf {
        self.path("shared")
    }

    /// Mounts the root file system of a container from two layers, as containerd's overlayfs
    /// snapshotter does, and makes it appear as `NAME/rootfs`.
    fn add_root(&self, name: &str) {
        let layers = self.path("layers").join(name);
        let [base, top, upper, work] = ["base", "top", "upper", "work"].map(|part| layers.join(part));
        for folder in [&base, &top, &upper, &work] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&base);
        fs::write(top.join("layer"), "top layer\n").unwrap();
        let root = self.snapshot(name);
        fs::create_dir_all(&root).unwrap();
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            top.display(),
            base.display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        self.bind(&root, &format!("{name}/rootfs"), Access::ReadWrite);
    }

    /// Makes a file or folder of the host appear under this name, by a bind mount.
    ///
    /// The mount in `shared` is a copy of the one in `mounts`, and a later remount of the original
    /// does not reach the copy. So a read-only mount is made elsewhere and mounted again from
    /// there.
    fn bind(&self, source: &Path, name: &str, access: Access) {
        let place = self.path("mounts").join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if source.is_dir() {
            fs::create_dir(&place).unwrap();
        } else {
            fs::write(&place, "").unwrap();
        }
        match access {
            Access::ReadWrite => bind_private(source, &place),
            Access::ReadOnly => {
                let private = self.path("private");
                fs::write(&private, "").unwrap();
                bind_private(source, &private);
                read_only(&private);
                bind_private(&private, &place);
                rustix::mount::unmount(&private, UnmountFlags::NOFOLLOW).unwrap();
            }
        }
    }

    /// Makes a container appear: its root file system, and what [`Self::add_files`] adds.
    pub(crate) fn add_container(&self, name: &str) {
        self.add_root(name);
        self.add_files(name);
    }

    /// Adds the bind mounts of a container: three read-only files and a volume.
    pub(crate) fn add_files(&self, name: &str) {
        for file in ["resolv.conf", "hosts", "config"] {
            let source = self.path("volumes").join(format!("{name}-{file}"));
            fs::write(&source, format!("{file} of {name}\n")).unwrap();
            self.bind(&source, &format!("{name}-{file}"), Access::ReadOnly);
        }
        let volume = self.path("volumes").join(name);
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("from-host"), format!("volume of {name}\n")).unwrap();
        self.bind(&volume, &format!("{name}-data"), Access::ReadWrite);
    }

    /// Removes what [`Self::add_container`] added.
    pub(crate) fn remove_container(&self, name: &str) {
        self.remove_files(name);
        self.remove_root(name);
    }

    /// Removes what [`Self::add_files`] added.
    pub(crate) fn remove_files(&self, name: &str) {
        for part in ["resolv.conf", "hosts", "config", "data"] {
            self.remove(&format!("{name}-{part}"));
        }
    }

    /// Tells the guest to take its next step.
    pub(crate) fn start_step(&self, step: &str) {
        fs::write(self.path("mounts").join(step), "").unwrap();
    }

    /// Removes a bind mount and its place, while the VM runs.
    fn remove(&self, name: &str) {
        let place = self.path("mounts").join(name);
        // As Kata does it: the guest may still use the mount.
        rustix::mount::unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).unwrap();
        if place.is_dir() { fs::remove_dir(&place) } else { fs::remove_file(&place) }.unwrap();
    }

    /// Removes the root file system of a container, its snapshot and its layers.
    fn remove_root(&self, name: &str) {
        self.remove(&format!("{name}/rootfs"));
        fs::remove_dir(self.path("mounts").join(name)).unwrap();
        rustix::mount::unmount(self.snapshot(name), UnmountFlags::NOFOLLOW).unwrap();
        fs::remove_dir_all(self.path("layers").join(name)).unwrap();
    }

    /// Returns the folder where the root file system of a container is mounted for the runtime.
    pub(crate) fn snapshot(&self, name: &str) -> PathBuf {
        self.path("bundles").join(name)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Whether a container may write to a bind mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

/// Fills the root file system of a container: busybox, the places of the bind mounts, a device.
pub(crate) fn fill(root: &Path) {
    for folder in ["bin", "data", "dev", "etc", "proc", "tmp"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    fs::copy(Parts::locate().busybox().unwrap(), root.join("bin/busybox")).unwrap();
    for command in COMMANDS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(command)).unwrap();
    }
    for file in ["resolv.conf", "hosts", "config"] {
        fs::write(root.join("etc").join(file), "").unwrap();
    }
    fs::write(root.join("removed"), "in the base layer\n").unwrap();
    let device = makedev(1, 5);
    mknodat(CWD, root.join("zero"), FileType::CharacterDevice, Mode::from(0o666), device).unwrap();
}

/// Makes a bind mount whose later submounts stay where they are made.
fn bind_private(source: &Path, place: &Path) {
    rustix::mount::mount_bind(source, place).unwrap();
    rustix::mount::mount_change(place, MountPropagationFlags::PRIVATE).unwrap();
}

/// Makes a bind mount read-only, as a second step, because bind(2) ignores the flag.
fn read_only(place: &Path) {
    rustix::mount::mount_remount(place, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
}
