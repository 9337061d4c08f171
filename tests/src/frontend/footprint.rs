//! What a daemon's process takes from the host.

use std::fs;
use std::io;

/// A look into /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Memory of its own, in KiB: resident anonymous pages (the guest's memory is shared and does not count).
    pub anonymous_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Footprint {
    /// Of the process `id`.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn of(id: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let anonymous = anonymous.and_then(|rest| rest.split_whitespace().next());
        let anonymous_kib = anonymous.and_then(|number| number.parse().ok());
        Ok(Self {
            anonymous_kib: anonymous_kib.ok_or_else(|| io::Error::other("no RssAnon in status"))?,
            descriptors: fs::read_dir(format!("/proc/{id}/fd"))?.count(),
            threads: fs::read_dir(format!("/proc/{id}/task"))?.count(),
        })
    }
}
