//! Does a daemon continue after it was stopped, frozen or traced, whatever its threads waited for?
//!
//! Each test interrupts one process many times while a guest keeps every kind of thread waiting,
//! and then asks for a reply. The freezer needs root and cgroup v2, the tracer needs strace, and
//! `pinhole mount` needs /dev/fuse. A test that lacks one of them fails with the command that
//! provides it.

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::dax_vmm::{Dax, Rules};
use pinhole_tests::frontend::client::{Client, SharedFolder};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{FALLOCATE, FORGET, FSYNC, GETATTR, LOOKUP};
use pinhole_tests::frontend::locks::{Lock, WRITE};
use pinhole_tests::frontend::{Bench, OUT_HEADER_LEN, Setup};
use pinhole_tests::interruption::{Interrupter, Interruption};
use pinhole_tests::linux::{ATTR_LEN, ENTRY_LEN, O_RDWR, ROOT};
use pinhole_tests::program::{Program, pinhole};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Length of a mapping in bytes.
const SLOT: u64 = 2 << 20;
/// Number of interruptions of each kind, enough to hit each wait of a few milliseconds. A tracer
/// takes much longer than a stop or a freeze.
const TIMES: [(Interruption, usize); 3] =
    [(Interruption::Stop, 150), (Interruption::Freeze, 150), (Interruption::Trace, 15)];
/// Delay of the VMM's replies, so that the thread of the back channel often waits for one.
const SLOW: Duration = Duration::from_millis(2);
/// Length in bytes of a reservation that takes a while even on tmpfs.
const LONG: u64 = 256 << 20;

/// Interrupts `process` again and again while another thread repeats `work`.
#[track_caller]
fn interrupt_during((way, times): (Interruption, usize), process: u32, work: impl FnMut() + Send) {
    let (over, mut work) = (AtomicBool::new(false), work);
    let interrupter = Interrupter::new(way, process).unwrap();
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                work();
            }
        });
        let outcome = (0..times).try_for_each(|time| {
            let outcome = interrupter.interrupt();
            let ended = working.is_finished();
            // Lets the threads return to their waits.
            std::thread::park_timeout(Duration::from_micros(time as u64 % 8 * 500));
            outcome.map_err(|error| format!("{way:?} {time}: {error}"))?;
            if ended { Err(format!("{way:?} {time}: a request of the guest failed")) } else { Ok(()) }
        });
        over.store(true, Ordering::Release);
        let worked = working.join();
        outcome.unwrap();
        worked.unwrap();
    });
}

/// Checks that the daemon has printed no error and ends correctly.
#[track_caller]
fn assert_ends_without_errors(mut daemon: Serving) {
    daemon.signal(Signal::TERM).unwrap();
    let ended = daemon.wait_at_most(pinhole_tests::frontend::LIMIT).unwrap();
    let stderr = daemon.stderr();
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{stderr}");
    assert!(!stderr.contains("ERROR") && !stderr.contains("WARN"), "{stderr}");
}

/// Interrupts the threads of hiprio, of a request queue, of the offload pool and of the back
/// channel, while the guest uses each of them.
fn interrupt_every_thread(interruption: (Interruption, usize)) {
    let mut dax = Dax::new(Rules::strict(), &["--dax-window=16M", "--dax=always"]).unwrap();
    dax.file("file", SLOT).unwrap();
    let (node, handle) = dax.open("file", O_RDWR).unwrap();
    dax.window.delay_replies(SLOW);
    let forget = Frame::new(FORGET, node).u64(1).message();
    let process = dax.bench.daemon.serving_id();
    interrupt_during(interruption, process, || {
        // Looks the file up once for each FORGET, so that the node stays valid.
        let again = Frame::new(LOOKUP, ROOT).name("file");
        dax.bench.body(again.clone(), ENTRY_LEN).unwrap();
        dax.bench.guest.raw(0, &forget, 0).unwrap();
        assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
        dax.bench.body(again.clone(), ENTRY_LEN).unwrap();
        dax.bench.guest.raw(0, &forget, 0).unwrap();
        assert_eq!(dax.unmap(node, &[(0, SLOT)]).unwrap(), 0);
        dax.bench.body(Frame::new(FSYNC, node).u64(handle).u32(0).u32(0), 0).unwrap();
    });
    dax.bench.is_alive().unwrap();
    assert_eq!(dax.window.faults(), Vec::<String>::new());
    assert_ends_without_errors(dax.bench.daemon);
}

