//! The load generator's command line: figures on standard output, one JSON object a row with `--json`.
//!
//! `load --share DIR --socket SOCKET --process PID [--rows getattr,mixed] [--depths 1,32] [--queues 1] [--seconds 0.4]`;
//! `--native` in place of the socket does the same work by bare host calls. `--hold N` measures nothing: it looks up N
//! files and waits.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pinhole_tests::load::{LoadError, Measured, Options, Row, Server, Subject, hold};

/// Plays a guest at the socket of a vhost-user-fs daemon, as fast as it can, and reports what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// The directory that the daemon shares; files to work on are made there
    #[arg(long, required_unless_present = "list")]
    share: Option<PathBuf>,
    /// The daemon's socket
    #[arg(long, required_unless_present_any = ["native", "list"])]
    socket: Option<PathBuf>,
    /// The daemon's process, for its time on the processor
    #[arg(long, alias = "pid", required_unless_present_any = ["native", "hold", "list"])]
    process: Option<u32>,
    /// Bare host calls instead of a daemon
    #[arg(long, conflicts_with_all = ["socket", "process"])]
    native: bool,
    /// Look up so many files and folders of the share and wait: says `connected` after INIT and `holds N` after the
    /// lookups, and goes on after each with a line on standard input
    #[arg(long, conflicts_with = "native")]
    hold: Option<usize>,
    /// Which rows; all without it
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Requests in flight on each queue
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = depth)]
    depths: Vec<usize>,
    /// Request queues, each with a client thread
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// Measured time of each row and depth
    #[arg(long, default_value = "0.4", value_parser = seconds)]
    seconds: Duration,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Measure what standard input asks for, `getattr 32` a line, and nothing else
    #[arg(long, conflicts_with = "rows")]
    steps: bool,
    /// Names the rows and their depths and measures none
    #[arg(long, exclusive = true)]
    list: bool,
}

fn depth(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(depth @ 1..=33) => Ok(depth),
        Ok(_) | Err(_) => Err("give a depth from 1 to 33".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "give seconds from 0.01 to 600".to_owned();
    let seconds: f64 = text.parse().map_err(|_not_a_number| wrong())?;
    if (0.01..=600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says what has been reached and waits for a line.
fn pause(reached: &str) -> io::Result<()> {
    println!("{reached}");
    io::stdin().read_line(&mut String::new()).map(|_len| ())
}

fn run(arguments: Arguments) -> Result<(), LoadError> {
    if arguments.list {
        for (name, row) in Row::ALL {
            let depths: Vec<String> = row.depths(&arguments.depths).iter().map(usize::to_string).collect();
            println!("{name} {}", depths.join(" "));
        }
        return Ok(());
    }
    let share = arguments.share.unwrap_or_default();
    if let (Some(inodes), Some(socket)) = (arguments.hold, &arguments.socket) {
        return hold(socket, &share, inodes, &mut pause);
    }
    let options = Options { share, queues: arguments.queues, time: arguments.seconds };
    let subject = match (arguments.socket, arguments.process) {
        (Some(socket), Some(process)) => Subject::daemon(&Server { socket, process }, options),
        (_, _) => Subject::native(options),
    }?;
    let tell = |measured: &Measured| {
        if arguments.json {
            println!("{}", measured.json());
        } else {
            println!("{measured}");
        }
    };
    if arguments.steps {
        return step_by_step(subject, &tell);
    }
    if !arguments.json {
        println!("{}", Measured::COLUMNS);
    }
    let rows = if arguments.rows.is_empty() { Row::ALL.map(|(_, row)| row).to_vec() } else { arguments.rows };
    every(subject, &rows, &arguments.depths, &tell)
}

/// One row after the other.
fn every(
    mut subject: Subject,
    rows: &[Row],
    depths: &[usize],
    tell: &dyn Fn(&Measured),
) -> Result<(), LoadError> {
    for row in rows {
        for depth in subject.depths(*row, depths) {
            tell(&subject.measure(*row, depth)?);
        }
    }
    Ok(())
}

/// What standard input asks for, `getattr 32` a line, until it ends.
fn step_by_step(mut subject: Subject, tell: &dyn Fn(&Measured)) -> Result<(), LoadError> {
    for line in io::stdin().lines() {
        let line = line.map_err(|source| LoadError::Host { what: "cannot read a step", source })?;
        let wrong = |what: String| LoadError::Step { line: line.clone(), what };
        let (row, number) = line.split_once(' ').ok_or_else(|| wrong("give a row and a depth".to_owned()))?;
        let row: Row = row.parse().map_err(wrong)?;
        tell(&subject.measure(row, depth(number).map_err(wrong)?)?);
    }
    Ok(())
}
