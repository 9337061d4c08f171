//! The window against front-ends of few lines.

use super::*;
use pinhole_dax_cache::{Failure, Overlap, SLOT_LEN};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const SLOTS: u64 = 4;

/// A front-end that answers each message when it is told to.
struct Played {
    heard: Sender<String>,
    answers: Receiver<Result<(), Failure>>,
}

impl Messenger for Played {
    fn map(&self, message: &Message, file: BorrowedFd<'_>) -> Result<(), Failure> {
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

/// The test's end of it.
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
        let attendance = window.connect().unwrap();
        thread::spawn(move || attendance.attend(&Played { heard, answers: answered }));
        Self { window, heard: hearing, answers }
    }

    fn hear(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    /// Hears these messages and answers each.
    fn play(&self, lines: &[(&str, Result<(), Failure>)]) {
        for (expected, answer) in lines {
            assert_eq!(self.hear(), *expected);
            self.answers.send(*answer).unwrap();
        }
    }

    fn settled(&self, pending: &Pending) -> Result<(), Errno> {
        loop {
            let seen = self.window.events();
            if let Some(result) = self.window.outcome(pending) {
                return result;
            }
            self.window.sleep(seen, pending.deadline());
        }
    }

    /// INIT with a front-end that is as QEMU is.
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
        self.window.open(number).unwrap()
    }

    /// And as crosvm is.
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
        self.window.open(number).unwrap()
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
fn what_a_front_end_can_do_is_found_out_before_a_guest_may_map() {
    let stage = Stage::new();
    assert_eq!(stage.window.plan(&wanted(0, true), true), Err(Errno::EIO), "nobody was let in");
    let qemu = stage.init_as_qemu();
    assert!(!qemu.read_only_descriptors && !qemu.past_end_of_file && qemu.overlap == Overlap::Refused);
    let crosvm = Stage::new().init_as_crosvm();
    assert!(crosvm.read_only_descriptors && crosvm.past_end_of_file && crosvm.overlap == Overlap::Replaced);
}

#[test]
fn a_front_end_that_answers_nothing_or_maps_nothing_is_not_used() {
    let stage = Stage::new();
    let (number, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 4", YES)]);
    stage.settled(&pending).unwrap_err();
    assert_eq!(stage.window.open(number), None);
    assert!(stage.window.prepare().is_none(), "it is not asked again");
    let stage = Stage::new();
    let (number, pending) = stage.window.prepare().unwrap();
    stage.play(&[("unmap 4", NO), ("map 0 of 0 r RDONLY", NO), ("map 0 of 0 rw RDWR", NO)]);
    stage.settled(&pending).unwrap_err();
    assert_eq!(stage.window.open(number), None);
}

#[test]
fn what_must_not_be_written_is_not_mapped_where_only_writable_descriptors_are() {
    let stage = Stage::new();
    stage.init_as_qemu();
    assert_eq!(stage.window.plan(&wanted(0, false), false), Err(Errno::EOPNOTSUPP));
    let writable = SetupPlan::Map { writable: true, restore: false };
    assert_eq!(
        stage.window.plan(&wanted(0, false), true),
        Ok(writable),
        "more than asked, not more than granted"
    );
    let stage = Stage::new();
    stage.init_as_crosvm();
    let read_only = SetupPlan::Map { writable: false, restore: false };
    for may_write in [false, true] {
        assert_eq!(stage.window.plan(&wanted(0, false), may_write), Ok(read_only));
    }
}

#[test]
fn a_descriptor_has_exactly_the_rights_of_its_mapping() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    // Files as the host never gives them: told to be what the mapping is not.
    let pending = stage.window.set_up(wanted(0, false), files(true)).unwrap();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO), "and no message was sent");
    let pending = stage.window.set_up(wanted(0, true), files(false)).unwrap();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    stage.heard.try_recv().unwrap_err();
}

#[test]
fn what_is_there_is_not_mapped_again_and_is_taken_out_for_the_next_guest() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(2, true), files(true)).unwrap();
    stage.play(&[("map 2 of 0 rw RDWR", YES)]);
    stage.settled(&pending).unwrap();
    for writable in [true, false] {
        assert_eq!(stage.window.plan(&wanted(2, writable), true), Ok(SetupPlan::There));
    }
    let (number, pending) = stage.window.prepare().unwrap();
    assert_eq!(stage.window.plan(&wanted(2, true), true), Err(Errno::EIO), "not while it is cleared");
    stage.play(&[("unmap 2", YES)]);
    stage.settled(&pending).unwrap();
    assert!(stage.window.open(number).is_some());
    assert_ne!(stage.window.plan(&wanted(2, true), true), Ok(SetupPlan::There));
}

#[test]
fn of_two_inits_only_the_last_lets_a_guest_in() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let (first, _) = stage.window.prepare().unwrap();
    let (second, pending) = stage.window.prepare().unwrap();
    stage.settled(&pending).unwrap();
    assert_eq!(stage.window.open(first), None);
    assert!(stage.window.open(second).is_some());
}

#[test]
fn a_late_answer_is_not_lost_and_not_taken_for_another() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let pending = stage.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    stage.window.hurry();
    let started = Instant::now();
    assert_eq!(stage.settled(&pending), Err(Errno::EIO));
    assert!(started.elapsed() < WINDOW_PATIENCE, "who stops a queue does not wait so long");
    stage.window.resume();
    let removal = stage.remove(1);
    stage.answers.send(YES).unwrap();
    stage.play(&[("unmap 1", YES)]);
    stage.settled(&removal).unwrap();
}

#[test]
fn after_the_last_queue_nothing_is_sent() {
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
fn who_halts_waits_for_the_message_under_way_but_not_for_long() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    stage.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(stage.hear(), "map 1 of 0 rw RDWR");
    let started = Instant::now();
    stage.window.halt();
    assert!(started.elapsed() >= WINDOW_GRACE);
    assert!(started.elapsed() < WINDOW_PATIENCE);
}

#[test]
fn a_new_back_channel_is_talked_through_while_the_old_one_does_not_answer() {
    let old = Stage::new();
    old.init_as_crosvm();
    let pending = old.window.set_up(wanted(1, true), files(true)).unwrap();
    assert_eq!(old.hear(), "map 1 of 0 rw RDWR");
    let new = Stage::on(Arc::clone(&old.window));
    // The map may have been carried out, or may be yet.
    new.play(&[("unmap 1", YES)]);
    old.answers.send(YES).unwrap();
    assert_eq!(old.settled(&pending), Err(Errno::EIO));
    let pending = new.window.set_up(wanted(2, true), files(true)).unwrap();
    new.play(&[("map 2 of 0 rw RDWR", YES)]);
    new.settled(&pending).unwrap();
}

#[test]
fn threads_that_no_front_end_answers_are_limited() {
    let window = window();
    let stuck: Vec<_> = (0..WINDOW_THREADS_MAX).map(|_| window.connect().unwrap()).collect();
    assert!(window.connect().is_none());
    assert!(window.prepare().is_none(), "and there is no window then");
    drop(stuck);
    assert!(window.connect().is_some());
}

#[test]
fn what_waits_is_limited() {
    let stage = Stage::new();
    stage.init_as_crosvm();
    let waiting: Vec<_> = (0..WINDOW_REQUESTS_MAX).map(|_| stage.remove(0)).collect();
    let one_more = stage.window.remove(Vec::new());
    // The thread may have done some of them by now: only those that are held count.
    assert_eq!(one_more.err(), Some(Errno::EIO));
    drop(waiting);
    loop {
        if stage.window.remove(Vec::new()).is_ok() {
            break;
        }
        thread::yield_now();
    }
}
