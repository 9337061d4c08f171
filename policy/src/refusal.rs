//! How a refused operation is answered.

/// Why the gate said no, and with it the errno that the guest sees. The order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No such node, or no longer: ESTALE.
    Stale,
    /// No such handle, or no longer: EBADF.
    NotOpen,
    /// There is a rule that keeps the name from being seen: ENOENT.
    Hidden,
    /// The policy grants no change at all and the operation is one: EROFS.
    ReadOnly,
    /// The policy does not grant it: EPERM.
    NotGranted,
    /// No ioctl of that kind: ENOTTY, as files without it say.
    NotTty,
    /// As a file system answers that cannot do it: EOPNOTSUPP. Programs fall back to something plainer.
    NotSupported,
    /// As rename(2) answers on a file system without that flag: EINVAL.
    Invalid,
    /// It would come under a rule that decides otherwise: EXDEV, upon which mv(1) copies.
    OtherRule,
}

impl Refusal {
    /// The errno's name. Never ENOSYS, which a guest takes for an answer for ever.
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
