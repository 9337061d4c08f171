//! What processes take from the host, read from /proc.

use std::collections::HashMap;
use std::fs;

use crate::step::{Failure, Outcome};

/// What some processes hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Proportional set size in KiB, without shared memory that is no file: that is the guest's own.
    pub(super) pss_kib: u64,
    /// The part of it that is no file's: what another daemon of the same program needs again.
    pub(super) anonymous_kib: u64,
    /// Open descriptors.
    pub(super) descriptors: usize,
    /// Processes.
    pub(super) processes: usize,
}

/// What `roots` and all that descends from them hold now.
///
/// # Errors
/// Where one of them has ended.
pub(super) fn holdings(roots: &[u32]) -> Outcome<Holdings> {
    let children = children()?;
    let mut all = roots.to_vec();
    let mut sum = Holdings::default();
    while let Some(process) = all.pop() {
        all.extend(children.get(&process).into_iter().flatten());
        let failed = |error| Failure::new(format!("cannot look at process {process}: {error}"));
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).map_err(failed)?;
        let missing = || Failure::new(format!("no Pss of process {process} in:\n{rollup}"));
        sum.pss_kib += own_kib(&rollup).ok_or_else(missing)?;
        sum.anonymous_kib += field_kib(&rollup, "Pss_Anon:").ok_or_else(missing)?;
        sum.descriptors += fs::read_dir(format!("/proc/{process}/fd")).map_err(failed)?.count();
        sum.processes += 1;
    }
    Ok(sum)
}

/// Pss less Pss_Shmem of a `smaps_rollup`.
fn own_kib(rollup: &str) -> Option<u64> {
    field_kib(rollup, "Pss:")?.checked_sub(field_kib(rollup, "Pss_Shmem:")?)
}

fn field_kib(rollup: &str, name: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The children of each process that has any.
pub(crate) fn children() -> Outcome<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").map_err(Failure::io("cannot list /proc"))?;
    for entry in processes.filter_map(Result::ok) {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended meanwhile is nobody's child.
        let described = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&described) {
            children.entry(parent).or_default().push(process);
        }
    }
    Ok(children)
}

/// The parent in a line of `proc_pid_stat(5)`: the second field behind the name, which may hold anything.
fn parent(described: &str) -> Option<u32> {
    described.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_guests_memory_is_not_the_daemons() {
        assert_eq!(own_kib("Rss:  99 kB\nPss:   10 kB\nPss_Anon: 4 kB\nPss_Shmem:   3 kB\n"), Some(7));
        assert_eq!(own_kib("Pss: 10 kB\n"), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_hide_the_parent() {
        assert_eq!(parent("12 (a) b (c)) S 7 1 1"), Some(7));
        assert_eq!(parent(""), None);
    }

    #[test]
    fn a_shell_and_what_it_runs_are_one_family() {
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
