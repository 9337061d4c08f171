//! QEMU's human monitor on a Unix socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Text that QEMU prints when it can take the next command.
const PROMPT: &[u8] = b"(qemu) ";
/// Upper bound on the time of a command. A slower command has failed.
const LIMIT: Duration = Duration::from_mins(1);

/// Connection to the monitor.
#[derive(Debug)]
pub struct Monitor(UnixStream);

impl Monitor {
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self(stream);
        monitor.until_prompt()?;
        Ok(monitor)
    }

    /// Carries out a command. Returns the output of QEMU, which includes the echo of the command,
    /// and the time that it took.
    ///
    /// # Errors
    /// Errors of the socket; `WouldBlock` after a minute without a prompt.
    pub fn command(&mut self, command: &str) -> io::Result<(String, Duration)> {
        let began = Instant::now();
        self.0.write_all(format!("{command}\n").as_bytes())?;
        let printed = self.until_prompt()?;
        Ok((printed, began.elapsed()))
    }

    /// Reads until the next prompt and returns the text.
    fn until_prompt(&mut self) -> io::Result<String> {
        let (mut printed, mut part) = (Vec::new(), [0; 4096]);
        while !printed.ends_with(PROMPT) {
            match self.0.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => printed.extend(part.iter().take(len)),
            }
        }
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}
