//! Measures locks between two guests, for the rows `wire:` of `cargo xtask bench --locks`.
//!
//! One process acts as both guests. Each guest has its own daemon, and both daemons serve the same
//! directory. The process measures the time of a lock and its unlock beside the time of two
//! GETATTRs, and the time from an unlock in one guest to the lock in the other.
//!
//! `pinhole-bench lock-guests --socket SOCKET --socket SOCKET --file NAME` prints lines with a name
//! and a figure in microseconds.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pinhole_tests::frontend::client::{Client, Opened};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::GETATTR;
use pinhole_tests::frontend::locks::{Lock, UNLOCK, WRITE};
use pinhole_tests::frontend::{EVENT_IDX, FrontendError, INDIRECT, Setup};

use crate::console::say;
use crate::step::{Failure, Outcome};

/// Queues and features of each guest.
const SETUP: Setup = Setup { queues: 2, queue_size: 128, features: INDIRECT | EVENT_IDX };

/// Open flag of the guest for reading and writing (`fcntl.h`).
const O_RDWR: u32 = 2;

/// Number of pairs in one figure: a lock with its unlock, or two GETATTRs.
const PAIRS: u32 = 2000;

/// Number of times that a lock goes from one guest to the other.
const TURNS: u32 = 200;

/// Upper bound on the time from the lock request of the other guest to the unlock, in microseconds.
const WAIT_US_MAX: u64 = 20_000;

/// Added to the wait in each turn, modulo [`WAIT_US_MAX`]. It is a prime, so that the waits differ.
const WAIT_US_STEP: u64 = 7_919;

/// Selects the daemons and the file.
#[derive(Debug, clap::Args)]
pub(crate) struct LockGuestsArguments {
    /// Socket of a daemon; give two
    #[arg(long, required = true)]
    socket: Vec<PathBuf>,
    /// Name of the file in the root of the share
    #[arg(long)]
    file: String,
}

/// Guest with an open file.
struct LockGuest {
    client: Client,
    file: Opened,
}

impl LockGuest {
    /// Connects to a daemon and opens a file of its share.
    fn new(socket: &Path, name: &str) -> Result<Self, FrontendError> {
        let mut client = Client::connect(socket, SETUP)?.0;
        let file = client.open(name, O_RDWR)?;
        Ok(Self { client, file })
    }

    /// Sets or removes a lock without waiting.
    fn set(&mut self, lock: Lock) -> Result<(), FrontendError> {
        match self.client.set(self.file, lock)? {
            0 => Ok(()),
            errno => Err(FrontendError::Reply(format!("{lock:?}: errno {errno}"))),
        }
    }

    /// Waits for a lock.
    fn wait_for(&mut self, lock: Lock) -> Result<(), FrontendError> {
        let asked = self.client.submit_setlkw(self.file, lock)?;
        match self.client.outcome(asked)? {
            0 => Ok(()),
            errno => Err(FrontendError::Reply(format!("SETLKW {lock:?}: errno {errno}"))),
        }
    }

    /// Returns the time of a lock and its unlock, in microseconds.
    fn lock_and_unlock(&mut self) -> Result<f64, FrontendError> {
        let lock = Lock::posix(WRITE, 1, 0, 99);
        let began = Instant::now();
        for _ in 0..PAIRS {
            self.set(lock)?;
            self.set(lock.to(UNLOCK))?;
        }
        Ok(micros_per_pair(began.elapsed()))
    }

    /// Returns the time of two GETATTRs, in microseconds.
    fn two_get_attrs(&mut self) -> Result<f64, FrontendError> {
        let (node, handle) = self.file;
        let began = Instant::now();
        for _ in 0..PAIRS * 2 {
            self.client.body(Frame::new(GETATTR, node).u32(1).u32(0).u64(handle), 104)?;
        }
        Ok(micros_per_pair(began.elapsed()))
    }
}

/// Returns the time of one pair in microseconds, where `time` is that of all pairs.
fn micros_per_pair(time: Duration) -> f64 {
    micros(time) / f64::from(PAIRS)
}

/// Converts a time to microseconds.
fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns the times from the reply to an unlock in one guest to the reply to the lock request that
/// waits in the other guest, in microseconds, sorted. A time is 0 if the reply to the lock request
/// comes first.
fn hand_over(holder: &mut LockGuest, waiter: &mut LockGuest) -> Result<Vec<f64>, FrontendError> {
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
            let until = Instant::now() + Duration::from_micros(u64::from(turn) * WAIT_US_STEP % WAIT_US_MAX);
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

/// Measures and prints all figures.
fn measure(arguments: &LockGuestsArguments) -> Result<(), FrontendError> {
    let [first, second] = arguments.socket.as_slice() else {
        return Err(FrontendError::Reply("give two sockets".to_owned()));
    };
    let (mut first_guest, mut second_guest) =
        (LockGuest::new(first, &arguments.file)?, LockGuest::new(second, &arguments.file)?);
    // The daemon opens files at the first requests. These are not part of a figure.
    first_guest.lock_and_unlock()?;
    first_guest.two_get_attrs()?;
    say(format!("lock-and-unlock {}", first_guest.lock_and_unlock()?));
    say(format!("two-getattrs {}", first_guest.two_get_attrs()?));
    let times = hand_over(&mut first_guest, &mut second_guest)?;
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
    say(format!("hand-over-median {}", at(50)));
    say(format!("hand-over-p99 {}", at(99)));
    Ok(())
}

/// Measures, and prints the figures.
pub(crate) fn main(arguments: &LockGuestsArguments) -> Outcome {
    measure(arguments).map_err(|error| Failure::new(error.to_string()))
}
