//! Settings of a session from the command line.

use pinhole_protocol::{InitFlags, InitOffer, Timeouts};
use std::time::Duration;

/// Settings of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Features that the reply to INIT offers.
    pub offer: InitOffer,
    /// Times for which the guest may keep names and attributes.
    pub timeouts: Timeouts,
    /// Time for which the guest may keep that a name does not exist. Zero: it must ask each time.
    pub negative_timeout: Duration,
    /// Handling of the guest's lock requests.
    pub locks: LockMode,
    /// Features that a guest without an INIT is assumed to have negotiated, with an earlier process
    /// of this daemon. `None`: such a guest is refused, because this process does not know its
    /// nodes.
    pub assumed: Option<InitFlags>,
}

/// Handling of lock requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// Takes the locks on the host.
    #[default]
    Host,
    /// Refuses all locks with ENOLCK.
    Refuse,
}
