//! Rows of programs in a User-mode Linux guest: their speed, and the CPU time of the daemon. Guest
//! and daemon share one CPU.
//!
//! Each server takes one boot in a turn. The guest runs `rows.sh` and waits before each row, so
//! that the daemon does nothing while its CPU time is read.

use std::fs;
use std::time::Duration;

use pinhole_tests::daemon::Serving;
use pinhole_tests::guest::{Guest, Running, Share};

use super::contest::{Measure, PreparedBench, ShareServer, TurnFigures, add_turn, in_turn};
use super::source;
use crate::bench::figure::CACHE_ALWAYS;
use crate::bench::guest::{WORK, rate};
use crate::bench::rows::Rows;
use crate::load;
use crate::step::{Failure, Outcome};

/// Rows: name in the script, and name in the report.
const ROWS: [(&str, &str); 3] = [
    ("ls", "guest: ls -lR of 100,000 files"),
    ("find", "guest: find in 100,000 files"),
    ("read", "guest: read 20,000 small files"),
];

/// Contestants.
const SERVERS: [ShareServer; 3] =
    [ShareServer::Prepared, ShareServer::Virtiofsd(CACHE_ALWAYS), ShareServer::VirtiofsdWithXattr];

/// Tag of the share.
const TAG: &str = "bench";

/// Memory of the guest: enough for all inodes that it walks.
const MEMORY_MIB: u32 = 1024;

/// Time limit of a boot: ten times what all rows take.
const LIMIT: Duration = Duration::from_mins(5);

/// Measures all rows of each server once.
pub(super) fn turn(bench: &PreparedBench, turn: usize, rows: &mut Rows) -> Outcome {
    let mut measured = Vec::new();
    for server in in_turn(&SERVERS, turn) {
        measured.push((server, boot(bench, server)?));
    }
    for (number, (_, row)) in ROWS.iter().enumerate() {
        let each = |figure: fn(&GuestRow) -> f64| -> TurnFigures {
            let figures =
                measured.iter().filter_map(|(server, all)| Some((*server, figure(all.get(number)?))));
            figures.collect()
        };
        add_turn(rows, row, Measure::Files, &each(|row| row.rate));
        add_turn(rows, row, Measure::Cpu, &each(|row| row.cpu_ms));
    }
    Ok(())
}

/// Figures of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct GuestRow {
    /// Files a second.
    rate: f64,
    /// CPU time of the daemon, in ms.
    cpu_ms: f64,
}

/// Boots a guest and measures the rows of one server.
fn boot(bench: &PreparedBench, server: ShareServer) -> Outcome<Vec<GuestRow>> {
    let daemon = bench.start(server, &[&format!("--tag={TAG}")])?;
    let script = format!(
        "sh /extra/rows.sh {TAG} {} {} {} {}",
        source::WALK,
        source::WALK_FILES,
        source::READ,
        source::READ_FILES
    );
    let failed = |error: String| Failure::new(format!("{server:?}: {error}\ndaemon:\n{}", daemon.stderr()));
    let mut running = Guest::uml()
        .userland()
        .memory_mib(MEMORY_MIB)
        .limit(LIMIT)
        .attach(Share::new(daemon.socket(), TAG).options("ro"))
        .file("work.c", 0o644, WORK)
        .file("rows.sh", 0o644, include_bytes!("rows.sh"))
        .start(&script)
        .map_err(|error| failed(error.to_string()))?;
    let mut rows = Vec::new();
    for (name, _) in ROWS {
        rows.push(row(&mut running, &daemon, name).map_err(|error| failed(error.to_string()))?);
    }
    let finished = running.wait().map_err(|error| failed(error.to_string()))?;
    if finished.exit_code == 0 { Ok(rows) } else { Err(failed(finished.text())) }
}

/// Lets the guest play a row.
fn row(running: &mut Running, daemon: &Serving, name: &str) -> Outcome<GuestRow> {
    let cpu_ns = || load::cpu_ns(daemon.serving_id()).map_err(|error| Failure::new(error.to_string()));
    let reached = |running: &mut Running, text: String| {
        let waited = running.wait_for_output(&text);
        waited
            .map_err(|error| Failure::new(format!("{error}\n{}", String::from_utf8_lossy(&running.output()))))
    };
    reached(running, format!("ready {name}\n"))?;
    let before = cpu_ns()?;
    fs::write(running.channel().join(format!("go-{name}")), "")
        .map_err(Failure::io("cannot write to the guest"))?;
    reached(running, format!("row {name} "))?;
    let after = cpu_ns()?;
    let output = String::from_utf8_lossy(&running.output()).into_owned();
    let rate = rate_of(&output, name)
        .ok_or_else(|| Failure::new(format!("the guest printed no rate of {name}:\n{output}")))?;
    let micros = u32::try_from(after.saturating_sub(before) / 1000)
        .map_err(|error| Failure::new(format!("CPU time: {error}")))?;
    Ok(GuestRow { rate, cpu_ms: f64::from(micros) / 1000.0 })
}

/// Returns the rate of a row in the output of the guest.
fn rate_of(output: &str, name: &str) -> Option<f64> {
    let mut lines = output.lines().filter_map(|line| line.strip_prefix("row ")?.split_once(' '));
    lines.find_map(|(row, rest)| if row == name { rate(rest) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_read_from_the_line_of_the_row() {
        let output = "ready ls\nrow ls 100000 2000000000\nready read\nrow read 20000 1000000000\n";
        assert_eq!(rate_of(output, "ls"), Some(50_000.0));
        assert_eq!(rate_of(output, "read"), Some(20_000.0));
        assert_eq!(rate_of(output, "find"), None);
        assert_eq!(rate_of("row ls x 5\n", "ls"), None);
    }

    #[test]
    fn row_names_contain_the_measured_numbers() {
        assert_eq!((source::WALK_FILES, source::READ_FILES), (100_000, 20_000));
    }
}
