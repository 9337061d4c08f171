//! The accesses: a closed set of everything that an operation can need.
//!
//! Policy files, help and documents use the same name for each access.

use crate::Refusal;
use bitflags::bitflags;

/// Defines the flags, their names, their descriptions and the reason of their refusal in one table.
macro_rules! accesses {
    ($($flag:ident = $bit:literal, $name:literal, $refusal:ident, $what:literal;)*) => {
        bitflags! {
            /// A set of permissions for file operations.
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct Access: u64 {
                $(#[doc = $what] const $flag = 1 << $bit;)*
            }
        }

        /// Every access, in the order of the bits.
        pub const ACCESSES: &[AccessRow] = &[
            $(AccessRow { access: Access::$flag, name: $name, what: $what, refusal: Refusal::$refusal },)*
        ];
    };
}

/// An access and its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRow {
    /// Exactly one flag.
    pub access: Access,
    /// Stable name, in kebab case.
    pub name: &'static str,
    /// What the access permits, as a sentence.
    pub what: &'static str,
    /// Reason of the refusal if the access is not granted. [`Access::refusal`] also covers
    /// read-only policies.
    pub refusal: Refusal,
}

accesses! {
    LOOKUP = 0, "lookup", NotGranted, "Find a name in a directory.";
    STAT = 1, "stat", NotGranted, "Read attributes.";
    READLINK = 2, "readlink", NotGranted, "Read the target of a symbolic link.";
    LIST = 3, "list", NotGranted, "List a directory.";
    READ = 4, "read", NotGranted, "Read the bytes of a file.";
    MAP_READ = 5, "map-read", NotGranted, "Map the bytes of a file read-only into the DAX window.";
    WRITE = 6, "write", NotGranted, "Write the bytes of a file at any offset.";
    APPEND = 7, "append", NotGranted, "Write at the end of a file.";
    TRUNCATE = 8, "truncate", NotGranted, "Change the length of a file.";
    MAP_WRITE = 9, "map-write", NotGranted, "Map the bytes of a file writable into the DAX window.";
    CREATE = 10, "create", NotGranted, "Make a regular file.";
    MKDIR = 11, "mkdir", NotGranted, "Make a directory.";
    SYMLINK = 12, "symlink", NotGranted, "Make a symbolic link.";
    LINK = 13, "link", NotGranted, "Give a file another name.";
    MKNOD_FIFO = 14, "mknod-fifo", NotGranted, "Make a FIFO.";
    MKNOD_SOCKET = 15, "mknod-socket", NotGranted, "Make a socket node.";
    MKNOD_CHAR = 16, "mknod-char", NotGranted, "Make a character device node.";
    MKNOD_BLOCK = 17, "mknod-block", NotGranted, "Make a block device node.";
    UNLINK = 18, "unlink", NotGranted, "Remove a name of anything but a directory.";
    RMDIR = 19, "rmdir", NotGranted, "Remove an empty directory.";
    RENAME = 20, "rename", NotGranted, "Move a name.";
    EXCHANGE = 21, "exchange", Invalid, "Swap two names.";
    WHITEOUT = 22, "whiteout", Invalid, "Make an overlayfs whiteout (character device 0:0), also by a rename that leaves one.";
    CHMOD = 23, "chmod", NotGranted, "Change permission bits.";
    CHOWN = 24, "chown", NotGranted, "Change owner or group.";
    UTIMENS = 25, "utimens", NotGranted, "Change timestamps.";
    XATTR_READ_USER = 26, "xattr-read-user", NotSupported, "Read extended attributes user.*.";
    XATTR_READ_TRUSTED = 27, "xattr-read-trusted", NotSupported, "Read extended attributes trusted.*.";
    XATTR_READ_SECURITY = 28, "xattr-read-security", NotSupported, "Read extended attributes security.*.";
    XATTR_READ_SYSTEM = 29, "xattr-read-system", NotSupported, "Read extended attributes system.* other than POSIX ACLs.";
    XATTR_WRITE_USER = 30, "xattr-write-user", NotSupported, "Change extended attributes user.*.";
    XATTR_WRITE_TRUSTED = 31, "xattr-write-trusted", NotSupported, "Change extended attributes trusted.*.";
    XATTR_WRITE_SECURITY = 32, "xattr-write-security", NotSupported, "Change extended attributes security.*.";
    XATTR_WRITE_SYSTEM = 33, "xattr-write-system", NotSupported, "Change extended attributes system.* other than POSIX ACLs.";
    ACL_READ = 34, "acl-read", NotSupported, "Read POSIX access control lists.";
    ACL_WRITE = 35, "acl-write", NotSupported, "Change POSIX access control lists.";
    FSYNC = 36, "fsync", NotGranted, "Make data durable.";
    FALLOCATE = 37, "fallocate", NotSupported, "Reserve space for a file.";
    FALLOCATE_PUNCH = 38, "fallocate-punch", NotSupported, "Punch holes into a file.";
    FALLOCATE_ZERO = 39, "fallocate-zero", NotSupported, "Zero ranges of a file without writing them.";
    FALLOCATE_SHIFT = 40, "fallocate-shift", NotSupported, "Cut ranges out of a file (collapse) or into it (insert).";
    COPY_RANGE = 41, "copy-range", NotSupported, "Copy between files inside the host.";
    LOCK = 42, "lock", NotGranted, "Take file locks.";
    STATFS = 43, "statfs", NotGranted, "Read the statistics of the file system.";
    TMPFILE = 44, "tmpfile", NotSupported, "Make a file without a name.";
    IOCTL_INODE_FLAGS = 45, "ioctl-inode-flags", NotTty, "Read and change inode flags (chattr) by ioctl.";
    IOCTL_VERITY = 46, "ioctl-verity", NotTty, "Enable and measure fs-verity by ioctl.";
    IOCTL_FSCRYPT = 47, "ioctl-fscrypt", NotTty, "Read and set encryption policies (fscrypt) by ioctl.";
}

