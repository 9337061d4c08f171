//! Rows with requests at the socket.

use super::contest::{Measure, PreparedBench, ShareServer, TurnFigures, add_turn, in_turn};
use crate::bench::figure::{CACHE_ALWAYS, CACHE_AUTO};
use crate::bench::load_process::LoadProcess;
use crate::bench::rows::Rows;
use crate::load::Row;
use crate::step::{Failure, Outcome};

/// Rows of the load generator with their depths.
const STEPS: [(&str, u32); 4] =
    [("getattr", 32), ("lookup-hit", 32), ("small-file", 32), ("readdirplus-20000", 1)];

/// Contestants.
const SERVERS: [ShareServer; 4] = [
    ShareServer::Prepared,
    ShareServer::Directory,
    ShareServer::Virtiofsd(CACHE_AUTO),
    ShareServer::Virtiofsd(CACHE_ALWAYS),
];

/// Number of times that a row is played until an operation is completed.
const TRIES: u32 = 5;

/// Returns the rows, whose files must be in the directory before the image is made.
pub(super) fn rows() -> Vec<Row> {
    STEPS.iter().filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Measures all rows of each server once.
pub(super) fn turn(bench: &PreparedBench, turn: usize, rows: &mut Rows) -> Outcome {
    let mut processes = Vec::new();
    for server in SERVERS {
        let daemon = bench.start(server, &[])?;
        let name = format!("{server:?}");
        let process = LoadProcess::start(&name, Some(daemon), &bench.source, (1, bench.seconds))?;
        processes.push((server, process));
    }
    for (number, (row, depth)) in STEPS.into_iter().enumerate() {
        let mut figures = TurnFigures::new();
        for server in in_turn(&SERVERS, turn + number) {
            let Some((_, process)) = processes.iter_mut().find(|(known, _)| *known == server) else {
                continue;
            };
            figures.push((server, rate(process, (row, depth))?.ok_or_else(|| no_operation(row, server))?));
        }
        add_turn(rows, &format!("wire: {row} at depth {depth}"), Measure::Operations, &figures);
    }
    processes.into_iter().try_for_each(|(_, process)| process.end())
}

/// Returns the operations a second of a row, or `None` if no operation was completed, even when
/// the row was played again. A busy host may delay a listing of 20,000 entries past the measured
/// time.
fn rate(process: &mut LoadProcess, (row, depth): (&str, u32)) -> Outcome<Option<f64>> {
    for _ in 0..TRIES {
        let played = process.play(row, depth)?;
        let rate = played.get("operations_per_second").and_then(serde_json::Value::as_f64);
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            return Ok(Some(rate));
        }
    }
    Ok(None)
}

/// Returns the error of a row in which no operation was completed.
fn no_operation(row: &str, server: ShareServer) -> Failure {
    Failure::new(format!("{row}: {server:?} completed no operation: give more --seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_generator_has_each_row_at_its_depth() {
        let rows = rows();
        assert_eq!(rows.len(), STEPS.len());
        for (row, (name, depth)) in rows.iter().zip(STEPS) {
            assert!(row.depths(&[32]).contains(&(depth as usize)), "{name}");
        }
    }
}
