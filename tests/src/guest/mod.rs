//! Real Linux guests as test subjects: describe one with [`Guest`], run a shell script in it, read what came back.
//!
//! Two kernels, both without virtualization hardware: User-mode Linux, which boots in a second, and QEMU under TCG,
//! which has the PCI transport and, later, the DAX window. What the script prints travels in files of its own
//! (hostfs, or a second serial line), so that kernel messages never mix with it. Nothing here waits without a
//! limit: past it everything that the guest started is killed.
//!
//! The pieces come from `cargo xtask guest`; this module only looks for them.

mod boot;
mod cpio;
mod monitor;
mod panics;
mod pieces;
mod running;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use monitor::Monitor;
pub use panics::{PANICS_VARIABLE, panicked_tests};
pub use pieces::Pieces;
pub use running::{Finished, Running};

/// What may go wrong between a description of a guest and its script's exit code.
#[derive(thiserror::Error)]
pub enum GuestError {
    /// A piece of the guest is not on this machine.
    #[error("{path} is missing; run `{command}` to fetch it")]
    Missing {
        /// The file or folder looked for.
        path: PathBuf,
        /// The command that provides it.
        command: &'static str,
    },
    /// A host operation of the harness itself failed.
    #[error("{what}: {source}")]
    Host {
        /// What the harness was doing.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The time limit passed; everything that the guest started has been killed.
    #[error(
        "the guest was killed after {limit:?}; its script had printed:\n{output}\nkernel log:\n{kernel_log}"
    )]
    TimeLimit {
        /// The limit that passed.
        limit: Duration,
        /// What the script had printed until then.
        output: String,
        /// What the kernel had printed until then.
        kernel_log: String,
    },
    /// The kernel printed a panic, an oops or a BUG.
    #[error("the guest kernel failed: {line}\n{}", log_end(.kernel_log))]
    Kernel {
        /// The first line that says so.
        line: String,
        /// Everything that the kernel printed.
        kernel_log: String,
    },
    /// The guest ended before its script did, or before it could start it.
    #[error(
        "the guest ended without an exit code ({status}); script output:\n{output}\nkernel log:\n{kernel_log}"
    )]
    NoExitCode {
        /// How the guest's process ended.
        status: String,
        /// What the script had printed until then.
        output: String,
        /// What the kernel had printed.
        kernel_log: String,
    },
}

/// As [`Display`](std::fmt::Display): tests unwrap these, and a kernel's log in one escaped line helps nobody.
impl std::fmt::Debug for GuestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self}")
    }
}

/// The end of a kernel's log, as far as a message needs it.
fn log_end(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let left_out = lines.len().saturating_sub(40);
    let end = lines.get(left_out..).unwrap_or_default().join("\n");
    format!("kernel log, without its first {left_out} lines:\n{end}")
}

impl GuestError {
    fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}

/// The kernel that a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// User-mode Linux: a kernel as a process; one CPU, no PCI, no DAX.
    UserMode,
    /// QEMU under TCG with a q35 machine.
    Qemu,
}

/// The QEMU device model that carries a share; User-mode Linux has only one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// `vhost-user-fs-pci`: serves the device configuration itself, as VMMs in the field do.
    FsPci,
    /// `vhost-user-test-device-pci`: takes the configuration from the daemon and knows shared-memory regions. The
    /// number of request queues must be the one that the daemon announces, or the driver finds too few and gives up.
    TestPci,
}

/// One virtio-fs device of a guest.
#[derive(Debug, Clone)]
pub struct Share {
    socket: PathBuf,
    tag: String,
    options: String,
    mounted: bool,
    device: Device,
    request_queues: u16,
}

impl Share {
    /// A share served on `socket` under `tag`, mounted at `/mnt/<tag>` with default options.
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

    /// Mount options, as `mount -o` takes them.
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

    /// The QEMU device model; the default is [`Device::FsPci`]. User-mode Linux ignores it.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Request queues that QEMU's device offers to the guest, beside hiprio. User-mode Linux asks the daemon.
    #[must_use]
    pub fn request_queues(mut self, count: u16) -> Self {
        self.request_queues = count;
        self
    }
}

/// A file that the guest finds in its first root.
#[derive(Debug, Clone)]
struct GuestFile {
    path: String,
    mode: u32,
    bytes: Vec<u8>,
}

/// The description of a guest. Build it, then [`run`](Guest::run) a script in it.
#[derive(Debug, Clone)]
pub struct Guest {
    kernel: Kernel,
    memory_mib: u32,
    cpus: u32,
    limit: Duration,
    shares: Vec<Share>,
    files: Vec<GuestFile>,
    userland: bool,
    kernel_options: Vec<String>,
    pinned: bool,
    monitored: bool,
}

impl Guest {
    /// A User-mode Linux guest: 512 MiB, a busybox root, five minutes at most.
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
        }
    }

    /// A QEMU guest under TCG: 1 GiB, two CPUs, a busybox root, eight minutes at most.
    pub fn qemu() -> Self {
        Self { kernel: Kernel::Qemu, memory_mib: 1024, cpus: 2, limit: Duration::from_mins(8), ..Self::uml() }
    }

    /// Gives QEMU a monitor; see [`Running::monitor`].
    #[must_use]
    pub fn monitored(mut self) -> Self {
        self.monitored = true;
        self
    }

    /// Leaves the guest and its daemons to the host's scheduler. For guests that wait for one another: on a busy host, one of
    /// them that is confined to the busier CPU would hold up all.
    #[must_use]
    pub fn unpinned(mut self) -> Self {
        self.pinned = false;
        self
    }

    /// Which kernel this guest runs.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Guest memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Virtual CPUs under QEMU; User-mode Linux has one.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The time after which the guest is killed, counted from its start.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Attaches a share mounted at `/mnt/<tag>` with default options.
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

    /// Puts a file into the guest's first root; a script sees it at `/extra/<name>`, in a Debian userland too.
    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push(GuestFile { path: format!("extra/{name}"), mode, bytes: bytes.into() });
        self
    }

    /// Runs the script in the Debian userland (git, sqlite3, fio, python3, gcc ...), read-only but for `/tmp`,
    /// `/run` and `/mnt`, instead of busybox. User-mode Linux only: it is reached through hostfs.
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

    /// Boots the guest, runs `script` with `sh` and waits for its end.
    ///
    /// # Errors
    /// [`GuestError`]: a missing piece, the time limit, a kernel failure, or an end without an exit code. A script
    /// that fails is no error: look at [`Finished::exit_code`].
    pub fn run(&self, script: &str) -> Result<Finished, GuestError> {
        self.start(script)?.wait()
    }

    /// Boots the guest and returns at once; for tests that act while it runs.
    ///
    /// # Errors
    /// [`GuestError::Missing`] or [`GuestError::Host`].
    pub fn start(&self, script: &str) -> Result<Running, GuestError> {
        boot::start(self, script, boot::Console::Logged)
    }

    /// Runs `script` and then a shell on this process's terminal, until the user leaves it. No time limit.
    ///
    /// # Errors
    /// As [`run`](Guest::run).
    pub fn interact(&self, script: &str) -> Result<Finished, GuestError> {
        boot::start(self, script, boot::Console::Terminal)?.wait()
    }
}
