//! The guest that sends the load, and the outcomes of its requests.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use pinhole_protocol::InitFlags;

use crate::frontend::frame::{Frame, opcode, u64_at};
use crate::frontend::{Frontend, FrontendError, INDIRECT, OUT_HEADER_LEN, Setup};
use crate::linux::{ENTRY_LEN, ROOT};

/// Space for a reply of unknown length.
pub(super) const ROOM: usize = 4096;

/// Returns the INIT flags of a guest of Linux 7.2, without the flags of a DAX window, passthrough
/// and io_uring. It also leaves out flags by which a daemon may choose another layout of a request
/// (a longer SETXATTR; labels and groups behind CREATE), so that all daemons get the same bytes.
pub(super) fn flags() -> InitFlags {
    InitFlags::all().difference(
        InitFlags::MAP_ALIGNMENT
            | InitFlags::HAS_INODE_DAX
            | InitFlags::PASSTHROUGH
            | InitFlags::OVER_IO_URING
            | InitFlags::INIT_RESERVED
            | InitFlags::SETXATTR_EXT
            | InitFlags::SECURITY_CTX
            | InitFlags::CREATE_SUPP_GROUP,
    )
}

/// Outcomes of the requests of one opcode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that succeeded, and requests that the daemon returned without a reply.
    pub done: u32,
    /// Requests with each errno.
    pub refused: BTreeMap<i32, u32>,
}

/// Guest at the socket of a daemon.
#[derive(Debug)]
pub struct SurfaceGuest {
    pub(super) frontend: Frontend,
    /// Nodes that [`Self::forget_all`] forgets, with their lookup counts.
    pub(super) known: BTreeMap<u64, u64>,
    pub(super) counts: BTreeMap<u32, Count>,
}

/// Reason why the load could not be played.
#[derive(Debug, thiserror::Error)]
pub enum SurfaceError {
    /// The conversation with the daemon failed at this request.
    #[error("{what}: {source}")]
    Wire {
        /// Request that failed.
        what: String,
        /// Why it failed.
        source: Box<FrontendError>,
    },
    /// A host operation failed.
    #[error("{what}: {source}")]
    Host {
        /// Operation that failed.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon or the kernel does not do what the measurement needs.
    #[error("{0}")]
    Unfit(String),
}

impl SurfaceError {
    pub(super) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }

    pub(super) fn wire(what: impl Into<String>) -> impl FnOnce(FrontendError) -> Self {
        let what = what.into();
        move |source| Self::Wire { what, source: Box::new(source) }
    }
}

pub(super) type Result<T, E = SurfaceError> = std::result::Result<T, E>;

impl SurfaceGuest {
    /// Connects as a VMM does, with one request queue, and sends INIT.
    ///
    /// # Errors
    /// [`SurfaceError::Wire`].
    pub fn connect(socket: &Path) -> Result<Self> {
        let setup = Setup { queues: 2, queue_size: 128, features: INDIRECT };
        let mut frontend =
            Frontend::connect_with(socket, setup).map_err(SurfaceError::wire("cannot connect"))?;
        frontend.init_with(flags()).map_err(SurfaceError::wire("INIT"))?;
        Ok(Self { frontend, known: BTreeMap::new(), counts: BTreeMap::new() })
    }

    /// Reads data that the host does not have in memory. This starts the parts of the daemon that
    /// start at their first use, so that the measurement does not count the calls of their start.
    ///
    /// # Errors
    /// [`SurfaceError::Wire`].
    pub fn warm_up(&mut self) -> Result<()> {
        let node = self.lookup(ROOT, "first")?;
        let handle = self.open(node, 0)?.unwrap_or(0);
        self.send(Frame::new(opcode::READ, node).u64(handle).u64(0).u32(1024).u32(0).u64(0).u32(0).u32(0))?;
        self.release(node, handle)?;
        self.forget_all()?;
        self.counts.clear();
        Ok(())
    }

    /// Returns the outcomes of the requests, by opcode.
    pub const fn counts(&self) -> &BTreeMap<u32, Count> {
        &self.counts
    }

