//! A VMM with a DAX window. It answers the daemon's SHMEM_MAP and SHMEM_UNMAP by the rules of one
//! existing VMM, really maps the files, and loads and stores through the window as the guest's
//! processor would.
//!
//! The window records a fault for each message that no daemon may send, whatever the guest does.
//! [`Window::faults`] must be empty at the end of every test.

mod bench;
mod channel;
mod mapped_parts;
mod rules;
mod vmm;

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend as Connection, VhostUserFrontend as _};

use crate::frontend::{Frontend, FrontendError, LIMIT, Setup};
use mapped_parts::MappedParts;
use vmm::{ReplyMode, Shared, State};

pub use bench::{ATTR_DAX, Dax, Found, remove_mapping, setup_mapping};
pub use channel::Range;
pub use rules::{Overlap, Protection, Rules};
pub use vmm::{Counts, RecordedMessage, WINDOW_START};

/// Window of one front-end.
pub struct Window {
    shared: Arc<Shared>,
    channel: UnixStream,
    server: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Window").field("rules", &self.shared.rules).finish_non_exhaustive()
    }
}

/// Connects as [`Frontend::connect_with`] does, with a window that follows `rules`.
///
/// # Errors
/// Fails if the daemon refuses a message. [`FrontendError::Reply`] if the daemon has no window.
pub fn connect(socket: &Path, setup: Setup, rules: Rules) -> Result<(Frontend, Window), FrontendError> {
    let mut guest = Frontend::greet(socket)?;
    let offered = guest.negotiate(setup.features)?;
    if !offered.contains(VhostUserProtocolFeatures::SHMEM) {
        return Err(FrontendError::Reply("the daemon offers no window".to_owned()));
    }
    let window = Window::open(&mut guest, rules)?;
    guest.share_memory()?;
    for index in 0..setup.queues {
        guest.start_queue(index, setup)?;
    }
    Ok((guest, window))
}

impl Window {
    /// Asks the daemon for the size of the window and gives it the back channel.
    ///
    /// # Errors
    /// Fails if the daemon refuses a message or describes an invalid window.
    pub fn open(guest: &mut Frontend, rules: Rules) -> Result<Self, FrontendError> {
        let (ours, theirs) = UnixStream::pair()?;
        guest.connection().set_backend_request_fd(&theirs)?;
        let config = guest.connection().get_shmem_config()?;
        let len = config.memory_sizes.first().copied().unwrap_or_default();
        if config.nregions != 1 || !len.is_power_of_two() {
            return Err(FrontendError::Reply(format!("{} windows, of {len} bytes", config.nregions)));
        }
        Ok(Self::over(ours, len, rules, Some(guest.connection().clone()))?)
    }

