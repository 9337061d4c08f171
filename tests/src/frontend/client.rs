//! A guest with many requests in progress on one queue, whose replies come in any order.

use super::frame::opcode::{GETATTR, LOOKUP, OPEN_FILE};
use super::frame::{Frame, check, u64_at};
use super::{Frontend, FrontendError, OUT_HEADER_LEN, Reply, Sent, Setup, Shape};
use crate::daemon::{Daemon, Serving};
use crate::linux::ENTRY_LEN;
use pinhole_protocol::{Errno, InitFlags, InitReply};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Layout with one descriptor of the ring for each request, so that many fit.
const NARROW: Shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };

/// Open file: its node and its file handle.
pub type Opened = (u64, u64);

/// Directory that several daemons serve, in its own folder.
#[derive(Debug)]
pub struct SharedFolder(TempDir);

impl SharedFolder {
    /// Creates an empty directory.
    ///
    /// # Errors
    /// Fails if the host has no space for it.
    pub fn new() -> Result<Self, FrontendError> {
        let folder = tempfile::Builder::new().prefix("pinhole-share-").tempdir()?;
        std::fs::create_dir(folder.path().join("share"))?;
        Ok(Self(folder))
    }

    /// Returns the folder around the directory. The daemons may write anywhere in this folder.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Returns the host's path of `name` in the directory.
    pub fn host(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join("share").join(name)
    }

    /// Starts another daemon, which serves guests one after another.
    ///
    /// # Errors
    /// Fails if the daemon does not start.
    pub fn serve(&self, arguments: &[&str]) -> Result<Serving, FrontendError> {
        let daemon = Daemon::pinhole(self.host(""))?.confined_to(self.folder()).argument("--keep-listening");
        Ok(arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start()?)
    }
}

/// Request in progress, by its `unique`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a test waits for the reply to each request"]
pub struct PendingRequest(u64);

/// Guest at the wire that sends further requests without waiting for replies.
#[derive(Debug)]
pub struct Client {
    /// Device. A request that is sent through it directly must be answered before the client is
    /// used again.
    pub guest: Frontend,
    /// Index of the queue for all requests.
    queue: usize,
    /// Requests in progress with their `unique`, by their first descriptor.
    sent: HashMap<u32, (Sent, u64)>,
    /// Replies that the test has not taken, by their `unique`.
    answered: HashMap<u64, Reply>,
    /// `unique` of the next request.
    next: u64,
}

impl Client {
    /// Connects and sends INIT.
    ///
    /// # Errors
    /// Fails if the daemon refuses the connection or INIT.
    pub fn connect(socket: &Path, setup: Setup) -> Result<(Self, InitReply), FrontendError> {
        let mut guest = Frontend::connect_with(socket, setup)?;
        let agreed = guest.init_with(InitFlags::all())?;
        Ok((Self::of(guest), agreed))
    }

    /// Makes a client of a guest without requests in progress.
    pub fn of(guest: Frontend) -> Self {
        // Starts with numbers that the front-end does not use for its own requests.
        Self { guest, queue: 1, sent: HashMap::new(), answered: HashMap::new(), next: 1 << 40 }
    }

    /// Sends a message without waiting for its reply, whose body has at most `room` bytes.
    ///
    /// # Errors
    /// [`FrontendError::TooBig`] if the requests in progress leave too little space.
    pub fn submit(&mut self, frame: Frame, room: usize) -> Result<PendingRequest, FrontendError> {
        let unique = self.next;
        self.next += 2;
        let (queue, memory) = self.guest.queue(self.queue)?;
        let sent = queue.submit(memory, &frame.unique(unique).message(), OUT_HEADER_LEN + room, NARROW)?;
        queue.kick()?;
        self.sent.insert(u32::from(sent.head), (sent, unique));
        Ok(PendingRequest(unique))
    }

