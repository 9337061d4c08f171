//! A load generator that plays the guest natively at the socket of any vhost-user-fs daemon, built
//! for speed: where `frontend` says what no driver would say, this says what Linux says, as fast as
//! a ring takes it.
//!
//! `machine` connects; `ring` is the driver's side of a virtqueue; `player` is one client thread
//! and the measured loop; `rows` are the operations; `native` does the same work by bare host
//! calls.

mod ask;
pub(crate) mod command;
mod error;
mod hold;
mod machine;
mod message;
mod native;
mod player;
mod report;
mod ring;
mod row;
mod rows;
mod tree;
mod urgent;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pinhole_protocol::InitFlags;

pub(crate) use ask::Expect;
use ask::{Ask, Data};
use error::LIMIT;
pub(crate) use error::LoadError;
pub(crate) use hold::hold;
use machine::Machine;
use native::Host;
use pinhole_tests::frontend::frame::opcode;
use player::{Player, Tally, Window};
pub(crate) use report::Measured;
pub(crate) use row::Row;
use row::{Seat, WARM_UP};
use tree::Prepared;
use watch::Taken;

/// What does not change from row to row.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The share as the host sees it. What rows work on is made there; what is there already is
    /// kept.
    pub(crate) share: PathBuf,
    /// Request queues, each with a client thread.
    pub(crate) queues: usize,
    /// Measured time of each row and depth; rows with long operations take a few times as long.
    pub(crate) time: Duration,
}

/// Who serves.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// Its process.
    pub(crate) process: u32,
}

/// What is measured, ready for any row.
pub(crate) struct Subject {
    options: Options,
    kind: Kind,
}

enum Kind {
    Daemon { machine: Arc<Machine>, process: u32, prepared: Prepared },
    Native(Box<Host>),
}

impl fmt::Debug for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Subject").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Subject {
    /// A daemon: connects and says INIT.
    ///
    /// # Errors
    /// Whatever it refuses.
    pub(crate) fn daemon(server: &Server, options: Options) -> Result<Self, LoadError> {
        let machine = Arc::new(Machine::connect(&server.socket, options.queues)?);
        let (report, reports) = mpsc::channel();
        let first = Arc::clone(&machine);
        thread::spawn(move || drop(report.send(init(&first))));
        receive(&reports, LIMIT)??;
        let prepared = Prepared::new(options.share.clone());
        Ok(Self { options, kind: Kind::Daemon { machine, process: server.process, prepared } })
    }

    /// Bare host calls, in one thread, one after the other.
    ///
    /// # Errors
    /// [`LoadError::Host`].
    pub(crate) fn native(options: Options) -> Result<Self, LoadError> {
        let host = Host::open(&options.share)?;
        Ok(Self { options, kind: Kind::Native(Box::new(host)) })
    }

    /// The depths of `wanted` at which `row` is to be measured here: its own where it has one, 1
    /// for bare calls, none where it cannot be.
    pub(crate) fn depths(&self, row: Row, wanted: &[usize]) -> Vec<usize> {
        match &self.kind {
            Kind::Daemon { .. } => row.depths(wanted),
            Kind::Native(_) if row == Row::BesideCold => Vec::new(),
            Kind::Native(_) => vec![1],
        }
    }

    /// Measures one row at one depth.
    ///
    /// # Errors
    /// [`LoadError::Row`] with the row, the depth and why.
    pub(crate) fn measure(&mut self, row: Row, depth: usize) -> Result<Measured, LoadError> {
        let measured = match &mut self.kind {
            Kind::Daemon { machine, process, prepared } => {
                let made = prepared.add(row);
                made.and_then(|()| one(machine, *process, &self.options, row, depth))
            }
            Kind::Native(host) => host.measure(row, row.time(self.options.time)),
        };
        measured.map_err(|source| LoadError::Row { row: row.name(), depth, source: Box::new(source) })
    }
}

