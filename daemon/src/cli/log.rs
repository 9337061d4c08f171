//! Where messages go: standard error or the system log. The `log` records of libraries come along.
//!
//! No message ends or stalls the one who has it: one that cannot be written is lost, and nobody is told.

use super::args::LogLevel;
use super::config::Log;
use super::stderr;
use super::syslog::SystemLog;
use pinhole_policy::Facilities;
use std::io::{self, IsTerminal};
use tracing::level_filters::LevelFilter;

/// Has a panic say what happened and where, and nothing else: what the standard library would say besides takes system
/// calls that a thread which serves may not make. What else happens at a panic stays as it is.
///
/// A second panic, in here, would end the process; so nothing here may.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("{name} panicked at {place}: {text}");
    }));
}

/// Sends all further messages where they are wanted. Once a process.
///
/// # Errors
/// When it was called before.
pub fn start(log: Log) -> io::Result<()> {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What the library would say of a line that it cannot write, it says by a panic where it cannot write that either.
    let format = tracing_subscriber::fmt().with_max_level(level).log_internal_errors(false);
    let started = if log.syslog {
        // The system log stamps and labels each line itself.
        format.without_time().with_level(false).with_ansi(false).with_writer(SystemLog::new()).try_init()
    } else {
        format.with_ansi(io::stderr().is_terminal()).with_writer(stderr::get()).try_init()
    };
    started.map_err(io::Error::other)
}

/// What a thread that has something to say needs of the host besides `write`.
pub(super) fn facilities() -> Facilities {
    if stderr::get().is_socket() { Facilities::LOG_SOCKET } else { Facilities::empty() }
}