    /// Sends a request and waits until the daemon returns it. Returns the body of the reply.
    /// Returns `None` if the request is refused, or if it is returned without a reply, which counts
    /// as done.
    pub(super) fn request(&mut self, frame: Frame, room: usize) -> Result<Option<Vec<u8>>> {
        let opcode = frame.opcode();
        let what = || format!("opcode {opcode}");
        let reply = self
            .frontend
            .raw(1, &frame.message(), OUT_HEADER_LEN + room)
            .map_err(SurfaceError::wire(what()))?;
        let count = self.counts.entry(opcode).or_default();
        if reply.is_unanswered() {
            count.done += 1;
            return Ok(None);
        }
        let error = reply.error().map_err(SurfaceError::wire(what()))?;
        if let Some(error) = error {
            *count.refused.entry(error.raw()).or_default() += 1;
            return Ok(None);
        }
        count.done += 1;
        Ok(Some(reply.bytes.get(OUT_HEADER_LEN..).unwrap_or_default().to_vec()))
    }

    /// Sends a request and only counts its outcome.
    pub(super) fn send(&mut self, frame: Frame) -> Result<()> {
        self.request(frame, ROOM).map(drop)
    }

    /// Sends a request without a reply on the hiprio queue, and counts it as done.
    pub(super) fn send_hiprio(&mut self, frame: Frame) -> Result<()> {
        let opcode = frame.opcode();
        self.frontend
            .raw(0, &frame.message(), 0)
            .map_err(SurfaceError::wire(format!("opcode {opcode}, hiprio")))?;
        self.counts.entry(opcode).or_default().done += 1;
        Ok(())
    }

    /// Sends a request whose reply has a node, and remembers and returns the node. Returns
    /// `fallback` if the request is refused.
    pub(super) fn entry(&mut self, frame: Frame, fallback: u64) -> Result<u64> {
        let body = self.request(frame, ENTRY_LEN + 16)?;
        Ok(body.map_or(fallback, |body| self.learn(&body)))
    }

    /// Remembers the node of a `fuse_entry_out` and returns it.
    pub(super) fn learn(&mut self, entry: &[u8]) -> u64 {
        let node = u64_at(entry, 0).unwrap_or_default();
        // A name that does not exist may be answered with node 0.
        if node > ROOT {
            *self.known.entry(node).or_default() += 1;
        }
        node
    }

    /// Sends LOOKUP and returns the node, or the root if the name is refused.
    pub(super) fn lookup(&mut self, directory: u64, name: &str) -> Result<u64> {
        self.entry(Frame::new(opcode::LOOKUP, directory).name(name), ROOT)
    }

    /// Opens a file and returns its file handle. If the open is refused, sends it once more.
    /// Returns `None` if both are refused.
    ///
    /// Linux repeats an open only after ESTALE; this guest repeats it after any errno. So an open
    /// that is always refused counts twice.
    pub(super) fn open(&mut self, node: u64, flags: u32) -> Result<Option<u64>> {
        let open = Frame::new(opcode::OPEN_FILE, node).u32(flags).u32(0);
        let body = match self.request(open.clone(), 16)? {
            None => self.request(open, 16)?,
            opened => opened,
        };
        Ok(body.and_then(|body| u64_at(&body, 0).ok()))
    }

    /// Sends RELEASE.
    pub(super) fn release(&mut self, node: u64, handle: u64) -> Result<()> {
        self.send(Frame::new(opcode::RELEASE, node).u64(handle).u32(0).u32(1).u64(OWNER))
    }

    /// Forgets at most four nodes one by one, and the rest in a batch.
    pub(super) fn forget_all(&mut self) -> Result<()> {
        let mut known: Vec<(u64, u64)> = std::mem::take(&mut self.known).into_iter().collect();
        let rest = known.split_off(known.len().min(4));
        for (node, count) in known {
            self.send_hiprio(Frame::new(opcode::FORGET, node).u64(count))?;
        }
        let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let batch = Frame::new(opcode::BATCH_FORGET, 0).u32(count).u32(0);
        self.send_hiprio(rest.into_iter().fold(batch, |batch, (node, count)| batch.u64(node).u64(count)))
    }
}

/// Number of the owner of all locks.
pub(super) const OWNER: u64 = 7;

/// Prints one line for each opcode: `opcode done errno:count errno:count`.
impl fmt::Display for SurfaceGuest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (opcode, count) in &self.counts {
            write!(out, "{opcode} {}", count.done)?;
            for (errno, times) in &count.refused {
                write!(out, " {errno}:{times}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
