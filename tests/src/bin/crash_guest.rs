//! VMM with a guest that works until it is killed. The crash tests start it and read its journal
//! from its standard output (`tests/src/crash/`).
#![expect(clippy::print_stderr, reason = "a program talks to its user")]

use clap::Parser;
use pinhole_tests::crash::{LaneEvent, Player, SETUP, line};
use pinhole_tests::frontend::FrontendError;
use pinhole_tests::frontend::client::Client;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Works in a folder of a share until it is killed.
#[derive(Debug, Parser)]
struct Arguments {
    /// The daemon's socket
    #[arg(long)]
    socket: PathBuf,
    /// The folder's name in the share's root
    #[arg(long)]
    folder: String,
    /// The seed of the work
    #[arg(long)]
    seed: u64,
    /// The number of acts in progress at the same time
    #[arg(long)]
    lanes: u32,
    /// Reboot without DESTROY after this number of acts, as a crashed guest does, and end
    #[arg(long)]
    reboot_after: Option<u64>,
}

fn main() -> ExitCode {
    match work(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Works and prints the journal, until the process is killed or the number of acts is reached.
fn work(arguments: &Arguments) -> Result<(), FrontendError> {
    let client = Client::connect(&arguments.socket, SETUP)?.0;
    let mut player = Player::new(client, &arguments.folder, arguments.seed, arguments.lanes)?;
    player.take_locks()?;
    let mut done = 0;
    player.work(false, |lane, said| {
        // One write for each line, so that a journal that is cut off ends with a complete line.
        io::stdout().write_all(line(lane, said).as_bytes())?;
        done += u64::from(said == LaneEvent::Done);
        Ok(arguments.reboot_after.is_none_or(|limit| done < limit))
    })?;
    player.reboot()
}
