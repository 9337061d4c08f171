//! The command line of the load of `cargo xtask surface`.
//!
//! `surface play --share DIR --socket SOCKET` plays it to a daemon that runs already: says `connected` after INIT and
//! `played` at the end, and goes on after each with a line on standard input, so that its caller can look at the daemon
//! in between. `surface trace --share DIR --tracing DIR -- PROGRAM ARGUMENTS` starts a daemon under the kernel's
//! function tracer and prints what it reaches: `start NAME`, `connect NAME`, `steady NAME` a line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pinhole_tests::daemon::Daemon;
use pinhole_tests::surface::functions::Tracer;
use pinhole_tests::surface::{Guest, prepare};

/// Plays the guest to a virtio-fs daemon: each operation a few times, then what only a hostile guest sends.
#[derive(Debug, Parser)]
enum Arguments {
    /// To a daemon that runs already
    Play {
        /// The directory that the daemon shares, empty; files to work on are made there
        #[arg(long)]
        share: PathBuf,
        /// The daemon's socket
        #[arg(long)]
        socket: PathBuf,
        /// Also what does not decode
        #[arg(long)]
        malformed: bool,
    },
    /// To a daemon that is started under the function tracer
    Trace {
        /// The directory to share, empty; files to work on are made there
        #[arg(long)]
        share: PathBuf,
        /// Where tracefs is mounted
        #[arg(long)]
        tracing: PathBuf,
        /// Also what does not decode
        #[arg(long)]
        malformed: bool,
        /// The daemon, without its share and its socket
        #[arg(last = true, required = true)]
        daemon: Vec<String>,
    },
}

/// How long a daemon may take to come to rest: what it does then still belongs to what it was asked before.
const REST: Duration = Duration::from_millis(500);

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let outcome = match Arguments::parse() {
        Arguments::Play { share, socket, malformed } => play(&share, &socket, malformed),
        Arguments::Trace { share, tracing, malformed, daemon } => trace(&share, &tracing, malformed, &daemon),
    };
    match outcome {
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
    io::stdin().read_line(&mut String::new()).map(drop)
}

fn play(share: &Path, socket: &Path, malformed: bool) -> Result<(), Failed> {
    prepare(share)?;
    let mut guest = Guest::connect(socket)?;
    guest.warm_up()?;
    pause("connected")?;
    guest.play()?;
    if malformed {
        guest.play_malformed()?;
    }
    print!("{guest}");
    Ok(pause("played")?)
}

fn trace(share: &Path, tracing: &Path, malformed: bool, daemon: &[String]) -> Result<(), Failed> {
    prepare(share)?;
    let tracer = Tracer::new(tracing)?;
    let (program, arguments) = daemon.split_first().ok_or("no program")?;
    let daemon = Daemon::pinhole_at(program, share).under(tracer.before());
    let daemon = arguments.iter().fold(daemon, Daemon::argument).start()?;
    take(&tracer, "start")?;
    tracer.go_on()?;
    let outcome = play_traced(&tracer, daemon.socket(), malformed);
    outcome.map_err(|error| format!("{error}\nits daemon:\n{}", daemon.stderr()).into())
}

fn play_traced(tracer: &Tracer, socket: &Path, malformed: bool) -> Result<(), Failed> {
    let mut guest = Guest::connect(socket)?;
    guest.warm_up()?;
    take(tracer, "connect")?;
    tracer.go_on()?;
    guest.play()?;
    if malformed {
        guest.play_malformed()?;
    }
    take(tracer, "steady")?;
    for line in guest.to_string().lines() {
        println!("request {line}");
    }
    Ok(())
}

fn take(tracer: &Tracer, phase: &str) -> Result<(), Failed> {
    // Nothing tells that a daemon has nothing more to do; what it does late would count for the next phase.
    std::thread::park_timeout(REST);
    for name in tracer.take()? {
        println!("{phase} {name}");
    }
    Ok(())
}
