//! Load generator: a front-end and guest at the socket of any vhost-user-fs daemon. It sends the
//! requests of Linux, as fast as a ring takes them.
//!
//! | module | task |
//! |---|---|
//! | `command` | the command line |
//! | `vmm` | the VMM: connects to the daemon and shares memory |
//! | `ring` | the driver's side of a virtqueue |
//! | `player` | one client thread, with the measured loop |
//! | `hiprio` | FORGETs on the hiprio queue |
//! | `row`, `rows` | the operations |
//! | `ask`, `message`, `error` | requests with their expected replies; their bytes; errors |
//! | `native` | the same work with bare host calls |
//! | `hold` | a guest that knows many files and waits |
//! | `tree` | the files in the share |
//! | `usage` | CPU time and memory of the daemon |

mod ask;
pub(crate) mod command;
mod error;
mod hiprio;
mod hold;
mod message;
mod native;
mod player;
mod report;
mod ring;
mod row;
mod rows;
mod tree;
mod usage;
mod vmm;

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
pub(crate) use hold::{Learning, hold};
use native::Host;
use pinhole_tests::frontend::frame::opcode;
use player::{Player, Tally, Window};
pub(crate) use report::Measured;
pub(crate) use row::Row;
use row::{ThreadPosition, WARM_UP};
use tree::Prepared;
use usage::Usage;
use vmm::Vmm;

/// Options that are the same for all rows.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Directory of the share on the host. The missing files of the rows are created there.
    pub(crate) share: PathBuf,
    /// Number of request queues, each with a client thread.
    pub(crate) queues: usize,
    /// Measured time of each row and depth. Rows with long operations take a multiple of this time.
    pub(crate) time: Duration,
}

/// Daemon to measure.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Socket of the daemon.
    pub(crate) socket: PathBuf,
    /// Serving process.
    pub(crate) process: u32,
}

/// Daemon, or bare host calls, ready for any row.
pub(crate) struct LoadTarget {
    options: Options,
    kind: TargetKind,
}

/// What the load generator measures.
enum TargetKind {
    Daemon { vmm: Arc<Vmm>, process: u32, prepared: Prepared },
    Native(Box<Host>),
}

impl fmt::Debug for LoadTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LoadTarget").field("options", &self.options).finish_non_exhaustive()
    }
}

impl LoadTarget {
    /// Connects to a daemon and sends INIT.
    ///
    /// # Errors
    /// Fails if the daemon refuses the connection, a feature or INIT.
    pub(crate) fn daemon(server: &Server, options: Options) -> Result<Self, LoadError> {
        let vmm = Arc::new(Vmm::connect(&server.socket, options.queues)?);
        let (report, reports) = mpsc::channel();
        let first = Arc::clone(&vmm);
        thread::spawn(move || drop(report.send(init(&first))));
        receive(&reports, LIMIT)??;
        let prepared = Prepared::new(options.share.clone());
        Ok(Self { options, kind: TargetKind::Daemon { vmm, process: server.process, prepared } })
    }

    /// Prepares bare host calls, in one thread, one after another.
    ///
    /// # Errors
    /// [`LoadError::Host`] if a file of the share cannot be created or opened.
    pub(crate) fn native(options: Options) -> Result<Self, LoadError> {
        let host = Host::open(&options.share)?;
        Ok(Self { options, kind: TargetKind::Native(Box::new(host)) })
    }

    /// Returns the depths at which `row` is measured: those of `wanted`, the fixed depth of the
    /// row, or 1 for bare host calls. A row that cannot be measured has none.
    pub(crate) fn depths(&self, row: Row, wanted: &[usize]) -> Vec<usize> {
        match &self.kind {
            TargetKind::Daemon { .. } => row.depths(wanted),
            TargetKind::Native(_) if row == Row::BesideCold => Vec::new(),
            TargetKind::Native(_) => vec![1],
        }
    }

    /// Measures one row at one depth.
    ///
    /// # Errors
    /// [`LoadError::Row`] with the row, the depth and the cause.
    pub(crate) fn measure(&mut self, row: Row, depth: usize) -> Result<Measured, LoadError> {
        let measured = match &mut self.kind {
            TargetKind::Daemon { vmm, process, prepared } => {
                let created = prepared.add(row);
                created.and_then(|()| measure_row(vmm, *process, &self.options, row, depth))
            }
            TargetKind::Native(host) => host.measure(row, row.time(self.options.time)),
        };
        measured.map_err(|source| LoadError::Row { row: row.name(), depth, source: Box::new(source) })
    }
}

