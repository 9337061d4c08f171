//! A share, a daemon that serves it confined, and a front-end that is its guest.

use super::frame::{Frame, UNIQUE, check};
use super::{Footprint, Frontend, FrontendError, OUT_HEADER_LEN, Reply, Setup};
use crate::daemon::{Daemon, Serving};
use std::path::Path;
use tempfile::TempDir;

/// Opcode of GETATTR.
const GETATTR: u32 = 3;

/// Parts of a test at the wire. The share lies in its own folder, beside which a test may put
/// canaries.
#[derive(Debug)]
pub struct Bench {
    /// The guest.
    pub guest: Frontend,
    /// The daemon.
    pub daemon: Serving,
    folder: TempDir,
}

impl Bench {
    /// Starts a share whose guest has sent INIT.
    ///
    /// # Errors
    /// Fails if the daemon does not start or refuses the guest.
    pub fn new() -> Result<Self, FrontendError> {
        Self::with(Setup::default(), &[])
    }

    /// As [`Bench::new`], with a set-up and arguments of the daemon.
    ///
    /// # Errors
    /// Fails if the daemon does not start or refuses the guest.
    pub fn with(setup: Setup, arguments: &[&str]) -> Result<Self, FrontendError> {
        let mut bench = Self::before_init(setup, arguments)?;
        bench.guest.init()?;
        Ok(bench)
    }

    /// Starts a share with a connected guest that has not sent INIT.
    ///
    /// # Errors
    /// Fails if the daemon does not start.
    pub fn before_init(setup: Setup, arguments: &[&str]) -> Result<Self, FrontendError> {
        let (folder, daemon) = Self::serve(arguments)?;
        let guest = Frontend::connect_with(daemon.socket(), setup)?;
        Ok(Self { guest, daemon, folder })
    }

    /// Combines a guest that is connected to a daemon of [`Bench::serve`], and its folder.
    pub const fn of(guest: Frontend, daemon: Serving, folder: TempDir) -> Self {
        Self { guest, daemon, folder }
    }

    /// Starts a daemon that waits for its first guest. Also returns the folder with its `share`.
    ///
    /// # Errors
    /// Fails if the daemon does not start.
    pub fn serve(arguments: &[&str]) -> Result<(TempDir, Serving), FrontendError> {
        let folder = tempfile::Builder::new().prefix("pinhole-bench-").tempdir()?;
        let share = folder.path().join("share");
        std::fs::create_dir(&share)?;
        let mut daemon = Daemon::pinhole(&share)?.confined_to(folder.path());
        for argument in arguments {
            daemon = daemon.argument(*argument);
        }
        let daemon = daemon.start()?;
        Ok((folder, daemon))
    }

    /// Returns the folder around the share.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the host's path of `name` in the share.
    pub fn host(&self, name: impl AsRef<Path>) -> std::path::PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// Sends a message, waits for its reply and checks it with [`check`].
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`], [`FrontendError::Reply`].
    pub fn ask(&mut self, frame: Frame, body_len: usize) -> Result<Reply, FrontendError> {
        let reply = self.guest.raw(1, &frame.message(), OUT_HEADER_LEN + body_len)?;
        check(&reply, UNIQUE)?;
        Ok(reply)
    }

    /// Returns the body of the reply to a message that must succeed.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if it fails.
    pub fn body(&mut self, frame: Frame, body_len: usize) -> Result<Vec<u8>, FrontendError> {
        Ok(self.ask(frame, body_len)?.success()?.to_vec())
    }

    /// Returns the errno in the reply to a message; 0 is success.
    ///
    /// # Errors
    /// [`FrontendError::TimedOut`].
    pub fn errno(&mut self, frame: Frame, body_len: usize) -> Result<i32, FrontendError> {
        Ok(self.ask(frame, body_len)?.error()?.map_or(0, pinhole_protocol::Errno::raw))
    }

    /// Checks that the daemon still answers GETATTR on the root.
    ///
    /// # Errors
    /// Fails if the daemon does not answer.
    pub fn is_alive(&mut self) -> Result<(), FrontendError> {
        let body = self.body(Frame::new(GETATTR, 1).u32(0).u32(0).u64(0), 104)?;
        if body.len() == 104 { Ok(()) } else { Err(FrontendError::Reply(format!("GETATTR: {body:?}"))) }
    }

    /// Returns the daemon's current use of host resources.
    ///
    /// # Errors
    /// Fails if the daemon has ended.
    pub fn footprint(&self) -> Result<Footprint, FrontendError> {
        Ok(Footprint::of(self.daemon.serving_id())?)
    }
}
