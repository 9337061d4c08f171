//! The policy that the command line means: a profile or a file.

use super::config::PolicyChoice;
use pinhole_policy::{Policy, PolicyError};
use std::io;
use std::path::{Path, PathBuf};

/// A policy file that serves nobody. The line names the file, and the place in it where there is one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyFileError {
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no policy.
    #[error("{}:{source}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: PolicyError,
    },
}

/// The chosen policy.
///
/// # Errors
/// [`PolicyFileError`].
pub(super) fn load(choice: &PolicyChoice) -> Result<Policy, PolicyFileError> {
    match choice {
        PolicyChoice::Profile(profile) => Ok(Policy::of(*profile)),
        PolicyChoice::File(path) => read(path),
    }
}

fn read(path: &Path) -> Result<Policy, PolicyFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| PolicyFileError::Read { path: path.to_owned(), source })?;
    Policy::parse(&text).map_err(|source| PolicyFileError::Policy { path: path.to_owned(), source })
}
