//! A front-end for tests, and a trial that checks the table against it.
//!
//! Tests and fuzzers use this module; the daemon never does. [`ModelFrontEnd`] behaves as its
//! [`crate::Capabilities`] say: strict with those of QEMU, mapping over existing mappings with
//! those of a replacing front-end. [`Trial`] plays a guest's requests to a table and a model. After
//! each request it compares both with a plain array of pages.

mod front_end;
mod plain;
mod trial;

pub use front_end::{Fault, ModelFrontEnd, PAGE_LEN, Page};
pub use trial::{Command, Event, Interruption, Trial, Violation};
