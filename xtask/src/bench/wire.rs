//! The wire rows: the load generator at a daemon's socket, or with bare host calls.
//!
//! The load generator is a program of its own (`tests/src/bin/load.rs`, a release build), so that its time is not the
//! daemon's and this command compiles nothing of it. It prints one JSON object a row.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::figure::{Better, Contestant, Figure};
use super::place::Place;
use super::progress::Progress;
use crate::step::{Failure, Outcome};
use crate::workspace;

/// Rows that are measured with several request queues too, at the greatest depth.
const SPREAD_ROWS: &str = "getattr,read-4k-rand,mixed";

/// Request queues beside one.
const QUEUES: [u32; 2] = [2, 4];

/// What to measure at the wire.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// Names of rows; empty is all of them.
    pub(crate) rows: Vec<String>,
    /// Of a row at one depth.
    pub(crate) seconds: f64,
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

/// The names of the rows.
///
/// # Errors
/// Where the load generator cannot be asked.
pub(crate) fn rows() -> Outcome<Vec<String>> {
    let listed = Command::new(program())
        .arg("--list")
        .output()
        .map_err(Failure::io("cannot start the load generator"))?;
    let text = String::from_utf8_lossy(&listed.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

impl Wire {
    /// One contestant, once: every row, and for a daemon that offers several request queues some rows with those.
    ///
    /// # Errors
    /// Where a row fails, with its name and errno.
    pub(crate) fn turn(
        &self,
        contestant: &Contestant,
        place: &Place,
        progress: &Progress,
    ) -> Outcome<Vec<Figure>> {
        let share = place.folder().join("wire");
        std::fs::create_dir_all(&share).map_err(Failure::io("cannot make the wire's share"))?;
        let rows = self.rows.join(",");
        let mut figures = self.load(contestant, &share, (&rows, 1), progress)?;
        if matches!(contestant, Contestant::Pinhole { .. }) && self.rows.is_empty() {
            for queues in QUEUES {
                figures.extend(self.load(contestant, &share, (SPREAD_ROWS, queues), progress)?);
            }
        }
        Ok(figures)
    }

    fn load(
        &self,
        contestant: &Contestant,
        share: &Path,
        (rows, queues): (&str, u32),
        progress: &Progress,
    ) -> Outcome<Vec<Figure>> {
        let mut command = Command::new(program());
        command.arg("--json").arg("--share").arg(share).arg(format!("--seconds={}", self.seconds));
        if !rows.is_empty() {
            command.arg(format!("--rows={rows}"));
        }
        if queues > 1 {
            command.arg(format!("--queues={queues}")).arg("--depths=32");
        }
        // Kept until the load generator has ended.
        let serving = match contestant {
            Contestant::Native => None,
            Contestant::Pinhole { .. } | Contestant::Virtiofsd(_) => {
                let started = contestant.daemon(share, &[])?.start();
                Some(started.map_err(|error| Failure::new(error.to_string()))?)
            }
        };
        match &serving {
            Some(daemon) => {
                command.arg("--socket").arg(daemon.socket()).arg(format!("--process={}", daemon.id()))
            }
            None => command.arg("--native"),
        };
        let told = |row: &str| progress.tell(format!("{contestant}: {row}"));
        run(&mut command, &told).map_err(|failure| Failure::new(format!("{contestant}: {failure}")))
    }
}

fn run(command: &mut Command, told: &dyn Fn(&str)) -> Outcome<Vec<Figure>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::io("cannot start the load generator"))?;
    let mut figures = Vec::new();
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.map_err(Failure::io("cannot read from the load generator"))?;
        let value: Value = serde_json::from_str(&line)
            .map_err(|error| Failure::new(format!("the load generator printed `{line}`: {error}")))?;
        let row = name(&value);
        told(&row);
        figures.extend(metrics(&row, &value));
    }
    let status = child.wait().map_err(Failure::io("cannot wait for the load generator"))?;
    if status.success() {
        return Ok(figures);
    }
    let mut complaint = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut complaint).map_err(Failure::io("cannot read from the load generator"))?;
    }
    Err(Failure::new(format!("the load generator ended with {status}: {}", complaint.trim_end())))
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
    fn a_row_without_an_operation_has_no_figures() {
        assert!(metrics("row", &json!({"operations": 0})).is_empty());
    }
}
