//! `cargo xtask bench`: measures pinhole, virtiofsd and bare host calls, in turns in one run.
//!
//! | module | task |
//! |---|---|
//! | `wire` | sends requests to the socket of a daemon |
//! | `guest` | boots a guest and times its file operations |
//! | `cost` | measures start time, memory and descriptors of a daemon |
//! | `dax`, `locks`, `prepared` | separate benchmarks of the DAX window, locks, prepared images |
//! | `samples` | computes ratios from the figures |
//! | `before` | compares two builds of pinhole |
//! | `report`, `chart` | show the results |
//!
//! `wire`, `guest` and `cost` measure one contestant once; this file calls them in turns.

pub(crate) mod aims;
mod before;
pub(crate) mod chart;
pub(crate) mod cost;
pub(crate) mod dax;
pub(crate) mod figure;
mod fresh;
mod guest;
mod load_process;
pub(crate) mod locks;
mod prepared;
mod progress;
mod report;
mod rows;
pub(crate) mod samples;
mod wire;

use std::path::{Path, PathBuf};

use crate::conditions::Conditions;
use crate::console::say;
use crate::needs::Need;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};
use figure::{CACHE_ALWAYS, CACHE_AUTO, Contestant, Figure, VirtiofsdSetting};
use progress::Progress;
use report::BenchReport;
use samples::Samples;
use wire::Wire;

/// Selects the measurements and the output.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    /// Measure only these rows of the part `wire`; an unknown name prints the list of rows
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<String>,
    /// Measure only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Measure only the part `guest`, in this cache mode
    #[arg(long, value_enum, conflicts_with_all = ["rows", "only", "chart"])]
    cache: Option<guest::Mode>,
    /// Measure only the DAX window: speed, and memory of several guests
    #[arg(long, conflicts_with_all = ["rows", "only", "cache", "json", "chart"])]
    dax: bool,
    /// Measure only the cost of locks on the host
    #[arg(long, conflicts_with_all = ["rows", "only", "cache", "json", "chart", "dax"])]
    locks: bool,
    /// Measure only prepared images, or only one part of these rows
    #[arg(long, value_enum, value_name = "PART", num_args = 0..=1, require_equals = true)]
    #[arg(conflicts_with_all = ["rows", "only", "cache", "json", "chart", "dax", "locks"])]
    #[expect(clippy::option_option, reason = "without a part, all parts are measured")]
    prepared: Option<Option<prepared::PreparedPart>>,
    /// Write the project's page of prepared images (`prepared.md` in docs/measured)
    #[arg(long, requires = "prepared")]
    write: bool,
    /// Number of measurements of each contestant [default: 5 for wire and --dax, 3 for guest, cost
    /// and --locks, 1 to 5 for the parts of --prepared]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=99))]
    turns: Option<u16>,
    /// Time for each row of the part `wire` at each depth, in seconds
    #[arg(long, default_value_t = 0.12, value_parser = seconds)]
    seconds: f64,
    /// Compare with another pinhole program, as the contestant `before`, and measure no other
    /// contestant
    #[arg(long, value_name = "PROGRAM", value_parser = program, conflicts_with_all = ["dax", "locks", "prepared", "chart"])]
    against: Option<PathBuf>,
    /// Write every figure of every turn to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts and a page with the tables to DIR (the project's own page is in
    /// `docs/measured/bench`)
    #[arg(long, value_name = "DIR")]
    chart: Option<PathBuf>,
}

/// Part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Requests at the socket, without a guest
    Wire,
    /// File operations in a guest
    Guest,
    /// Start time, memory and descriptors of a daemon
    Cost,
}

/// Builds of pinhole to measure.
#[derive(Clone, Copy, Debug)]
struct Builds<'p> {
    pinhole: &'p Path,
    /// The other build (`--against`).
    before: Option<&'p Path>,
}

/// Default number of turns for `--dax`.
const DAX_TURNS: u16 = 5;

/// Default number of turns for `--locks`.
const LOCK_TURNS: u16 = 3;

/// Settings of virtiofsd for `wire`: with and without its thread pool, and the mode that lets a
/// guest cache the most. In this part, a mode changes the replies but hardly the work.
const WIRE_SETTINGS: [VirtiofsdSetting; 3] =
    [CACHE_AUTO, VirtiofsdSetting { pool: 4, cache: "auto" }, CACHE_ALWAYS];

