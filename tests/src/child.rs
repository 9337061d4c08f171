//! Waits for child processes.

use std::io;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Waits until `child` has ended, for at most `limit`, without reaping it. Returns `false` if the
/// limit passed.
///
/// # Errors
/// Errors of `pidfd_open(2)` and `poll(2)`.
pub fn wait_for_exit(child: &Child, limit: Option<Duration>) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process number out of range"))?;
    let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let remaining = remaining.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&watched, PollFlags::IN)];
        match rustix::event::poll(&mut polled, remaining.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
