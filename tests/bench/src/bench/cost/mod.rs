//! Rows of the part `cost`: the start time, memory and descriptors of a daemon.
//!
//! Memory is the proportional set size (PSS) of all processes of a daemon, without the pages of the
//! guest. A front-end in a process of its own (the command `load --hold` of this program) acts as
//! the guest.

pub(super) mod holder;
pub(crate) mod processes;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole_tests::daemon::{Daemon, Serving};

use super::figure::{Better, Contestant, Figure};
use super::fresh;
use super::progress::Progress;
use crate::console::complain;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};
use holder::Holder;
use processes::{Holdings, holdings};

/// Number of starts of a daemon. The row shows their median time.
const STARTS: usize = 20;

/// Number of daemons that run at the same time.
const DAEMONS: u32 = 200;

/// Number of files that one guest knows.
const INODES: u32 = 100_000;

/// Number of files that one guest knows without inode handles. A usual hard limit of 20,000
/// descriptors permits this number.
const INODES_BY_DESCRIPTOR: u32 = 15_000;

/// Number of files in each folder of the tree.
const IN_FOLDER: u32 = 1_000;

/// Sandbox of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sandbox {
    /// Default of the daemon.
    Default,
    /// No sandbox.
    None,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Default => "default sandbox",
            Self::None => "no sandbox",
        })
    }
}

/// Option for inode handles, with the number of files to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HandleOption {
    argument: &'static str,
    inodes: u32,
}

/// Both ways to find a file again: by inode handle, and by descriptor.
const HANDLE_OPTIONS: [HandleOption; 2] = [
    HandleOption { argument: "--inode-file-handles=prefer", inodes: INODES },
    HandleOption { argument: "--inode-file-handles=never", inodes: INODES_BY_DESCRIPTOR },
];

/// Measures `contestant` once. Bare host calls have no figures. virtiofsd is measured only with its
/// default setting, because neither its cache mode nor more threads make it cheaper.
///
/// # Errors
/// Fails if a daemon or a front-end does not start. A row that fails otherwise is reported and left
/// out.
pub(crate) fn turn(
    contestant: &Contestant,
    run_folder: &RunFolder,
    progress: &Progress,
) -> Outcome<Vec<Figure>> {
    match contestant {
        Contestant::Native => return Ok(Vec::new()),
        Contestant::Virtiofsd(setting) if setting.cache != "auto" || setting.pool > 0 => {
            return Ok(Vec::new());
        }
        Contestant::Pinhole { .. } | Contestant::Before { .. } | Contestant::Virtiofsd(_) => {}
    }
    let share = tree(run_folder)?;
    let target = CostTarget { contestant, share: &share };
    let mut figures = Vec::new();
    for sandbox in [Sandbox::Default, Sandbox::None] {
        progress.show(format!("cost: {contestant}, {sandbox}: start time"));
        figures.push(target.start_to_ready(sandbox)?);
        figures.extend(target.idle(sandbox)?);
        progress.show(format!("cost: {contestant}, {sandbox}: {DAEMONS} daemons"));
        figures.extend(target.many_daemons(sandbox)?);
    }
    for option in HANDLE_OPTIONS {
        progress.show(format!("cost: {contestant}, {}", option.argument));
        match target.inodes(option) {
            Ok(more) => figures.extend(more),
            // A daemon that does not reach this number of inodes has no figure.
            Err(error) => complain(format!("cost: {contestant} {}: failed: {error}", option.argument)),
        }
    }
    Ok(figures)
}

/// Returns a figure for which lower is better.
fn lower(row: String, unit: &'static str, value: f64) -> Figure {
    Figure { row, unit, better: Better::Lower, value }
}

/// Contestant and its share.
struct CostTarget<'p> {
    contestant: &'p Contestant,
    share: &'p Path,
}

