//! Standard error as a place for the log: whatever is at its other end, a message never ends, stalls or signals the
//! thread that has it. One that cannot be delivered at once is lost.
//!
//! What a pipe, a terminal or a socket does not take at once is lost by that. A regular file is written as any file is;
//! where it is full, or longer than the limits of the process or of its policy allow, the line is lost too.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, by what it is.
#[derive(Debug)]
pub(super) struct StandardError {
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// As it was passed in: files, which do not keep anybody waiting, and what cannot be opened a second time.
    AsItIs,
    /// A pipe or a terminal, opened a second time, so that not to wait is a property of this process's end alone.
    OpenedAgain(OwnedFd),
    /// A socket, such as the journal's.
    Socket,
}

/// That of this process.
pub(super) fn get() -> &'static StandardError {
    static PLACE: OnceLock<StandardError> = OnceLock::new();
    PLACE.get_or_init(|| StandardError { way: Way::find() })
}

impl Way {
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
        // A FIFO without a reader and another user's terminal cannot be had again.
        rustix::fs::open(c"/proc/self/fd/2", flags, Mode::empty()).map_or(Self::AsItIs, Self::OpenedAgain)
    }
}

impl StandardError {
    /// Whether a thread that has something to say sends it to a socket.
    pub(super) const fn is_socket(&self) -> bool {
        matches!(self.way, Way::Socket)
    }
}

impl Write for &StandardError {
    /// In one call, so that lines of several threads do not mix. Nobody is told where it fails: who could be?
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _lost_or_not = match &self.way {
            Way::AsItIs => rustix::io::write(rustix::stdio::stderr(), bytes),
            Way::OpenedAgain(again) => rustix::io::write(again, bytes),
            Way::Socket => rustix::net::send(rustix::stdio::stderr(), bytes, flags),
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
