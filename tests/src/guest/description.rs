//! The description of a guest: its kernel, memory, shares and files.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kernel of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// User-mode Linux: a kernel as a process. It has one CPU, no PCI and no DAX.
    UserMode,
    /// QEMU under TCG with a q35 machine.
    Qemu,
}

/// QEMU's device model of a share. User-mode Linux has only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// `vhost-user-fs-pci`, which serves the device configuration itself, as deployed VMMs do.
    FsPci,
    /// `vhost-user-test-device-pci`, which takes the configuration from the daemon and supports
    /// shared-memory regions. The number of request queues must be the one that the daemon
    /// announces, or the driver finds too few and gives up.
    TestPci,
}

/// One virtio-fs device of a guest.
#[derive(Debug, Clone)]
pub struct Share {
    pub(super) socket: PathBuf,
    pub(super) tag: String,
    pub(super) options: String,
    pub(super) mounted: bool,
    pub(super) device: Device,
    pub(super) request_queues: u16,
}

impl Share {
    /// Describes a share that is served on `socket` under `tag`, mounted at `/mnt/<tag>` with
    /// default options.
    pub fn new(socket: impl Into<PathBuf>, tag: impl Into<String>) -> Self {
        Self {
            socket: socket.into(),
            tag: tag.into(),
            options: String::new(),
            mounted: true,
            device: Device::FsPci,
            request_queues: 1,
        }
    }

    /// Sets mount options, as `mount -o` takes them.
    #[must_use]
    pub fn options(mut self, options: impl Into<String>) -> Self {
        self.options = options.into();
        self
    }

    /// Attaches the device and leaves mounting to the script.
    #[must_use]
    pub fn unmounted(mut self) -> Self {
        self.mounted = false;
        self
    }

    /// Sets the QEMU device model. The default is [`Device::FsPci`]. User-mode Linux ignores it.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Sets the number of request queues that QEMU's device offers to the guest, in addition to
    /// hiprio. User-mode Linux asks the daemon.
    #[must_use]
    pub fn request_queues(mut self, count: u16) -> Self {
        self.request_queues = count;
        self
    }
}

/// File in the guest's first root.
#[derive(Debug, Clone)]
pub(super) struct GuestFile {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

/// Description of a guest. [`run`](Guest::run) runs a script in it.
#[derive(Debug, Clone)]
pub struct Guest {
    pub(super) kernel: Kernel,
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    pub(super) limit: Duration,
    pub(super) shares: Vec<Share>,
    pub(super) files: Vec<GuestFile>,
    pub(super) userland: bool,
    pub(super) kernel_options: Vec<String>,
    pub(super) pinned: bool,
    pub(super) monitored: bool,
    pub(super) modules: Vec<String>,
    pub(super) root: Option<String>,
}

impl Guest {
    /// Describes a User-mode Linux guest: 512 MiB, a busybox root, at most five minutes.
    pub fn uml() -> Self {
        Self {
            kernel: Kernel::UserMode,
            memory_mib: 512,
            cpus: 1,
            limit: Duration::from_mins(5),
            shares: Vec::new(),
            files: Vec::new(),
            userland: false,
            kernel_options: Vec::new(),
            pinned: true,
            monitored: false,
            modules: Vec::new(),
            root: None,
        }
    }

    /// Describes a QEMU guest under TCG: 1 GiB, two CPUs, a busybox root, at most eight minutes.
    pub fn qemu() -> Self {
        Self { kernel: Kernel::Qemu, memory_mib: 1024, cpus: 2, limit: Duration::from_mins(8), ..Self::uml() }
    }

    /// Gives QEMU a monitor; see [`Running::monitor`](super::Running::monitor).
    #[must_use]
    pub fn monitored(mut self) -> Self {
        self.monitored = true;
        self
    }

    /// Runs the script in the tree of a share, under an overlayfs whose upper layer is in memory.
    /// The tree needs `/bin/sh` and the folders `dev`, `proc` and `sys`.
    #[must_use]
    pub fn root(self, socket: &Path, tag: &str) -> Self {
        let mut guest = self.attach(Share::new(socket, tag).unmounted());
        guest.root = Some(tag.to_owned());
        guest
    }

    /// Loads a module of QEMU's kernel, which `init.sh` must know: `fs/overlayfs/overlay`,
    /// `fs/erofs/erofs` or `drivers/block/loop`. User-mode Linux always has overlayfs and loop
    /// devices.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Leaves the guest and its daemons to the host's scheduler, for guests that wait for each
    /// other. On a busy host, a guest on the busier CPU would slow down all of them.
    #[must_use]
    pub fn unpinned(mut self) -> Self {
        self.pinned = false;
        self
    }

    /// Returns the kernel of this guest.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Sets the guest memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets the number of virtual CPUs under QEMU. User-mode Linux has one.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the time after which the guest is killed, counted from its start.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Attaches a share that is mounted at `/mnt/<tag>` with default options.
    #[must_use]
    pub fn share(self, socket: &Path, tag: &str) -> Self {
        self.attach(Share::new(socket, tag))
    }

    /// Attaches a share as described.
    #[must_use]
    pub fn attach(mut self, share: Share) -> Self {
        self.shares.push(share);
        self
    }

    /// Puts a file into the guest's first root. A script finds it at `/extra/<name>`, in a Debian
    /// userland too.
    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push(GuestFile { path: format!("extra/{name}"), mode, bytes: bytes.into() });
        self
    }

    /// Runs the script in the Debian userland (git, sqlite3, fio, python3, gcc ...) instead of
    /// busybox. The userland is read-only except `/tmp`, `/run` and `/mnt`. Only User-mode Linux
    /// has it, because it is reached through hostfs.
    #[must_use]
    pub fn userland(mut self) -> Self {
        self.userland = true;
        self
    }

    /// Adds a word to the kernel's command line.
    #[must_use]
    pub fn kernel_option(mut self, option: impl Into<String>) -> Self {
        self.kernel_options.push(option.into());
        self
    }
}
