//! Two guests of the benchmark's rows about locks, each of a daemon of its own on one directory: what a lock costs beside a
//! GETATTR, and how long one takes from hand to hand.
//!
//! `locks --socket SOCKET --socket SOCKET --file NAME`; it prints lines of a name and a figure in microseconds.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use pinhole_tests::frontend::client::{Client, Opened};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::GETATTR;
use pinhole_tests::frontend::locks::{Lock, UNLOCK, WRITE};
use pinhole_tests::frontend::{EVENT_IDX, FrontendError, INDIRECT, Setup};

const SETUP: Setup = Setup { queues: 2, queue_size: 128, features: INDIRECT | EVENT_IDX };
/// `O_RDWR`.
const BOTH: u32 = 2;
/// Locks and pairs of GETATTR in one figure.
const PAIRS: u32 = 2000;
/// Times that a lock goes from one to the other.
const TURNS: u32 = 200;
/// The longest time for which the other has waited by then, in microseconds; some prime below it is the step.
const WAIT_MAX: u64 = 20_000;
const WAIT_STEP: u64 = 7_919;

/// Measures locks of two guests.
#[derive(Debug, Parser)]
struct Arguments {
    /// A daemon's socket; two of them
    #[arg(long, required = true)]
    socket: Vec<PathBuf>,
    /// The file's name in the share's root
    #[arg(long)]
    file: String,
}

struct Guest {
    client: Client,
    file: Opened,
}

impl Guest {
    fn new(socket: &Path, name: &str) -> Result<Self, FrontendError> {
        let mut client = Client::connect(socket, SETUP)?.0;
        let file = client.open(name, BOTH)?;
        Ok(Self { client, file })
    }

    fn set(&mut self, lock: Lock) -> Result<(), FrontendError> {
        match self.client.set(self.file, lock)? {
            0 => Ok(()),
            errno => Err(FrontendError::Reply(format!("{lock:?}: errno {errno}"))),
        }
    }

    fn wait_for(&mut self, lock: Lock) -> Result<(), FrontendError> {
        let asked = self.client.set_and_wait(self.file, lock)?;
        match self.client.outcome(asked)? {
            0 => Ok(()),
            errno => Err(FrontendError::Reply(format!("SETLKW {lock:?}: errno {errno}"))),
        }
    }

    /// Microseconds of a lock and its unlock.
    fn lock_and_unlock(&mut self) -> Result<f64, FrontendError> {
        let lock = Lock::posix(WRITE, 1, 0, 99);
        let began = Instant::now();
        for _ in 0..PAIRS {
            self.set(lock)?;
            self.set(lock.to(UNLOCK))?;
        }
        Ok(each(began.elapsed()))
    }

    /// Microseconds of two GETATTRs.
    fn two_get_attrs(&mut self) -> Result<f64, FrontendError> {
        let (node, handle) = self.file;
        let began = Instant::now();
        for _ in 0..PAIRS * 2 {
            self.client.body(Frame::new(GETATTR, node).u32(1).u32(0).u64(handle), 104)?;
        }
        Ok(each(began.elapsed()))
    }
}

fn each(time: Duration) -> f64 {
    micros(time) / f64::from(PAIRS)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// From the answer to an unlock until the answer to who waits elsewhere, again and again; by the length of time.
fn hand_over(holder: &mut Guest, waiter: &mut Guest) -> Result<Vec<f64>, FrontendError> {
    let (mine, yours) = (Lock::posix(WRITE, 1, 0, 99), Lock::posix(WRITE, 2, 0, 99));
    let mut times = Vec::new();
    for turn in 0..TURNS {
        holder.set(mine)?;
        let (sent, waits) = std::sync::mpsc::sync_channel(1);
        let other = &mut *waiter;
        let got = thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                sent.send(()).unwrap_or_default();
                other.wait_for(yours).map(|()| Instant::now())
            });
            waits.recv().unwrap_or_default();
            let until = Instant::now() + Duration::from_micros(u64::from(turn) * WAIT_STEP % WAIT_MAX);
            while let left = until.saturating_duration_since(Instant::now())
                && !left.is_zero()
            {
                thread::park_timeout(left);
            }
            holder.set(mine.to(UNLOCK))?;
            let unlocked = Instant::now();
            let got = waiting.join().map_err(|_panic| FrontendError::Reply("a panic".to_owned()))??;
            Ok::<_, FrontendError>(got.saturating_duration_since(unlocked))
        })?;
        times.push(micros(got));
        waiter.set(yours.to(UNLOCK))?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn measure(arguments: &Arguments) -> Result<(), FrontendError> {
    let [first, second] = arguments.socket.as_slice() else {
        return Err(FrontendError::Reply("give two sockets".to_owned()));
    };
    let (mut here, mut there) = (Guest::new(first, &arguments.file)?, Guest::new(second, &arguments.file)?);
    // Once for nothing: the first of each opens what the others find open.
    here.lock_and_unlock()?;
    here.two_get_attrs()?;
    println!("lock-and-unlock {}", here.lock_and_unlock()?);
    println!("two-getattrs {}", here.two_get_attrs()?);
    let times = hand_over(&mut here, &mut there)?;
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
    println!("hand-over-median {}", at(50));
    println!("hand-over-p99 {}", at(99));
    Ok(())
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
