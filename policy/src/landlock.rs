//! The Landlock rights beneath the share that a policy needs.

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

/// Every right that is ever allowed.
pub const ROWS: &[Row] = &[];

/// The rows for a policy that grants `granted` somewhere.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.need.applies(granted, facilities))
}
