//! Generated programs: all sequences of a few operations on a few names, and random ones.
//!
//! | file | task |
//! |---|---|
//! | `operations` | the operations and the names |
//! | `names` | which operations can succeed |
//! | `sequences` | all programs of one or two operations; parts and samples of them |
//! | `chance` | random programs |

pub(crate) mod chance;
mod names;
mod operations;
pub(crate) mod sequences;
