//! `cargo xtask tidy`.
use crate::step::Outcome;
pub(crate) fn main() -> Outcome {
    Ok(())
}
