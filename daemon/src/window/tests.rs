//! Tests of the window against a scripted front-end.

use super::state::{Peer, Work};
use super::*;
use crate::file_id::{DeviceId, FileId};
use crate::filesystem::MapFile;
use crate::limits::{WINDOW_PATIENCE, WINDOW_REQUESTS_MAX, WINDOW_THREADS_MAX, WINDOW_WAIT_MAX};
use crate::sync::clock;
use pinhole_dax_cache::{Failure, Overlap, SLOT_LEN};
use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const SLOTS: u64 = 4;

/// Front-end that replies to each message when the test provides the reply.
struct ScriptedFrontEnd {
    messages: Sender<String>,
    replies: Receiver<Result<(), Failure>>,
}

impl ShmemFrontEnd for ScriptedFrontEnd {
    fn map(&self, message: &MapMessage, file: BorrowedFd<'_>) -> Result<(), Failure> {
        let opened = rustix::fs::fcntl_getfl(file).unwrap() & rustix::fs::OFlags::RWMODE;
        let mode = if opened == rustix::fs::OFlags::RDONLY { "RDONLY" } else { "RDWR" };
        let writable = if message.writable { "rw" } else { "r" };
        self.send(format!(
            "map {} of {} {writable} {mode}",
            message.window_offset / SLOT_LEN,
            message.file_offset / SLOT_LEN
        ))
    }

    fn unmap(&self, window_offset: u64, _len: u64) -> Result<(), Failure> {
        self.send(format!("unmap {}", window_offset / SLOT_LEN))
    }
}

impl ScriptedFrontEnd {
    fn send(&self, message: String) -> Result<(), Failure> {
        if self.messages.send(message).is_err() {
            return Err(Failure::Gone);
        }
        self.replies.recv().unwrap_or(Err(Failure::Gone))
    }
}

/// A window with a scripted front-end: the messages to it and the replies of the test.
struct ScriptedWindow {
    window: Arc<Window>,
    messages: Receiver<String>,
    replies: Sender<Result<(), Failure>>,
}

pub(crate) fn window() -> Arc<Window> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(ScratchFile::LEN).unwrap();
    let scratch = ScratchFile {
        writable: file.reopen().unwrap().into(),
        read_only: File::open(file.path()).unwrap().into(),
        id: FileId { device: DeviceId { major: 0, minor: 0 }, inode: 1 },
    };
    let geometry = Geometry::new(SLOTS * SLOT_LEN, ALIGNMENT_SHIFT).unwrap();
    let settings = Settings { geometry, mode: Mode::Auto, threshold: 0 };
    Arc::new(Window::new(settings, scratch))
}

impl ScriptedWindow {
    fn new() -> Self {
        Self::on(window())
    }

    fn on(window: Arc<Window>) -> Self {
        let ((messages, received), (replies, taken_replies)) = (channel(), channel());
        let back_channel = window.connect().unwrap();
        thread::spawn(move || back_channel.serve(&ScriptedFrontEnd { messages, replies: taken_replies }));
        Self { window, messages: received, replies }
    }

