//! The wire rows: the load generator at a daemon's socket, or with bare host calls.
//!
//! The load generator is a program of its own (`tests/src/bin/load.rs`, a release build), so that its time is not the
//! daemon's and this command compiles nothing of it. In each turn every contestant gets a load generator that waits for
//! steps; a row at one depth is one step, and all contestants take it one right after the other, so that what disturbs
//! the machine for a while disturbs the same row of each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pinhole_tests::daemon::Serving;
use serde_json::Value;

use super::figure::{Better, Contestant, Figure};
use super::place::Place;
use super::progress::Progress;
use super::samples::Samples;
use crate::step::{Failure, Outcome};
use crate::workspace;

/// Rows that are measured with several request queues too, at the greatest depth.
const SPREAD_ROWS: [&str; 3] = ["getattr", "read-4k-rand", "mixed"];

/// The greatest depth.
const SPREAD_DEPTH: u32 = 32;

/// Request queues beside one.
const QUEUES: [u32; 2] = [2, 4];

/// What to measure at the wire.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// Each row at each depth.
    pub(crate) steps: Vec<Step>,
    /// Of a row at one depth.
    pub(crate) seconds: f64,
}

/// A row at one depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    row: String,
    depth: u32,
}

/// The metrics of a row: name, unit, direction, the field, and its unit's size in the field's.
const METRICS: [(&str, &str, Better, &str, f64); 7] = [
    ("op/s", "op/s", Better::Higher, "operations_per_second", 1.0),
    ("p50", "us", Better::Lower, "p50_ns", 1000.0),
    ("p99", "us", Better::Lower, "p99_ns", 1000.0),
    ("p99.9", "us", Better::Lower, "p999_ns", 1000.0),
    ("CPU", "us/op", Better::Lower, "cpu_ns_per_operation", 1000.0),
    ("switches", "/op", Better::Lower, "switches_per_1000", 1000.0),
    ("peak RSS", "MiB", Better::Lower, "peak_kib", 1024.0),
];

/// The load generator's program.
pub(crate) fn program() -> PathBuf {
    workspace::target().join("release/load")
}

/// The steps of `rows`, of all rows where there are none.
///
/// # Errors
/// Where there is no such row, or the load generator cannot be asked.
pub(crate) fn steps(rows: &[String]) -> Outcome<Vec<Step>> {
    let listed = Command::new(program())
        .arg("--list")
        .output()
        .map_err(Failure::io("cannot start the load generator"))?;
    choose(&String::from_utf8_lossy(&listed.stdout), rows)
}

/// `listed` has a row a line, with its depths behind it.
fn choose(listed: &str, rows: &[String]) -> Outcome<Vec<Step>> {
    let known: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    if let Some(row) = rows.iter().find(|row| !known.iter().any(|(name, _)| *name == row.as_str())) {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("there is no row `{row}`; the rows are {}", names.join(", "))));
    }
    let chosen = known.into_iter().filter(|(name, _)| rows.is_empty() || rows.iter().any(|row| row == name));
    let steps = chosen.flat_map(|(name, depths)| {
        let depths = depths.split(' ').filter_map(|depth| depth.parse().ok());
        depths.map(|depth| Step { row: name.to_owned(), depth })
    });
    Ok(steps.collect())
}

impl Wire {
    /// How often [`Wire::turn`] steps the progress on.
    pub(crate) fn progress_steps(&self) -> usize {
        self.steps.len()
    }

    /// Every contestant through every row, once.
    ///
    /// # Errors
    /// Where a row fails, with its name and errno.
    pub(crate) fn turn(
        &self,
        contestants: &[Contestant],
        (place, progress): (&Place, &Progress),
        turn: usize,
        samples: &mut Samples,
    ) -> Outcome {
        let share = place.folder().join("wire");
        std::fs::create_dir_all(&share).map_err(Failure::io("cannot make the wire's share"))?;
        let mut players = Vec::new();
        for contestant in contestants {
            let several = matches!(contestant, Contestant::Pinhole { .. }).then_some(QUEUES);
            for queues in std::iter::once(1).chain(several.into_iter().flatten()) {
                players.push(Player::start(contestant, &share, queues, self.seconds)?);
            }
        }
        for (number, step) in self.steps.iter().enumerate() {
            progress.tell(format!("{}, depth {}", step.row, step.depth));
            // Whoever comes first finds colder caches; each does in its turn.
            let first = (number + turn) % players.len().max(1);
            players.rotate_left(first);
            for player in players.iter_mut().filter(|player| player.takes(step)) {
                let figures = player.play(step)?;
                samples.add(&player.contestant, turn, figures);
            }
            progress.step();
        }
        players.into_iter().try_for_each(Player::end)
    }
}

