//! Profiles: named sets of accesses.

use crate::{Access, Facilities};

/// A named set of accesses that a policy starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Every operation except ioctls.
    Full,
    /// The operations of [`Profile::Full`] without device nodes, overlayfs whiteouts, and
    /// attributes `trusted.*` and `security.*`.
    Share,
    /// Operations that read: look up, stat, list, read, map, and read `user.*`, `security.*` and
    /// ACLs. It serves a tree to run programs from.
    Rootfs,
    /// The operations of [`Profile::Rootfs`], for a prepared image: the daemon needs few system
    /// calls and no other right of the host for them.
    Prepared,
}

/// The definition of a profile.
#[derive(Clone, Copy, Debug)]
struct ProfileRow {
    profile: Profile,
    name: &'static str,
    what: &'static str,
    granted: Access,
}

/// Accesses of [`Profile::Full`]. No profile grants ioctls. A policy file can grant by name the
/// ioctls that this version serves.
const FULL: Access = Access::all().difference(Access::IOCTLS);
/// Accesses of [`Profile::Share`].
const SHARE: Access = FULL
    .difference(Access::MKNOD_CHAR)
    .difference(Access::MKNOD_BLOCK)
    .difference(Access::WHITEOUT)
    .difference(Access::XATTR_READ_TRUSTED)
    .difference(Access::XATTR_READ_SECURITY)
    .difference(Access::XATTR_WRITE_TRUSTED)
    .difference(Access::XATTR_WRITE_SECURITY);
/// Accesses of [`Profile::Rootfs`].
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

/// The definition of each profile, in the order of [`Profile::ALL`].
const ROWS: [ProfileRow; 4] = [
    ProfileRow { profile: Profile::Full, name: "full", what: "every operation except ioctls", granted: FULL },
    ProfileRow {
        profile: Profile::Share,
        name: "share",
        what: "read, write, create, rename, link, lock; no device nodes, whiteouts, trusted.* and security.* attributes",
        granted: SHARE,
    },
    ProfileRow {
        profile: Profile::Rootfs,
        name: "rootfs",
        what: "read, map, stat and list; changes fail with EROFS, ioctls with ENOTTY",
        granted: ROOTFS,
    },
    ProfileRow {
        profile: Profile::Prepared,
        name: "prepared",
        what: "the operations of rootfs, on a prepared image",
        granted: ROOTFS,
    },
];

impl Profile {
    /// Every profile, starting with the one that grants most.
    pub const ALL: [Self; 4] = [Self::Full, Self::Share, Self::Rootfs, Self::Prepared];

    /// Returns the name that the command line and policy files use.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns a description, as a phrase without a period.
    pub const fn what(self) -> &'static str {
        self.row().what
    }

    /// Returns the accesses that the profile grants.
    pub const fn granted(self) -> Access {
        self.row().granted
    }

    /// Returns the profile with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.profile)
    }

    /// Returns the definition of the profile.
    const fn row(self) -> &'static ProfileRow {
        let [full, share, rootfs, prepared] = &ROWS;
        match self {
            Self::Full => full,
            Self::Share => share,
            Self::Rootfs => rootfs,
            Self::Prepared => prepared,
        }
    }

    /// Returns the facilities that every daemon with the profile has.
    pub const fn facilities(self) -> Facilities {
        match self {
            Self::Full | Self::Share | Self::Rootfs => Facilities::empty(),
            Self::Prepared => Facilities::PREPARED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ACCESSES;

    #[test]
    fn each_profile_is_found_by_its_row_and_its_name() {
        for profile in Profile::ALL {
            assert_eq!(profile.row().profile, profile);
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
        }
    }

    #[test]
    fn each_profile_grants_exactly_its_accesses() {
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
            let grants = |profile: Profile| profile.granted().contains(row.access);
            assert_eq!(grants(Profile::Full), !ioctl, "{} in full", row.name);
            assert_eq!(
                grants(Profile::Share),
                !ioctl && !SHARE_LACKS.contains(&row.name),
                "{} in share",
                row.name
            );
            for profile in [Profile::Rootfs, Profile::Prepared] {
                assert_eq!(grants(profile), ROOTFS_HAS.contains(&row.name), "{} in {profile:?}", row.name);
            }
        }
    }

    #[test]
    fn rootfs_grants_no_mutation() {
        assert!(!Profile::Rootfs.granted().intersects(Access::MUTATIONS));
    }
}
