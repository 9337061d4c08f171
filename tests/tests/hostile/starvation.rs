//! Does the daemon serve, or report the reason, if the host refuses threads?
//!
//! Each run limits the number of processes and threads of the daemon's user, from 0 to more than
//! enough. Needs root, to start the daemon as another user.

use pinhole_tests::daemon::{pinhole_program, serving_id};
use pinhole_tests::frontend::client::Client;
use pinhole_tests::frontend::frame::opcode::{CREATE, FSYNC, GETATTR, SYNCFS};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::locks::{Lock, WRITE};
use pinhole_tests::frontend::{Frontend, FrontendError, LIMIT, OUT_HEADER_LEN, Setup, eventually};
use pinhole_tests::linux::{ENTRY_LEN, O_RDWR, ROOT};
use pinhole_tests::program::Program;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const READY: &str = "Waiting for vhost-user socket connection...\n";
/// More threads than a daemon with two queues and a full pool uses.
const ENOUGH: u64 = 20;

/// Returns a user without any other process, so that the limit counts only the daemon's threads.
fn user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let run = 100_000 + std::process::id() % 100_000 * 100;
    run + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Daemon whose user has no other processes, and may have `threads_max` processes and threads.
struct Starved {
    program: Program,
    folder: TempDir,
    user: u32,
}

/// Returns the start of a command that runs as another user.
fn as_user(user: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command
}

impl Starved {
    fn start(threads_max: u64, arguments: &[&str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "run `sudo -E cargo xtask test --only hostile::starvation`"
        );
        let folder = tempfile::Builder::new().prefix("pinhole-starved-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = user();
        for name in ["share", "run"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            chown(folder.path().join(name), Some(user), Some(user)).unwrap();
        }
        // A copy, because another user may not be allowed to reach the folder of the build.
        let mut copy = Command::new("cp");
        copy.arg(pinhole_program().unwrap()).arg(folder.path().join("pinhole"));
        assert!(copy.status().unwrap().success());
        let mut command = as_user(user);
        command
            // Sets only the soft limit, because the test raises it later.
            .args(["prlimit".to_owned(), format!("--nproc={threads_max}:")])
            .arg(folder.path().join("pinhole"))
            .arg("--shared-dir")
            .arg(folder.path().join("share"))
            .arg("--socket-path")
            .arg(folder.path().join("run/socket"))
            // A user namespace would keep the limit at its creation.
            .arg("--sandbox=none")
            .args(arguments);
        let program = Program::start(&mut command).unwrap();
        Self { program, folder, user }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/socket")
    }

    /// Returns whether the daemon listens. Otherwise the daemon has ended with an error.
    fn is_ready(&mut self) -> bool {
        eventually("the daemon listens or ends", || {
            self.program.stderr().contains(READY) || self.program.wait(Duration::ZERO).unwrap().is_some()
        });
        self.program.stderr().contains(READY)
    }

    /// Checks that the daemon has ended by itself, and that the last line of its log names the
    /// missing thread or process.
    fn ended_with_a_reason(&mut self, threads_max: u64) {
        let ended = self.program.wait(LIMIT).unwrap().expect("the daemon ends");
        let said = self.program.stderr();
        assert_eq!(ended.code(), Some(1), "{threads_max}: {ended}: {said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("pinhole: "), "{threads_max}: {said}");
        assert!(last.contains("Resource temporarily unavailable"), "{threads_max}: {said}");
    }

    fn has_thread(&self, name: &str) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", serving_id(self.program.id())));
        tasks
            .into_iter()
            .flatten()
            .flatten()
            .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
    }

    /// Lets the daemon have as many threads as it needs from now on.
    fn remove_limit(&self) {
        let process = serving_id(self.program.id());
        let mut prlimit = as_user(self.user);
        prlimit.args(["prlimit".to_owned(), format!("--pid={process}"), "--nproc=1000:".to_owned()]);
        assert!(prlimit.status().unwrap().success());
    }

    /// Checks that the first SIGTERM ends the daemon.
    fn ends_at_the_first_signal(&mut self) {
        let process = i32::try_from(self.program.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(process, Signal::TERM).unwrap();
        let ended = self.program.wait(LIMIT).unwrap();
        assert_eq!(ended.and_then(|ended| ended.code()), Some(0), "{}", self.program.stderr());
    }
}

/// Makes a file, syncs it, and reads attributes of the root, on queue 1.
fn check_requests_work(guest: &mut Frontend, name: &str) {
    let create = Frame::new(CREATE, ROOT).u32(2).u32(0o100_644).u32(0).u32(0).name(name).message();
    let made = guest.raw(1, &create, OUT_HEADER_LEN + ENTRY_LEN + 16).unwrap();
    let made = made.success().unwrap();
    let (node, handle) = (u64_at(made, 0).unwrap(), u64_at(made, ENTRY_LEN).unwrap());
    for _ in 0..3 {
        let fsync = Frame::new(FSYNC, node).u64(handle).u32(0).u32(0).message();
        guest.raw(1, &fsync, OUT_HEADER_LEN).unwrap().success().unwrap();
    }
    let get_attr = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    guest.raw(1, &get_attr, OUT_HEADER_LEN + 104).unwrap().success().unwrap();
}

/// Runs a daemon with this limit. Returns whether it served the guest.
fn serves_or_says_why(threads_max: u64, arguments: &[&str]) -> bool {
    let mut starved = Starved::start(threads_max, arguments);
    if !starved.is_ready() {
        starved.ended_with_a_reason(threads_max);
        return false;
    }
    let mut guest = match Frontend::connect(&starved.socket()) {
        Ok(guest) => guest,
        // A refused front-end sees its socket close.
        Err(FrontendError::Vhost(_) | FrontendError::Host(_)) => {
            starved.ended_with_a_reason(threads_max);
            return false;
        }
        Err(error) => panic!("{threads_max}: {error}"),
    };
    let complete = (0..3).all(|queue| {
        starved.has_thread(&if queue == 0 { "hiprio".to_owned() } else { format!("request-{queue}") })
    });
    if !complete {
        let said = "cannot start the thread of a queue; trying again";
        assert!(starved.program.stderr().contains(said), "{threads_max}: {}", starved.program.stderr());
        starved.remove_limit();
    }
    guest.init().unwrap();
    check_requests_work(&mut guest, "file");
    let base = guest.stop_queue(1).unwrap();
    guest.resume_queue(1, base).unwrap();
    check_requests_work(&mut guest, "another");
    starved.ends_at_the_first_signal();
    true
}

#[test]
fn any_thread_limit_serves_or_fails() {
    let served: Vec<bool> = (0..ENOUGH).map(|threads_max| serves_or_says_why(threads_max, &[])).collect();
    println!("served by number of threads: {served:?}");
    let first = served.iter().position(|served| *served).expect("the daemon serves with enough threads");
    assert!(served.iter().skip(first).all(|served| *served), "{served:?}");
}

#[test]
fn any_thread_limit_without_a_pool_serves_or_fails() {
    let alone = ["--thread-pool-size", "0"];
    let served: Vec<bool> = (0..ENOUGH).map(|threads_max| serves_or_says_why(threads_max, &alone)).collect();
    println!("served by number of threads: {served:?}");
    assert!(served.last() == Some(&true) && served.first() == Some(&false), "{served:?}");
}

/// With `--keep-listening`, the daemon does not end if it cannot start a thread. The VMM waits
/// until the daemon can.
#[test]
fn a_front_end_waits_until_there_is_room_for_threads() {
    let needed = (0..ENOUGH).find(|threads_max| serves_or_says_why(*threads_max, &[])).unwrap();
    // The last thread that the daemon starts is the thread of the connection. It starts after the
    // daemon has accepted the front-end.
    let mut starved = Starved::start(needed - 2, &["--keep-listening"]);
    assert!(starved.is_ready(), "{}", starved.program.stderr());
    let socket = starved.socket();
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut guest = Frontend::connect(&socket).unwrap();
            guest.init().unwrap();
            check_requests_work(&mut guest, "file");
            guest
        });
        eventually("the log has the reason", || {
            starved.program.stderr().contains("a connection was not served")
        });
        starved.remove_limit();
        drop(guest.join().unwrap());
    });
    starved.ends_at_the_first_signal();
}

