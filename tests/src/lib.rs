//! The harness of the integration tests: real guests, real daemons, and what keeps both from harming the host.

pub mod command;
pub mod daemon;
#[cfg(feature = "wire")]
pub mod frontend;
pub mod guest;
pub mod history;
pub mod interruption;
#[cfg(feature = "wire")]
pub mod kills;
pub mod lease;
pub mod mounted;
mod placement;
pub mod power;
pub mod program;
pub mod sharing;
#[cfg(feature = "wire")]
pub mod surface;
#[cfg(feature = "wire")]
pub mod window;
