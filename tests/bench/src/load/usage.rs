//! Resources that a process has used, from /proc.

use std::fs;
use std::io;

use super::error::LoadError;

/// Resources that a process has used until now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU time of all living threads, user and kernel, in ns. The time of ended threads is
    /// missing: the kernel reports the time of a whole process only in steps of 10 ms.
    pub(super) cpu_ns: u64,
    /// Number of voluntary and involuntary context switches.
    pub(super) switches: u64,
    /// Peak of the resident memory in KiB, including guest memory that the process touched.
    pub(super) peak_kib: u64,
}

impl Usage {
    /// Reads the figures of the process `id` and all its threads.
    ///
    /// # Errors
    /// [`LoadError::Host`] if the process has ended.
    pub(super) fn by(id: u32) -> Result<Self, LoadError> {
        let what = "cannot look at the daemon's process";
        let mut usage =
            Self { peak_kib: field(&read(&format!("/proc/{id}/status"))?, "VmHWM:"), ..Self::default() };
        for thread in fs::read_dir(format!("/proc/{id}/task")).map_err(LoadError::host(what))? {
            let folder = thread.map_err(LoadError::host(what))?.path();
            let folder = folder.display();
            // A thread may have ended since the folder was listed.
            let Ok(times) = fs::read_to_string(format!("{folder}/schedstat")) else { continue };
            let Ok(status) = fs::read_to_string(format!("{folder}/status")) else { continue };
            let first = times.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            let missing = || io::Error::other("no times in schedstat");
            usage.cpu_ns += first.ok_or_else(missing).map_err(LoadError::host(what))?;
            usage.switches +=
                field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(usage)
    }
}

/// Resets the peak of the resident memory of the process `id` to its current value.
///
/// # Errors
/// [`LoadError::Host`] if the process has ended or belongs to another user.
pub(super) fn reset_peak(id: u32) -> Result<(), LoadError> {
    // proc(5): 5 resets the peak and touches nothing else.
    fs::write(format!("/proc/{id}/clear_refs"), "5")
        .map_err(LoadError::host("cannot reset the peak of memory"))
}

/// Reads a text file of /proc.
fn read(path: &str) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(LoadError::host("cannot look at the daemon's process"))
}

/// Returns the number after `name`, or 0 if there is none.
fn field(status: &str, name: &str) -> u64 {
    let rest = status.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
