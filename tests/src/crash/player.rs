//! A guest that works in several lanes at once and reports each act when it begins and when it is
//! acknowledged. Meanwhile it can hold one lock and wait for another lock, which another guest
//! holds.

use super::lane::Lane;
use super::tree::Act;
use crate::frontend::client::{Client, Opened, PendingRequest};
use crate::frontend::frame::opcode::{GETATTR, INIT, RELEASE, SETLKW};
use crate::frontend::frame::{Frame, u32_at, u64_at};
use crate::frontend::locks::{Lock, WRITE};
use crate::frontend::{EVENT_IDX, FrontendError, INDIRECT, OUT_HEADER_LEN, Reply, Setup, Shape};
use crate::linux::ENTRY_LEN;
use crate::linux::O_RDWR;
use std::collections::HashMap;

/// Set-up of the device: a queue for the work, large enough for many requests at once, and a queue
/// for the waiting lock request.
pub const SETUP: Setup = Setup { queues: 3, queue_size: 1024, features: INDIRECT | EVENT_IDX };

/// File of the root whose flock the guest holds while it works.
pub const HELD: &str = "held";

/// File of the root on which the guest waits for [`AWAITED_LOCK`].
pub const AWAITED: &str = "awaited";

/// Lock that this guest waits for. The test must let another guest hold it.
pub const AWAITED_LOCK: Lock = Lock::posix(WRITE, 1, 0, 9);

/// Index of the queue of the waiting lock request.
const WAITS: usize = 2;

/// Number of requests after which the guest waits for all replies. Until then the front-end uses
/// descriptors and buffers only once.
const ROUND: usize = 250;

/// Event of a lane that the guest reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// The guest sends the request of its act.
    Sends,
    /// The act was acknowledged.
    Done,
}

/// Guest that works.
#[derive(Debug)]
pub struct Player {
    client: Client,
    directory: u64,
    lanes: Vec<Lane>,
    opened: HashMap<String, Opened>,
    under_way: HashMap<PendingRequest, usize>,
    asked: usize,
}

impl Player {
    /// Starts in a folder of the share's root.
    ///
    /// # Errors
    /// Fails if the folder does not exist.
    pub fn new(mut client: Client, folder: &str, seed: u64, lanes: u32) -> Result<Self, FrontendError> {
        let directory = client.look_up(folder)?;
        let lanes = (0..lanes).map(|number| Lane::new(seed, number)).collect();
        let (opened, under_way) = (HashMap::new(), HashMap::new());
        Ok(Self { client, directory, lanes, opened, under_way, asked: 0 })
    }

    /// Returns the lanes.
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Returns the client. It may be used between two calls of [`Player::work`], when no request is
    /// in progress.
    pub const fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Takes the flock of [`HELD`] and starts to wait for a lock of [`AWAITED`].
    ///
    /// # Errors
    /// Fails if the flock is refused, or if the lock is granted.
    pub fn take_locks(&mut self) -> Result<(), FrontendError> {
        let held = self.client.open(HELD, O_RDWR)?;
        if self.client.set(held, Lock::flock(WRITE, 1))? != 0 {
            return Err(FrontendError::Reply(format!("another owner holds the flock of {HELD}")));
        }
        let awaited = self.client.open(AWAITED, O_RDWR)?;
        let (queue, memory) = self.client.guest.queue(WAITS)?;
        let shape = Shape { indirect: true, ..Shape::default() };
        let waits = AWAITED_LOCK.frame(SETLKW, awaited).unique(1).message();
        queue.submit(memory, &waits, OUT_HEADER_LEN, shape)?;
        let after = Frame::new(GETATTR, 1).u32(0).u32(0).u64(0).unique(3).message();
        let after = queue.submit(memory, &after, OUT_HEADER_LEN + 104, shape)?;
        queue.kick()?;
        // A later request on the same queue is answered, so the lock request has been handled.
        if queue.wait(memory)?.head != u32::from(after.head) {
            return Err(FrontendError::Reply(format!(
                "SETLKW was answered: no other guest holds the lock of {AWAITED}"
            )));
        }
        Ok(())
    }

