//! The reasons for refusing an operation.

/// The reason why the policy check refused an operation. It decides the errno that the guest gets.
///
/// If several reasons apply, the first in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The node does not exist (any more): ESTALE.
    Stale,
    /// The file handle does not exist (any more): EBADF.
    NotOpen,
    /// A rule hides the name: ENOENT.
    Hidden,
    /// The operation changes something, and the policy grants no change at all: EROFS.
    ReadOnly,
    /// The policy does not grant the operation: EPERM.
    NotGranted,
    /// The policy does not grant the ioctl: ENOTTY, as for a file without this ioctl.
    NotTty,
    /// The policy does not grant an optional operation: EOPNOTSUPP, as from a file system that does
    /// not support it. Programs then fall back to simpler operations.
    NotSupported,
    /// The policy does not grant the flag: EINVAL, as from rename(2) on a file system without it.
    Invalid,
    /// The file would move to a place whose rule grants more somewhere, or the comparison of the
    /// rules takes too long: EXDEV. Then mv(1) copies the file.
    OtherRule,
}

impl Refusal {
    /// Returns the name of the errno. The errno is never ENOSYS, which a guest would remember for
    /// every file.
    pub const fn errno_name(self) -> &'static str {
        match self {
            Self::Stale => "ESTALE",
            Self::NotOpen => "EBADF",
            Self::Hidden => "ENOENT",
            Self::ReadOnly => "EROFS",
            Self::NotGranted => "EPERM",
            Self::NotTty => "ENOTTY",
            Self::NotSupported => "EOPNOTSUPP",
            Self::Invalid => "EINVAL",
            Self::OtherRule => "EXDEV",
        }
    }
}
