//! Command line of the load generator, which prints figures to standard output: one row a line,
//! with `--json` as a JSON object.
//!
//! `pinhole-bench load --share DIR --socket SOCKET --process PID [--rows getattr,mixed]
//! [--depths 1,32] [--queues 1] [--seconds 0.4]` measures a running daemon. `--native` in place of
//! the socket does the same work with bare host calls. `--hold N` measures nothing: it looks up N
//! files and waits. `--hold-listed` lists the whole share and waits.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{Learning, LoadError, LoadTarget, Measured, Options, Row, Server, hold};
use crate::console::say;
use crate::step::{Failure, Outcome};

/// Selects the daemon and the rows.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArguments {
    /// Directory that the daemon shares; the files of the rows are made there
    #[arg(long, required_unless_present_any = ["hold_listed", "list"])]
    share: Option<PathBuf>,
    /// Socket of the daemon
    #[arg(long, required_unless_present_any = ["native", "list"])]
    socket: Option<PathBuf>,
    /// Process of the daemon, for its CPU time
    #[arg(long, alias = "pid", required_unless_present_any = ["native", "hold", "hold_listed", "list"])]
    process: Option<u32>,
    /// Bare host calls instead of a daemon
    #[arg(long, conflicts_with_all = ["socket", "process"])]
    native: bool,
    /// Look up this many files and folders of the share and wait: prints `connected` after INIT and
    /// `holds N` after the lookups, and waits after each for a line on standard input
    #[arg(long, conflicts_with = "native")]
    hold: Option<usize>,
    /// The same, but list all folders of the share in place of lookups
    #[arg(long, conflicts_with_all = ["native", "hold"])]
    hold_listed: bool,
    /// Rows to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Requests in flight on each queue
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = depth)]
    depths: Vec<usize>,
    /// Request queues, each with a client thread
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// Measured time of each row and depth, in seconds
    #[arg(long, default_value = "0.4", value_parser = seconds)]
    seconds: Duration,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Measure the rows that standard input names, one a line with its depth: `getattr 32`
    #[arg(long, conflicts_with = "rows")]
    steps: bool,
    /// List the rows and their depths, and measure none
    #[arg(long, exclusive = true)]
    list: bool,
}

/// Parses a depth.
fn depth(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(depth @ 1..=33) => Ok(depth),
        Ok(_) | Err(_) => Err("give a depth from 1 to 33".to_owned()),
    }
}

/// Parses a time in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "give seconds from 0.01 to 600".to_owned();
    let seconds: f64 = text.parse().map_err(|_not_a_number| wrong())?;
    if (0.01..=600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// Measures the selected rows.
pub(crate) fn main(arguments: LoadArguments) -> Outcome {
    run(arguments).map_err(|error| Failure::new(error.to_string()))
}

/// Prints what has been reached and waits for a line on standard input.
fn pause(reached: &str) -> io::Result<()> {
    say(reached);
    io::stdin().read_line(&mut String::new()).map(|_len| ())
}

/// Does what the arguments select.
fn run(arguments: LoadArguments) -> Result<(), LoadError> {
    if arguments.list {
        for (name, row) in Row::ALL {
            let depths: Vec<String> = row.depths(&arguments.depths).iter().map(usize::to_string).collect();
            say(format!("{name} {}", depths.join(" ")));
        }
        return Ok(());
    }
    let share = arguments.share.unwrap_or_default();
    let learning = match arguments.hold {
        Some(inodes) => Some(Learning::Lookups { share: &share, inodes }),
        None => arguments.hold_listed.then_some(Learning::Listing),
    };
    if let (Some(learning), Some(socket)) = (learning, &arguments.socket) {
        return hold(socket, learning, &mut pause);
    }
    let options = Options { share, queues: arguments.queues, time: arguments.seconds };
    let target = match (arguments.socket, arguments.process) {
        (Some(socket), Some(process)) => LoadTarget::daemon(&Server { socket, process }, options),
        (_, _) => LoadTarget::native(options),
    }?;
    let print = |measured: &Measured| {
        if arguments.json {
            say(measured.json());
        } else {
            say(measured);
        }
    };
    if arguments.steps {
        return step_by_step(target, &print);
    }
    if !arguments.json {
        say(Measured::COLUMNS);
    }
    let rows = if arguments.rows.is_empty() { Row::ALL.map(|(_, row)| row).to_vec() } else { arguments.rows };
    measure_rows(target, &rows, &arguments.depths, &print)
}

/// Measures rows one after another, each at all its depths.
fn measure_rows(
    mut target: LoadTarget,
    rows: &[Row],
    depths: &[usize],
    print: &dyn Fn(&Measured),
) -> Result<(), LoadError> {
    for row in rows {
        for depth in target.depths(*row, depths) {
            print(&target.measure(*row, depth)?);
        }
    }
    Ok(())
}

/// Measures the rows that standard input names, until it ends.
fn step_by_step(mut target: LoadTarget, print: &dyn Fn(&Measured)) -> Result<(), LoadError> {
    for line in io::stdin().lines() {
        let line = line.map_err(|source| LoadError::Host { what: "cannot read a step", source })?;
        let wrong = |what: String| LoadError::Step { line: line.clone(), what };
        let (row, number) = line.split_once(' ').ok_or_else(|| wrong("give a row and a depth".to_owned()))?;
        let row: Row = row.parse().map_err(wrong)?;
        print(&target.measure(row, depth(number).map_err(wrong)?)?);
    }
    Ok(())
}
