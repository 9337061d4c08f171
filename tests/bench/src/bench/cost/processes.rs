//! Memory and descriptors of processes, from /proc.

use std::collections::HashMap;
use std::fs;

use crate::step::{Failure, Outcome};

/// Memory and descriptors of several processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bench) struct Holdings {
    /// Proportional set size in KiB, without shared memory, which is the memory of the guest.
    pub(in crate::bench) pss_kib: u64,
    /// Anonymous part of the proportional set size, in KiB: the memory that each further daemon of
    /// the same program needs.
    pub(in crate::bench) anonymous_kib: u64,
    /// Number of open descriptors.
    pub(in crate::bench) descriptors: usize,
    /// Number of processes.
    pub(in crate::bench) processes: usize,
}

/// Returns the sums over `roots` and all their descendants.
///
/// # Errors
/// Fails if one of the processes has ended.
pub(in crate::bench) fn holdings(roots: &[u32]) -> Outcome<Holdings> {
    let children = children()?;
    let mut all = roots.to_vec();
    let mut sum = Holdings::default();
    while let Some(process) = all.pop() {
        all.extend(children.get(&process).into_iter().flatten());
        let failed = |error| Failure::new(format!("cannot read /proc/{process}: {error}"));
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).map_err(failed)?;
        let missing = || Failure::new(format!("no Pss of process {process} in:\n{rollup}"));
        sum.pss_kib += pss_without_guest_kib(&rollup).ok_or_else(missing)?;
        sum.anonymous_kib += field_kib(&rollup, "Pss_Anon:").ok_or_else(missing)?;
        sum.descriptors += fs::read_dir(format!("/proc/{process}/fd")).map_err(failed)?.count();
        sum.processes += 1;
    }
    Ok(sum)
}

/// Returns Pss minus Pss_Shmem of a `smaps_rollup`.
fn pss_without_guest_kib(rollup: &str) -> Option<u64> {
    field_kib(rollup, "Pss:")?.checked_sub(field_kib(rollup, "Pss_Shmem:")?)
}

/// Returns the number of the field `name` of a `smaps_rollup`, in KiB.
fn field_kib(rollup: &str, name: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the children of each process that has children.
pub(crate) fn children() -> Outcome<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").map_err(Failure::io("cannot list /proc"))?;
    for entry in processes.filter_map(Result::ok) {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended meanwhile is skipped.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(process);
        }
    }
    Ok(children)
}

/// Returns the parent from a line of `proc_pid_stat(5)`: the second field after the name. The name
/// may contain any characters.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn guest_memory_does_not_count_for_the_daemon() {
        assert_eq!(
            pss_without_guest_kib("Rss:  99 kB\nPss:   10 kB\nPss_Anon: 4 kB\nPss_Shmem:   3 kB\n"),
            Some(7)
        );
        assert_eq!(pss_without_guest_kib("Pss: 10 kB\n"), None);
    }

    #[test]
    fn name_with_brackets_does_not_hide_the_parent() {
        assert_eq!(parent("12 (a) b (c)) S 7 1 1"), Some(7));
        assert_eq!(parent(""), None);
    }

    #[test]
    fn shell_and_its_child_are_counted_together() {
        let mut shell = Command::new("sh").args(["-c", "cat; true"]).stdin(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        let mut held = holdings(&[shell.id()]).unwrap();
        while held.processes < 2 && began.elapsed() < Duration::from_secs(10) {
            held = holdings(&[shell.id()]).unwrap();
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(held.processes == 2 && held.descriptors >= 6 && held.pss_kib > 0, "{held:?}");
    }
}