impl Access {
    /// Operations that change the host's files. A read-only policy grants none of them.
    pub const MUTATIONS: Self = Self::WRITE
        .union(Self::APPEND)
        .union(Self::TRUNCATE)
        .union(Self::MAP_WRITE)
        .union(Self::MAKES)
        .union(Self::LINK)
        .union(Self::UNLINK)
        .union(Self::RMDIR)
        .union(Self::RENAME)
        .union(Self::EXCHANGE)
        .union(Self::CHMOD)
        .union(Self::CHOWN)
        .union(Self::UTIMENS)
        .union(Self::XATTR_WRITES)
        .union(Self::ACL_WRITE)
        .union(Self::FALLOCATES)
        .union(Self::COPY_RANGE)
        .union(Self::TMPFILE)
        .union(Self::IOCTLS);

    /// Operations that create a file of any type under a new name.
    pub const MAKES: Self = Self::CREATE
        .union(Self::MKDIR)
        .union(Self::SYMLINK)
        .union(Self::MKNOD_FIFO)
        .union(Self::MKNOD_SOCKET)
        .union(Self::MKNOD_CHAR)
        .union(Self::MKNOD_BLOCK)
        .union(Self::WHITEOUT);

    /// Operations that create a file, with or without a name. The file belongs to the guest's user.
    pub const MAKES_OWNED: Self = Self::MAKES.union(Self::TMPFILE);

    /// Operations that open a file for writing.
    pub const OPENS_TO_WRITE: Self = Self::WRITE
        .union(Self::APPEND)
        .union(Self::TRUNCATE)
        .union(Self::MAP_WRITE)
        .union(Self::CREATE)
        .union(Self::TMPFILE)
        .union(Self::FALLOCATES)
        .union(Self::COPY_RANGE);