    /// Works and passes each event to `tell`, until `tell` returns false. If `finish` is set, it
    /// then waits for the requests in progress.
    ///
    /// # Errors
    /// Fails if a request is refused or gets no reply.
    pub fn work(
        &mut self,
        finish: bool,
        mut tell: impl FnMut(usize, LaneEvent) -> Result<bool, FrontendError>,
    ) -> Result<(), FrontendError> {
        let mut goes_on = true;
        loop {
            if self.client.under_way() == 0 {
                if !goes_on {
                    return Ok(());
                }
                self.asked = 0;
                for lane in 0..self.lanes.len() {
                    self.send_act(lane, &mut tell)?;
                }
            }
            let (asked, reply) = self.client.next_reply()?;
            let Some(lane) = self.under_way.remove(&asked) else {
                reply.success()?;
                continue;
            };
            self.take(lane, &reply)?;
            goes_on &= tell(lane, LaneEvent::Done)?;
            if !goes_on && !finish {
                return Ok(());
            }
            if goes_on && self.asked < ROUND {
                self.send_act(lane, &mut tell)?;
            }
        }
    }

    /// Reboots as a kernel does after a crash, without DESTROY.
    ///
    /// # Errors
    /// Fails if the daemon does not accept the new guest.
    pub fn reboot(mut self) -> Result<(), FrontendError> {
        let init = Frame::new(INIT, 0).u32(7).u32(45).u32(128 << 10).u32(0).u32(0).bytes(&[0; 44]);
        let asked = self.client.submit(init, 64)?;
        self.client.answer(asked)?.success()?;
        self.client.is_alive()
    }

    /// Sends the request of a lane's act.
    fn send_act(
        &mut self,
        lane: usize,
        tell: &mut impl FnMut(usize, LaneEvent) -> Result<bool, FrontendError>,
    ) -> Result<(), FrontendError> {
        let Some(act) = self.lanes.get(lane).map(|lane| &lane.act) else { return Ok(()) };
        let message = act.message(self.directory, |name| self.opened.get(name).copied());
        let (frame, room) = message.ok_or_else(|| FrontendError::Reply(format!("{act:?}: not open")))?;
        tell(lane, LaneEvent::Sends)?;
        let asked = self.client.submit(frame, room)?;
        self.asked += 1;
        self.under_way.insert(asked, lane);
        Ok(())
    }

    /// Handles the reply to a lane's act: records the opened file or closes a removed one, and lets
    /// the lane choose its next act.
    fn take(&mut self, lane: usize, reply: &Reply) -> Result<(), FrontendError> {
        let Some(lane) = self.lanes.get_mut(lane) else { return Ok(()) };
        let body =
            reply.success().map_err(|error| FrontendError::Reply(format!("{:?}: {error}", lane.act)))?;
        let mut closed = None;
        match &lane.act {
            Act::Create(name) => {
                let file = (u64_at(body, 0)?, u64_at(body, ENTRY_LEN)?);
                self.opened.insert(name.clone(), file);
            }
            Act::Write(_, _, bytes) | Act::Append(_, bytes) => {
                let written = u32_at(body, 0)?;
                if u32::try_from(bytes.len()) != Ok(written) {
                    return Err(FrontendError::Reply(format!("{:?}: {written} bytes", lane.act)));
                }
            }
            Act::Rename(name, to) => {
                closed = self.opened.remove(to);
                if let Some(file) = self.opened.remove(name) {
                    self.opened.insert(to.clone(), file);
                }
            }
            Act::Exchange(name, to) => {
                if let (Some(one), Some(other)) = (self.opened.remove(name), self.opened.remove(to)) {
                    self.opened.extend([(to.clone(), one), (name.clone(), other)]);
                }
            }
            Act::Unlink(name) => closed = self.opened.remove(name),
            Act::Truncate(..)
            | Act::MakeDirectory(_)
            | Act::RemoveDirectory(_)
            | Act::SymLink(..)
            | Act::Lock(..) => {}
        }
        lane.acknowledge();
        if let Some((node, handle)) = closed {
            self.asked += 1;
            let release = Frame::new(RELEASE, node).u64(handle).u32(2).u32(0).u64(0);
            let _closes = self.client.submit(release, 0)?;
        }
        Ok(())
    }
}
