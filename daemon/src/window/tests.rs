//! Tests of the window against a scripted front-end.

use super::state::{Peer, Work};
use super::*;
use crate::file_id::{DeviceId, FileId};
use crate::filesystem::MapFile;
use crate::limits::{WINDOW_PATIENCE, WINDOW_REQUESTS_MAX, WINDOW_THREADS_MAX, WINDOW_WAIT_MAX};
use crate::sync::clock;
use pinhole_dax_cache::{Failure, Overlap, SLOT_LEN};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const SLOTS: u64 = 4;

/// Front-end that replies to each message when the test provides the reply.
struct Played {
    heard: Sender<String>,
    answers: Receiver<Result<(), Failure>>,
}

impl ShmemFrontEnd for Played {
    fn map(&self, message: &MapMessage, file: BorrowedFd<'_>) -> Result<(), Failure> {
        let opened = rustix::fs::fcntl_getfl(file).unwrap() & rustix::fs::OFlags::RWMODE;
        let mode = if opened == rustix::fs::OFlags::RDONLY { "RDONLY" } else { "RDWR" };
        let writable = if message.writable { "rw" } else { "r" };
        self.tell(format!(
            "map {} of {} {writable} {mode}",
            message.window_offset / SLOT_LEN,
            message.file_offset / SLOT_LEN
        ))
    }

    fn unmap(&self, window_offset: u64, _len: u64) -> Result<(), Failure> {
        self.tell(format!("unmap {}", window_offset / SLOT_LEN))
    }
}

impl Played {
    fn tell(&self, what: String) -> Result<(), Failure> {
        if self.heard.send(what).is_err() {
            return Err(Failure::Gone);
        }
        self.answers.recv().unwrap_or(Err(Failure::Gone))
    }
}

/// A window with a scripted front-end: the messages to it and the replies of the test.
struct Stage {
    window: Arc<Window>,
    heard: Receiver<String>,
    answers: Sender<Result<(), Failure>>,
}

pub(crate) fn window() -> Arc<Window> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(ScratchFile::LEN).unwrap();
    let scratch = ScratchFile {
        writable: file.reopen().unwrap().into(),
        read_only: std::fs::File::open(file.path()).unwrap().into(),
        id: FileId { device: DeviceId { major: 0, minor: 0 }, inode: 1 },
    };
    let settings = Settings { len: SLOTS * SLOT_LEN, mode: Mode::Auto, threshold: 0 };
    Arc::new(Window::new(settings, scratch).unwrap())
}

impl Stage {
    fn new() -> Self {
        Self::on(window())
    }

    fn on(window: Arc<Window>) -> Self {
        let ((heard, hearing), (answers, answered)) = (channel(), channel());
        let back_channel = window.connect().unwrap();
        thread::spawn(move || back_channel.serve(&Played { heard, answers: answered }));
        Self { window, heard: hearing, answers }
    }

