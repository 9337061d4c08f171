//! Standard error as the destination of the log. A message never ends, stalls or signals its
//! thread, even if no process reads the other end.
//!
//! A message that a pipe, a terminal or a socket does not take at once is lost. So is a line that
//! would make a regular file larger than the limits of the process or its policy allow.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error.
#[derive(Debug)]
pub(super) enum StandardError {
    /// As it was passed: a file, which never blocks, or an object that cannot be opened again.
    AsItIs,
    /// A pipe or a terminal, opened again, so that only this process's end is non-blocking.
    OpenedAgain(OwnedFd),
    /// A socket, such as the journal's.
    Socket,
}

/// Returns the standard error of this process.
pub(super) fn get() -> &'static StandardError {
    static PLACE: OnceLock<StandardError> = OnceLock::new();
    PLACE.get_or_init(StandardError::find)
}

impl StandardError {
    fn find() -> Self {
        let Ok(status) = rustix::fs::fstat(rustix::stdio::stderr()) else { return Self::AsItIs };
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Socket {
            return Self::Socket;
        }
        if kind != FileType::Fifo && !io::stderr().is_terminal() {
            return Self::AsItIs;
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // A FIFO without a reader, and another user's terminal, cannot be opened again.
        rustix::fs::open(c"/proc/self/fd/2", flags, Mode::empty()).map_or(Self::AsItIs, Self::OpenedAgain)
    }
}

impl Write for &StandardError {
    /// Writes in one call, so that lines of several threads do not mix. A failure cannot be
    /// reported.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _lost_or_not = match self {
            StandardError::AsItIs => rustix::io::write(rustix::stdio::stderr(), bytes),
            StandardError::OpenedAgain(again) => rustix::io::write(again, bytes),
            StandardError::Socket => rustix::net::send(rustix::stdio::stderr(), bytes, flags),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static StandardError {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self
    }
}
