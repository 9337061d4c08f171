//! Says which Linux capabilities the daemon keeps for a policy. It drops all others.

use crate::{Access, Facilities, Need};

/// A capability, and a condition under which the daemon needs it. A capability may have several
/// rows: the daemon keeps it if the condition of any of them holds.
#[derive(Clone, Copy, Debug)]
pub struct CapabilityRow {
    /// Name in the kernel, such as `CAP_CHOWN`.
    pub name: &'static str,
    /// Condition under which the daemon needs the capability.
    pub need: Need,
    /// What the daemon does with the capability.
    pub why: &'static str,
}

/// Operations that can need `CAP_FOWNER`: the host permits them only to the owner of the file, or,
/// in a sticky directory, to the owner of the file or of the directory.
const OWNERS: Access = Access::CHMOD
    .union(Access::UTIMENS)
    .union(Access::ACL_WRITE)
    .union(Access::UNLINK)
    .union(Access::RMDIR)
    .union(Access::RENAME)
    .union(Access::EXCHANGE)
    .union(Access::LINK);

/// Every capability that a daemon may keep.
///
/// A daemon that was not started as root has none of these capabilities. In a user namespace, they
/// apply only to files whose owner and group the namespace maps.
///
/// The guest has already checked the permissions of its users. So the host's permission bits must
/// not stop the daemon. `CAP_DAC_OVERRIDE` achieves that. `CAP_DAC_READ_SEARCH` permits less and is
/// enough for a policy without changes to files.
pub const ROWS: &[CapabilityRow] = &[
    row(
        "CAP_DAC_OVERRIDE",
        Need::any_of(Access::MUTATIONS),
        "act on files regardless of permission bits, which the guest has checked",
    ),
    row(
        "CAP_DAC_READ_SEARCH",
        Need::unless(Access::MUTATIONS),
        "read files regardless of permission bits, which the guest has checked",
    ),
    row("CAP_DAC_READ_SEARCH", Need::ALWAYS.with(Facilities::HANDLES), "find files by inode handles"),
    row("CAP_CHOWN", Need::any_of(Access::CHOWN), "change the owner of a file"),
    row("CAP_FOWNER", Need::any_of(OWNERS), "act as the owner of any file"),
    row("CAP_FOWNER", Need::ALWAYS.with(Facilities::NOATIME), "open any file with O_NOATIME"),
    row("CAP_FSETID", Need::any_of(Access::KEEPS_BITS), "keep set-group-id if the guest says so"),
    row(
        "CAP_SETUID",
        Need::any_of(Access::MAKES_OWNED).with(Facilities::IDENTITY),
        "make files as a user of the guest",
    ),
    row(
        "CAP_SETGID",
        Need::any_of(Access::MAKES_OWNED).with(Facilities::IDENTITY),
        "make files as a group of the guest",
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
        "read and write attributes trusted.*, write attributes security.*",
    ),
    row(
        "CAP_LINUX_IMMUTABLE",
        Need::any_of(Access::IOCTL_INODE_FLAGS),
        "set the inode flags immutable and append-only",
    ),
];

/// Operations on extended attributes that the host's kernel permits only with `CAP_SYS_ADMIN`.
const TRUSTED: Access =
    Access::XATTR_READ_TRUSTED.union(Access::XATTR_WRITE_TRUSTED).union(Access::XATTR_WRITE_SECURITY);

/// Creates a row.
const fn row(name: &'static str, need: Need, why: &'static str) -> CapabilityRow {
    CapabilityRow { name, need, why }
}

/// Returns the rows whose condition holds. `granted` has each access that the policy grants for at
/// least one path.
/// A daemon that serves a prepared image needs none, because it has opened its files before.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static CapabilityRow> {
    let is_prepared = facilities.contains(Facilities::PREPARED);
    ROWS.iter().filter(move |row| !is_prepared && row.need.applies(granted, facilities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    fn names(profile: Profile, facilities: Facilities) -> Vec<&'static str> {
        rows(profile.granted(), facilities).map(|row| row.name).collect()
    }

    #[test]
    fn rootfs_keeps_only_the_capability_to_read() {
        let all = Facilities::OF_A_DIRECTORY - Facilities::NOATIME;
        assert!(names(Profile::Rootfs, all).iter().all(|name| *name == "CAP_DAC_READ_SEARCH"));
    }

    #[test]
    fn inode_handles_need_cap_dac_read_search() {
        let without = Facilities::IDENTITY;
        assert!(!names(Profile::Share, without).contains(&"CAP_DAC_READ_SEARCH"));
        assert!(names(Profile::Share, without | Facilities::HANDLES).contains(&"CAP_DAC_READ_SEARCH"));
    }

    #[test]
    fn no_capability_is_kept_for_an_image() {
        assert_eq!(rows(Access::all(), Facilities::all()).count(), 0);
    }

    #[test]
    fn default_profile_lacks_cap_mknod_and_cap_sys_admin() {
        let names = names(Profile::Share, Facilities::OF_A_DIRECTORY);
        assert!(!names.contains(&"CAP_MKNOD") && !names.contains(&"CAP_SYS_ADMIN"), "{names:?}");
    }
}