/// Settings of virtiofsd for `guest`: without a thread pool, in each measured cache mode.
const GUEST_SETTINGS: [VirtiofsdSetting; 3] =
    [CACHE_AUTO, CACHE_ALWAYS, VirtiofsdSetting { pool: 0, cache: "never" }];

/// Parses the time of `--seconds`.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=60.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err("expected a number of seconds from 0.01 to 60".to_owned()),
    }
}

/// Checks that `text` names a program. The path becomes absolute, so that it does not depend on the
/// directory in which a daemon starts.
fn program(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    if path.is_file() { Ok(path) } else { Err("there is no such file".to_owned()) }
}

impl Part {
    const ALL: [Self; 3] = [Self::Wire, Self::Guest, Self::Cost];

    /// Returns the name of the part.
    const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Guest => "guest",
            Self::Cost => "cost",
        }
    }

    /// Returns the default number of turns. Slow parts get fewer.
    const fn turns(self) -> u16 {
        match self {
            Self::Wire => 5,
            Self::Guest | Self::Cost => 3,
        }
    }

    /// Returns the contestants of the part.
    fn contestants(self, builds: &Builds<'_>) -> Vec<Contestant> {
        let own = Contestant::Pinhole { program: builds.pinhole.to_path_buf() };
        if let Some(program) = builds.before {
            return vec![own, Contestant::Before { program: program.to_path_buf() }];
        }
        let settings = match self {
            Self::Wire => WIRE_SETTINGS.as_slice(),
            // A pool makes no row of this part faster: each request wakes one more thread, and the
            // guest has one CPU.
            Self::Guest => &GUEST_SETTINGS,
            Self::Cost => &[CACHE_AUTO],
        };
        let mut all = vec![own];
        all.extend(settings.iter().copied().map(Contestant::Virtiofsd));
        if self == Self::Wire {
            all.push(Contestant::Native);
        }
        all
    }
}

impl BenchArguments {
    /// Returns what the selected measurements need.
    pub(crate) fn needs(&self) -> &'static [Need] {
        if self.prepared.is_some() {
            prepared::NEEDS
        } else if self.dax {
            &[]
        } else if self.locks || self.parts().contains(&Part::Guest) {
            &[Need::Base, Need::Userland]
        } else if self.against.is_some() {
            // virtiofsd is not measured.
            &[]
        } else {
            &[Need::Base]
        }
    }

    /// Returns the selected parts.
    fn parts(&self) -> Vec<Part> {
        match self.only {
            Some(part) => vec![part],
            None if !self.rows.is_empty() => vec![Part::Wire],
            None if self.cache.is_some() => vec![Part::Guest],
            None => Part::ALL.to_vec(),
        }
    }
}

/// Runs the selected measurements. `load` is the load average before the build.
pub(crate) fn main(arguments: &BenchArguments, load: &str) -> Outcome {
    if arguments.locks {
        return locks::main(arguments.turns.unwrap_or(LOCK_TURNS), load);
    }
    if let Some(part) = arguments.prepared {
        let (turns, seconds) = (arguments.turns, arguments.seconds);
        return prepared::main(&prepared::PreparedRun { part, turns, seconds, write: arguments.write }, load);
    }
    if arguments.dax {
        return dax::main(arguments.turns.unwrap_or(DAX_TURNS), arguments.seconds, load);
    }
    let run_folder = RunFolder::new()?;
    let parts = arguments.parts();
    if !arguments.rows.is_empty() && !parts.contains(&Part::Wire) {
        return Err(Failure::new(
            "--rows selects rows of the part `wire`: remove --only, or use --only wire",
        ));
    }
    let program = programs::pinhole()?;
    let conditions = Conditions::of_run(&program, run_folder.path(), load);
    let wire = Wire { steps: wire::steps(&arguments.rows)?, seconds: arguments.seconds };
    let turns = |part: Part| arguments.turns.unwrap_or_else(|| part.turns());
    let parts: Vec<(Part, usize)> = parts.iter().map(|part| (*part, usize::from(turns(*part)))).collect();
    let guest = |contestant: &Contestant, run_folder: &RunFolder, progress: &Progress| {
        guest::turn(contestant, arguments.cache, (run_folder, progress))
    };
    let builds = Builds { pinhole: &program, before: arguments.against.as_deref() };
    let samples = measure(&parts, &builds, (&wire, &guest, &run_folder))?;
    let comparisons = samples.comparisons();
    let turns: Vec<_> = parts.iter().map(|(part, turns)| format!("{} {turns}", part.name())).collect();
    let turns = format!("turns: {}", turns.join(", "));
    show(&BenchReport { conditions, turns, samples, comparisons }, arguments)
}

