//! Acts as the guest for `cargo xtask surface`, in a process of its own.
//!
//! `pinhole-bench surface-load play --share DIR --socket SOCKET` sends the requests to a running
//! daemon. It prints `connected` after INIT and `played` at the end, and waits after each for a
//! line on standard input, so that its caller can inspect the daemon.
//!
//! `pinhole-bench surface-load trace --share DIR --tracing DIR -- PROGRAM ARGUMENTS` starts a
//! daemon under the kernel's function tracer and prints the functions that it reaches, one a line:
//! `start NAME`, `connect NAME` or `steady NAME`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole_tests::daemon::Daemon;
use pinhole_tests::surface::{SurfaceGuest, prepare, prepare_image};

use super::functions::Tracer;
use crate::console::say;
use crate::step::{Failure, Outcome};

/// Selects a running daemon, or starts one.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SurfaceLoadArguments {
    /// A running daemon
    Play {
        /// Empty directory that the daemon shares; the load creates its files there
        #[arg(long)]
        share: PathBuf,
        /// The daemon serves an image of the directory, so the files are there already
        #[arg(long)]
        image: bool,
        /// Socket of the daemon
        #[arg(long)]
        socket: PathBuf,
        /// Send requests that do not decode, too
        #[arg(long)]
        malformed: bool,
    },
    /// A daemon that is started under the function tracer
    Trace {
        /// Empty directory to share; the load creates its files there
        #[arg(long)]
        share: PathBuf,
        /// Serve an image of the directory instead of the directory
        #[arg(long)]
        image: bool,
        /// Mount point of tracefs
        #[arg(long)]
        tracing: PathBuf,
        /// Send requests that do not decode, too
        #[arg(long)]
        malformed: bool,
        /// Command line of the daemon, without share and socket
        #[arg(last = true, required = true)]
        daemon: Vec<String>,
    },
}

/// Time after which a daemon counts as idle, from its last request on.
const REST: Duration = Duration::from_millis(500);

/// Error of the player.
type Failed = Box<dyn std::error::Error>;

/// Sends the requests to the selected daemon.
pub(crate) fn main(arguments: &SurfaceLoadArguments) -> Outcome {
    let outcome = match arguments {
        SurfaceLoadArguments::Play { share, image, socket, malformed } => {
            play((!image).then_some(share), socket, *malformed)
        }
        SurfaceLoadArguments::Trace { share, image, tracing, malformed, daemon } => {
            trace((share, *image), tracing, *malformed, daemon)
        }
    };
    outcome.map_err(|error| Failure::new(error.to_string()))
}

/// Prints what has been reached and waits for a line on standard input.
fn pause(reached: &str) -> io::Result<()> {
    say(reached);
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// Sends the requests to a running daemon. Fills its share before, if there is one.
fn play(share: Option<&PathBuf>, socket: &Path, malformed: bool) -> Result<(), Failed> {
    if let Some(share) = share {
        prepare(share)?;
    }
    let mut guest = SurfaceGuest::connect(socket)?;
    guest.warm_up()?;
    pause("connected")?;
    guest.play()?;
    if malformed {
        guest.play_malformed()?;
    }
    for line in guest.to_string().lines() {
        say(line);
    }
    Ok(pause("played")?)
}

/// Starts a daemon under the tracer, sends the requests, and prints the functions of each phase.
fn trace(
    (share, image): (&Path, bool),
    tracing: &Path,
    malformed: bool,
    daemon: &[String],
) -> Result<(), Failed> {
    prepare(share)?;
    let (program, arguments) = daemon.split_first().ok_or("no program")?;
    let daemon = if image {
        Daemon::of_image_at(program, prepare_image(Path::new(program), share)?)
    } else {
        Daemon::pinhole_at(program, share)
    };
    let tracer = Tracer::new(tracing)?;
    let daemon = daemon.under(tracer.traced_command());
    let daemon = arguments.iter().fold(daemon, Daemon::argument).start()?;
    end_phase(&tracer, "start")?;
    tracer.begin_phase()?;
    let outcome = play_traced(&tracer, daemon.socket(), malformed);
    outcome.map_err(|error| format!("{error}\noutput of the daemon:\n{}", daemon.stderr()).into())
}

/// Sends the requests to the traced daemon, in two phases.
fn play_traced(tracer: &Tracer, socket: &Path, malformed: bool) -> Result<(), Failed> {
    let mut guest = SurfaceGuest::connect(socket)?;
    guest.warm_up()?;
    end_phase(tracer, "connect")?;
    tracer.begin_phase()?;
    guest.play()?;
    if malformed {
        guest.play_malformed()?;
    }
    end_phase(tracer, "steady")?;
    for line in guest.to_string().lines() {
        say(format!("request {line}"));
    }
    Ok(())
}

/// Ends a phase and prints the functions that the daemon reached in it.
fn end_phase(tracer: &Tracer, phase: &str) -> Result<(), Failed> {
    // No event tells that a daemon is idle. Late work would count for the next phase.
    std::thread::park_timeout(REST);
    for name in tracer.end_phase()? {
        say(format!("{phase} {name}"));
    }
    Ok(())
}
