//! Programs and parts of test guests that a measurement needs. `cargo xtask` fetches them before it
//! starts the measurement.

use std::fmt;

/// Part of the test guests, or program of the host. Printed as `part NAME` or `program NAME`, which
/// `xtask/src/measure.rs` parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// User-mode Linux, virtiofsd and kernel headers.
    Base,
    /// QEMU and the kernel that it boots.
    Qemu,
    /// A Debian userland for guests.
    Userland,
    /// mkfs.erofs.
    Disks,
    /// strace, on the host.
    Strace,
}

impl fmt::Display for Need {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Base => "part base",
            Self::Qemu => "part qemu",
            Self::Userland => "part userland",
            Self::Disks => "part disks",
            Self::Strace => "program strace",
        })
    }
}