    /// Operations that could make the host drop the set-user-id and set-group-id bits where the
    /// bits have to stay.
    ///
    /// `MAP_WRITE` is not one of them: the daemon takes no part in a store through a mapping.
    pub const KEEPS_BITS: Self = Self::OPENS_TO_WRITE
        .difference(Self::MAP_WRITE)
        .union(Self::CHMOD)
        .union(Self::CHOWN)
        .union(Self::ACL_WRITE)
        .union(Self::MAKES_OWNED);

    /// Operations on a name in a directory, whether or not the name exists. All others act on a
    /// file that the guest has reached.
    pub const OF_NAMES: Self = Self::LOOKUP
        .union(Self::MAKES_OWNED)
        .union(Self::LINK)
        .union(Self::UNLINK)
        .union(Self::RMDIR)
        .union(Self::RENAME)
        .union(Self::EXCHANGE);

    /// Operations by which a guest reaches a file: finding it, creating it or linking it.
    pub const REACHES: Self = Self::LOOKUP.union(Self::MAKES_OWNED).union(Self::LINK);

    /// Operations by which a guest reaches a directory, and so the names in it.
    pub const REACHES_DIRECTORY: Self = Self::LOOKUP.union(Self::MKDIR);

    /// Operations that this version does not carry out.
    ///
    /// They have accesses of their own so that no other access covers them.
    pub const NOT_SERVED: Self = Self::IOCTL_VERITY.union(Self::IOCTL_FSCRYPT);

    /// Operations that read extended attributes, except POSIX ACLs.
    pub const XATTR_READS: Self = Self::XATTR_READ_USER
        .union(Self::XATTR_READ_TRUSTED)
        .union(Self::XATTR_READ_SECURITY)
        .union(Self::XATTR_READ_SYSTEM);

    /// Operations that change extended attributes, except POSIX ACLs.
    pub const XATTR_WRITES: Self = Self::XATTR_WRITE_USER
        .union(Self::XATTR_WRITE_TRUSTED)
        .union(Self::XATTR_WRITE_SECURITY)
        .union(Self::XATTR_WRITE_SYSTEM);

    /// Operations of every mode of fallocate(2).
    pub const FALLOCATES: Self =
        Self::FALLOCATE.union(Self::FALLOCATE_PUNCH).union(Self::FALLOCATE_ZERO).union(Self::FALLOCATE_SHIFT);

    /// Operations by ioctl, whether or not this version serves them.
    pub const IOCTLS: Self = Self::IOCTL_INODE_FLAGS.union(Self::IOCTL_VERITY).union(Self::IOCTL_FSCRYPT);

    /// Returns the access with this name, in kebab case.
    pub fn named(name: &str) -> Option<Self> {
        ACCESSES.iter().find(|row| row.name == name).map(|row| row.access)
    }

    /// Returns the name of a single access, or `None` for an empty set and for several.
    pub fn name(self) -> Option<&'static str> {
        ACCESSES.iter().find(|row| row.access == self).map(|row| row.name)
    }

    /// Returns the names of all accesses in the set, in the order of [`ACCESSES`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        ACCESSES.iter().filter(move |row| self.contains(row.access)).map(|row| row.name)
    }

    /// Returns whether no access in the set changes the host's files.
    pub const fn changes_nothing(self) -> bool {
        !self.intersects(Self::MUTATIONS)
    }

    /// Returns the reason for refusing an operation that lacks these accesses.
    ///
    /// `read_only` says whether the policy grants no mutation at all. Then a missing mutation other
    /// than an ioctl gives [`Refusal::ReadOnly`]. Otherwise, if the accesses have different
    /// reasons, the first in the order of [`Refusal`] counts. For example, an exchange fails with
    /// EPERM if rename is not granted either.
    pub fn refusal(self, read_only: bool) -> Refusal {
        if read_only && self.intersects(Self::MUTATIONS.difference(Self::IOCTLS)) {
            return Refusal::ReadOnly;
        }
        let rows = ACCESSES.iter().filter(|row| self.contains(row.access));
        rows.map(|row| row.refusal).min().unwrap_or(Refusal::NotGranted)
    }
}