/// Measures all contestants of the parts in turns. Each part has its number of turns.
fn measure(
    parts: &[(Part, usize)],
    builds: &Builds<'_>,
    (wire, guest, run_folder): (&Wire, &Turn<'_>, &RunFolder),
) -> Outcome<Samples> {
    let steps = |part: Part| match part {
        Part::Wire => wire.progress_steps(),
        Part::Guest | Part::Cost => part.contestants(builds).len(),
    };
    let steps: usize = parts.iter().map(|(part, turns)| steps(*part) * turns).sum();
    let progress = Progress::new(steps as u64);
    let mut samples = Samples::default();
    let last = parts.iter().map(|(_, turns)| *turns).max().unwrap_or(0);
    for turn in 0..last {
        for (part, _) in parts.iter().filter(|(_, turns)| turn < *turns) {
            let mut contestants = part.contestants(builds);
            // The first contestant finds colder caches, so a different one is first in each turn.
            let first = turn % contestants.len();
            contestants.rotate_left(first);
            match part {
                Part::Wire => wire.turn(&contestants, (run_folder, &progress), turn, &mut samples)?,
                Part::Guest => {
                    measure_each(&contestants, guest, (run_folder, &progress), (turn, &mut samples))?;
                }
                Part::Cost => {
                    measure_each(&contestants, &cost::turn, (run_folder, &progress), (turn, &mut samples))?;
                }
            }
        }
    }
    Ok(samples)
}

/// Function that measures one contestant of a part once.
type Turn<'t> = dyn Fn(&Contestant, &RunFolder, &Progress) -> Outcome<Vec<Figure>> + 't;

/// Measures the contestants of a part once, one after another.
fn measure_each(
    contestants: &[Contestant],
    part: &Turn<'_>,
    (run_folder, progress): (&RunFolder, &Progress),
    (turn, samples): (usize, &mut Samples),
) -> Outcome {
    for contestant in contestants {
        progress.show(contestant);
        samples.add(contestant, turn, part(contestant, run_folder, progress)?);
        progress.step();
    }
    Ok(())
}

/// Prints the tables, and writes the files that are wanted.
fn show(report: &BenchReport, arguments: &BenchArguments) -> Outcome {
    say(format!(
        "\n{}; {}; {}; {}",
        report.conditions.date, report.conditions.host, report.conditions.versions, report.turns
    ));
    if arguments.against.is_some() {
        let (table, count) = before::compare(&report.comparisons);
        say(format!("\n== before\n{}\n{count}", table.plain()));
        return write_json(report, arguments);
    }
    for (title, table) in [("wire", report.wire()), ("other rows", report.others()), ("aims", report.aims())]
    {
        if !table.is_empty() {
            say(format!("\n== {title}\n{}", table.plain()));
        }
    }
    let aimed = report.aimed();
    let met = aimed.iter().filter(|(aim, _, value)| aim.bound.is_met(value.median)).count();
    say(format!("aims: {met} of {} met", aimed.len()));
    write_json(report, arguments)?;
    if let Some(folder) = &arguments.chart {
        std::fs::create_dir_all(folder)
            .map_err(Failure::io(format!("cannot create {}", folder.display())))?;
        chart::draw(report, folder)?;
        std::fs::write(folder.join("README.md"), report.page())
            .map_err(Failure::io("cannot write the page"))?;
    }
    Ok(())
}

/// Writes the JSON file, if it is wanted.
fn write_json(report: &BenchReport, arguments: &BenchArguments) -> Outcome {
    let Some(file) = &arguments.json else { return Ok(()) };
    std::fs::write(file, format!("{:#}\n", report.json()))
        .map_err(Failure::io(format!("cannot write {}", file.display())))
}
