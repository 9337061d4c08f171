//! The Landlock rights beneath the share that a policy needs.
//!
//! No policy permits executing files, or ioctls on devices.

use crate::{Access, Facilities, Need};

/// A right that some policy needs.
#[derive(Clone, Copy, Debug)]
pub struct LandlockRow {
    /// Name in the kernel, such as `LANDLOCK_ACCESS_FS_READ_FILE`.
    pub name: &'static str,
    /// Condition under which the daemon needs it.
    pub need: Need,
    /// Purpose.
    pub why: &'static str,
}

/// Operations that move a name. They also need the rights to make and to remove a file of its type.
const MOVES: Access = Access::RENAME.union(Access::EXCHANGE);

/// Operations that open a file for writing.
const WRITES: Access = Access::OPENS_TO_WRITE;

/// Every right that a policy may need.
pub const ROWS: &[LandlockRow] = &[
    row(
        "LANDLOCK_ACCESS_FS_READ_FILE",
        Access::READ.union(Access::MAP_READ).union(WRITES),
        "open a file for reading, also together with writing",
    ),
    row(
        "LANDLOCK_ACCESS_FS_READ_DIR",
        Access::empty(),
        "list a directory, and open the share itself once for its mount",
    ),
    row("LANDLOCK_ACCESS_FS_WRITE_FILE", WRITES, "open a file for writing"),
    row(
        "LANDLOCK_ACCESS_FS_TRUNCATE",
        Access::TRUNCATE.union(Access::WRITE).union(Access::CREATE),
        "change the length of a file, also by opening it",
    ),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_REG",
        Access::CREATE.union(Access::LINK).union(MOVES).union(Access::TMPFILE),
        "give a file a name",
    ),
    row("LANDLOCK_ACCESS_FS_MAKE_DIR", Access::MKDIR.union(MOVES), "give a directory a name"),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_SYM",
        Access::SYMLINK.union(Access::LINK).union(MOVES),
        "give a symbolic link a name",
    ),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_FIFO",
        Access::MKNOD_FIFO.union(Access::LINK).union(MOVES),
        "give a FIFO a name",
    ),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_SOCK",
        Access::MKNOD_SOCKET.union(Access::LINK).union(MOVES),
        "give a socket a name",
    ),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_CHAR",
        Access::MKNOD_CHAR.union(Access::WHITEOUT).union(Access::LINK).union(MOVES),
        "give a character device, or a whiteout, a name",
    ),
    row(
        "LANDLOCK_ACCESS_FS_MAKE_BLOCK",
        Access::MKNOD_BLOCK.union(Access::LINK).union(MOVES),
        "give a block device a name",
    ),
    row(
        "LANDLOCK_ACCESS_FS_REMOVE_FILE",
        Access::UNLINK.union(MOVES),
        "remove a name of anything but a directory",
    ),
    row("LANDLOCK_ACCESS_FS_REMOVE_DIR", Access::RMDIR.union(MOVES), "remove the name of a directory"),
    row("LANDLOCK_ACCESS_FS_REFER", Access::LINK.union(MOVES), "move or link from one directory to another"),
];

/// Creates the row of a right that any of these accesses needs. A right without accesses is always
/// needed.
const fn row(name: &'static str, access: Access, why: &'static str) -> LandlockRow {
    LandlockRow { name, need: Need::any_of(access), why }
}

/// Returns the rows that a policy needs. `granted` are the accesses that it grants anywhere.
/// A daemon that serves a prepared image needs none, because it has no share.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static LandlockRow> {
    let is_prepared = facilities.contains(Facilities::PREPARED);
    ROWS.iter().filter(move |row| !is_prepared && row.need.applies(granted, facilities))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_right_is_needed_for_an_image() {
        assert_eq!(rows(Access::all(), Facilities::all()).count(), 0);
        assert_eq!(rows(Access::all(), Facilities::OF_A_DIRECTORY).count(), ROWS.len());
    }
}
