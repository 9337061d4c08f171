//! The closed set of things that an operation can need, each with the name that policy files, help and documents use.

use crate::Refusal;
use bitflags::bitflags;

/// One table makes the flags, their names, what they mean and how the lack of each is answered.
macro_rules! accesses {
    ($($flag:ident = $bit:literal, $name:literal, $refusal:ident, $what:literal;)*) => {
        bitflags! {
            /// Capabilities over file operations, fine enough that a profile can be read as a sentence.
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct Access: u64 {
                $(#[doc = $what] const $flag = 1 << $bit;)*
            }
        }

        /// Every access, in the order of their bits.
        pub const ACCESSES: &[Described] = &[
            $(Described { access: Access::$flag, name: $name, what: $what, refusal: Refusal::$refusal },)*
        ];
    };
}

/// A single access in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Exactly one flag.
    pub access: Access,
    /// Its stable name, in kebab case.
    pub name: &'static str,
    /// What it lets a guest do, as a sentence.
    pub what: &'static str,
    /// What a guest is told that does not have it; see [`Access::refusal`] for read-only policies.
    pub refusal: Refusal,
}

accesses! {
    LOOKUP = 0, "lookup", NotGranted, "Find a name in a directory.";
    STAT = 1, "stat", NotGranted, "Read attributes.";
    READLINK = 2, "readlink", NotGranted, "Read the target of a symbolic link.";
    LIST = 3, "list", NotGranted, "List a directory.";
    READ = 4, "read", NotGranted, "Read a file's bytes.";
    MAP_READ = 5, "map-read", NotGranted, "Map a file's bytes read-only into the DAX window.";
    WRITE = 6, "write", NotGranted, "Write a file's bytes anywhere.";
    APPEND = 7, "append", NotGranted, "Write at a file's end.";
    TRUNCATE = 8, "truncate", NotGranted, "Change a file's length.";
    MAP_WRITE = 9, "map-write", NotGranted, "Map a file's bytes writable into the DAX window.";
    CREATE = 10, "create", NotGranted, "Make a regular file.";
    MKDIR = 11, "mkdir", NotGranted, "Make a directory.";
    SYMLINK = 12, "symlink", NotGranted, "Make a symbolic link.";
    LINK = 13, "link", NotGranted, "Give a file another name.";
    MKNOD_FIFO = 14, "mknod-fifo", NotGranted, "Make a FIFO.";
    MKNOD_SOCKET = 15, "mknod-socket", NotGranted, "Make a socket node.";
    MKNOD_CHAR = 16, "mknod-char", NotGranted, "Make a character device node.";
    MKNOD_BLOCK = 17, "mknod-block", NotGranted, "Make a block device node.";
    UNLINK = 18, "unlink", NotGranted, "Remove a name that is no directory's.";
    RMDIR = 19, "rmdir", NotGranted, "Remove an empty directory.";
    RENAME = 20, "rename", NotGranted, "Move a name.";
    EXCHANGE = 21, "exchange", Invalid, "Swap two names.";
    WHITEOUT = 22, "whiteout", Invalid, "Make an overlayfs whiteout (character device 0:0), also by leaving one behind a rename.";
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
    FALLOCATE = 37, "fallocate", NotSupported, "Reserve room for a file.";
    FALLOCATE_PUNCH = 38, "fallocate-punch", NotSupported, "Punch holes into a file.";
    FALLOCATE_ZERO = 39, "fallocate-zero", NotSupported, "Zero ranges of a file without writing them.";
    FALLOCATE_SHIFT = 40, "fallocate-shift", NotSupported, "Cut ranges out of a file (collapse) or into it (insert).";
    COPY_RANGE = 41, "copy-range", NotSupported, "Copy between files inside the host.";
    LOCK = 42, "lock", NotGranted, "Take file locks.";
    STATFS = 43, "statfs", NotGranted, "Read the figures of the file system.";
    TMPFILE = 44, "tmpfile", NotSupported, "Make a file without a name.";
    IOCTL_INODE_FLAGS = 45, "ioctl-inode-flags", NotTty, "Read and change inode flags (chattr) by ioctl.";
    IOCTL_VERITY = 46, "ioctl-verity", NotTty, "Enable and measure fs-verity by ioctl.";
    IOCTL_FSCRYPT = 47, "ioctl-fscrypt", NotTty, "Read and set encryption policies (fscrypt) by ioctl.";
}

impl Access {
    /// Everything that changes the host's files. A read-only policy grants none of it.
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

    /// Making something under a name that was not there.
    pub const MAKES: Self = Self::CREATE
        .union(Self::MKDIR)
        .union(Self::SYMLINK)
        .union(Self::MKNOD_FIFO)
        .union(Self::MKNOD_SOCKET)
        .union(Self::MKNOD_CHAR)
        .union(Self::MKNOD_BLOCK)
        .union(Self::WHITEOUT);

    /// Making something that is to belong to the guest's user.
    pub const MAKES_OWNED: Self = Self::MAKES.union(Self::TMPFILE);

