//! What a guest may do. Pure: no I/O, and no knowledge of any wire format or host.
//!
//! An operation states the [`Access`]es that it needs ([`Gated`]); [`Policy::permit`] is the only maker of a
//! [`Permitted`] operation, and the host accepts nothing else, so an ungated call does not compile. Today there are
//! two policies, everything and read-only; profiles and policy files come with the hole issue.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod access;
mod gate;

pub use access::Access;
pub use gate::{Denied, Gated, Permitted, Policy, Reason};