    /// Takes the reply to one used request. If there is no such request, waits for it if `wait` is
    /// set. Returns whether there was a reply.
    fn collect(&mut self, wait: bool) -> Result<bool, FrontendError> {
        let (queue, memory) = self.guest.queue(self.queue)?;
        let used = if wait { Some(queue.wait(memory)?) } else { queue.take_used(memory)? };
        let Some(used) = used else { return Ok(false) };
        let (sent, unique) = self.sent.remove(&used.head).ok_or_else(|| {
            FrontendError::Reply(format!("request {} given back, which is not in progress", used.head))
        })?;
        let reply = queue.take_reply(memory, &sent, used.len)?;
        check(&reply, unique)?;
        self.answered.insert(unique, reply);
        Ok(true)
    }

    /// Waits for the reply to one request. Other replies may arrive before it.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] if no more replies arrive.
    pub fn answer(&mut self, asked: PendingRequest) -> Result<Reply, FrontendError> {
        loop {
            if let Some(reply) = self.answered.remove(&asked.0) {
                return Ok(reply);
            }
            self.collect(true)?;
        }
    }

    /// Returns whether one request has been answered. Its reply can still be taken.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if an invalid reply has arrived.
    pub fn is_answered(&mut self, asked: PendingRequest) -> Result<bool, FrontendError> {
        while self.collect(false)? {}
        Ok(self.answered.contains_key(&asked.0))
    }

    /// Waits for the next reply, of any request.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn next_reply(&mut self) -> Result<(PendingRequest, Reply), FrontendError> {
        loop {
            if let Some(unique) = self.answered.keys().next().copied()
                && let Some(reply) = self.answered.remove(&unique)
            {
                return Ok((PendingRequest(unique), reply));
            }
            self.collect(true)?;
        }
    }

    /// Returns the number of requests without a reply.
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// Sends a message and waits for its reply.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn ask(&mut self, frame: Frame, room: usize) -> Result<Reply, FrontendError> {
        let asked = self.submit(frame, room)?;
        self.answer(asked)
    }

    /// Returns the body of the reply to a message that must succeed.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if it fails.
    pub fn body(&mut self, frame: Frame, room: usize) -> Result<Vec<u8>, FrontendError> {
        Ok(self.ask(frame, room)?.success()?.to_vec())
    }

    /// Returns the errno in the reply to a message; 0 is success.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn errno(&mut self, frame: Frame, room: usize) -> Result<i32, FrontendError> {
        Ok(self.ask(frame, room)?.error()?.map_or(0, Errno::raw))
    }

    /// As [`Client::errno`], for a request that was sent before.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn outcome(&mut self, asked: PendingRequest) -> Result<i32, FrontendError> {
        Ok(self.answer(asked)?.error()?.map_or(0, Errno::raw))
    }

    /// Looks up a name in the root and returns its node.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the name does not exist.
    pub fn look_up(&mut self, name: &str) -> Result<u64, FrontendError> {
        u64_at(&self.body(Frame::new(LOOKUP, 1).name(name), ENTRY_LEN)?, 0)
    }

    /// Opens a name in the root.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the open is refused.
    pub fn open(&mut self, name: &str, flags: u32) -> Result<Opened, FrontendError> {
        let node = self.look_up(name)?;
        let opened = self.body(Frame::new(OPEN_FILE, node).u32(flags).u32(0), 16)?;
        Ok((node, u64_at(&opened, 0)?))
    }

    /// Opens a name in the root whose first open must fail. Opens it again, as Linux does by itself
    /// after ESTALE.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the first open succeeds, or the second one fails.
    pub fn open_again(&mut self, name: &str, flags: u32) -> Result<Opened, FrontendError> {
        match self.open(name, flags) {
            Ok(_) => Err(FrontendError::Reply(format!("{name} was opened at the first attempt"))),
            Err(_stale) => self.open(name, flags),
        }
    }

    /// Checks that the daemon answers GETATTR on the root.
    ///
    /// # Errors
    /// Fails if the daemon does not answer.
    pub fn is_alive(&mut self) -> Result<(), FrontendError> {
        let body = self.body(Frame::new(GETATTR, 1).u32(0).u32(0).u64(0), 104)?;
        if body.len() == 104 { Ok(()) } else { Err(FrontendError::Reply(format!("GETATTR: {body:?}"))) }
    }
}