/// INIT as Linux 7.2 sends it for virtio-fs without a DAX window, and memory touched once.
fn init(machine: &Machine) -> Result<(), LoadError> {
    let mut state = machine.state(1)?;
    let mut player = Player::new(machine, 1, &mut state)?;
    let never = InitFlags::MAP_ALIGNMENT
        | InitFlags::HAS_INODE_DAX
        | InitFlags::PASSTHROUGH
        | InitFlags::OVER_IO_URING
        | InitFlags::INIT_RESERVED;
    let flags = InitFlags::all().difference(never).bits();
    let (low, high) = (flags & 0xffff_ffff, flags >> 32);
    // major, minor, max_readahead, flags, flags2, unused.
    let message = player.message.start(opcode::INIT, 0).u32(7).u32(45).u32(128 << 10);
    message.u64(low | high << 32);
    (0..11).fold(message, |message, _| message.u32(0));
    let ask = Ask { answer_len: 64, data: Data::None, expect: Expect::Body(64) };
    let reply = player.ask(ask)?;
    // major, minor, max_readahead, flags, max_background and congestion_threshold, max_write.
    let max_write = reply.u64(16)? >> 32;
    if max_write < 1 << 20 {
        return Err(LoadError::Device(format!("writes of at most {max_write} bytes; rows need 1 MiB")));
    }
    Ok(())
}

/// What a thread says while it plays.
enum Word {
    /// It is ready; where to tell it when to play.
    Ready(Sender<Window>),
    Played(Result<Tally, LoadError>),
}

fn one(
    machine: &Arc<Machine>,
    process: u32,
    options: &Options,
    row: Row,
    depth: usize,
) -> Result<Measured, LoadError> {
    let (sender, words) = mpsc::channel();
    for number in 0..options.queues {
        let (machine, sender) = (Arc::clone(machine), sender.clone());
        let seat = Seat { number, count: options.queues, share: options.share.clone() };
        thread::spawn(move || {
            let played = play(&machine, row, depth, &seat, &sender);
            // Nobody listens any more where another thread has failed first.
            drop(sender.send(Word::Played(played)));
        });
    }
    let mut waiting = Vec::new();
    while waiting.len() < options.queues {
        match receive(&words, LIMIT)? {
            Word::Ready(start) => waiting.push(start),
            Word::Played(early) => drop(early?),
        }
    }
    let time = row.time(options.time);
    let begin = Instant::now() + time / WARM_UP;
    let window = Window { begin, end: begin + time };
    for start in waiting {
        start.send(window).map_err(|_gone| LoadError::TimedOut)?;
    }
    let mut tallies = Vec::new();
    until(&words, window.begin, &mut tallies)?;
    watch::forget_peak(process)?;
    let before = Taken::by(process)?;
    until(&words, window.end, &mut tallies)?;
    let after = Taken::by(process)?;
    let mut latencies: Option<Histogram<u64>> = None;
    for _ in 0..options.queues {
        let word = tallies.pop().map_or_else(|| receive(&words, LIMIT), Ok)?;
        if let Word::Played(tally) = word {
            let tally = tally?.latencies;
            match &mut latencies {
                Some(all) => all.add(&tally).map_err(|error| LoadError::Memory(error.to_string()))?,
                None => latencies = Some(tally),
            }
        }
    }
    let latencies = latencies.ok_or_else(|| LoadError::Device("no queue".to_owned()))?;
    Ok(Measured::new(row, (depth, options.queues), &latencies, time, (before, after)))
}

/// Waits for an instant. A thread may end at that instant and be heard before; one that fails is
/// heard at once.
fn until(words: &Receiver<Word>, instant: Instant, early: &mut Vec<Word>) -> Result<(), LoadError> {
    loop {
        match words.recv_timeout(instant.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(LoadError::TimedOut),
            Ok(Word::Played(Err(error))) => return Err(error),
            Ok(word) => early.push(word),
        }
    }
}

fn receive<T>(from: &Receiver<T>, limit: Duration) -> Result<T, LoadError> {
    from.recv_timeout(limit).map_err(|_late| LoadError::TimedOut)
}

/// One thread's part of a row, from preparation to giving back.
fn play(
    machine: &Machine,
    row: Row,
    depth: usize,
    seat: &Seat,
    words: &Sender<Word>,
) -> Result<Tally, LoadError> {
    let mut state = machine.state(seat.number + 1)?;
    let mut player = Player::new(machine, seat.number + 1, &mut state)?;
    player.touch()?;
    let mut play = row.open(&mut player, seat)?;
    let (start, started) = mpsc::channel();
    words.send(Word::Ready(start)).map_err(|_gone| LoadError::TimedOut)?;
    let window = receive(&started, LIMIT)?;
    let tally = player.run(play.as_mut(), row.slots(depth), window)?;
    play.close(&mut player)?;
    Ok(tally)
}
