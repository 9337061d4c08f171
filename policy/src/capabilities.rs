//! The capabilities that a policy needs, when the daemon runs with any.

use crate::{Access, Facilities, Need};

/// One capability.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kernel's name: `CAP_CHOWN`.
    pub name: &'static str,
    /// What for.
    pub need: Need,
    /// What for, in words.
    pub why: &'static str,
}

/// Every capability that is ever kept.
pub const ROWS: &[Row] = &[];

/// The rows for a policy that grants `granted` somewhere.
pub fn rows(granted: Access, facilities: Facilities) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.need.applies(granted, facilities))
}
