//! What a session promises its guest, decided by the command line.

use pinhole_protocol::{InitOffer, Timeouts};
use std::time::Duration;

/// Settings of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What INIT offers.
    pub offer: InitOffer,
    /// How long the guest may keep names and attributes.
    pub timeouts: Timeouts,
    /// How long the guest may keep that a name does not exist; zero: not at all.
    pub negative_timeout: Duration,
    /// What happens to the locks that the guest sends.
    pub locks: LockMode,
}

/// What a session does with requests for locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// Takes the locks on the host.
    #[default]
    Host,
    /// Refuses all locks with ENOLCK.
    Refuse,
}
