//! `cargo xtask bench`: pinhole beside virtiofsd and beside bare host calls, in turns in one run.
//!
//! Each part is a module with one function, `turn`, which measures one contestant once.
#![expect(dead_code, reason = "the parts that use this interface arrive one by one")]

mod figure;
mod place;
mod progress;
