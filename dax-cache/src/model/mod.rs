//! A front-end to test against, and a trial that holds the table to it.
//!
//! Tests and fuzzers use this; the daemon never does. [`ModelFrontEnd`] behaves as its [`crate::Capabilities`] say:
//! those of QEMU make it strict, those of a replacing front-end make it map over anything. [`Trial`] plays a guest's
//! requests to a table and a model, and compares both with a plain array of pages after each.

mod front_end;
mod plain;
mod trial;

pub use front_end::{Fault, ModelFrontEnd, PAGE_LEN, Page};
pub use trial::{Command, Disagreement, Event, Interruption, Trial};