    fn next_message(&self) -> String {
        self.messages.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    /// Expects these messages and replies to each.
    fn exchange(&self, lines: &[(&str, Result<(), Failure>)]) {
        for (expected, reply) in lines {
            assert_eq!(self.next_message(), *expected);
            self.replies.send(*reply).unwrap();
        }
    }

    fn settled(&self, pending: &Pending) -> Result<(), Errno> {
        loop {
            if let Some(result) = self.window.outcome(pending) {
                return result;
            }
            thread::yield_now();
        }
    }

    /// Runs the INIT of a guest with a front-end that behaves like QEMU.
    fn init_as_qemu(&self) -> Capabilities {
        let (number, pending) = self.window.prepare().unwrap();
        self.exchange(&[
            ("unmap 4", NO),
            ("map 0 of 0 r RDONLY", NO),
            ("map 0 of 0 rw RDWR", YES),
            ("map 0 of 0 rw RDWR", NO),
            ("unmap 0", YES),
            ("map 0 of 1 rw RDWR", NO),
        ]);
        self.settled(&pending).unwrap();
        self.opened(number).unwrap()
    }

    /// Runs the INIT of a guest with a front-end that behaves like crosvm.
    fn init_as_crosvm(&self) -> Capabilities {
        let (number, pending) = self.window.prepare().unwrap();
        self.exchange(&[
            ("unmap 4", NO),
            ("map 0 of 0 r RDONLY", YES),
            ("map 0 of 0 r RDONLY", YES),
            ("unmap 0", YES),
            ("map 0 of 1 r RDONLY", YES),
            ("unmap 0", YES),
        ]);
        self.settled(&pending).unwrap();
        self.opened(number).unwrap()
    }

    /// Waits until the thread is idle.
    fn rest(&self) {
        while self.window.state.lock().work.is_some() {
            thread::yield_now();
        }
    }

    fn opened(&self, generation: GuestGeneration) -> Option<Capabilities> {
        self.rest();
        self.window.open(generation).unwrap()
    }

    fn remove(&self, slot: u64) -> Arc<Pending> {
        self.window.remove(vec![(slot * SLOT_LEN, SLOT_LEN)]).unwrap()
    }
}

const YES: Result<(), Failure> = Ok(());
const NO: Result<(), Failure> = Err(Failure::Refused);

fn wanted(slot: u64, writable: bool) -> Wanted {
    Wanted { node: 7, file_offset: 0, window_offset: slot * SLOT_LEN, len: SLOT_LEN, writable }
}

fn files(writable: bool) -> MapFiles {
    MapFiles { wanted: MapFile::of(tempfile::tempfile().unwrap().into(), writable), restore: None }
}

#[test]
fn front_end_is_probed_before_a_guest_may_map() {
    let scripted = ScriptedWindow::new();
    assert_eq!(scripted.window.plan(&wanted(0, true), true), Err(Errno::EIO), "no guest may map yet");
    let qemu = scripted.init_as_qemu();
    assert!(!qemu.read_only_descriptors && !qemu.past_end_of_file && qemu.overlap == Overlap::Refused);
    let crosvm = ScriptedWindow::new().init_as_crosvm();
    assert!(crosvm.read_only_descriptors && crosvm.past_end_of_file && crosvm.overlap == Overlap::Replaced);
}

#[test]
fn front_end_without_replies_or_mappings_is_not_used() {
    let scripted = ScriptedWindow::new();
    let (number, pending) = scripted.window.prepare().unwrap();
    scripted.exchange(&[("unmap 4", YES)]);
    scripted.settled(&pending).unwrap_err();
    assert_eq!(scripted.opened(number), None);
    assert!(scripted.window.prepare().is_none(), "an unusable front-end is not probed again");
    let scripted = ScriptedWindow::new();
    let (number, pending) = scripted.window.prepare().unwrap();
    scripted.exchange(&[("unmap 4", NO), ("map 0 of 0 r RDONLY", NO), ("map 0 of 0 rw RDWR", NO)]);
    scripted.settled(&pending).unwrap_err();
    assert_eq!(scripted.opened(number), None);
}

#[test]
fn read_only_mapping_needs_read_only_descriptors() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_qemu();
    assert_eq!(scripted.window.plan(&wanted(0, false), false), Err(Errno::EOPNOTSUPP));
    let writable = SetupPlan::Map { writable: true, or_read_only: false, restore: false };
    assert_eq!(
        scripted.window.plan(&wanted(0, false), true),
        Ok(writable),
        "more than requested, but not more than granted"
    );
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let read_only = SetupPlan::Map { writable: false, or_read_only: true, restore: false };
    for may_write in [false, true] {
        assert_eq!(scripted.window.plan(&wanted(0, false), may_write), Ok(read_only));
    }
}

#[test]
fn descriptor_has_exactly_the_rights_of_its_mapping() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    // The file system never returns such files: their rights differ from those of the mapping.
    let pending = scripted.window.set_up(wanted(0, false), files(true)).unwrap();
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO), "no message was sent");
    let pending = scripted.window.set_up(wanted(0, true), files(false)).unwrap();
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO));
    scripted.messages.try_recv().unwrap_err();
}