    /// What opens a file to write it.
    pub const OPENS_TO_WRITE: Self = Self::WRITE
        .union(Self::APPEND)
        .union(Self::TRUNCATE)
        .union(Self::MAP_WRITE)
        .union(Self::CREATE)
        .union(Self::TMPFILE)
        .union(Self::FALLOCATES)
        .union(Self::COPY_RANGE);

    /// What could drop set-user-id and set-group-id where they are to stay. Not writing through a mapping: of that the
    /// daemon does nothing.
    pub const KEEPS_BITS: Self = Self::OPENS_TO_WRITE
        .difference(Self::MAP_WRITE)
        .union(Self::CHMOD)
        .union(Self::CHOWN)
        .union(Self::ACL_WRITE)
        .union(Self::MAKES_OWNED);

    /// What is done to a name in a directory, whether or not it is there. The rest is done to a file that was reached.
    pub const OF_NAMES: Self = Self::LOOKUP
        .union(Self::MAKES_OWNED)
        .union(Self::LINK)
        .union(Self::UNLINK)
        .union(Self::RMDIR)
        .union(Self::RENAME)
        .union(Self::EXCHANGE);

    /// What reaches a file: by finding its name, or by making it.
    pub const REACHES: Self = Self::LOOKUP.union(Self::MAKES_OWNED).union(Self::LINK);

    /// What reaches a directory, and so what is below.
    pub const LEADS_ON: Self = Self::LOOKUP.union(Self::MKDIR);

    /// Named, so that nobody takes them for part of something else, and not carried out by this version.
    pub const NOT_SERVED: Self = Self::IOCTL_VERITY.union(Self::IOCTL_FSCRYPT);

    /// Reading extended attributes of any namespace, ACLs apart.
    pub const XATTR_READS: Self = Self::XATTR_READ_USER
        .union(Self::XATTR_READ_TRUSTED)
        .union(Self::XATTR_READ_SECURITY)
        .union(Self::XATTR_READ_SYSTEM);

    /// Changing extended attributes of any namespace, ACLs apart.
    pub const XATTR_WRITES: Self = Self::XATTR_WRITE_USER
        .union(Self::XATTR_WRITE_TRUSTED)
        .union(Self::XATTR_WRITE_SECURITY)
        .union(Self::XATTR_WRITE_SYSTEM);

    /// Every form of fallocate(2).
    pub const FALLOCATES: Self =
        Self::FALLOCATE.union(Self::FALLOCATE_PUNCH).union(Self::FALLOCATE_ZERO).union(Self::FALLOCATE_SHIFT);

    /// Every ioctl.
    pub const IOCTLS: Self = Self::IOCTL_INODE_FLAGS.union(Self::IOCTL_VERITY).union(Self::IOCTL_FSCRYPT);

    /// The access of this name, in kebab case.
    pub fn named(name: &str) -> Option<Self> {
        ACCESSES.iter().find(|row| row.name == name).map(|row| row.access)
    }

    /// The name of a single access; `None` for none and for several.
    pub fn name(self) -> Option<&'static str> {
        ACCESSES.iter().find(|row| row.access == self).map(|row| row.name)
    }

    /// The names of all accesses in the set, in their own order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        ACCESSES.iter().filter(move |row| self.contains(row.access)).map(|row| row.name)
    }

    /// Whether none of these changes the host's files.
    pub const fn changes_nothing(self) -> bool {
        !self.intersects(Self::MUTATIONS)
    }

    /// What a guest is told that lacks these. `read_only`: of a policy that grants no mutation at all.
    ///
    /// Of several answers the plainest is given: an exchange where not even a rename is granted is EPERM.
    pub fn refusal(self, read_only: bool) -> Refusal {
        if read_only && self.intersects(Self::MUTATIONS.difference(Self::IOCTLS)) {
            return Refusal::ReadOnly;
        }
        let rows = ACCESSES.iter().filter(|row| self.contains(row.access));
        rows.map(|row| row.refusal).min().unwrap_or(Refusal::NotGranted)
    }
}

/// Where an extended attribute belongs, by its name (xattr(7)).
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
    /// `system.*` but the two above.
    System,
    /// A file system's own (`btrfs.*`, `ceph.*`, `cifs.*`), or none at all: it may say how the host keeps its files, so
    /// it is served to nobody, whatever is granted.
    Other,
}

impl XattrNamespace {
    /// The namespace of a name.
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

    /// What reading one needs; of [`Self::Other`] at least.
    pub const fn read(self) -> Access {
        match self {
            Self::User => Access::XATTR_READ_USER,
            Self::Trusted => Access::XATTR_READ_TRUSTED,
            Self::Security => Access::XATTR_READ_SECURITY,
            Self::Acl => Access::ACL_READ,
            Self::System | Self::Other => Access::XATTR_READ_SYSTEM,
        }
    }

    /// What setting or removing one needs; of [`Self::Other`] at least.
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
    fn every_access_has_one_row_whose_name_is_its_constant_in_kebab_case() {
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
    fn no_lack_is_answered_as_if_the_operation_did_not_exist() {
        for row in ACCESSES {
            assert_ne!(row.refusal.errno_name(), "ENOSYS", "{}", row.name);
        }
    }

    #[test]
    fn an_attribute_belongs_to_the_namespace_before_its_first_dot() {
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
