//! The capabilities that a policy needs, when the daemon runs with any.

use crate::{Access, Facilities, Need};

/// One capability.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kernel's name: `CAP_CHOWN`.
    pub name: &'static str,
    /// What for.
    pub need: Need,
    /// What for, in words.
    pub why: &'static str,
}

/// What only a file's owner may do, or whoever may act as any.
const OWNERS: Access = Access::CHMOD
    .union(Access::UTIMENS)
    .union(Access::ACL_WRITE)
    .union(Access::UNLINK)
    .union(Access::RMDIR)
    .union(Access::RENAME)
    .union(Access::EXCHANGE)
    .union(Access::LINK);

/// Every capability that is ever kept. A daemon that is not root has none of them, in a user namespace only those over
/// what its own ids own.
///
/// Who may do what to a file was decided in the guest; so the host's own permission bits must not stand in the way. A
/// policy that changes nothing needs less for that than one that does.
pub const ROWS: &[Row] = &[
    row(
        "CAP_DAC_OVERRIDE",
        Need::any_of(Access::MUTATIONS),
        "act on files whatever their permission bits: the guest has judged them",
    ),
    row(
        "CAP_DAC_READ_SEARCH",
        Need::unless(Access::MUTATIONS),
        "read files whatever their permission bits: the guest has judged them",
    ),
    row("CAP_DAC_READ_SEARCH", Need::ALWAYS.with(Facilities::HANDLES), "find files by their handles"),
    row("CAP_CHOWN", Need::any_of(Access::CHOWN), "give a file to another user"),
    row("CAP_FOWNER", Need::any_of(OWNERS), "act as any file's owner"),
    row("CAP_FOWNER", Need::ALWAYS.with(Facilities::NOATIME), "open any file without noting the time"),
    row("CAP_FSETID", Need::any_of(Access::KEEPS_BITS), "keep set-group-id where the guest says so"),
    row(
        "CAP_SETUID",
        Need::any_of(Access::MAKES_OWNED).with(Facilities::IDENTITY),
        "make files as the guest's user",
    ),
    row(
        "CAP_SETGID",
        Need::any_of(Access::MAKES_OWNED).with(Facilities::IDENTITY),
        "make files as the guest's group",
    ),
    row("CAP_MKNOD", Need::any_of(Access::MKNOD_CHAR.union(Access::MKNOD_BLOCK)), "make device nodes"),
    row(
        "CAP_SETFCAP",
        Need::any_of(Access::XATTR_WRITE_SECURITY).with(Facilities::XATTR),
        "write file capabilities",
    ),
    row(
        "CAP_SYS_ADMIN",
        Need::any_of(TRUSTED).with(Facilities::XATTR),
        "read and write attributes trusted.* and security.*",
    ),
    row(
        "CAP_LINUX_IMMUTABLE",
        Need::any_of(Access::IOCTL_INODE_FLAGS),
        "set the inode flags immutable and append-only",
    ),
];

/// What the host's kernel shows and changes only for CAP_SYS_ADMIN.
const TRUSTED: Access =
    Access::XATTR_READ_TRUSTED.union(Access::XATTR_WRITE_TRUSTED).union(Access::XATTR_WRITE_SECURITY);

const fn row(name: &'static str, need: Need, why: &'static str) -> Row {
    Row { name, need, why }
}

/// The rows for a policy that grants `granted` somewhere.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.need.applies(granted, facilities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    fn names(profile: Profile, facilities: Facilities) -> Vec<&'static str> {
        rows(profile.granted(), facilities).map(|row| row.name).collect()
    }

    #[test]
    fn a_policy_that_changes_nothing_can_change_nothing() {
        let all = Facilities::all() - Facilities::NOATIME;
        assert!(names(Profile::Rootfs, all).iter().all(|name| *name == "CAP_DAC_READ_SEARCH"));
    }

    #[test]
    fn handles_are_needed_where_they_are_used() {
        let none = Facilities::IDENTITY;
        assert!(!names(Profile::Share, none).contains(&"CAP_DAC_READ_SEARCH"));
        assert!(names(Profile::Share, none | Facilities::HANDLES).contains(&"CAP_DAC_READ_SEARCH"));
    }

    #[test]
    fn the_default_has_neither_devices_nor_administration() {
        let names = names(Profile::Share, Facilities::all());
        assert!(!names.contains(&"CAP_MKNOD") && !names.contains(&"CAP_SYS_ADMIN"), "{names:?}");
    }
}