#[test]
fn a_shared_file_is_mapped_from_its_first_byte_on() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let data = tempfile::tempfile().unwrap();
    let data: Arc<OwnedFd> =
        Arc::new(File::open(format!("/proc/self/fd/{}", data.as_raw_fd())).unwrap().into());
    let id = FileId::of(&data).unwrap();
    let at =
        |first_byte| MapFiles { wanted: MapFile::shared(Arc::clone(&data), id, first_byte), restore: None };
    let pending = scripted.window.set_up(wanted(2, false), at(3 * SLOT_LEN)).unwrap();
    scripted.exchange(&[("map 2 of 3 r RDONLY", YES)]);
    scripted.settled(&pending).unwrap();
    let far = Wanted { file_offset: SLOT_LEN, ..wanted(1, false) };
    let pending = scripted.window.set_up(far, at(u64::MAX)).unwrap();
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO), "no message was sent");
    scripted.rest();
    scripted.messages.try_recv().unwrap_err();
    assert_eq!(Arc::strong_count(&data), 1, "a job that is over holds no descriptor");
}

#[test]
fn existing_mapping_is_reused_and_removed_for_the_next_guest() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let pending = scripted.window.set_up(wanted(2, true), files(true)).unwrap();
    scripted.exchange(&[("map 2 of 0 rw RDWR", YES)]);
    scripted.settled(&pending).unwrap();
    scripted.rest();
    for writable in [true, false] {
        assert_eq!(scripted.window.plan(&wanted(2, writable), true), Ok(SetupPlan::There));
    }
    let (number, pending) = scripted.window.prepare().unwrap();
    assert_eq!(
        scripted.window.plan(&wanted(2, true), true),
        Err(Errno::EIO),
        "no guest may map while the window is cleared"
    );
    scripted.exchange(&[("unmap 2", YES)]);
    scripted.settled(&pending).unwrap();
    assert!(scripted.opened(number).is_some());
    assert_ne!(scripted.window.plan(&wanted(2, true), true), Ok(SetupPlan::There));
}

#[test]
fn only_the_last_of_two_inits_opens_the_window() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let (first, _) = scripted.window.prepare().unwrap();
    let (second, pending) = scripted.window.prepare().unwrap();
    scripted.settled(&pending).unwrap();
    scripted.rest();
    assert_eq!(scripted.window.open(first), Err(Errno::EIO));
    assert!(scripted.opened(second).is_some());
    scripted.window.close();
    assert_eq!(scripted.window.open(second), Err(Errno::EIO), "a guest that does not map replaces it too");
}

#[test]
fn late_reply_is_not_taken_for_another() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let pending = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(scripted.next_message(), "map 1 of 0 rw RDWR");
    scripted.window.begin_drain();
    let started = clock::now();
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO));
    assert!(clock::elapsed(started) < WINDOW_PATIENCE, "the stop of a queue waits less");
    scripted.window.end_drain();
    let removal = scripted.remove(1);
    scripted.replies.send(YES).unwrap();
    scripted.exchange(&[("unmap 1", YES)]);
    scripted.settled(&removal).unwrap();
}

#[test]
fn nothing_is_sent_after_the_last_queue_stopped() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let pending = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    scripted.exchange(&[("map 1 of 0 rw RDWR", YES)]);
    scripted.settled(&pending).unwrap();
    scripted.window.halt();
    let removal = scripted.remove(1);
    assert_eq!(scripted.settled(&removal), Err(Errno::EIO));
    scripted.messages.try_recv().unwrap_err();
    scripted.window.resume();
    let removal = scripted.remove(1);
    scripted.exchange(&[("unmap 1", YES)]);
    scripted.settled(&removal).unwrap();
}

#[test]
fn halt_waits_shortly_for_the_message_under_way() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(scripted.next_message(), "map 1 of 0 rw RDWR");
    let started = clock::now();
    scripted.window.halt();
    assert!(clock::elapsed(started) >= WINDOW_GRACE);
    assert!(clock::elapsed(started) < WINDOW_PATIENCE);
}

#[test]
fn new_channel_is_used_while_the_old_one_hangs() {
    let old = ScriptedWindow::new();
    old.init_as_crosvm();
    let pending = old.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(old.next_message(), "map 1 of 0 rw RDWR");
    let new = ScriptedWindow::on(Arc::clone(&old.window));
    // The front-end may have carried out the map, or may do so later.
    new.exchange(&[("unmap 1", YES)]);
    old.replies.send(YES).unwrap();
    assert_eq!(old.settled(&pending), Err(Errno::EIO));
    let pending = new.window.set_up(wanted(2, true), files(true)).unwrap();
    new.exchange(&[("map 2 of 0 rw RDWR", YES)]);
    new.settled(&pending).unwrap();
}

