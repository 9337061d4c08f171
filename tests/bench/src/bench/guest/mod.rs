//! Rows of the part `guest`: file operations of a User-mode Linux guest on a share, timed in that
//! guest.
//!
//! Each daemon and cache mode takes one boot. The guest runs `rows.sh`, which uses fio, tar and
//! `work.c`. The guest compiles `work.c` to a static program. Its clock is the clock of the host.

pub(super) mod tree;

use std::fmt::Write as _;
use std::time::Duration;

use pinhole_tests::guest::{Finished, Guest};

use super::figure::{Better, Contestant, Figure};
use super::progress::Progress;
use crate::console::complain;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};

/// The program that the guest compiles and times.
pub(super) const WORK: &[u8] = include_bytes!("work.c");

/// Tag of the share.
const TAG: &str = "bench";

/// Memory of the guest: enough for all pages that the rows read.
const MEMORY_MIB: u32 = 1024;

/// Time limit of a boot: ten times what all rows take.
const LIMIT: Duration = Duration::from_mins(5);

/// Number of files that are created and removed.
const CREATED: u32 = 5_000;

/// Rows: name in the script, name in the report, and unit.
const ROWS: [(&str, &str, &str); 10] = [
    ("stat-cold", "guest: stat of 20,000 files, cold", "file/s"),
    ("stat-warm", "guest: stat of 20,000 files, warm", "file/s"),
    ("read", "guest: read 20,000 small files", "file/s"),
    ("create", "guest: create 5,000 files", "file/s"),
    ("remove", "guest: remove 5,000 files", "file/s"),
    ("unpack", "guest: unpack 3,000 files", "file/s"),
    ("read-direct", "guest: fio 4 KiB random read, direct", "op/s"),
    ("read-buffered", "guest: fio 4 KiB random read, buffered", "op/s"),
    ("write-direct", "guest: fio 4 KiB random write, direct", "op/s"),
    ("write-buffered", "guest: fio 4 KiB random write, buffered", "op/s"),
];

/// Cache mode, which decides which requests the guest sends. A mode is a promise to the user of the
/// share and not a setting for speed. So figures are compared only within a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Cache names and attributes for one second; all rows
    Auto,
    /// Cache everything; the rows for which that matters
    Always,
    /// Cache nothing; the rows with many small files
    Strict,
}

impl Mode {
    /// Returns the name of the mode in the report.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Strict => "strict",
        }
    }

    /// Returns the argument of `rows.sh` that selects the rows for this mode.
    fn row_set(self) -> &'static str {
        match self {
            Self::Auto => "all",
            Self::Always => "metadata",
            Self::Strict => "small",
        }
    }
}

/// Measures `contestant` once, in all modes or in one. Bare host calls have no figures, because
/// they need no guest.
///
/// # Errors
/// Fails if a daemon or a guest does not start or end. A row whose work fails is reported and left
/// out.
pub(crate) fn turn(
    contestant: &Contestant,
    only: Option<Mode>,
    (run_folder, progress): (&RunFolder, &Progress),
) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for (mode, argument) in
        modes(contestant).into_iter().filter(|(mode, _)| only.is_none_or(|only| only == *mode))
    {
        progress.show(format!("guest: {contestant}, cache {}", mode.name()));
        figures.extend(boot(contestant, mode, argument, run_folder)?);
    }
    Ok(figures)
}

/// Returns the cache modes to boot with, and the argument that selects each. The mode of virtiofsd
/// is part of its setting.
fn modes(contestant: &Contestant) -> Vec<(Mode, Option<&'static str>)> {
    match contestant {
        Contestant::Pinhole { .. } | Contestant::Before { .. } => {
            vec![
                (Mode::Auto, Some("--cache=auto")),
                (Mode::Always, Some("--cache=always")),
                (Mode::Strict, Some("--cache=strict")),
            ]
        }
        Contestant::Virtiofsd(setting) => match setting.cache {
            "auto" => vec![(Mode::Auto, None)],
            "always" => vec![(Mode::Always, None)],
            "never" => vec![(Mode::Strict, None)],
            _ => Vec::new(),
        },
        Contestant::Native => Vec::new(),
    }
}

