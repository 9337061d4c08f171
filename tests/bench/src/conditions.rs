//! Describes the host, the programs and the date of a run. The name of the host is left out.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use pinhole_tests::guest::Parts;

/// Conditions and programs of a run.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Date in the form `2026-11-21`.
    pub(crate) date: String,
    /// The host: CPUs, memory, kernel, file system and load.
    pub(crate) host: String,
    /// Versions of pinhole, virtiofsd and the compiler.
    pub(crate) versions: String,
}

impl Conditions {
    /// Describes the conditions of a run. `program` is pinhole, `folder` contains the files of the
    /// run, and `load` is the value of [`load`] before the run.
    pub(crate) fn of_run(program: &Path, folder: &Path, load: &str) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let host = format!(
            "{cores} cores of {}, {} GiB of memory, Linux {}, {}, load {load} before the run",
            cpu_model(),
            memory_gib(),
            kernel(),
            file_system(folder)
        );
        let versions = [
            first_line_of_output(Command::new(program).arg("--version")),
            virtiofsd_version(),
            first_line_of_output(&mut rustc()),
        ];
        Self { date: date(seconds / 86_400), host, versions: versions.join(", ") }
    }
}

/// Returns a command that prints the version of the compiler.
fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.arg("--version");
    command
}

/// Returns the name and version of virtiofsd.
fn virtiofsd_version() -> String {
    let Ok(tree) = Parts::locate().base() else { return "no virtiofsd".to_owned() };
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).arg(tree.join("usr/libexec/virtiofsd")).arg("--version");
    first_line_of_output(&mut command)
}

/// Returns the first line that a command prints, or `unknown`.
fn first_line_of_output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
}

/// Returns the kernel version without the suffix of the distribution.
fn kernel() -> String {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    release.split('-').next().unwrap_or_default().to_owned()
}

/// Returns the load average of the last minute. It shows whether the host had other work.
pub(crate) fn load() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Returns the model name of the first CPU.
fn cpu_model() -> String {
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = all.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|rest| rest.split_once(':')).map_or("an unknown CPU", |(_, name)| name);
    name.trim().to_owned()
}

/// Returns the size of the memory of the host in GiB.
fn memory_gib() -> u64 {
    let all = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = all.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    // MemTotal lacks memory that the kernel reserves: 24 GiB show as more than 23.
    kib.div_ceil(1 << 20)
}

/// Returns the type of the file system of `folder`, from the longest mount point that
/// contains the folder.
fn file_system(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter_map(|fields| match fields.as_slice() {
        [_, point, kind, ..] if folder.starts_with(point) => Some((point.len(), (*kind).to_owned())),
        _ => None,
    });
    above.max_by_key(|(len, _)| *len).map_or_else(|| "an unknown file system".to_owned(), |(_, kind)| kind)
}

/// Returns the date of a day number since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_over_leap_years() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_778), "2026-11-21");
    }

    #[test]
    fn the_file_system_of_proc_is_proc() {
        assert_eq!(file_system(Path::new("/proc/self")), "proc");
    }
}
