//! What a session promises its guest, decided by the command line.

use super::locks::LockMode;
use pinhole_protocol::{InitOffer, Timeouts};
use std::time::Duration;

/// Settings of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What INIT offers.
    pub offer: InitOffer,
    /// How long the guest may keep names and attributes.
    pub timeouts: Timeouts,
    /// How long it may keep that a name does not exist; zero: not at all.
    pub negative_timeout: Duration,
    /// Who has the locks that the guest sends here.
    pub locks: LockMode,
}
