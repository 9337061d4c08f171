//! Policies: what a guest may do, and what serving it needs from a Linux host, as data.
//!
//! This crate is pure. It does no I/O, makes no host calls and knows no wire format.
//!
//! An operation states the [`Access`]es that it needs ([`RequiresAccess`]). Only [`Policy::permit`]
//! creates a [`Permitted`] operation, and the daemon's file system accepts nothing else. So a call
//! without a policy check does not compile. A [`Policy`] starts from a [`Profile`]. [`PathRules`]
//! decide differently for parts of the share, and [`Limits`] bound what the guest may use of the
//! host. [`host_calls`], [`capabilities`] and [`landlock`] are tables of the host's system calls
//! and rights that a policy needs.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod access;
mod automaton;
pub mod capabilities;
mod check;
mod compare;
mod explain;
mod glob;
pub mod host_calls;
pub mod landlock;
mod letters;
mod limits;
mod need;
mod parse;
mod paths;
mod place;
mod policy;
mod profile;
mod recognizer;
mod refusal;
mod standing;

pub use access::{ACCESSES, Access, AccessRow, XattrNamespace};
pub use check::{Denied, Permitted, RequiresAccess};
pub use compare::{Decision, Difference, Surplus};
pub use explain::{
    AnsweredShown, Explanation, HostCall, LimitShown, OperationShown, PathShown, RightShown, Way,
};
pub use glob::GlobError;
pub use limits::{LIMITS, Limit, LimitRow, LimitUnit, Limits};
pub use need::{Facilities, Need};
pub use parse::{PolicyError, closest, suggested};
pub use paths::{Moves, PathRule, PathRules, RuleId};
pub use place::{Demand, Move, NoPlaces, Place, Places};
pub use policy::Policy;
pub use profile::Profile;
pub use refusal::Refusal;
pub use standing::Standing;