/// Threads of a daemon with an idle guest that has three queues: supervisor, main, control,
/// vhost-user, relay, answers, and one for each queue.
const RESIDENT: u64 = 9;

/// While the host refuses every further thread, the thread `answers` serves all requests that
/// block.
#[test]
fn requests_that_block_are_answered_without_room_for_threads() {
    let mut starved = Starved::start(RESIDENT, &[]);
    assert!(starved.is_ready(), "{}", starved.program.stderr());
    let file = starved.folder.path().join("share/file");
    fs::write(&file, "data").unwrap();
    chown(&file, Some(starved.user), Some(starved.user)).unwrap();
    let held = fs::File::open(&file).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let (mut guest, _) = Client::connect(&starved.socket(), Setup::default()).unwrap();
    for name in ["control", "relay", "answers", "vhost-user", "hiprio", "request-1", "request-2"] {
        eventually("the threads of the daemon exist", || starved.has_thread(name));
    }
    let file = guest.open("file", O_RDWR).unwrap();
    let lock = guest.submit_setlkw(file, Lock::flock(WRITE, 1)).unwrap();
    let fsync = Frame::new(FSYNC, file.0).u64(file.1).u32(0).u32(0);
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(guest.submit(fsync.clone(), 0).unwrap());
        asked.push(guest.submit(Frame::new(SYNCFS, ROOT).u64(0), 0).unwrap());
    }
    drop(held);
    asked.push(lock);
    for asked in asked {
        assert_eq!(guest.outcome(asked).unwrap(), 0);
    }
    assert!(!starved.has_thread("pool") && !starved.has_thread("syncs"), "the host has room for threads");
    let refused = starved.program.stderr();
    assert!(refused.contains("cannot start a thread of the pool"), "{refused}");
    assert!(refused.contains("cannot start the thread syncs"), "{refused}");
    starved.remove_limit();
    let fsync_starts_a_thread = || {
        let asked = guest.submit(fsync.clone(), 0).unwrap();
        assert_eq!(guest.outcome(asked).unwrap(), 0);
        starved.has_thread("pool")
    };
    eventually("a thread of the pool is started", fsync_starts_a_thread);
    starved.ends_at_the_first_signal();
}