#[test]
fn threads_of_silent_front_ends_are_limited() {
    let window = window();
    let stuck: Vec<_> = (0..WINDOW_THREADS_MAX).map(|_| window.connect().unwrap()).collect();
    assert!(window.connect().is_none());
    assert!(window.prepare().is_none(), "there is no window after that");
    drop(stuck);
    assert!(window.connect().is_some());
}

#[test]
fn waiting_requests_are_limited() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let waiting: Vec<_> = (0..WINDOW_REQUESTS_MAX).map(|_| scripted.remove(0)).collect();
    let one_more = scripted.window.remove(Vec::new());
    // The thread may have carried out some of them. They count until they are dropped.
    assert_eq!(one_more.err(), Some(Errno::EIO));
    drop(waiting);
    loop {
        if scripted.window.remove(Vec::new()).is_ok() {
            break;
        }
        thread::yield_now();
    }
}

#[test]
fn mapping_that_a_job_may_remove_is_mapped_again() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let pending = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    scripted.exchange(&[("map 1 of 0 rw RDWR", YES)]);
    scripted.settled(&pending).unwrap();
    let first = scripted.remove(2);
    let second = scripted.remove(1);
    assert_ne!(scripted.window.plan(&wanted(1, true), true), Ok(SetupPlan::There));
    scripted.exchange(&[("unmap 1", YES)]);
    scripted.settled(&first).unwrap();
    scripted.settled(&second).unwrap();
}

#[test]
fn mapping_without_a_waiting_request_is_not_made() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let first = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    let second = scripted.window.set_up(wanted(2, true), files(true)).unwrap();
    assert_eq!(scripted.next_message(), "map 1 of 0 rw RDWR");
    scripted.window.begin_drain();
    assert_eq!((scripted.settled(&first), scripted.settled(&second)), (Err(Errno::EIO), Err(Errno::EIO)));
    scripted.window.end_drain();
    scripted.replies.send(YES).unwrap();
    let removal = scripted.remove(1);
    scripted.exchange(&[("unmap 1", YES)]);
    scripted.settled(&removal).unwrap();
}

#[test]
fn interrupted_probe_is_repeated() {
    let scripted = ScriptedWindow::new();
    let (turn, pending) = scripted.window.prepare().unwrap();
    scripted.exchange(&[("unmap 4", NO), ("map 0 of 0 r RDONLY", NO)]);
    assert_eq!(scripted.next_message(), "map 0 of 0 rw RDWR");
    thread::scope(|scope| {
        scope.spawn(|| scripted.window.halt());
        while !scripted.window.state.lock().is_halted {
            thread::yield_now();
        }
        scripted.replies.send(YES).unwrap();
    });
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO));
    assert_eq!(scripted.opened(turn), None);
    scripted.window.resume();
    let (turn, pending) = scripted.window.prepare().unwrap();
    // The mapping that the probe left is removed first.
    scripted.exchange(&[("unmap 0", YES), ("unmap 4", NO), ("map 0 of 0 r RDONLY", YES)]);
    scripted.exchange(&[("map 0 of 0 r RDONLY", YES), ("unmap 0", YES), ("map 0 of 1 r RDONLY", NO)]);
    scripted.settled(&pending).unwrap();
    assert!(scripted.opened(turn).is_some());
}

#[test]
fn broken_channel_is_not_used_again() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    assert!(scripted.window.is_usable());
    let pending = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    scripted.exchange(&[("map 1 of 0 rw RDWR", Err(Failure::Gone))]);
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO));
    assert!(!scripted.window.is_usable(), "no file is offered after that");
    assert!(scripted.window.prepare().is_none());
    let again = ScriptedWindow::on(Arc::clone(&scripted.window));
    again.exchange(&[("unmap 1", YES)]);
    again.init_as_crosvm();
}

