//! Programs of a measurement, all in the folder of this program.

use std::path::PathBuf;
use std::process::Command;

use crate::step::{Failure, Outcome};

/// Returns the path of `pinhole`, which was built into the folder of this program.
///
/// # Errors
/// Fails if the program is missing.
pub(crate) fn pinhole() -> Outcome<PathBuf> {
    let path = own()?.with_file_name("pinhole");
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!(
        "{} is missing: start the measurement with `cargo xtask bench`, `surface` or `coherence`, which build it",
        path.display()
    )))
}

/// Returns the path of this program.
///
/// # Errors
/// Fails if the kernel does not report it.
pub(crate) fn own() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(Failure::io("cannot find this program"))
}

/// Returns a command that starts this program as the load generator `name`.
///
/// # Errors
/// Fails as [`own`] does.
pub(crate) fn generator(name: &str) -> Outcome<Command> {
    let mut command = Command::new(own()?);
    command.arg(name);
    Ok(command)
}
