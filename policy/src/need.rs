//! The conditions of rows in the tables of host calls, capabilities and Landlock rights.

use crate::Access;
use bitflags::bitflags;

bitflags! {
    /// Properties of a daemon, besides its policy, that some rows depend on. Most properties follow
    /// from the command line.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Facilities: u64 {
        /// The daemon finds nodes again by inode handles.
        const HANDLES = 1;
        /// The daemon serves extended attributes.
        const XATTR = 1 << 1;
        /// The daemon can act as the users of the guest.
        const IDENTITY = 1 << 2;
        /// The daemon has no offload pool: a thread that takes a request also waits for the host.
        const NO_POOL = 1 << 3;
        /// Log messages go to a socket, such as standard error of a systemd service.
        const LOG_SOCKET = 1 << 4;
        /// O_NOATIME of the guest applies to the host's files.
        const NOATIME = 1 << 5;
        /// The guest is the host's own kernel, through /dev/fuse.
        const DEV_FUSE = 1 << 6;
        /// The daemon is a debug build, which checks its own use of descriptors.
        const DEBUG = 1 << 7;
        /// The daemon serves POSIX access control lists.
        const ACL = 1 << 8;
        /// The daemon has created its socket at a path, and removes it when it ends.
        const SOCKET_NAME = 1 << 9;
        /// The daemon serves a prepared image. It opens no file after its start, and its queue
        /// threads have memory that was reserved then.
        const PREPARED = 1 << 10;
    }
}

impl Facilities {
    /// Every facility that a daemon may have that serves a directory.
    pub const OF_A_DIRECTORY: Self = Self::all().difference(Self::PREPARED);
}

/// The condition under which a row applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Accesses of which one must be granted. An empty set is always satisfied.
    pub access: Access,
    /// Facilities, all of which must be present.
    pub facility: Facilities,
    /// Accesses of which none may be granted.
    pub unless: Access,
    /// Facilities of which none may be present.
    pub without: Facilities,
}

impl Need {
    /// The condition that is always true.
    pub const ALWAYS: Self = Self {
        access: Access::empty(),
        facility: Facilities::empty(),
        unless: Access::empty(),
        without: Facilities::empty(),
    };

    /// Creates the condition that at least one of these accesses is granted.
    pub const fn any_of(access: Access) -> Self {
        Self { access, ..Self::ALWAYS }
    }

    /// Creates the condition that none of these accesses is granted.
    pub const fn unless(access: Access) -> Self {
        Self { unless: access, ..Self::ALWAYS }
    }

    /// Adds the condition that all of these facilities are present.
    #[must_use]
    pub const fn with(self, facility: Facilities) -> Self {
        Self { facility: self.facility.union(facility), ..self }
    }

    /// Adds the condition that none of these facilities is present.
    #[must_use]
    pub const fn without(self, facility: Facilities) -> Self {
        Self { without: self.without.union(facility), ..self }
    }

    /// Returns whether the condition is true for a daemon with these facilities. `granted` are the
    /// accesses that its policy grants anywhere.
    pub const fn applies(self, granted: Access, facilities: Facilities) -> bool {
        (self.access.is_empty() || granted.intersects(self.access))
            && !granted.intersects(self.unless)
            && facilities.contains(self.facility)
            && !facilities.intersects(self.without)
    }
}