/// The namespace of an extended attribute (xattr(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrNamespace {
    /// `user.*`
    User,
    /// `trusted.*`
    Trusted,
    /// `security.*`
    Security,
    /// `system.posix_acl_access` and `system.posix_acl_default`.
    Acl,
    /// `system.*` except for the two ACL names.
    System,
    /// Any other namespace, such as that of one file system (`btrfs.*`, `ceph.*`, `cifs.*`), or a
    /// name without a namespace.
    ///
    /// Such an attribute may say how the host keeps its files. The daemon does not serve it under
    /// any policy.
    Other,
}

impl XattrNamespace {
    /// Returns the namespace of an attribute name.
    pub fn of(name: &[u8]) -> Self {
        if name == b"system.posix_acl_access" || name == b"system.posix_acl_default" {
            return Self::Acl;
        }
        let spaces = [
            (b"user.".as_slice(), Self::User),
            (b"trusted.".as_slice(), Self::Trusted),
            (b"security.".as_slice(), Self::Security),
            (b"system.".as_slice(), Self::System),
        ];
        spaces
            .into_iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map_or(Self::Other, |(_, space)| space)
    }

    /// Returns the access that reading an attribute needs. For [`Self::Other`] the access is
    /// necessary but not sufficient.
    pub const fn read(self) -> Access {
        match self {
            Self::User => Access::XATTR_READ_USER,
            Self::Trusted => Access::XATTR_READ_TRUSTED,
            Self::Security => Access::XATTR_READ_SECURITY,
            Self::Acl => Access::ACL_READ,
            Self::System | Self::Other => Access::XATTR_READ_SYSTEM,
        }
    }

    /// Returns the access that setting or removing an attribute needs. For [`Self::Other`] the
    /// access is necessary but not sufficient.
    pub const fn write(self) -> Access {
        match self {
            Self::User => Access::XATTR_WRITE_USER,
            Self::Trusted => Access::XATTR_WRITE_TRUSTED,
            Self::Security => Access::XATTR_WRITE_SECURITY,
            Self::Acl => Access::ACL_WRITE,
            Self::System | Self::Other => Access::XATTR_WRITE_SYSTEM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_access_has_one_row_with_its_name() {
        assert_eq!(ACCESSES.len(), Access::all().iter().count());
        for ((constant, access), row) in Access::all().iter_names().zip(ACCESSES) {
            assert_eq!(row.access, access);
            assert_eq!(row.name, constant.to_lowercase().replace('_', "-"));
            assert_eq!(Access::named(row.name), Some(access));
            assert_eq!(access.name(), Some(row.name));
            assert!(row.what.ends_with('.'), "{}", row.what);
        }
    }

    #[test]
    fn no_refusal_is_enosys() {
        for row in ACCESSES {
            assert_ne!(row.refusal.errno_name(), "ENOSYS", "{}", row.name);
        }
    }

    #[test]
    fn attribute_name_decides_the_namespace() {
        for (name, namespace) in [
            ("user.a", XattrNamespace::User),
            ("trusted.overlay.opaque", XattrNamespace::Trusted),
            ("security.selinux", XattrNamespace::Security),
            ("system.posix_acl_access", XattrNamespace::Acl),
            ("system.posix_acl_default", XattrNamespace::Acl),
            ("system.nfs4_acl", XattrNamespace::System),
            ("system.", XattrNamespace::System),
            ("btrfs.compression", XattrNamespace::Other),
            ("ceph.quota.max_bytes", XattrNamespace::Other),
            ("systemd.a", XattrNamespace::Other),
            ("User.a", XattrNamespace::Other),
            ("user", XattrNamespace::Other),
            ("", XattrNamespace::Other),
        ] {
            assert_eq!(XattrNamespace::of(name.as_bytes()), namespace, "{name}");
        }
    }
}
