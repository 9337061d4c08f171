//! Several real guests and a host process on one directory: questions about what each sees of the
//! others' work.
//!
//! A [`Question`] is defined once and asked of each [`Subject`]: by the suites `guest_sharing*`,
//! where pinhole has to pass what its mode promises, and by `cargo xtask coherence`, which puts the
//! peer beside it. A [`Table`] is what sits together: User-mode Linux guests, each with a daemon of
//! its own, and a process of the host, all of which run the same program (`guest_program/`). They
//! are told what to do by files that are not on the share, one step after another or all at once.

mod fault;
mod guest_program;
mod program;
mod question;
mod questions;
mod settings;
mod subject;
mod table;

pub use fault::Fault;
pub use program::program;
pub use question::{Group, Promised, Question};
pub use questions::{QUESTIONS, steady_turns};
pub use subject::Subject;
pub use table::Table;
