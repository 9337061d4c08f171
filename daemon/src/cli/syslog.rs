//! A writer for the system log (RFC 3164 lines to `/dev/log`) that never blocks and never fails.
//!
//! The crates for the system log use the C library's syslog(3), which waits while the log's queue
//! is full. A message must not stall a share, so a line that cannot be delivered at once is
//! dropped.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The system log of the host.
#[derive(Debug)]
pub(super) struct SystemLog {
    socket: Option<UnixDatagram>,
    /// The id of the process that was started, which its operator knows.
    process: u32,
}

/// A writer of one message.
#[derive(Debug)]
pub(super) struct Line<'a> {
    log: &'a SystemLog,
    severity: u8,
}

/// RFC 3164, 4.1.1: facility "system daemons", times eight.
const DAEMON: u8 = 3 << 3;
const SEVERITY_INFO: u8 = 6;

impl SystemLog {
    pub(super) fn new() -> Self {
        Self::at(Path::new("/dev/log"))
    }

    fn at(place: &Path) -> Self {
        // Connected now, because the sandbox has no such path. Without a log, lines are lost.
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(place).map(|()| socket)
        });
        Self { socket: socket.ok(), process: std::process::id() }
    }

    /// Writes a message of this level.
    pub(super) fn write(&self, level: Level, text: &[u8]) {
        self.send(severity(level), &String::from_utf8_lossy(text));
    }

    fn send(&self, severity: u8, text: &str) {
        let line = format!("<{}>pinhole[{}]: {}", DAEMON | severity, self.process, text.trim_end());
        if let Some(socket) = &self.socket {
            // A failure cannot be logged.
            drop(socket.send(line.as_bytes()));
        }
    }
}

/// Returns the severity of RFC 3164 for a level.
const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => SEVERITY_INFO,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.send(self.severity, &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, severity: SEVERITY_INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { log: self, severity: severity(*meta.level()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_facility_severity_name_and_process() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log");
        let receiver = UnixDatagram::bind(&place).unwrap();
        SystemLog::at(&place).make_writer().write_all(b"hello\n").unwrap();
        let mut bytes = [0; 100];
        let len = receiver.recv(&mut bytes).unwrap();
        let expected = format!("<30>pinhole[{}]: hello", std::process::id());
        assert_eq!(std::str::from_utf8(&bytes[..len]).unwrap(), expected);
    }

    #[test]
    fn a_missing_or_full_log_only_loses_lines() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log");
        SystemLog::at(&place).make_writer().write_all(b"no reader").unwrap();
        let _never_read = UnixDatagram::bind(&place).unwrap();
        let log = SystemLog::at(&place);
        for _line in 0..10_000 {
            log.make_writer().write_all(&[b'x'; 512]).unwrap();
        }
    }
}