/// Interrupts the daemon while it retries a lock of the host for a guest.
fn interrupt_lock_waiter(interruption: (Interruption, usize)) {
    let share = SharedFolder::new().unwrap();
    fs::write(share.host("file"), [7; 4096]).unwrap();
    let held = File::options().read(true).write(true).open(share.host("file")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let daemon = share.serve(&[]).unwrap();
    let (mut guest, _) = Client::connect(daemon.socket(), Setup::default()).unwrap();
    let file = guest.open("file", O_RDWR).unwrap();
    let waits = guest.submit_setlkw(file, Lock::flock(WRITE, 1)).unwrap();
    // Uses queue 2, because the waiting request keeps its descriptors in queue 1.
    let getattr = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    interrupt_during(interruption, daemon.serving_id(), || {
        guest.guest.raw(2, &getattr, OUT_HEADER_LEN + ATTR_LEN).unwrap().success().unwrap();
    });
    assert!(!guest.is_answered(waits).unwrap());
    flock(&held, FlockOperation::Unlock).unwrap();
    assert_eq!(guest.outcome(waits).unwrap(), 0);
    assert_ends_without_errors(daemon);
}

/// Interrupts the daemon while the policy slows down a queue.
fn interrupt_slowed_queue(interruption: (Interruption, usize)) {
    let share = SharedFolder::new().unwrap();
    let policy = share.folder().join("policy.toml");
    fs::write(&policy, "[limits]\noperations-per-second = 50\n").unwrap();
    let daemon = share.serve(&["--policy", policy.to_str().unwrap()]).unwrap();
    let (mut guest, _) = Client::connect(daemon.socket(), Setup::default()).unwrap();
    interrupt_during(interruption, daemon.serving_id(), || guest.is_alive().unwrap());
    assert_ends_without_errors(daemon);
}

/// Interrupts a daemon before its first guest, and then one with an idle guest.
fn interrupt_idle_daemon(interruption: (Interruption, usize)) {
    let (folder, daemon) = Bench::serve(&[]).unwrap();
    let idle = || std::thread::park_timeout(Duration::from_millis(1));
    interrupt_during(interruption, daemon.serving_id(), idle);
    let (mut guest, _) = Client::connect(daemon.socket(), Setup::default()).unwrap();
    interrupt_during(interruption, daemon.serving_id(), idle);
    guest.is_alive().unwrap();
    assert_ends_without_errors(daemon);
    drop(folder);
}

/// Interrupts the supervisor.
fn interrupt_supervisor(interruption: (Interruption, usize)) {
    let mut bench = Bench::new().unwrap();
    assert_ne!(bench.daemon.id(), bench.daemon.serving_id());
    interrupt_during(interruption, bench.daemon.id(), || {
        std::thread::park_timeout(Duration::from_millis(1));
    });
    bench.is_alive().unwrap();
    assert_ends_without_errors(bench.daemon);
}

/// Interrupts `pinhole mount`: its threads read /dev/fuse, and one retries a lock for a waiting
/// program.
fn interrupt_mount(interruption: (Interruption, usize)) {
    let folder = tempfile::Builder::new().prefix("pinhole-stops-").tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("host")).unwrap();
    fs::create_dir(path("mnt")).unwrap();
    fs::write(path("host/file"), "content").unwrap();
    let mut program = Program::start(pinhole(["mount"]).unwrap().arg(path("host")).arg(path("mnt"))).unwrap();
    program.wait_for("Mounted ").unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
        let (holder, waiter) = (open(&path("host/file")), open(&path("mnt/file")));
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| flock(&waiter, FlockOperation::LockExclusive));
            interrupt_during(interruption, program.id(), || {
                fs::write(path("mnt/made"), "content").unwrap();
                fs::remove_file(path("mnt/made")).unwrap();
            });
            flock(&holder, FlockOperation::Unlock).unwrap();
            waiting.join().unwrap().unwrap();
        });
    });
    let ended = program.end_by(Signal::TERM).unwrap();
    // Needed only if the daemon has died without an unmount.
    rustix::mount::unmount(path("mnt"), UnmountFlags::DETACH).unwrap_or_default();
    assert!(outcome.is_ok(), "{}", program.stderr());
    assert_eq!(ended, Some(0), "{}", program.stderr());
}

#[test]
fn every_thread_survives_interruptions_under_load() {
    TIMES.into_iter().for_each(interrupt_every_thread);
}

#[test]
fn a_lock_waiter_survives_interruptions() {
    TIMES.into_iter().for_each(interrupt_lock_waiter);
}

#[test]
fn a_slowed_queue_survives_interruptions() {
    TIMES.into_iter().for_each(interrupt_slowed_queue);
}

#[test]
fn an_idle_daemon_survives_interruptions() {
    TIMES.into_iter().for_each(interrupt_idle_daemon);
}

#[test]
fn the_supervisor_survives_interruptions() {
    TIMES.into_iter().for_each(interrupt_supervisor);
}

#[test]
fn a_mount_survives_interruptions() {
    TIMES.into_iter().for_each(interrupt_mount);
}

/// On tmpfs an interrupted reservation ends with EINTR and is undone.
#[test]
fn an_interrupted_fallocate_succeeds() {
    let folder = tempfile::Builder::new().prefix("pinhole-stops-").tempdir_in("/dev/shm").unwrap();
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    let file = share.join("file");
    fs::write(&file, "").unwrap();
    let daemon = Daemon::pinhole(&share).unwrap().confined_to(folder.path()).start().unwrap();
    let (mut guest, _) = Client::connect(daemon.socket(), Setup::default()).unwrap();
    let (node, handle) = guest.open("file", O_RDWR).unwrap();
    for (way, times) in [(Interruption::Stop, 10), (Interruption::Freeze, 10), (Interruption::Trace, 3)] {
        let interrupter = Interrupter::new(way, daemon.serving_id()).unwrap();
        for time in 0..times {
            File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
            let reserve = Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(LONG).u32(0).u32(0);
            let reserving = guest.submit(reserve, 0).unwrap();
            while file.metadata().unwrap().blocks() == 0 && !guest.is_answered(reserving).unwrap() {
                std::thread::yield_now();
            }
            interrupter.interrupt().unwrap();
            assert_eq!(guest.outcome(reserving).unwrap(), 0, "{way:?} {time}");
            assert_eq!(file.metadata().unwrap().blocks() * 512, LONG, "{way:?} {time}");
        }
    }
    guest.is_alive().unwrap();
}
