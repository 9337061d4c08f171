//! The questions about sharing, with one module for each topic.

mod locks;
mod names;
mod programs;
mod seen;
mod verdict;

pub use locks::steady_turns;

use super::question::Question;

/// All questions, in the order of `docs/measured/coherence.md`.
pub const QUESTIONS: [&[Question]; 4] = [&seen::SEEN, &names::NAMES, &programs::PROGRAMS, &locks::LOCKS];
