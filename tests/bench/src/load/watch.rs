//! What a process has taken from its host up to now, as the kernel counts it.

use std::fs;
use std::io;

use super::error::LoadError;

/// A look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Time on a processor, all threads that live now, user and kernel, in ns. One that has ended
    /// takes its time along: the kernel tells the whole process's in steps of 10 ms only.
    pub(super) cpu_ns: u64,
    /// Context switches, wanted and unwanted.
    pub(super) switches: u64,
    /// Resident memory at its highest, in KiB; guest memory that it touched included.
    pub(super) peak_kib: u64,
}

impl Taken {
    /// By the process `id` and all its threads.
    ///
    /// # Errors
    /// [`LoadError::Host`] where it has ended.
    pub(super) fn by(id: u32) -> Result<Self, LoadError> {
        let what = "cannot look at the daemon's process";
        let mut taken =
            Self { peak_kib: field(&read(&format!("/proc/{id}/status"))?, "VmHWM:"), ..Self::default() };
        for thread in fs::read_dir(format!("/proc/{id}/task")).map_err(LoadError::host(what))? {
            let folder = thread.map_err(LoadError::host(what))?.path();
            let folder = folder.display();
            // A thread may have ended since the folder was listed.
            let Ok(times) = fs::read_to_string(format!("{folder}/schedstat")) else { continue };
            let Ok(status) = fs::read_to_string(format!("{folder}/status")) else { continue };
            let first = times.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            let missing = || io::Error::other("no times in schedstat");
            taken.cpu_ns += first.ok_or_else(missing).map_err(LoadError::host(what))?;
            taken.switches +=
                field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(taken)
    }
}

/// Lets the highest resident memory of the process `id` be counted anew, from what is resident now.
///
/// # Errors
/// [`LoadError::Host`] where it has ended, or belongs to somebody else.
pub(super) fn forget_peak(id: u32) -> Result<(), LoadError> {
    // proc(5): 5 resets the peak and touches nothing else.
    fs::write(format!("/proc/{id}/clear_refs"), "5")
        .map_err(LoadError::host("cannot reset the peak of memory"))
}

fn read(path: &str) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(LoadError::host("cannot look at the daemon's process"))
}

/// The number behind `name`; 0 where there is none.
fn field(status: &str, name: &str) -> u64 {
    let rest = status.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
