//! A front-end for tests, and a trial that checks the table against it.
//!
//! Tests and fuzzers use this module; the daemon never does. [`ModelFrontEnd`] behaves as its
//! [`crate::Capabilities`] say: with those of QEMU it is strict, with those of a replacing
//! front-end it maps over existing mappings. [`Trial`] plays a guest's requests to a table and a
//! model front-end, and checks the invariants after each request.

mod expected;
mod front_end;
mod trial;

pub use front_end::{Fault, ModelFrontEnd, PAGE_LEN, Page};
pub use trial::{Command, Event, Interruption, Trial, Violation};
