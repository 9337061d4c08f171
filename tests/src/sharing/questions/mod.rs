//! The questions themselves, in groups, and what judges share.

mod locks;
mod names;
mod programs;
mod seen;

pub use locks::steady_turns;

use super::{Fault, Question};

/// All of them, in the order of the page.
pub const QUESTIONS: [&[Question]; 4] = [&seen::SEEN, &names::NAMES, &programs::PROGRAMS, &locks::LOCKS];

/// An answer that is no.
fn wrong(why: impl Into<String>) -> Fault {
    Fault::Wrong(why.into())
}

/// `Ok` where `is` holds.
fn hold(is: bool, why: impl FnOnce() -> String) -> Result<(), Fault> {
    if is { Ok(()) } else { Err(Fault::Wrong(why())) }
}

/// The word of a line at this place; empty where it has fewer.
fn word(line: &str, at: usize) -> &str {
    line.split_whitespace().nth(at).unwrap_or("")
}

/// The number of a line at this place.
fn number(line: &str, at: usize) -> Result<u64, Fault> {
    word(line, at).parse().map_err(|_not_a_number| wrong(format!("no number at word {at} of `{line}`")))
}
