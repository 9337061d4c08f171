//! The log: messages go to standard error or the system log, and so do the `log` records of
//! libraries.
//!
//! No message ends or stalls its thread. A message that cannot be written is lost without a report.
//! The messages of queue threads go to the thread `relay`, which adds the time and writes them. If
//! too many wait for it, it reports how many were lost.

use super::args::LogLevel;
use super::config::LogConfig;
use super::stderr::{self, StandardError};
use super::syslog::SystemLog;
use crate::limits::LOG_TEXT_LEN_MAX;
use crate::log_budget::Source;
use crate::sync::relay::{self, Relayed};
use pinhole_policy::Facilities;
use std::io::{self, IsTerminal, Write};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Limits messages about panics, which a guest may be able to cause.
static PANICS: Source = Source::new();

/// Limits records of libraries, which contain bytes that a guest has written into its rings.
static LIBRARIES: Source = Source::new();

/// The target of every record of the `log` crate.
const LIBRARY_TARGET: &str = "log";

/// Cuts the text of a panic to the length of a line of the log.
fn shortened(text: &str) -> &str {
    let end = (0..=LOG_TEXT_LEN_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Makes a panic log its message and place, and nothing else. The standard library's report takes
/// system calls that a serving thread may not make.
///
/// A second panic in here would end the process, so no code here panics.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if let Some(suppressed) = PANICS.try_pass() {
            tracing::error!(suppressed, "{name} panicked at {place}: {}", shortened(text));
        }
    }));
}

/// Starts the log. Called once.
///
/// # Errors
/// Fails if it was called before.
pub fn start(log: LogConfig) -> io::Result<()> {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // The library reports a line that it cannot write, and panics if it cannot write the report.
    let format = tracing_subscriber::fmt().with_max_level(level).log_internal_errors(false);
    let started = if log.syslog {
        let relayed = SystemLog::new();
        relay::write_lines_with(move |line| match line {
            Relayed::Line(level, text) => relayed.write(level, &text),
            Relayed::Lost(lines) => relayed.write(Level::WARN, lost_lines(lines).as_bytes()),
        });
        // The system log stamps and labels each line itself.
        format
            .without_time()
            .with_level(false)
            .with_ansi(false)
            .with_writer(Limited(SystemLog::new()))
            .try_init()
    } else {
        relay::write_lines_with(|line| write_to_stderr(&line));
        format
            .with_ansi(io::stderr().is_terminal())
            .with_timer(LineTime)
            .with_writer(Limited(stderr::get()))
            .try_init()
    };
    started.map_err(io::Error::other)
}

/// The place in a line of a queue thread where the thread `relay` inserts the time. It comes before
/// any text of a guest.
const TIME_MARK: u8 = 0;

/// The time of a line.
struct LineTime;

impl FormatTime for LineTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        if relay::is_used() { out.write_char(char::from(TIME_MARK)) } else { SystemTime.format_time(out) }
    }
}

/// Returns the time as it is written in a line.
fn present_time() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    SystemTime.format_time(&mut Writer::new(&mut text)).unwrap_or_default();
    text
}

/// Writes a line of a queue thread to standard error.
fn write_to_stderr(line: &Relayed) {
    let text = match line {
        Relayed::Line(_, text) => match text.iter().position(|byte| *byte == TIME_MARK) {
            Some(at) => {
                let (before, after) = text.split_at(at);
                [before, present_time().as_bytes(), after.get(1..).unwrap_or_default()].concat()
            }
            None => text.clone(),
        },
        Relayed::Lost(lines) => format!("{}  WARN {}\n", present_time(), lost_lines(*lines)).into_bytes(),
    };
    // A failure cannot be reported.
    stderr::get().write_all(&text).unwrap_or_default();
}

fn lost_lines(lines: u64) -> String {
    format!("{lines} lines of queue threads were lost, because they wrote too many at once")
}

/// A writer that limits the records of libraries to the log's budget. Records below the level
/// `info` all pass: only an operator switches them on.
struct Limited<W>(W);

/// The destination of one message.
enum Destination<W> {
    /// The calling thread writes it.
    Here(W),
    /// The thread `relay` writes it.
    Relay(Level),
}

impl<W: Write> Write for Destination<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Here(writer) => return writer.write(bytes),
            Self::Relay(level) => relay::log(*level, bytes.to_vec()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Here(writer) => writer.flush(),
            Self::Relay(_) => Ok(()),
        }
    }
}

/// The writer of one message.
struct Passed<W> {
    /// `None`: the message does not pass.
    writer: Option<Destination<W>>,
    /// Number of messages before it that did not pass.
    suppressed: u64,
}

impl<W: Write> Write for Passed<W> {
    /// Writes the whole message at once, as the writers below expect.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(writer) = &mut self.writer else { return Ok(bytes.len()) };
        if self.suppressed == 0 {
            return writer.write(bytes);
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let more = format!(" suppressed={}\n", self.suppressed);
        writer.write_all(&[text, more.as_bytes()].concat())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Limited<W> {
    type Writer = Passed<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Passed { writer: Some(Destination::Here(self.0.make_writer())), suppressed: 0 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let is_limited = meta.target() == LIBRARY_TARGET && *meta.level() <= Level::INFO;
        let passed = if is_limited { LIBRARIES.pass() } else { Some(0) };
        let writer = passed.map(|_| {
            if relay::is_used() {
                Destination::Relay(*meta.level())
            } else {
                Destination::Here(self.0.make_writer_for(meta))
            }
        });
        Passed { writer, suppressed: passed.unwrap_or(0) }
    }
}

/// Returns the rights that a thread needs to write messages, besides `write`.
pub(super) fn facilities() -> Facilities {
    match stderr::get() {
        StandardError::Socket => Facilities::LOG_SOCKET,
        StandardError::AsItIs | StandardError::OpenedAgain(_) => Facilities::empty(),
    }
}
