//! Real Linux guests: describe one with [`Guest`], run a shell script in it, and read its output.
//!
//! There are two kernels, and both work without virtualization hardware: User-mode Linux, which
//! boots in a second, and QEMU under TCG, which has the PCI transport and the DAX window. The
//! output of the script travels in files of its own (hostfs, or a second serial line), so that
//! kernel messages never mix with it. Every wait has a limit. After it, every process of the guest
//! is killed.
//!
//! `cargo xtask guest` fetches the parts. This module only looks for them.

mod boot;
mod cpio;
mod description;
mod error;
mod monitor;
mod panics;
mod parts;
mod running;

pub use description::{Device, Guest, Kernel, Share};
pub use error::GuestError;
pub use monitor::Monitor;
pub use panics::{PANICS_VARIABLE, panicked_tests};
pub use parts::Parts;
pub use running::{Finished, Running};

impl Guest {
    /// Boots the guest, runs `script` with `sh` and waits for its end.
    ///
    /// # Errors
    /// [`GuestError`]: a missing part, the time limit, a kernel failure, or an end without an exit
    /// code. A script that fails is not an error: see [`Finished::exit_code`].
    pub fn run(&self, script: &str) -> Result<Finished, GuestError> {
        self.start(script)?.wait()
    }

    /// Boots the guest and returns at once, for tests that act while it runs.
    ///
    /// # Errors
    /// [`GuestError::Missing`] or [`GuestError::Host`].
    pub fn start(&self, script: &str) -> Result<Running, GuestError> {
        boot::start(self, script, boot::Console::Logged)
    }

    /// Runs `script` and then a shell on this process's terminal, until the user leaves it. There
    /// is no time limit.
    ///
    /// # Errors
    /// As [`run`](Guest::run).
    pub fn interact(&self, script: &str) -> Result<Finished, GuestError> {
        boot::start(self, script, boot::Console::Terminal)?.wait()
    }
}
