//! Host resources that a daemon's process uses, and whether all of its threads are asleep.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::eventually;

/// Host resources of a process, from /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Resident anonymous pages in KiB. The guest's memory is shared and does not count.
    pub anonymous_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Footprint {
    /// Reads the resources of the process `id`.
    ///
    /// # Errors
    /// Fails if the process has ended.
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

/// Waits until each thread of the process `id` waits for an event from outside.
///
/// A test must wait for this before it asserts that something did *not* happen. A thread that has
/// been woken counts as awake even if a busy host does not let it run.
///
/// # Panics
/// Panics if a thread is still awake after [`LIMIT`](super::LIMIT).
#[track_caller]
pub fn wait_until_at_rest(id: u32) {
    let mut before = None;
    eventually("all threads of the daemon are asleep", || {
        // One check may miss a thread that wakes another one and then sleeps. Two checks with the
        // same numbers of context switches do not.
        let now = switches_of_sleepers(id);
        let is_same = now.is_some() && now == before;
        before = now;
        is_same
    });
}

/// Returns how often the threads of the process `id` have gone to sleep by themselves.
///
/// # Errors
/// Fails if the process has ended.
pub fn times_asleep(id: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count: Option<u64> = count.and_then(|count| count.trim().parse().ok());
        sum += count.ok_or_else(|| io::Error::other("no voluntary_ctxt_switches in status"))?;
    }
    Ok(sum)
}

/// Returns the numbers of context switches of each thread. Returns `None` if a thread is awake.
fn switches_of_sleepers(id: u32) -> Option<BTreeMap<String, Vec<String>>> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?.filter_map(Result::ok);
    let mut switches = BTreeMap::new();
    for thread in threads {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
        if !state.trim_start().starts_with(['S', 'D']) {
            return None;
        }
        let counts = status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned);
        switches.insert(thread.file_name().to_string_lossy().into_owned(), counts.collect());
    }
    Some(switches)
}
