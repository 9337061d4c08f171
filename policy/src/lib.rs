//! What a guest may do, and what carrying it out needs of a Linux host, as data. Pure: no I/O, no wire format; nothing
//! here asks the host or calls it.
//!
//! An operation states the [`Access`]es that it needs ([`Gated`]); [`Policy::permit`] is the only maker of a
//! [`Permitted`] operation, and the host accepts nothing else, so an ungated call does not compile. A [`Policy`] begins
//! with a [`Profile`]; [`PathRules`] decide otherwise for parts of the share, [`Limits`] bound what it may cost.
//! [`host_calls`], [`capabilities`] and [`landlock`] are tables of what carrying it out needs of the host's kernel.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod access;
mod automaton;
pub mod capabilities;
mod compare;
mod explain;
mod gate;
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

pub use access::{ACCESSES, Access, Described, XattrNamespace};
pub use compare::{Decision, Difference, Surplus};
pub use explain::{
    AnsweredShown, Explanation, HostCall, LimitShown, OperationShown, PathShown, RightShown, Way,
};
pub use gate::{Denied, Gated, Permitted};
pub use glob::GlobError;
pub use limits::{LIMITS, Limit, LimitRow, Limits, Measure};
pub use need::{Facilities, Need};
pub use parse::{PolicyError, closest, suggested};
pub use paths::{Moves, PathRule, PathRules, RuleId};
pub use place::{Demand, Move, NoPlaces, Place, Places};
pub use policy::Policy;
pub use profile::Profile;
pub use refusal::Refusal;
pub use standing::Standing;