#[test]
fn refused_removal_after_reset_means_nothing_is_mapped() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_qemu();
    let two = Wanted { len: 2 * SLOT_LEN, ..wanted(0, true) };
    let pending = scripted.window.set_up(two, files(true)).unwrap();
    scripted.exchange(&[("map 0 of 0 rw RDWR", YES)]);
    scripted.settled(&pending).unwrap();
    let (turn, pending) = scripted.window.prepare().unwrap();
    // A reset of the device has dropped the mapping.
    scripted.exchange(&[("unmap 0", NO)]);
    scripted.settled(&pending).unwrap();
    assert!(scripted.opened(turn).is_some());
    let pending = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    scripted.exchange(&[("map 1 of 0 rw RDWR", YES)]);
    scripted.settled(&pending).unwrap();
}

#[test]
fn slow_front_end_that_replies_is_waited_for() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let removal =
        scripted.window.remove((0..SLOTS).map(|slot| (slot * SLOT_LEN, SLOT_LEN)).collect()).unwrap();
    scripted.settled(&removal).unwrap();
    let now = clock::now();
    let mut held = scripted.window.state.lock();
    let deadline = now + WINDOW_WAIT_MAX;
    held.work = Some(Work { node: None, sent: now.checked_sub(WINDOW_PATIENCE / 2) });
    let left = held.until(deadline).saturating_duration_since(now);
    assert!(left > Duration::ZERO && left <= WINDOW_PATIENCE, "{left:?}");
    held.work = Some(Work { node: None, sent: now.checked_sub(WINDOW_PATIENCE) });
    assert!(held.until(deadline) <= clock::now());
    held.work = None;
    assert!(held.until(now) <= now, "a request ends at its deadline");
}

#[test]
fn disconnect_during_probe_forgets_the_front_end() {
    let scripted = ScriptedWindow::new();
    let (generation, pending) = scripted.window.prepare().unwrap();
    assert_eq!(scripted.next_message(), "unmap 4");
    scripted.window.disconnect();
    assert!(matches!(scripted.window.state.lock().peer, Peer::Absent));
    scripted.replies.send(NO).unwrap();
    // The thread ends with its channel and sends no further message.
    assert_eq!(scripted.settled(&pending), Err(Errno::EIO));
    assert_eq!(scripted.window.open(generation), Ok(None));
    assert!(scripted.window.prepare().is_none());
    let again = ScriptedWindow::on(Arc::clone(&scripted.window));
    again.init_as_qemu();
    scripted.messages.try_recv().unwrap_err();
}

#[test]
fn probe_is_repeated_if_its_channel_is_replaced() {
    let old = ScriptedWindow::new();
    let (_, pending) = old.window.prepare().unwrap();
    old.exchange(&[("unmap 4", NO)]);
    assert_eq!(old.next_message(), "map 0 of 0 r RDONLY");
    let new = ScriptedWindow::on(Arc::clone(&old.window));
    old.replies.send(YES).unwrap();
    assert_eq!(old.settled(&pending), Err(Errno::EIO));
    let (generation, pending) = new.window.prepare().unwrap();
    // The first slot may still be mapped.
    new.exchange(&[("unmap 0", YES), ("unmap 4", NO), ("map 0 of 0 r RDONLY", YES)]);
    new.exchange(&[("map 0 of 0 r RDONLY", YES), ("unmap 0", YES), ("map 0 of 1 r RDONLY", NO)]);
    new.settled(&pending).unwrap();
    assert!(new.opened(generation).is_some());
    old.messages.try_recv().unwrap_err();
}

#[test]
fn guest_that_leaves_while_draining_is_cleared_after_the_drain() {
    let scripted = ScriptedWindow::new();
    scripted.init_as_crosvm();
    let first = scripted.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(scripted.next_message(), "map 1 of 0 rw RDWR");
    let second = scripted.window.set_up(wanted(2, true), files(true)).unwrap();
    scripted.window.begin_drain();
    scripted.window.close();
    assert_eq!((scripted.settled(&first), scripted.settled(&second)), (Err(Errno::EIO), Err(Errno::EIO)));
    scripted.window.end_drain();
    // The first map was sent and may be carried out. The second was never sent.
    scripted.replies.send(YES).unwrap();
    let (generation, pending) = scripted.window.prepare().unwrap();
    scripted.exchange(&[("unmap 1", YES)]);
    scripted.settled(&pending).unwrap();
    assert!(scripted.opened(generation).is_some());
}
