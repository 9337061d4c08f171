//! Rows of the part `wire`: a load generator at the socket of a daemon, or with bare host calls.
//!
//! The load generator is a separate process (`load_process`), so that its CPU time does not count
//! for the daemon.
//!
//! In each turn, every contestant has a load generator that waits for steps. A step is a row at one
//! depth. All contestants take a step one right after another, so that a disturbance of the host
//! affects the same row of each.

use std::path::Path;

use serde_json::Value;

use super::figure::{Better, Contestant, Figure};
use super::load_process::LoadProcess;
use super::progress::Progress;
use super::samples::Samples;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};

/// Rows that are also measured with several request queues, at [`QUEUE_DEPTH`].
const QUEUE_ROWS: [&str; 3] = ["getattr", "read-4k-rand", "mixed"];

/// Depth of the rows with several request queues.
const QUEUE_DEPTH: u32 = 32;

/// Numbers of request queues in these rows.
const QUEUES: [u32; 2] = [2, 4];

/// Measurements of the part `wire`.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// Every row at every depth.
    pub(crate) steps: Vec<WireStep>,
    /// Time for each step, in seconds.
    pub(crate) seconds: f64,
}

/// Row at one depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireStep {
    row: String,
    depth: u32,
}

/// Metrics of a row: name, unit, direction, field in the output of the load generator, and the
/// number by which the field is divided.
const METRICS: [(&str, &str, Better, &str, f64); 7] = [
    ("op/s", "op/s", Better::Higher, "operations_per_second", 1.0),
    ("p50", "us", Better::Lower, "p50_ns", 1000.0),
    ("p99", "us", Better::Lower, "p99_ns", 1000.0),
    ("p99.9", "us", Better::Lower, "p999_ns", 1000.0),
    ("CPU", "us/op", Better::Lower, "cpu_ns_per_operation", 1000.0),
    ("switches", "/op", Better::Lower, "switches_per_1000", 1000.0),
    ("peak RSS", "MiB", Better::Lower, "peak_kib", 1024.0),
];

/// Returns the steps of `rows`, or of all rows if `rows` is empty.
///
/// # Errors
/// Fails if a row does not exist, or the load generator does not start.
pub(crate) fn steps(rows: &[String]) -> Outcome<Vec<WireStep>> {
    let listed = programs::generator("load")?
        .arg("--list")
        .output()
        .map_err(Failure::io("cannot start the load generator"))?;
    choose(&String::from_utf8_lossy(&listed.stdout), rows)
}

/// Selects steps from `listed`, which has one row per line, followed by its depths.
fn choose(listed: &str, rows: &[String]) -> Outcome<Vec<WireStep>> {
    let known: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    if let Some(row) = rows.iter().find(|row| !known.iter().any(|(name, _)| *name == row.as_str())) {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("unknown row `{row}`; the rows are {}", names.join(", "))));
    }
    let chosen = known.into_iter().filter(|(name, _)| rows.is_empty() || rows.iter().any(|row| row == name));
    let steps = chosen.flat_map(|(name, depths)| {
        let depths = depths.split(' ').filter_map(|depth| depth.parse().ok());
        depths.map(|depth| WireStep { row: name.to_owned(), depth })
    });
    Ok(steps.collect())
}

impl Wire {
    /// Returns the number of progress steps in [`Wire::turn`].
    pub(crate) fn progress_steps(&self) -> usize {
        self.steps.len()
    }

    /// Measures every row of every contestant once.
    ///
    /// # Errors
    /// Fails if a row fails. The message has the name of the row and the errno.
    pub(crate) fn turn(
        &self,
        contestants: &[Contestant],
        (run_folder, progress): (&RunFolder, &Progress),
        turn: usize,
        samples: &mut Samples,
    ) -> Outcome {
        let share = run_folder.path().join("wire");
        std::fs::create_dir_all(&share).map_err(Failure::io("cannot create the share of the part `wire`"))?;
        let mut players = Vec::new();
        for contestant in contestants {
            let own = matches!(contestant, Contestant::Pinhole { .. } | Contestant::Before { .. });
            let several = own.then_some(QUEUES);
            for queues in std::iter::once(1).chain(several.into_iter().flatten()) {
                players.push(WirePlayer::start(contestant, &share, queues, self.seconds)?);
            }
        }
        for (number, step) in self.steps.iter().enumerate() {
            progress.show(format!("{}, depth {}", step.row, step.depth));
            // The first contestant finds colder caches, so a different one is first in each step
            // and turn.
            let first = (number + turn) % players.len().max(1);
            players.rotate_left(first);
            for player in players.iter_mut().filter(|player| player.takes(step)) {
                let figures = player.play(step)?;
                samples.add(&player.contestant, turn, figures);
            }
            progress.step();
        }
        players.into_iter().try_for_each(|player| player.process.end())
    }
}