/// Creates the missing files of rows in a share, for a daemon that cannot create them.
///
/// # Errors
/// [`LoadError::Host`] if a file cannot be created.
pub(crate) fn create_files(share: PathBuf, rows: &[Row]) -> Result<(), LoadError> {
    let mut prepared = Prepared::new(share);
    rows.iter().try_for_each(|row| prepared.add(*row))
}

/// Returns the CPU time that all threads of the process `id` have used, in ns.
///
/// # Errors
/// [`LoadError::Host`] if the process has ended.
pub(crate) fn cpu_ns(id: u32) -> Result<u64, LoadError> {
    Ok(Usage::by(id)?.cpu_ns)
}

/// Sends INIT as Linux 7.2 does for virtio-fs without a DAX window.
fn init(vmm: &Vmm) -> Result<(), LoadError> {
    let mut state = vmm.state(1)?;
    let mut player = Player::new(vmm, 1, &mut state)?;
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
    let ask = Ask { reply_len: 64, data: Data::None, expect: Expect::Body(64) };
    let reply = player.ask(ask)?;
    // major, minor, max_readahead, flags, max_background and congestion_threshold, max_write.
    let max_write = reply.u64(16)? >> 32;
    if max_write < 1 << 20 {
        return Err(LoadError::Device(format!("writes of at most {max_write} bytes; rows need 1 MiB")));
    }
    Ok(())
}

/// Message of a client thread.
enum ThreadMessage {
    /// The thread is ready and waits for its time window.
    Ready(Sender<Window>),
    /// The thread has ended, with its figures.
    Played(Result<Tally, LoadError>),
}

/// Measures one row of a daemon at one depth, with a thread for each queue.
fn measure_row(
    vmm: &Arc<Vmm>,
    process: u32,
    options: &Options,
    row: Row,
    depth: usize,
) -> Result<Measured, LoadError> {
    let (sender, messages) = mpsc::channel();
    for number in 0..options.queues {
        let (vmm, sender) = (Arc::clone(vmm), sender.clone());
        let position = ThreadPosition { number, count: options.queues, share: options.share.clone() };
        thread::spawn(move || {
            let played = play(&vmm, row, depth, &position, &sender);
            // Ignore the result: the receiver is gone if another thread failed first.
            drop(sender.send(ThreadMessage::Played(played)));
        });
    }
    let mut waiting = Vec::new();
    while waiting.len() < options.queues {
        match receive(&messages, LIMIT)? {
            ThreadMessage::Ready(start) => waiting.push(start),
            ThreadMessage::Played(early) => drop(early?),
        }
    }
    let time = row.time(options.time);
    let begin = Instant::now() + time / WARM_UP;
    let window = Window { begin, end: begin + time };
    for start in waiting {
        start.send(window).map_err(|_gone| LoadError::TimedOut)?;
    }
    let mut tallies = Vec::new();
    wait_until(&messages, window.begin, &mut tallies)?;
    usage::reset_peak(process)?;
    let before = Usage::by(process)?;
    wait_until(&messages, window.end, &mut tallies)?;
    let after = Usage::by(process)?;
    let mut latencies: Option<Histogram<u64>> = None;
    for _ in 0..options.queues {
        let message = tallies.pop().map_or_else(|| receive(&messages, LIMIT), Ok)?;
        if let ThreadMessage::Played(tally) = message {
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

/// Waits until `instant`. Keeps the messages of threads that end before in `early`. Fails as soon
/// as a thread fails.
fn wait_until(
    messages: &Receiver<ThreadMessage>,
    instant: Instant,
    early: &mut Vec<ThreadMessage>,
) -> Result<(), LoadError> {
    loop {
        match messages.recv_timeout(instant.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(LoadError::TimedOut),
            Ok(ThreadMessage::Played(Err(error))) => return Err(error),
            Ok(message) => early.push(message),
        }
    }
}

/// Waits for a message, up to `limit`.
fn receive<T>(from: &Receiver<T>, limit: Duration) -> Result<T, LoadError> {
    from.recv_timeout(limit).map_err(|_late| LoadError::TimedOut)
}

/// Does the work of one thread for a row, from preparation to clean-up.
fn play(
    vmm: &Vmm,
    row: Row,
    depth: usize,
    position: &ThreadPosition,
    messages: &Sender<ThreadMessage>,
) -> Result<Tally, LoadError> {
    let mut state = vmm.state(position.number + 1)?;
    let mut player = Player::new(vmm, position.number + 1, &mut state)?;
    player.touch()?;
    let mut play = row.open(&mut player, position)?;
    let (start, started) = mpsc::channel();
    messages.send(ThreadMessage::Ready(start)).map_err(|_gone| LoadError::TimedOut)?;
    let window = receive(&started, LIMIT)?;
    let tally = player.run(play.as_mut(), row.slots(depth), window)?;
    play.close(&mut player)?;
    Ok(tally)
}