/// Boots a guest and measures the rows of one mode.
fn boot(
    contestant: &Contestant,
    mode: Mode,
    argument: Option<&str>,
    run_folder: &RunFolder,
) -> Outcome<Vec<Figure>> {
    let share = tree::prepare(run_folder)?;
    let tag = format!("--tag={TAG}");
    let arguments: Vec<&str> = argument.into_iter().chain([tag.as_str()]).collect();
    let daemon = contestant
        .daemon(share.path(), &arguments)?
        .start()
        .map_err(|error| Failure::new(error.to_string()))?;
    let finished = Guest::uml()
        .userland()
        .memory_mib(MEMORY_MIB)
        .limit(LIMIT)
        .share(daemon.socket(), TAG)
        .file("work.c", 0o644, WORK)
        .file("rows.sh", 0o644, include_bytes!("rows.sh"))
        .run(&script(mode)?)
        .map_err(|error| Failure::new(format!("{contestant}: {error}\ndaemon:\n{}", daemon.stderr())))?;
    if finished.exit_code != 0 {
        let Finished { exit_code, .. } = finished;
        return Err(Failure::new(format!(
            "{contestant}: the script in the guest ended with {exit_code}:\n{}daemon:\n{}",
            finished.text(),
            daemon.stderr()
        )));
    }
    read_rows(&finished.text(), contestant, mode)
}

/// Returns the command line of `rows.sh` in the guest.
fn script(mode: Mode) -> Outcome<String> {
    let mut line = String::from("sh /extra/rows.sh");
    write!(line, " {TAG} {} {} {CREATED} {}", tree::FILES, tree::ARCHIVED, mode.row_set())
        .map_err(|error| Failure::new(format!("cannot write the script for the guest: {error}")))?;
    Ok(line)
}

/// Parses the output of the guest.
fn read_rows(output: &str, contestant: &Contestant, mode: Mode) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for line in output.lines() {
        let wrong = || Failure::new(format!("{contestant}: the guest printed `{line}`, which is not a row"));
        let mut words = line.splitn(3, ' ');
        let (kind, name, rest) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (_, row, unit) = ROWS.into_iter().find(|(word, ..)| *word == name).ok_or_else(wrong)?;
        let row = format!("{row} (cache {})", mode.name());
        match kind {
            Some("row") => {
                let value = rate(rest).ok_or_else(wrong)?;
                figures.push(Figure { row, unit, better: Better::Higher, value });
            }
            // Work that failed has no figure.
            Some("failed") => complain(format!("{row}: {contestant}: failed: {rest}")),
            Some(_) | None => return Err(wrong()),
        }
    }
    Ok(figures)
}

/// Parses `COUNT NANOSECONDS` or `persecond NUMBER` as a rate per second. Returns nothing for a
/// rate that is not above zero.
pub(super) fn rate(words: &str) -> Option<f64> {
    let (count, number) = words.split_once(' ')?;
    let number: f64 = number.trim().parse().ok()?;
    let rate = if count == "persecond" { number } else { count.parse::<f64>().ok()? * 1e9 / number };
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(output: &str) -> Outcome<Vec<Figure>> {
        read_rows(output, &Contestant::Native, Mode::Auto)
    }

    #[test]
    fn time_becomes_a_rate() {
        let figures = rows("row create 5000 2000000000\nrow read-direct persecond 12345\n").unwrap();
        let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [2500.0, 12345.0]);
        assert_eq!(figures[0].row, "guest: create 5,000 files (cache auto)");
    }

    #[test]
    fn failed_work_has_no_figure() {
        let figures =
            rows("failed stat-cold stat f1: Too many open files in system\nrow read 20000 1000000\n");
        assert_eq!(figures.unwrap().len(), 1);
    }

    #[test]
    fn other_output_is_refused() {
        for output in ["row read 20000 0", "row read 20000", "row nothing 1 1", "gcc: error", "row read x 5"]
        {
            assert!(rows(output).is_err(), "{output}");
        }
    }

    #[test]
    fn row_names_contain_the_measured_numbers() {
        assert_eq!((tree::FILES, tree::ARCHIVED, CREATED), (20_000, 3_000, 5_000));
    }
}