/// A contestant and its load generator.
struct Player {
    contestant: Contestant,
    queues: u32,
    child: Child,
    steps: Option<ChildStdin>,
    figures: BufReader<ChildStdout>,
    /// Kept until the load generator has ended.
    _serving: Option<Serving>,
}

impl Player {
    fn start(contestant: &Contestant, share: &Path, queues: u32, seconds: f64) -> Outcome<Self> {
        let mut command = Command::new(program());
        command.args(["--json", "--steps"]).arg("--share").arg(share);
        command.arg(format!("--seconds={seconds}")).arg(format!("--queues={queues}"));
        let serving = match contestant {
            Contestant::Native => None,
            Contestant::Pinhole { .. } | Contestant::Virtiofsd(_) => {
                let started = contestant.daemon(share, &[])?.start();
                Some(started.map_err(|error| Failure::new(error.to_string()))?)
            }
        };
        match &serving {
            Some(daemon) => {
                command.arg("--socket").arg(daemon.socket()).arg(format!("--process={}", daemon.serving_id()))
            }
            None => command.arg("--native"),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the load generator"))?;
        let steps = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| Failure::new("a load generator without an output"))?;
        let figures = BufReader::new(output);
        Ok(Self { contestant: contestant.clone(), queues, child, steps, figures, _serving: serving })
    }

    /// Whether it has anything to say about this step.
    fn takes(&self, step: &Step) -> bool {
        if self.contestant == Contestant::Native {
            return step.depth == 1;
        }
        self.queues == 1 || (step.depth == SPREAD_DEPTH && SPREAD_ROWS.contains(&step.row.as_str()))
    }

    fn play(&mut self, step: &Step) -> Outcome<Vec<Figure>> {
        let asked = self.steps.as_mut().map(|steps| writeln!(steps, "{} {}", step.row, step.depth));
        let mut line = String::new();
        let heard =
            self.figures.read_line(&mut line).map_err(Failure::io("cannot read from the load generator"))?;
        if heard == 0 || asked.is_none_or(|asked| asked.is_err()) {
            return Err(self.complaint());
        }
        let value: Value = serde_json::from_str(&line)
            .map_err(|error| Failure::new(format!("the load generator printed `{line}`: {error}")))?;
        Ok(metrics(&name(&value), &value))
    }

    fn complaint(&mut self) -> Failure {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take()
            && let Err(error) = errors.read_to_string(&mut said)
        {
            return Failure::new(format!(
                "{}: cannot read what its load generator says: {error}",
                self.contestant
            ));
        }
        Failure::new(format!("{}: {}", self.contestant, said.trim_end()))
    }

    /// Without steps it ends.
    fn end(mut self) -> Outcome {
        drop(self.steps.take());
        let status = self.child.wait().map_err(Failure::io("cannot wait for the load generator"))?;
        if status.success() { Ok(()) } else { Err(self.complaint()) }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // One that has ended by itself needs no killing; either way it is reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `getattr, depth 32, 2 queues`; a row with a depth of its own has none in its name.
fn name(value: &Value) -> String {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or_default();
    let row = text("row");
    let depth =
        if row == "getattr-beside-cold" { String::new() } else { format!(", depth {}", number("depth")) };
    let queues = number("queues");
    let queues = if queues > 1 { format!(", {queues} queues") } else { String::new() };
    format!("{row}{depth}{queues}")
}

/// No figure where nothing was counted: a row too slow for its time would else be the fastest one.
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
    fn a_line_of_the_load_generator_becomes_figures_with_units() {
        let line = json!({"row": "getattr", "depth": 32, "queues": 2, "operations": 5, "p50_ns": 1500});
        assert_eq!(name(&line), "getattr, depth 32, 2 queues");
        let figures = metrics("getattr, depth 1", &line);
        let p50 = figures.iter().find(|figure| figure.row == "getattr, depth 1: p50").unwrap();
        assert_eq!((p50.value, p50.unit, p50.better), (1.5, "us", Better::Lower));
    }

    #[test]
    fn rows_are_chosen_by_name_with_their_own_depths() {
        let listed = "getattr 1 8\nreaddirplus 1\n";
        let step = |row: &str, depth| Step { row: row.to_owned(), depth };
        let all = choose(listed, &[]).unwrap();
        assert_eq!(all, [step("getattr", 1), step("getattr", 8), step("readdirplus", 1)]);
        assert_eq!(choose(listed, &["readdirplus".to_owned()]).unwrap(), [step("readdirplus", 1)]);
        let refused = choose(listed, &["getattrs".to_owned()]).unwrap_err().to_string();
        assert_eq!(refused, "there is no row `getattrs`; the rows are getattr, readdirplus");
    }

    #[test]
    fn a_row_without_an_operation_has_no_figures() {
        assert!(metrics("row", &json!({"operations": 0})).is_empty());
    }
}
