//! Where messages go: standard error or the system log. The `log` records of libraries come along.

use super::args::LogLevel;
use super::config::Log;
use super::syslog::SystemLog;
use std::io::{self, IsTerminal};
use tracing::level_filters::LevelFilter;

/// Sends all further messages where they are wanted. Once a process.
///
/// # Errors
/// When it was called before.
pub(super) fn start(log: Log) -> io::Result<()> {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let format = tracing_subscriber::fmt().with_max_level(level);
    let started = if log.syslog {
        // The system log stamps and labels each line itself.
        format.without_time().with_level(false).with_ansi(false).with_writer(SystemLog::new()).try_init()
    } else {
        format.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init()
    };
    started.map_err(io::Error::other)
}
