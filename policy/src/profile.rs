//! Profiles: named sets of accesses, as data.

use crate::Access;

/// A named set of accesses to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// All that POSIX offers on a share.
    Full,
    /// All that programs ordinarily do: no device nodes, no attributes of the host's security.
    Share,
    /// A tree to run from: read and list, change nothing.
    Rootfs,
}

/// What a profile is.
#[derive(Clone, Copy, Debug)]
struct Row {
    profile: Profile,
    name: &'static str,
    what: &'static str,
    granted: Access,
}

/// ioctls are granted by name only.
const FULL: Access = Access::all().difference(Access::IOCTLS);
const SHARE: Access = FULL
    .difference(Access::MKNOD_CHAR)
    .difference(Access::MKNOD_BLOCK)
    .difference(Access::WHITEOUT)
    .difference(Access::XATTR_READ_TRUSTED)
    .difference(Access::XATTR_READ_SECURITY)
    .difference(Access::XATTR_WRITE_TRUSTED)
    .difference(Access::XATTR_WRITE_SECURITY);
const ROOTFS: Access = Access::LOOKUP
    .union(Access::STAT)
    .union(Access::READLINK)
    .union(Access::LIST)
    .union(Access::READ)
    .union(Access::MAP_READ)
    .union(Access::STATFS)
    .union(Access::XATTR_READ_USER)
    .union(Access::XATTR_READ_SECURITY)
    .union(Access::ACL_READ);

const ROWS: [Row; 3] = [
    Row { profile: Profile::Full, name: "full", what: "all that POSIX offers on a share", granted: FULL },
    Row {
        profile: Profile::Share,
        name: "share",
        what: "read, write, create, rename, link, lock; no device nodes, no trusted.* and security.* attributes",
        granted: SHARE,
    },
    Row {
        profile: Profile::Rootfs,
        name: "rootfs",
        what: "read, map, stat and list; every change is EROFS",
        granted: ROOTFS,
    },
];

impl Profile {
    /// Every profile, the widest first.
    pub const ALL: [Self; 3] = [Self::Full, Self::Share, Self::Rootfs];

    /// The name that the command line and policy files use.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// What it is for, as half a sentence.
    pub const fn what(self) -> &'static str {
        self.row().what
    }

    /// What it grants.
    pub const fn granted(self) -> Access {
        self.row().granted
    }

    /// The profile of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.profile)
    }

    const fn row(self) -> &'static Row {
        let [full, share, rootfs] = &ROWS;
        match self {
            Self::Full => full,
            Self::Share => share,
            Self::Rootfs => rootfs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ACCESSES;

    #[test]
    fn each_row_stands_where_its_profile_is_looked_for() {
        for profile in Profile::ALL {
            assert_eq!(profile.row().profile, profile);
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
        }
    }

    #[test]
    fn every_access_is_in_exactly_the_profiles_that_say_so() {
        const SHARE_LACKS: &[&str] = &[
            "mknod-char",
            "mknod-block",
            "whiteout",
            "xattr-read-trusted",
            "xattr-read-security",
            "xattr-write-trusted",
            "xattr-write-security",
        ];
        const ROOTFS_HAS: &[&str] = &[
            "lookup",
            "stat",
            "readlink",
            "list",
            "read",
            "map-read",
            "statfs",
            "xattr-read-user",
            "xattr-read-security",
            "acl-read",
        ];
        for row in ACCESSES {
            let ioctl = row.name.starts_with("ioctl-");
            let within = |profile: Profile| profile.granted().contains(row.access);
            assert_eq!(within(Profile::Full), !ioctl, "{} in full", row.name);
            assert_eq!(
                within(Profile::Share),
                !ioctl && !SHARE_LACKS.contains(&row.name),
                "{} in share",
                row.name
            );
            assert_eq!(within(Profile::Rootfs), ROOTFS_HAS.contains(&row.name), "{} in rootfs", row.name);
        }
    }

    #[test]
    fn rootfs_changes_nothing() {
        assert!(!Profile::Rootfs.granted().intersects(Access::MUTATIONS));
    }
}
