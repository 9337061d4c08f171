//! Checks of the lines that a program printed.

use super::super::fault::Fault;

/// Returns the fault of a share that did something wrong.
pub(super) fn wrong(why: impl Into<String>) -> Fault {
    Fault::Wrong(why.into())
}

/// Returns `Ok` if `is` is true. Otherwise returns a fault with the text of `why`.
pub(super) fn ensure(is: bool, why: impl FnOnce() -> String) -> Result<(), Fault> {
    if is { Ok(()) } else { Err(Fault::Wrong(why())) }
}

/// Returns the word of a line at this index, or an empty word.
pub(super) fn word(line: &str, at: usize) -> &str {
    line.split_whitespace().nth(at).unwrap_or("")
}

/// Returns the word of a line at this index as a number.
pub(super) fn number(line: &str, at: usize) -> Result<u64, Fault> {
    word(line, at).parse().map_err(|_not_a_number| wrong(format!("no number at word {at} of `{line}`")))
}