    /// Makes a window of `len` bytes. `stream` is the VMM's end of a back channel. `connection` is
    /// closed when the VMM stops.
    ///
    /// # Errors
    /// Fails if the thread of the VMM cannot be started.
    pub fn over(
        stream: UnixStream,
        len: u64,
        rules: Rules,
        connection: Option<Connection>,
    ) -> io::Result<Self> {
        let state = State {
            parts: MappedParts::default(),
            counts: Counts::default(),
            messages: Vec::new(),
            faults: Vec::new(),
            mode: ReplyMode::ByTheRules,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            rules,
            len,
            connection: Mutex::new(connection),
        });
        let (channel, serving) = (stream.try_clone()?, Arc::clone(&shared));
        let server = std::thread::Builder::new().name("vmm-window".to_owned());
        let server = server.spawn(move || serving.serve(&stream))?;
        Ok(Self { shared, channel, server: Some(server) })
    }

    /// Returns the length of the window in bytes.
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// Returns whether the window is empty, which it never is.
    pub fn is_empty(&self) -> bool {
        self.shared.len == 0
    }

    /// Loads bytes from the window as the guest's processor does.
    ///
    /// # Errors
    /// `EFAULT` if the page is not mapped, or lies beyond the end of the file.
    pub fn load(&self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        self.state().parts.load(at, len)
    }

    /// Stores bytes to the window as the guest's processor does.
    ///
    /// # Errors
    /// `EFAULT` if the page is not mapped, or not writable.
    pub fn store(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.state().parts.store(at, bytes)
    }

    /// Copies bytes from the window into `into` directly, page faults included, to measure their
    /// speed. The range must be mapped and within its file.
    ///
    /// # Errors
    /// `EFAULT` if the page is not mapped.
    pub fn copy_out(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        self.state().parts.each(at, into.len(), |slice| {
            done += slice.copy_to(into.get_mut(done..).unwrap_or_default());
            Ok(())
        })
    }

    /// As [`Window::copy_out`], in the other direction. The range must be writable.
    ///
    /// # Errors
    /// `EFAULT` if the page is not mapped.
    pub fn copy_in(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        self.state().parts.each(at, from.len(), |slice| {
            let rest = from.get(done..).unwrap_or_default();
            slice.copy_from(rest);
            done += slice.len();
            Ok(())
        })
    }

    /// Returns the number of the host's physical page at `at`, which must be mapped and within its
    /// file. Needs root.
    ///
    /// # Errors
    /// `EFAULT` if the page is not mapped, `EPERM` without root.
    pub fn frame(&self, at: u64) -> Result<u64, Errno> {
        self.state().parts.frame(at)
    }

    /// Returns the mapped ranges: start and length of each.
    pub fn places(&self) -> Vec<(u64, u64)> {
        self.state().parts.places()
    }

    /// Returns the numbers of messages.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Returns the messages since the last call, in the order of their replies.
    pub fn take_messages(&self) -> Vec<RecordedMessage> {
        std::mem::take(&mut self.state().messages)
    }

    /// Returns descriptions of the messages of this daemon that no daemon may send.
    pub fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    /// Receives messages and sends no reply, until [`Window::reply_normally`].
    pub fn stop_replying(&self) {
        self.change(|state| state.mode = ReplyMode::Silent);
    }

    /// Replies by the rules again, first to the messages that have arrived without a reply.
    pub fn reply_normally(&self) {
        self.change(|state| state.mode = ReplyMode::ByTheRules);
    }

    /// Refuses every message until [`Window::reply_normally`].
    pub fn refuse(&self) {
        self.change(|state| state.mode = ReplyMode::Refusing);
    }

    /// Refuses writable mappings until [`Window::reply_normally`].
    pub fn refuse_writable(&self) {
        self.change(|state| state.mode = ReplyMode::RefusingWritable);
    }

    /// Replies with invalid bytes until [`Window::reply_normally`].
    pub fn send_invalid_replies(&self) {
        self.change(|state| state.mode = ReplyMode::Invalid);
    }

    /// Waits for `time` before each reply, until [`Window::reply_normally`].
    pub fn delay_replies(&self, time: Duration) {
        self.change(|state| state.mode = ReplyMode::Slow(time));
    }

    /// Sets whether all queues are stopped. While they are stopped, every message is a fault.
    pub fn expect_nothing(&self, nothing: bool) {
        self.change(|state| state.stopped = nothing);
    }

    /// Does the VMM's part of a device reset: removes all mappings, if its rules say so.
    ///
    /// # Errors
    /// Fails if the daemon refuses the message that a mapping is no longer guest memory
    /// (`REM_MEM_REG`).
    pub fn reset(&self) -> Result<(), FrontendError> {
        if !self.shared.rules.drops_on_reset {
            return Ok(());
        }
        let places = self.state().parts.drop_all();
        for (at, len) in places {
            self.shared.forget_memory(at, len)?;
        }
        Ok(())
    }

    /// Closes the back channel.
    ///
    /// # Errors
    /// Fails if it is already closed.
    pub fn close_channel(&self) -> io::Result<()> {
        self.channel.shutdown(Shutdown::Both)
    }

    /// Waits until this number of messages has arrived in total, answered or not. Returns `false`
    /// if the time limit passes.
    pub fn wait_for_messages(&self, received: u64) -> bool {
        let too_few = |state: &mut State| state.counts.received < received;
        let waited = self.shared.changed.wait_timeout_while(self.state(), LIMIT, too_few);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Changes the state and wakes the threads that wait for a change.
    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.state());
        self.shared.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Drop this copy of the connection, so that the connection closes together with the
        // front-end.
        drop(self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Ignore the result: the back channel may already be closed.
        self.channel.shutdown(Shutdown::Both).unwrap_or_default();
        self.reply_normally();
        if let Some(server) = self.server.take() {
            // Ignore the result: the test's assertions report a panic of this thread.
            drop(server.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use vhost::vhost_user::message::VhostUserMMap;
    use vhost::vhost_user::{Backend, VhostUserFrontendReqHandler as _};

    const SLOT: u64 = 2 << 20;

    /// Returns a window, and a back channel on which the test sends messages as a daemon would.
    fn scripted(rules: Rules) -> (Window, Backend) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // This window has no connection on which it could send `ADD_MEM_REG` and `REM_MEM_REG`.
        let rules = Rules { announces_memory: false, ..rules };
        let window = Window::over(ours, 4 * SLOT, rules, None).unwrap();
        let daemon = Backend::from_stream(theirs);
        daemon.set_reply_ack_flag(true);
        daemon.set_shmem_flag(true);
        (window, daemon)
    }

    fn file(len: u64) -> File {
        let mut file = File::from(rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(b"here").unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn read_only(file: &File) -> File {
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
    }

    fn range(at: u64, len: u64, flags: u64) -> VhostUserMMap {
        VhostUserMMap { shm_offset: at, len, flags, ..VhostUserMMap::default() }
    }

    #[test]
    fn strict_window_refuses_the_same_messages_as_qemu() {
        let (window, daemon) = scripted(Rules::strict());
        let whole = file(2 * SLOT);
        daemon.shmem_map(&range(SLOT, SLOT, 1), &whole).unwrap();
        daemon.shmem_map(&range(SLOT, SLOT, 1), &whole).unwrap_err();
        daemon.shmem_map(&range(0, SLOT, 0), &read_only(&whole)).unwrap_err();
        daemon.shmem_map(&range(0, SLOT, 0), &file(SLOT - 1)).unwrap_err();
        daemon.shmem_unmap(&range(SLOT, SLOT / 2, 0)).unwrap_err();
        daemon.shmem_unmap(&range(0, 2 * SLOT, 0)).unwrap_err();
        daemon.shmem_unmap(&range(SLOT, SLOT, 0)).unwrap();
        assert_eq!(window.counts(), Counts { mapped: 1, unmapped: 1, refused: 5, received: 7 });
        assert_eq!((window.places(), window.faults()), (vec![], vec![]));
    }

    #[test]
    fn strict_window_maps_read_only_requests_writable() {
        let (window, daemon) = scripted(Rules::strict());
        let shared = file(SLOT);
        daemon.shmem_map(&range(0, SLOT, 0), &shared).unwrap();
        window.store(0, b"gone").unwrap();
        assert_eq!(window.load(0, 4).unwrap(), b"gone");
    }

    #[test]
    fn crosvm_rules_replace_mappings_and_grant_only_the_requested_rights() {
        let (window, daemon) = scripted(Rules::mapping());
        let short = file(10);
        daemon.shmem_map(&range(0, 2 * SLOT, 0), &read_only(&short)).unwrap();
        assert_eq!(window.load(0, 4).unwrap(), b"here");
        assert_eq!(window.store(0, b"gone"), Err(Errno::FAULT));
        assert_eq!(window.load(SLOT, 1), Err(Errno::FAULT), "past the end of the file");
        daemon.shmem_map(&range(SLOT, SLOT, 1), &short).unwrap();
        daemon.shmem_map(&range(0, SLOT, 1), &read_only(&short)).unwrap_err();
        window.store(SLOT, b"gone").unwrap();
        assert_eq!(window.load(0, 4).unwrap(), b"gone");
        assert_eq!(window.places(), [(0, SLOT), (SLOT, SLOT)]);
        daemon.shmem_unmap(&range(0, 4 * SLOT, 0)).unwrap();
        assert_eq!((window.places(), window.faults()), (vec![], vec![]));
    }

    #[test]
    fn greedy_mapping_is_writable_exactly_if_its_descriptor_is() {
        let (window, daemon) = scripted(Rules::greedy());
        let shared = file(SLOT);
        daemon.shmem_map(&range(0, SLOT, 0), &read_only(&shared)).unwrap();
        assert_eq!(window.store(0, b"gone"), Err(Errno::FAULT));
        daemon.shmem_map(&range(0, SLOT, 0), &shared).unwrap();
        window.store(0, b"gone").unwrap();
        let writable: Vec<_> =
            window.take_messages().iter().map(|message| message.writable_descriptor).collect();
        assert_eq!(writable, [false, true]);
    }

    #[test]
    fn invalid_message_from_the_daemon_is_a_fault() {
        let (window, daemon) = scripted(Rules::mapping());
        daemon.shmem_map(&range(4 * SLOT, SLOT, 0), &file(SLOT)).unwrap_err();
        daemon.shmem_unmap(&range(1, SLOT, 0)).unwrap_err();
        daemon.shmem_unmap(&range(4 * SLOT, SLOT, 0)).unwrap_err();
        daemon.set_reply_ack_flag(false);
        daemon.shmem_unmap(&range(0, SLOT, 0)).unwrap();
        daemon.set_reply_ack_flag(true);
        daemon.shmem_unmap(&range(0, SLOT, 0)).unwrap();
        window.expect_nothing(true);
        daemon.shmem_unmap(&range(0, SLOT, 0)).unwrap_err();
        let faults = window.faults();
        let said = ["not in the window", "misaligned", "no answer wanted", "after the last queue"];
        assert_eq!(faults.len(), said.len(), "{faults:?}");
        for (fault, said) in faults.iter().zip(said) {
            assert!(fault.contains(said), "{fault}");
        }
    }

    #[test]
    fn window_answers_withheld_messages_when_replies_resume() {
        let (window, daemon) = scripted(Rules::mapping());
        window.stop_replying();
        let asking = std::thread::spawn(move || daemon.shmem_map(&range(0, SLOT, 0), &file(SLOT)));
        assert!(window.wait_for_messages(1));
        assert_eq!(window.places(), []);
        window.reply_normally();
        asking.join().unwrap().unwrap();
        assert_eq!(window.places(), [(0, SLOT)]);
        window.refuse();
        window.close_channel().unwrap();
    }
}
