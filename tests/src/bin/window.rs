//! The guest of the benchmark's rows about the DAX window: it connects, says `ready`, and does what each line on standard
//! input asks for, answering each with a line of figures.
//!
//! `window --socket SOCKET --file NAME --host-path PATH`; the lines are `map`, `read`, `load`, `store`, `latency`,
//! `back-channel` and `random`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pinhole_tests::frontend::FrontendError;
use pinhole_tests::window::{Pair, Player};

/// Maps a file of a share through the DAX window of a daemon, and measures.
#[derive(Debug, Parser)]
struct Arguments {
    /// The daemon's socket
    #[arg(long)]
    socket: PathBuf,
    /// The file's name in the share's root
    #[arg(long)]
    file: String,
    /// The same file on the host
    #[arg(long)]
    host_path: PathBuf,
    /// Measured time of each way
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), FrontendError> {
    let time = Duration::try_from_secs_f64(arguments.seconds).map_err(io::Error::other)?;
    let mut player = Player::new(&arguments.socket, &arguments.file, &arguments.host_path)?;
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "map" => player.map().map(|()| "mapped".to_owned())?,
            "read" => player.read().map(|()| "read".to_owned())?,
            "load" => both(player.load(time)?),
            "store" => both(player.store(time)?),
            "latency" => player.map_and_unmap_us()?.to_string(),
            "back-channel" => player.back_channel_us()?.to_string(),
            "random" => both(player.random(time)?),
            other => return Err(io::Error::other(format!("`{other}` is nothing to do")).into()),
        };
        say(&answer)?;
    }
    Ok(())
}

fn both(pair: Pair) -> String {
    format!("{} {}", pair.window, pair.beside)
}

fn say(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}