impl CostTarget<'_> {
    /// Returns the daemon with this sandbox, not yet started.
    fn daemon(&self, sandbox: Sandbox, arguments: &[&str]) -> Outcome<Daemon> {
        let daemon = self.contestant.daemon(self.share, &[])?;
        let daemon = match sandbox {
            Sandbox::Default => daemon,
            Sandbox::None => daemon.argument("--sandbox=none").argument("--seccomp=none"),
        };
        Ok(arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)))
    }

    /// Starts the daemon.
    fn start(&self, sandbox: Sandbox, arguments: &[&str]) -> Outcome<Serving> {
        let started = self.daemon(sandbox, arguments)?.start();
        started.map_err(|error| Failure::new(error.to_string()))
    }

    /// Measures the time from `exec` to the ready line.
    fn start_to_ready(&self, sandbox: Sandbox) -> Outcome<Figure> {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let time = self.daemon(sandbox, &[])?.time_to_ready();
            times.push(time.map_err(|error| Failure::new(error.to_string()))?);
        }
        let row = format!("cost: start to ready, {sandbox}");
        Ok(lower(row, "ms", median(times).as_secs_f64() * 1e3))
    }

    /// Measures a daemon whose guest has sent INIT and no other request.
    fn idle(&self, sandbox: Sandbox) -> Outcome<[Figure; 2]> {
        let serving = self.start(sandbox, &[])?;
        let _guest = Holder::connect(serving.socket(), self.share, 0)?;
        let held = holdings(&[serving.id()])?;
        Ok([
            lower(format!("cost: PSS idle, {sandbox}"), "KiB", number(held.pss_kib)?),
            lower(format!("cost: PSS idle without files, {sandbox}"), "KiB", number(held.anonymous_kib)?),
        ])
    }

    /// Measures many daemons: first waiting for their guests, then each with a guest.
    fn many_daemons(&self, sandbox: Sandbox) -> Outcome<[Figure; 2]> {
        let serving = (0..DAEMONS).map(|_| self.start(sandbox, &[])).collect::<Outcome<Vec<_>>>()?;
        let processes: Vec<u32> = serving.iter().map(Serving::id).collect();
        let waiting = holdings(&processes)?.pss_kib;
        let connect = |serving: &Serving| Holder::connect(serving.socket(), self.share, 0);
        let guests = serving.iter().map(connect).collect::<Outcome<Vec<_>>>()?;
        let connected = holdings(&processes)?.pss_kib;
        drop(guests);
        Ok([
            lower(format!("cost: PSS of {DAEMONS} daemons, {sandbox}"), "MiB", number(waiting)? / 1024.0),
            lower(
                format!("cost: PSS of {DAEMONS} daemons, each with a guest, {sandbox}"),
                "MiB",
                number(connected)? / 1024.0,
            ),
        ])
    }

    /// Measures the memory and the descriptors that the daemon needs for the files that a guest
    /// knows.
    fn inodes(&self, option: HandleOption) -> Outcome<Vec<Figure>> {
        let HandleOption { argument, inodes } = option;
        let serving = self.start(Sandbox::None, &self.handle_arguments(argument))?;
        let mut guest = Holder::connect(serving.socket(), self.share, inodes)?;
        let before = holdings(&[serving.id()])?;
        guest.learn()?;
        let after = holdings(&[serving.id()])?;
        let Holdings { pss_kib, descriptors, .. } = after;
        let bytes = number(pss_kib.saturating_sub(before.pss_kib))? * 1024.0 / f64::from(inodes);
        let descriptors = number(u64::try_from(descriptors).unwrap_or(u64::MAX))?;
        Ok(vec![
            lower(format!("cost: PSS an inode at {inodes}, {argument}"), "B", bytes),
            lower(format!("cost: descriptors at {inodes} inodes, {argument}"), "descriptors", descriptors),
        ])
    }

    /// Returns the arguments for the option. virtiofsd drops the capability that inode handles need
    /// unless an option keeps it.
    fn handle_arguments(&self, argument: &'static str) -> Vec<&'static str> {
        match self.contestant {
            Contestant::Virtiofsd(_) => vec![argument, "--modcaps=+dac_read_search"],
            Contestant::Pinhole { .. } | Contestant::Before { .. } | Contestant::Native => vec![argument],
        }
    }
}

/// Converts a number to `f64`. Fails above the range of `u32`, where digits could be lost.
///
/// # Errors
/// See above.
pub(super) fn number(value: u64) -> Outcome<f64> {
    let narrow = u32::try_from(value).map_err(|error| Failure::new(format!("{value}: {error}")))?;
    Ok(f64::from(narrow))
}

/// Returns the median. For an even number of times it is the upper of the middle two.
pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Returns a folder with [`INODES`] empty files. The first turn creates it.
fn tree(run_folder: &RunFolder) -> Outcome<PathBuf> {
    let share = fresh::spread_folder(run_folder.path(), "cost")?.join("share");
    let complete = share.join("part-0/complete");
    if complete.exists() {
        return Ok(share);
    }
    let failed = |error| Failure::new(format!("cannot fill {}: {error}", share.display()));
    for number in 0..INODES {
        let part = share.join(format!("part-{}", number / IN_FOLDER));
        if number % IN_FOLDER == 0 {
            fs::create_dir_all(&part).map_err(failed)?;
        }
        File::create(part.join(format!("file-{number}"))).map_err(failed)?;
    }
    File::create(complete).map_err(failed)?;
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_is_the_upper_middle() {
        let times = [4, 1, 3, 2].map(Duration::from_millis);
        assert_eq!(median(times.to_vec()), Duration::from_millis(3));
        assert_eq!(median(Vec::new()), Duration::ZERO);
    }
}