    fn hear(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    /// Expects these messages and replies to each.
    fn play(&self, lines: &[(&str, Result<(), Failure>)]) {
        for (expected, answer) in lines {
            assert_eq!(self.hear(), *expected);
            self.answers.send(*answer).unwrap();
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
        self.play(&[
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
        self.play(&[
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
    let stage = Stage::new();
    assert_eq!(stage.window.plan(&wanted(0, true), true), Err(Errno::EIO), "no guest may map yet");
    let qemu = stage.init_as_qemu();
    assert!(!qemu.read_only_descriptors && !qemu.past_end_of_file && qemu.overlap == Overlap::Refused);
    let crosvm = Stage::new().init_as_crosvm();
    assert!(crosvm.read_only_descriptors && crosvm.past_end_of_file && crosvm.overlap == Overlap::Replaced);
}

#[test]
fn front_end_without_replies_or_mappings_is_not_used() {
    let stage = Stage::new();
    let (number, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 4", YES)]);
    stage.settled(&pending).unwrap_err();
    assert_eq!(stage.opened(number), None);
    assert!(stage.window.prepare().is_none(), "an unusable front-end is not probed again");
    let stage = Stage::new();
    let (number, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 4", NO), ("map 0 of 0 r RDONLY", NO), ("map 0 of 0 rw RDWR", NO)]);
    stage.settled(&pending).unwrap_err();
    assert_eq!(stage.opened(number), None);
}

#[test]
fn read_only_mapping_needs_a_front_end_with_read_only_descriptors() {
    let stage = Stage::new();
    stage.init_as_qemu();
    assert_eq!(stage.window.plan(&wanted(0, false), false), Err(Errno::EOPNOTSUPP));
    let writable = SetupPlan::Map { writable: true, or_read_only: false, restore: false };
    assert_eq!(
        stage.window.plan(&wanted(0, false), true),
        Ok(writable),
        "more than requested, but not more than granted"
    );
    let stage = Stage::new();
    stage.init_as_crosvm();
    let read_only = SetupPlan::Map { writable: false, or_read_only: true, restore: false };
    for may_write in [false, true] {
        assert_eq!(stage.window.plan(&wanted(0, false), may_write), Ok(read_only));
    }
}

#[test]
fn descriptor_has_exactly_the_rights_of_its_mapping() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    // The file system never returns such files: their rights differ from those of the mapping.
    let pending = stage.window.set_up(wanted(0, false), files(true)).unwrap();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO), "no message was sent");
    let pending = stage.window.set_up(wanted(0, true), files(false)).unwrap();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    stage.heard.try_recv().unwrap_err();
}

#[test]
fn existing_mapping_is_reused_and_removed_for_the_next_guest() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(2, true), files(true)).unwrap();
    stage.play(&[("map 2 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
    stage.rest();
    for writable in [true, false] {
        assert_eq!(stage.window.plan(&wanted(2, writable), true), Ok(SetupPlan::There));
    }
    let (number, pending) = stage.window.prepare().unwrap();
    assert_eq!(
        stage.window.plan(&wanted(2, true), true),
        Err(Errno::EIO),
        "no guest may map while the window is cleared"
    );
    stage.play(&[("unmap 2", YES)]);
    stage.settled(&pending).unwrap();
    assert!(stage.opened(number).is_some());
    assert_ne!(stage.window.plan(&wanted(2, true), true), Ok(SetupPlan::There));
}

#[test]
fn only_the_last_of_two_inits_opens_the_window() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let (first, _) = stage.window.prepare().unwrap();
    let (second, pending) = stage.window.prepare().unwrap();
    stage.settled(&pending).unwrap();
    stage.rest();
    assert_eq!(stage.window.open(first), Err(Errno::EIO));
    assert!(stage.opened(second).is_some());
    stage.window.close();
    assert_eq!(stage.window.open(second), Err(Errno::EIO), "a guest that does not map replaces it too");
}

#[test]
fn late_reply_is_not_taken_for_another() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    stage.window.begin_drain();
    let started = clock::now();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    assert!(clock::elapsed(started) < WINDOW_PATIENCE, "the stop of a queue waits less");
    stage.window.end_drain();
    let removal = stage.remove(1);
    stage.answers.send(YES).unwrap();
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&removal).unwrap();
}

#[test]
fn nothing_is_sent_after_the_last_queue_stopped() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    stage.play(&[("map 1 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
    stage.window.halt();
    let removal = stage.remove(1);
    assert_eq!(stage.settled(&removal), Err(Errno::EIO));
    stage.heard.try_recv().unwrap_err();
    stage.window.resume();
    let removal = stage.remove(1);
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&removal).unwrap();
}

#[test]
fn halt_waits_for_the_message_under_way_for_a_short_time() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    stage.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    let started = clock::now();
    stage.window.halt();
    assert!(clock::elapsed(started) >= WINDOW_GRACE);
    assert!(clock::elapsed(started) < WINDOW_PATIENCE);
}

#[test]
fn new_channel_is_used_while_the_old_one_hangs() {
    let old = Stage::new();
    old.init_as_crosvm();
    let pending = old.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(old.hear(), "map 1 of 0 rw RDWR");
    let new = Stage::on(Arc::clone(&old.window));
    // The front-end may have carried out the map, or may do so later.
    new.play(&[("unmap 1", YES)]);
    old.answers.send(YES).unwrap();
    assert_eq!(old.settled(&pending), Err(Errno::EIO));
    let pending = new.window.set_up(wanted(2, true), files(true)).unwrap();
    new.play(&[("map 2 of 0 rw RDWR", YES)]);
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
    let stage = Stage::new();
    stage.init_as_crosvm();
    let waiting: Vec<_> = (0..WINDOW_REQUESTS_MAX).map(|_| stage.remove(0)).collect();
    let one_more = stage.window.remove(Vec::new());
    // The thread may have carried out some of them. They count until they are dropped.
    assert_eq!(one_more.err(), Some(Errno::EIO));
    drop(waiting);
    loop {
        if stage.window.remove(Vec::new()).is_ok() {
            break;
        }
        thread::yield_now();
    }
}

#[test]
fn mapping_that_a_job_may_remove_is_mapped_again() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    stage.play(&[("map 1 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
    let first = stage.remove(2);
    let second = stage.remove(1);
    assert_ne!(stage.window.plan(&wanted(1, true), true), Ok(SetupPlan::There));
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&first).unwrap();
    stage.settled(&second).unwrap();
}

#[test]
fn mapping_without_a_waiting_request_is_not_made() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let first = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    let second = stage.window.set_up(wanted(2, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    stage.window.begin_drain();
    assert_eq!((stage.settled(&first), stage.settled(&second)), (Err(Errno::EIO), Err(Errno::EIO)));
    stage.window.end_drain();
    stage.answers.send(YES).unwrap();
    let removal = stage.remove(1);
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&removal).unwrap();
}

#[test]
fn interrupted_probe_is_repeated() {
    let stage = Stage::new();
    let (turn, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 4", NO), ("map 0 of 0 r RDONLY", NO)]);
    assert_eq!(stage.hear(), "map 0 of 0 rw RDWR");
    thread::scope(|scope| {
        scope.spawn(|| stage.window.halt());
        while !stage.window.state.lock().is_halted {
            thread::yield_now();
        }
        stage.answers.send(YES).unwrap();
    });
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    assert_eq!(stage.opened(turn), None);
    stage.window.resume();
    let (turn, pending) = stage.window.prepare().unwrap();
    // The mapping that the probe left is removed first.
    stage.play(&[("unmap 0", YES), ("unmap 4", NO), ("map 0 of 0 r RDONLY", YES)]);
    stage.play(&[("map 0 of 0 r RDONLY", YES), ("unmap 0", YES), ("map 0 of 1 r RDONLY", NO)]);
    stage.settled(&pending).unwrap();
    assert!(stage.opened(turn).is_some());
}

#[test]
fn broken_channel_is_not_used_again() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    assert!(stage.window.is_usable());
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    stage.play(&[("map 1 of 0 rw RDWR", Err(Failure::Gone))]);
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    assert!(!stage.window.is_usable(), "no file is offered after that");
    assert!(stage.window.prepare().is_none());
    let again = Stage::on(Arc::clone(&stage.window));
    again.play(&[("unmap 1", YES)]);
    again.init_as_crosvm();
}

#[test]
fn refused_removal_after_reset_means_nothing_is_mapped() {
    let stage = Stage::new();
    stage.init_as_qemu();
    let two = Wanted { len: 2 * SLOT_LEN, ..wanted(0, true) };
    let pending = stage.window.set_up(two, files(true)).unwrap();
    stage.play(&[("map 0 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
    let (turn, pending) = stage.window.prepare().unwrap();
    // A reset of the device has dropped the mapping.
    stage.play(&[("unmap 0", NO)]);
    stage.settled(&pending).unwrap();
    assert!(stage.opened(turn).is_some());
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    stage.play(&[("map 1 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
}

#[test]
fn slow_front_end_that_replies_is_waited_for() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let removal = stage.window.remove((0..SLOTS).map(|slot| (slot * SLOT_LEN, SLOT_LEN)).collect()).unwrap();
    stage.settled(&removal).unwrap();
    let now = clock::now();
    let mut held = stage.window.state.lock();
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
    let stage = Stage::new();
    let (generation, pending) = stage.window.prepare().unwrap();
    assert_eq!(stage.hear(), "unmap 4");
    stage.window.disconnect();
    assert!(matches!(stage.window.state.lock().peer, Peer::Absent));
    stage.answers.send(NO).unwrap();
    // The thread ends with its channel and sends no further message.
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    assert_eq!(stage.window.open(generation), Ok(None));
    assert!(stage.window.prepare().is_none());
    let again = Stage::on(Arc::clone(&stage.window));
    again.init_as_qemu();
    stage.heard.try_recv().unwrap_err();
}

#[test]
fn probe_on_a_replaced_channel_is_repeated_on_the_new_one() {
    let old = Stage::new();
    let (_, pending) = old.window.prepare().unwrap();
    old.play(&[("unmap 4", NO)]);
    assert_eq!(old.hear(), "map 0 of 0 r RDONLY");
    let new = Stage::on(Arc::clone(&old.window));
    old.answers.send(YES).unwrap();
    assert_eq!(old.settled(&pending), Err(Errno::EIO));
    let (generation, pending) = new.window.prepare().unwrap();
    // The first slot may still be mapped.
    new.play(&[("unmap 0", YES), ("unmap 4", NO), ("map 0 of 0 r RDONLY", YES)]);
    new.play(&[("map 0 of 0 r RDONLY", YES), ("unmap 0", YES), ("map 0 of 1 r RDONLY", NO)]);
    new.settled(&pending).unwrap();
    assert!(new.opened(generation).is_some());
    old.heard.try_recv().unwrap_err();
}

#[test]
fn guest_that_leaves_while_draining_is_cleared_after_the_drain() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let first = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    let second = stage.window.set_up(wanted(2, true), files(true)).unwrap();
    stage.window.begin_drain();
    stage.window.close();
    assert_eq!((stage.settled(&first), stage.settled(&second)), (Err(Errno::EIO), Err(Errno::EIO)));
    stage.window.end_drain();
    // The first map was sent and may be carried out. The second was never sent.
    stage.answers.send(YES).unwrap();
    let (generation, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&pending).unwrap();
    assert!(stage.opened(generation).is_some());
}
