//! Guest of the rows about the DAX window, in a process of its own.
//!
//! `pinhole-bench dax-guest --socket SOCKET --file NAME --host-path PATH` connects and prints
//! `ready`. It then reads commands from standard input and answers each with a line of figures. The
//! commands are `map`, `read`, `load`, `store`, `latency`, `back-channel` and `random`.

use std::io::{self, BufRead as _};
use std::path::PathBuf;
use std::time::Duration;

use pinhole_tests::frontend::FrontendError;

use super::player::{MappingPlayer, Pair};
use crate::console::say;
use crate::step::{Failure, Outcome};

/// Selects the daemon and the file.
#[derive(Debug, clap::Args)]
pub(crate) struct DaxGuestArguments {
    /// Socket of the daemon
    #[arg(long)]
    socket: PathBuf,
    /// Name of the file in the root of the share
    #[arg(long)]
    file: String,
    /// Path of the same file on the host
    #[arg(long)]
    host_path: PathBuf,
    /// Time for each figure, in seconds
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

/// Acts as the guest until standard input ends.
pub(crate) fn main(arguments: &DaxGuestArguments) -> Outcome {
    serve(arguments).map_err(|error| Failure::new(error.to_string()))
}

/// Answers commands until standard input ends.
fn serve(arguments: &DaxGuestArguments) -> Result<(), FrontendError> {
    let time = Duration::try_from_secs_f64(arguments.seconds).map_err(io::Error::other)?;
    let mut player = MappingPlayer::new(&arguments.socket, &arguments.file, &arguments.host_path)?;
    say("ready");
    for line in io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "map" => player.map().map(|()| "mapped".to_owned())?,
            "read" => player.read().map(|()| "read".to_owned())?,
            "load" => figures(player.load(time)?),
            "store" => figures(player.store(time)?),
            "latency" => player.map_and_unmap_us()?.to_string(),
            "back-channel" => player.back_channel_us()?.to_string(),
            "random" => figures(player.random(time)?),
            other => return Err(io::Error::other(format!("unknown command `{other}`")).into()),
        };
        say(answer);
    }
    Ok(())
}

/// Formats the two figures of an answer.
fn figures(pair: Pair) -> String {
    format!("{} {}", pair.window, pair.without_window)
}
