//! Identity of a file of the host and of its file system.

use rustix::fs::{AtFlags, Statx, StatxFlags};
use std::os::fd::AsFd;

/// The number of a device: of a device node, or of the file system of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the two parts of a device number")]
pub struct DeviceId {
    pub major: u32,
    pub minor: u32,
}

impl DeviceId {
    /// Decodes the number of a device node in a message.
    pub(crate) const fn unpack(packed: u32) -> Self {
        Self { major: (packed >> 8) & 0xfff, minor: (packed & 0xff) | ((packed >> 12) & 0xf_ff00) }
    }

    /// Encodes the number as the kernel's `new_encode_dev` does: 12 bits of major, 20 of minor.
    pub(crate) const fn pack(self) -> u32 {
        (self.minor & 0xff) | ((self.major & 0xfff) << 8) | ((self.minor & 0xf_ff00) << 12)
    }

    /// Returns the file system of a file.
    pub(crate) const fn of_stat(stat: &Statx) -> Self {
        Self { major: stat.stx_dev_major, minor: stat.stx_dev_minor }
    }
}

/// A file of the host, as long as it exists. A later file may get the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// File system of the file.
    pub device: DeviceId,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// Returns the file of a descriptor.
    ///
    /// # Errors
    /// The error of `statx(2)`.
    pub fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statx(fd, c"", flags, StatxFlags::INO).map(|stat| Self::of_stat(&stat))
    }

    /// Returns the file of a `statx(2)` result.
    pub(crate) const fn of_stat(stat: &Statx) -> Self {
        Self { device: DeviceId::of_stat(stat), inode: stat.stx_ino }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_packing() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (4095, 0xf_ffff), (259, 70_000)] {
            let device = DeviceId { major, minor };
            assert_eq!(DeviceId::unpack(device.pack()), device);
        }
    }
}
