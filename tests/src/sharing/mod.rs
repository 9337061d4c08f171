//! Several real guests and a host process on one directory: questions about the changes that each
//! sees of the others.
//!
//! A [`Question`] is defined once and asked of each [`Subject`]: by the module `guest::sharing` of
//! the suites, where pinhole has to pass what its mode promises, and by `cargo xtask coherence`,
//! which compares pinhole with virtiofsd. [`Participants`] are the User-mode Linux guests, each
//! with its own daemon, and a process of the host. All of them run the same program
//! (`guest_program/`), which takes its requests from files outside the share. They carry out their
//! requests one after another or all at once.

mod fault;
mod guest_program;
mod participants;
mod program;
mod question;
mod questions;
mod settings;
mod subject;

pub use fault::Fault;
pub use participants::Participants;
pub use program::program;
pub use question::{Group, Promised, Question};
pub use questions::{QUESTIONS, steady_turns};
pub use subject::Subject;
