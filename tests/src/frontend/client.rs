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

/// One descriptor of the ring for each request, so that many fit.
const NARROW: Shape = Shape { indirect: true, piece_len: 1 << 20 };

/// An open file: its node and its handle.
pub type Opened = (u64, u64);

/// A directory that several daemons serve, in a folder of its own.
#[derive(Debug)]
pub struct SharedFolder(TempDir);

impl SharedFolder {
    /// An empty one.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub fn new() -> Result<Self, FrontendError> {
        let folder = tempfile::Builder::new().prefix("pinhole-share-").tempdir()?;
        std::fs::create_dir(folder.path().join("share"))?;
        Ok(Self(folder))
    }

    /// The folder around it, in which the daemons may write.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The host's path of `name` in it.
    pub fn host(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join("share").join(name)
    }

    /// One more daemon, which serves guests one after another.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn serve(&self, arguments: &[&str]) -> Result<Serving, FrontendError> {
        let daemon = Daemon::pinhole(self.host(""))?.confined_to(self.folder()).argument("--keep-listening");
        Ok(arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start()?)
    }
}

/// A request on its way, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "what is asked is answered"]
pub struct Asked(u64);

/// A guest at the wire that waits for no answer before it asks for more.
#[derive(Debug)]
pub struct Client {
    /// The device. Whatever is asked through it directly must be answered before the client is used
    /// again.
    pub guest: Frontend,
    queue: usize,
    sent: HashMap<u32, (Sent, u64)>,
    answered: HashMap<u64, Reply>,
    next: u64,
}

impl Client {
    /// Connects and sends INIT.
    ///
    /// # Errors
    /// Where either is refused.
    pub fn connect(socket: &Path, setup: Setup) -> Result<(Self, InitReply), FrontendError> {
        let mut guest = Frontend::connect_with(socket, setup)?;
        let agreed = guest.init_with(InitFlags::all())?;
        Ok((Self::of(guest), agreed))
    }

    /// Of a guest that has nothing under way.
    pub fn of(guest: Frontend) -> Self {
        // Numbers that the front-end's own requests do not have.
        Self { guest, queue: 1, sent: HashMap::new(), answered: HashMap::new(), next: 1 << 40 }
    }

    /// Sends a message without waiting for its answer, which has a body of `room` bytes at most.
    ///
    /// # Errors
    /// [`FrontendError::TooBig`] where too much is under way.
    pub fn submit(&mut self, frame: Frame, room: usize) -> Result<Asked, FrontendError> {
        let unique = self.next;
        self.next += 2;
        let (queue, memory) = self.guest.queue(self.queue)?;
        let sent = queue.submit(memory, &frame.unique(unique).message(), OUT_HEADER_LEN + room, NARROW)?;
        queue.kick()?;
        self.sent.insert(u32::from(sent.head), (sent, unique));
        Ok(Asked(unique))
    }

    /// Takes what was given back, waiting for something if `wait`. Whether there was anything.
    fn collect(&mut self, wait: bool) -> Result<bool, FrontendError> {
        let (queue, memory) = self.guest.queue(self.queue)?;
        let used = if wait { Some(queue.wait(memory)?) } else { queue.take_used(memory)? };
        let Some(used) = used else { return Ok(false) };
        let (sent, unique) = self.sent.remove(&used.head).ok_or_else(|| {
            FrontendError::Reply(format!("request {} given back, which is not under way", used.head))
        })?;
        let reply = queue.take_reply(memory, &sent, used.len)?;
        check(&reply, unique)?;
        self.answered.insert(unique, reply);
        Ok(true)
    }

    /// Waits for the answer to one request; others may come before it.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`] where nothing comes any more.
    pub fn answer(&mut self, asked: Asked) -> Result<Reply, FrontendError> {
        loop {
            if let Some(reply) = self.answered.remove(&asked.0) {
                return Ok(reply);
            }
            self.collect(true)?;
        }
    }

    /// Whether one request has been answered by now; its answer stays to be taken.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where what came is no answer.
    pub fn is_answered(&mut self, asked: Asked) -> Result<bool, FrontendError> {
        while self.collect(false)? {}
        Ok(self.answered.contains_key(&asked.0))
    }

    /// Waits for the next answer that has not been taken, whichever it is.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn any(&mut self) -> Result<(Asked, Reply), FrontendError> {
        loop {
            if let Some(unique) = self.answered.keys().next().copied()
                && let Some(reply) = self.answered.remove(&unique)
            {
                return Ok((Asked(unique), reply));
            }
            self.collect(true)?;
        }
    }

    /// Requests without an answer so far.
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn ask(&mut self, frame: Frame, room: usize) -> Result<Reply, FrontendError> {
        let asked = self.submit(frame, room)?;
        self.answer(asked)
    }

    /// The body of the answer to a message that must succeed.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where it does not.
    pub fn body(&mut self, frame: Frame, room: usize) -> Result<Vec<u8>, FrontendError> {
        Ok(self.ask(frame, room)?.success()?.to_vec())
    }

    /// The error in the answer to a message, as a number; 0 is success.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn errno(&mut self, frame: Frame, room: usize) -> Result<i32, FrontendError> {
        Ok(self.ask(frame, room)?.error()?.map_or(0, Errno::raw))
    }

    /// As [`Client::errno`], of a request sent before.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn outcome(&mut self, asked: Asked) -> Result<i32, FrontendError> {
        Ok(self.answer(asked)?.error()?.map_or(0, Errno::raw))
    }

    /// The node of a name in the root.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where there is none.
    pub fn look_up(&mut self, name: &str) -> Result<u64, FrontendError> {
        u64_at(&self.body(Frame::new(LOOKUP, 1).name(name), ENTRY_LEN)?, 0)
    }

    /// Opens a name in the root.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where that is refused.
    pub fn open(&mut self, name: &str, flags: u32) -> Result<Opened, FrontendError> {
        let node = self.look_up(name)?;
        let opened = self.body(Frame::new(OPEN_FILE, node).u32(flags).u32(0), 16)?;
        Ok((node, u64_at(&opened, 0)?))
    }

    /// Opens a name in the root that is stale at the first attempt, by the second one that Linux
    /// makes by itself.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where the first attempt is not refused, or the second one is.
    pub fn open_again(&mut self, name: &str, flags: u32) -> Result<Opened, FrontendError> {
        match self.open(name, flags) {
            Ok(_) => Err(FrontendError::Reply(format!("{name} was opened at the first attempt"))),
            Err(_stale) => self.open(name, flags),
        }
    }

    /// Whether the daemon answers GETATTR on the root as it should.
    ///
    /// # Errors
    /// Where it does not.
    pub fn is_alive(&mut self) -> Result<(), FrontendError> {
        let body = self.body(Frame::new(GETATTR, 1).u32(0).u32(0).u64(0), 104)?;
        if body.len() == 104 { Ok(()) } else { Err(FrontendError::Reply(format!("GETATTR: {body:?}"))) }
    }
}
