//! What a row of the tables of host calls, capabilities and Landlock rights is there for.

use crate::Access;
use bitflags::bitflags;

bitflags! {
    /// What the command line switches on or off besides the policy, and some row depends on.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Facilities: u64 {
        /// Nodes are found again by the host's file handles.
        const HANDLES = 1;
        /// Extended attributes are served.
        const XATTR = 1 << 1;
        /// The daemon can take on the guest's users.
        const IDENTITY = 1 << 2;
        /// There are no threads for requests that wait: a worker waits for its own.
        const ALONE = 1 << 3;
        /// Messages go to a socket: standard error as systemd gives it.
        const LOG_SOCKET = 1 << 4;
        /// O_NOATIME of the guest reaches the host's files.
        const NOATIME = 1 << 5;
        /// The guest is this machine's own kernel, through /dev/fuse.
        const DEV_FUSE = 1 << 6;
        /// The daemon looks after itself: a build for debugging.
        const DEBUG = 1 << 7;
        /// POSIX access control lists are served.
        const ACL = 1 << 8;
        /// The daemon has made its socket at a path, and removes it at the end.
        const SOCKET_NAME = 1 << 9;
    }
}

/// When a row applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Any of these is granted; empty: whatever the policy grants.
    pub access: Access,
    /// All of these are there.
    pub facility: Facilities,
    /// None of these is granted.
    pub unless: Access,
}

impl Need {
    /// Whatever the policy grants and the command line says.
    pub const ALWAYS: Self =
        Self { access: Access::empty(), facility: Facilities::empty(), unless: Access::empty() };

    /// Where any of these is granted.
    pub const fn any_of(access: Access) -> Self {
        Self { access, ..Self::ALWAYS }
    }

    /// Where none of these is granted.
    pub const fn unless(access: Access) -> Self {
        Self { unless: access, ..Self::ALWAYS }
    }

    /// The same, and only with these.
    #[must_use]
    pub const fn with(self, facility: Facilities) -> Self {
        Self { facility: self.facility.union(facility), ..self }
    }

    /// Whether a policy that grants `granted` somewhere, with these facilities, has this need.
    pub const fn applies(self, granted: Access, facilities: Facilities) -> bool {
        (self.access.is_empty() || granted.intersects(self.access))
            && !granted.intersects(self.unless)
            && facilities.contains(self.facility)
    }
}
