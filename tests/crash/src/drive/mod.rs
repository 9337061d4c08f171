//! Drivers: they carry out the steps of a program, on the backing file system itself or through a
//! file server.
//!
//! | file | task |
//! |---|---|
//! | `calls` | system calls below a folder: natively, or through a mount |
//! | `subject` | what is under test, and its start |
//! | `wire`, `guest` | FUSE requests over vhost-user |

pub(crate) mod calls;
mod guest;
pub(crate) mod subject;
mod wire;

use std::io;

use crate::program::Step;

/// Carries out the steps of programs, each in its own folder.
pub(crate) trait Driver {
    /// Begins a program in this folder below the shared directory.
    ///
    /// # Errors
    /// Fails if the folder cannot be reached.
    fn begin(&mut self, folder: &str) -> io::Result<()>;

    /// Carries out a step.
    ///
    /// # Errors
    /// Fails with the errno of the step.
    fn step(&mut self, step: &Step) -> io::Result<()>;

    /// Closes all files of the program.
    fn finish(&mut self);
}
