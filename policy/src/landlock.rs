//! The Landlock rights beneath the share that a policy needs.
//!
//! Never allowed: executing, and ioctls on devices.

use crate::{Access, Facilities, Need};

/// One right.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kernel's name: `LANDLOCK_ACCESS_FS_READ_FILE`.
    pub name: &'static str,
    /// What for.
    pub need: Need,
    /// What for, in words.
    pub why: &'static str,
}

/// What moves a name, for which the right to make and to remove its kind is needed too.
const MOVES: Access = Access::RENAME.union(Access::EXCHANGE);

const WRITES: Access = Access::OPENS_TO_WRITE;

/// Every right that is ever allowed.
pub const ROWS: &[Row] = &[
    row(
        "LANDLOCK_ACCESS_FS_READ_FILE",
        Access::READ.union(Access::MAP_READ).union(WRITES),
        "open a file to read it, and what was opened to be written",
    ),
    row(
        "LANDLOCK_ACCESS_FS_READ_DIR",
        Access::empty(),
        "list a directory; the share itself is opened once for its mount",
    ),
    row("LANDLOCK_ACCESS_FS_WRITE_FILE", WRITES, "open a file to write it"),
    row(
        "LANDLOCK_ACCESS_FS_TRUNCATE",
        Access::TRUNCATE.union(Access::WRITE).union(Access::CREATE),
        "change a file's length, also by opening it",
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
        "take a name from anything but a directory",
    ),
    row("LANDLOCK_ACCESS_FS_REMOVE_DIR", Access::RMDIR.union(MOVES), "take a directory's name"),
    row("LANDLOCK_ACCESS_FS_REFER", Access::LINK.union(MOVES), "move or link from one directory to another"),
];

const fn row(name: &'static str, access: Access, why: &'static str) -> Row {
    Row { name, need: Need::any_of(access), why }
}

/// The rows for a policy that grants `granted` somewhere.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.need.applies(granted, facilities))
}