/// Contestant with its load generator.
struct WirePlayer {
    contestant: Contestant,
    queues: u32,
    process: LoadProcess,
}

impl WirePlayer {
    /// Starts the daemon, if the contestant is one, and its load generator.
    fn start(contestant: &Contestant, share: &Path, queues: u32, seconds: f64) -> Outcome<Self> {
        let serving = match contestant {
            Contestant::Native => None,
            Contestant::Pinhole { .. } | Contestant::Before { .. } | Contestant::Virtiofsd(_) => {
                let started = contestant.daemon(share, &[])?.start();
                Some(started.map_err(|error| Failure::new(error.to_string()))?)
            }
        };
        let process = LoadProcess::start(&contestant.to_string(), serving, share, (queues, seconds))?;
        Ok(Self { contestant: contestant.clone(), queues, process })
    }

    /// Returns whether this contestant is measured in this step.
    fn takes(&self, step: &WireStep) -> bool {
        if self.contestant == Contestant::Native {
            return step.depth == 1;
        }
        self.queues == 1 || (step.depth == QUEUE_DEPTH && QUEUE_ROWS.contains(&step.row.as_str()))
    }

    /// Measures one step.
    fn play(&mut self, step: &WireStep) -> Outcome<Vec<Figure>> {
        let value = self.process.play(&step.row, step.depth)?;
        Ok(metrics(&row_name(&value), &value))
    }
}

/// Returns the name of a row: `getattr, depth 32, 2 queues`. `getattr-beside-cold` has a fixed
/// depth, so its name has none.
fn row_name(value: &Value) -> String {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or_default();
    let row = text("row");
    let depth =
        if row == "getattr-beside-cold" { String::new() } else { format!(", depth {}", number("depth")) };
    let queues = number("queues");
    let queues = if queues > 1 { format!(", {queues} queues") } else { String::new() };
    format!("{row}{depth}{queues}")
}

/// Returns the figures of a row. A row without a completed operation has none: its latencies are
/// zero and would look like the fastest.
fn metrics(row: &str, value: &Value) -> Vec<Figure> {
    let number = |field: &str| value.get(field).and_then(Value::as_f64).unwrap_or_default();
    if number("operations") < 1.0 {
        return Vec::new();
    }
    METRICS
        .into_iter()
        .map(|(metric, unit, better, field, size)| Figure {
            row: format!("{row}: {metric}"),
            unit,
            better,
            value: number(field) / size,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn load_generator_line_becomes_figures_with_units() {
        let line = json!({"row": "getattr", "depth": 32, "queues": 2, "operations": 5, "p50_ns": 1500});
        assert_eq!(row_name(&line), "getattr, depth 32, 2 queues");
        let figures = metrics("getattr, depth 1", &line);
        let p50 = figures.iter().find(|figure| figure.row == "getattr, depth 1: p50").unwrap();
        assert_eq!((p50.value, p50.unit, p50.better), (1.5, "us", Better::Lower));
    }

    #[test]
    fn rows_are_chosen_by_name_with_their_depths() {
        let listed = "getattr 1 8\nreaddirplus 1\n";
        let step = |row: &str, depth| WireStep { row: row.to_owned(), depth };
        let all = choose(listed, &[]).unwrap();
        assert_eq!(all, [step("getattr", 1), step("getattr", 8), step("readdirplus", 1)]);
        assert_eq!(choose(listed, &["readdirplus".to_owned()]).unwrap(), [step("readdirplus", 1)]);
        let refused = choose(listed, &["getattrs".to_owned()]).unwrap_err().to_string();
        assert_eq!(refused, "unknown row `getattrs`; the rows are getattr, readdirplus");
    }

    #[test]
    fn row_without_an_operation_has_no_figures() {
        assert!(metrics("row", &json!({"operations": 0})).is_empty());
    }
}
