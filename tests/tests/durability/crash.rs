//! Do all acknowledged operations survive if a daemon, a VMM or a guest is killed under load?
//!
//! After each `kill -9`, the host's files must have the result of every acknowledged operation and
//! of no operation that was never sent. The next guest must be served, and other guests must not
//! notice.
//!
//! The killed guest works in its own folder, in several lanes at the same time. It prints a journal
//! of its requests and their replies (`tests/src/crash/`). It takes locks, which must end with it.
//! It has a flock all the time, and it waits for a lock of a second guest, the bystander. The
//! bystander uses the same share through a daemon of its own.
//!
//! `PINHOLE_KILLS` sets the number of kills. `PINHOLE_KILLS_SEED` repeats the work of a run, but
//! not the moments of its kills.

use pinhole_tests::crash::{
    AWAITED, AWAITED_LOCK, HELD, Journal, LaneEvent, NamedObject, Player, Random, SETUP, Tree,
};
use pinhole_tests::daemon::{Daemon, Serving, serving_id};
use pinhole_tests::frontend::client::{Client, Opened, SharedFolder};
use pinhole_tests::frontend::frame::opcode::{
    FORGET, GETATTR, LOOKUP, MKDIR, OPEN_FILE, OPENDIR, READ, READDIR, SETATTR, SETLK, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::locks::{self, Lock, host_locks};
use pinhole_tests::frontend::{Bench, Frontend, LIMIT, Setup, eventually};
use pinhole_tests::guest::Guest;
use pinhole_tests::linux::{EBADF, ENTRY_LEN, ESTALE, O_RDWR, ROOT};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Number of lanes of a guest that will be killed. Each lane has one request in progress.
const LANES: u32 = 8;

fn kill(id: u32) {
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    // Ignore the result: the process may just have ended.
    kill_process(pid, Signal::KILL).unwrap_or_default();
}

/// Starts a new daemon whenever the last one has ended, as a service manager does. All of them
/// listen at the same socket path.
struct Supervisor {
    socket: PathBuf,
    /// Id of the daemon's first process; 0 while there is no daemon.
    current: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    fn new(share: &SharedFolder) -> Self {
        let socket = share.folder().join("socket");
        let daemon = Daemon::pinhole(share.host("")).unwrap().confined_to(share.folder());
        let daemon = daemon.argument("--keep-listening").at(&socket);
        let (current, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&current), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !shared.1.load(Ordering::Acquire) {
                // While the old daemon still listens, a new one fails to start. Try again.
                let Ok(mut serving) = daemon.clone().start() else { continue };
                shared.0.store(serving.id(), Ordering::Release);
                while !shared.1.load(Ordering::Acquire)
                    && serving.wait_at_most(Duration::from_millis(50)).unwrap().is_none()
                {}
                shared.0.store(0, Ordering::Release);
            }
        });
        let supervisor = Self { socket, current, stop, thread: Some(thread) };
        supervisor.wait_until_ready();
        supervisor
    }

    fn id(&self) -> u32 {
        self.current.load(Ordering::Acquire)
    }

    /// Waits until a daemon serves and no earlier request is in progress.
    fn wait_until_ready(&self) {
        eventually("a daemon serves again", || {
            self.id() != 0 && Client::connect(&self.socket, SETUP).is_ok()
        });
    }

    /// Kills the serving process of the daemon, or its first process if `outside` is set. Waits
    /// until another daemon has started.
    fn kill(&self, outside: bool) {
        let id = self.id();
        kill(if outside { id } else { serving_id(id) });
        eventually("the daemon is started again", || ![0, id].contains(&self.id()));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Returns whether the file has a lock of any kind (flock, POSIX or open file description).
fn is_locked(file: &Path) -> bool {
    !host_locks(file).unwrap().is_empty()
}

/// Instruction for the bystander.
enum Order {
    /// Release the lock and take it again.
    LockAgain,
    /// Stop working.
    End,
}

/// Guest that is never killed. It works until the end of the test, and each of its replies must be
/// correct. It has the lock that the killed guests wait for.
struct Bystander {
    orders: Sender<Order>,
    done: Receiver<()>,
    thread: JoinHandle<Player>,
    folder: PathBuf,
    _daemon: Serving,
}

impl Bystander {
    fn new(share: &SharedFolder, seed: u64) -> Self {
        let daemon = share.serve(&[]).unwrap();
        fs::create_dir(share.host("bystander")).unwrap();
        let client = Client::connect(daemon.socket(), SETUP).unwrap().0;
        let mut player = Player::new(client, "bystander", seed, 3).unwrap();
        let locked = player.client().open(AWAITED, O_RDWR).unwrap();
        assert_eq!(player.client().set(locked, AWAITED_LOCK).unwrap(), 0);
        let (orders, ordered) = channel();
        let (does, done) = channel();
        let awaited = share.host(AWAITED);
        let thread = std::thread::spawn(move || {
            loop {
                let mut order = None;
                player
                    .work(true, |_, said| {
                        if said == LaneEvent::Done {
                            // Leave processor time to the other guests.
                            std::thread::park_timeout(Duration::from_millis(1));
                        }
                        order = order.take().or_else(|| ordered.try_recv().ok());
                        Ok(order.is_none())
                    })
                    .unwrap();
                if !matches!(order, Some(Order::LockAgain)) {
                    return player;
                }
                lock_again(player.client(), locked, &awaited);
                does.send(()).unwrap();
            }
        });
        Self { orders, done, thread, folder: share.host("bystander"), _daemon: daemon }
    }

    /// Checks that a killed guest has not got the lock that it waited for. The bystander releases
    /// the lock and takes it again.
    fn check_lock_is_free(&self) {
        self.orders.send(Order::LockAgain).unwrap();
        self.done.recv_timeout(LIMIT).expect("the bystander does not lock again");
    }

    /// Ends the bystander, and checks that its files are as its requests left them.
    fn end(self) {
        self.orders.send(Order::End).unwrap();
        let player = self.thread.join().expect("the bystander got a wrong reply");
        let mut expected = Tree::default();
        for lane in player.lanes() {
            expected.0.extend(lane.tree.0.clone());
        }
        assert_eq!(Tree::read(&self.folder).unwrap(), expected);
        assert!(!expected.0.is_empty());
    }
}

/// Releases the lock and takes it again. In between, no other guest may have the lock.
fn lock_again(guest: &mut Client, file: Opened, on_host: &Path) {
    assert_eq!(guest.set(file, AWAITED_LOCK.to(locks::UNLOCK)).unwrap(), 0);
    assert!(!is_locked(on_host), "a killed guest got the lock that it waited for");
    assert_eq!(guest.set(file, AWAITED_LOCK).unwrap(), 0);
    assert!(is_locked(on_host));
}

/// Process that a round kills.
#[derive(Clone, Copy, Debug)]
enum KillTarget {
    /// The daemon's second process, which serves.
    Serving,
    /// The daemon's first process, which waits for the second.
    Outside,
    Vmm,
    /// The VMM and the serving process.
    Both,
    /// No process: the guest reboots in the middle of its work.
    Guest,
}

/// Targets to choose from. A target that is listed twice is chosen twice as often.
const TARGETS: [KillTarget; 7] = [
    KillTarget::Serving,
    KillTarget::Outside,
    KillTarget::Vmm,
    KillTarget::Vmm,
    KillTarget::Both,
    KillTarget::Guest,
    KillTarget::Serving,
];

/// Starts the guest that will be killed, as a process of its own.
fn start_guest(socket: &PathBuf, folder: &str, seed: u64, reboot_after: Option<u64>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash_guest"));
    command.arg("--socket").arg(socket).args(["--folder", folder]);
    command.args(["--lanes", &LANES.to_string(), "--seed", &seed.to_string()]);
    if let Some(limit) = reboot_after {
        command.args(["--reboot-after", &limit.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Lets a guest work, kills the target, and compares the host's files with the guest's journal.
/// Returns the folder and its content.
fn round(
    share: &SharedFolder,
    supervisor: &Supervisor,
    (number, target): (u64, KillTarget),
    random: &mut Random,
) -> (PathBuf, Tree) {
    let (seed, after) = (random.below(1 << 40), random.below(300));
    let what = format!("kill {number}: {target:?} after {after}, seed {seed}");
    let name = format!("folder-{number}");
    let folder = share.host(&name);
    fs::create_dir(&folder).unwrap();
    let reboot_after = matches!(target, KillTarget::Guest).then_some(after + 1);
    let mut child = start_guest(&supervisor.socket, &name, seed, reboot_after);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut journal = Journal::new(seed, LANES);
    let (mut done, mut killed) = (0, false);
    for line in lines {
        done += u64::from(journal.take(&line.unwrap()).expect(&what));
        if done < after || killed {
            continue;
        }
        killed = true;
        // Kill at a random moment, not always directly after a reply.
        std::thread::park_timeout(Duration::from_micros(random.below(400)));
        // A guest with the target `Guest` may already have rebooted, and then has no flock.
        assert!(
            matches!(target, KillTarget::Guest) || is_locked(&share.host(HELD)),
            "{what}: the guest has no flock"
        );
        match target {
            KillTarget::Serving | KillTarget::Outside => {
                supervisor.kill(matches!(target, KillTarget::Outside));
                child.kill().unwrap();
            }
            KillTarget::Vmm => child.kill().unwrap(),
            KillTarget::Both => {
                child.kill().unwrap();
                supervisor.kill(false);
            }
            KillTarget::Guest => {}
        }
    }
    assert!(killed, "{what}: the process ended by itself");
    let status = child.wait().unwrap();
    assert_eq!(status.success(), matches!(target, KillTarget::Guest), "{what}: {status}");
    supervisor.wait_until_ready();
    let tree = journal.check(&folder).unwrap_or_else(|error| panic!("{what}: {error}"));
    for name in
        tree.0.iter().filter_map(|(name, thing)| matches!(thing, NamedObject::File(_)).then_some(name))
    {
        assert_eq!(host_locks(&folder.join(name)).unwrap(), [], "{what}: {name} is still locked");
    }
    assert!(!is_locked(&share.host(HELD)), "{what}: the flock is still there");
    (folder, tree)
}

/// Number of rounds with each target.
type Tally = BTreeMap<String, u64>;

/// Plays rounds until `count` rounds have killed a process.
fn kill_many(count: u64, seed: u64) -> Tally {
    println!("seed {seed}");
    let share = SharedFolder::new().unwrap();
    for name in [HELD, AWAITED] {
        fs::write(share.host(name), "").unwrap();
    }
    let (supervisor, bystander) = (Supervisor::new(&share), Bystander::new(&share, seed));
    let mut random = Random::new(seed);
    let (mut left, mut tally, mut kills) = (Vec::new(), Tally::new(), 0);
    let mut names: BTreeSet<String> = ["bystander", HELD, AWAITED].map(str::to_owned).into();
    for number in 0.. {
        if kills == count {
            break;
        }
        let target = TARGETS[usize::try_from(random.below(TARGETS.len() as u64)).unwrap()];
        left.push(round(&share, &supervisor, (number, target), &mut random));
        names.insert(format!("folder-{number}"));
        bystander.check_lock_is_free();
        kills += u64::from(!matches!(target, KillTarget::Guest));
        *tally.entry(format!("{target:?}")).or_default() += 1;
        // A later kill must not have changed the folder of an earlier guest.
        if left.len() == 20 {
            for (folder, tree) in left.drain(..) {
                assert_eq!(Tree::read(&folder).unwrap(), tree, "{}", folder.display());
            }
        }
    }
    bystander.end();
    let found = fs::read_dir(share.host("")).unwrap();
    let found: BTreeSet<String> =
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, names, "unexpected names in the share's root");
    tally
}

#[test]
fn acknowledged_operations_survive_the_kill_of_any_process() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let kills = number("PINHOLE_KILLS").unwrap_or(200);
    let seed = number("PINHOLE_KILLS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut tally = Tally::new();
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|half| scope.spawn(move || kill_many(kills.div_ceil(2), seed + half)));
        for thread in threads {
            for (target, count) in thread.join().expect("a round failed, see above") {
                *tally.entry(target).or_default() += count;
            }
        }
    });
    let reboots = tally.remove(&format!("{:?}", KillTarget::Guest)).unwrap_or_default();
    let killed: u64 = tally.values().sum();
    assert!(killed >= kills, "{killed} of {kills}");
    println!("{killed} kills: {tally:?}; beside them {reboots} reboots");
}

/// Node ids and file handles that a guest got from a daemon, which was then killed. They belong to
/// the files `old-*`. The share has as many files `new-*`, which a next guest opens.
struct OldIds {
    share: SharedFolder,
    supervisor: Supervisor,
    nodes: Vec<u64>,
    files: Vec<Opened>,
    listed: u64,
}

impl OldIds {
    fn new() -> Self {
        let share = SharedFolder::new().unwrap();
        for number in 0..100 {
            fs::write(share.host(format!("old-{number}")), "old").unwrap();
            fs::write(share.host(format!("new-{number}")), "new").unwrap();
        }
        let supervisor = Supervisor::new(&share);
        let mut guest = Client::connect(&supervisor.socket, Setup::default()).unwrap().0;
        let files: Vec<Opened> =
            (0..50).map(|number| guest.open(&format!("old-{number}"), O_RDWR).unwrap()).collect();
        let nodes = (50..100).map(|number| guest.look_up(&format!("old-{number}")).unwrap()).collect();
        let listed = guest.body(Frame::new(OPENDIR, ROOT).u32(0).u32(0), 16).unwrap();
        supervisor.kill(false);
        let listed = u64_at(&listed, 0).unwrap();
        Self { share, supervisor, nodes, files, listed }
    }

    /// Sends requests of many kinds with the old ids. All of them must fail, and no file may
    /// change.
    fn check_that_all_fail(&self, guest: &mut Client) {
        let stale = [ESTALE, EBADF];
        let mut refused = |frame: Frame, room: usize, errnos: &[i32]| {
            let said = guest.errno(frame.clone(), room).unwrap();
            assert!(errnos.contains(&said), "{said} to {frame:?}");
        };
        let nodes = self.nodes.iter().chain(self.files.iter().map(|(node, _)| node));
        for node in nodes {
            refused(Frame::new(GETATTR, *node).u32(0).u32(0).u64(0), 104, &[ESTALE]);
            refused(Frame::new(LOOKUP, *node).name("new-1"), ENTRY_LEN, &[ESTALE]);
            refused(Frame::new(UNLINK, *node).name("new-1"), 0, &[ESTALE]);
            refused(Frame::new(MKDIR, *node).u32(0o755).u32(0).name("made"), ENTRY_LEN, &[ESTALE]);
        }
        for (node, handle) in &self.files {
            let write = Frame::new(WRITE, *node).u64(*handle).u64(0).u32(5).u32(0).u64(0).u32(O_RDWR).u32(0);
            refused(write.bytes(b"wrong"), 8, &stale);
            refused(
                Frame::new(READ, *node).u64(*handle).u64(0).u32(9).u32(0).u64(0).u32(0).u32(0),
                16,
                &stale,
            );
            let cut = Frame::new(SETATTR, *node).u32(1 << 3 | 1 << 6).u32(0).u64(*handle).u64(0);
            refused(cut.bytes(&[0; 64]), 104, &stale);
        }
        for name in ["old", "new"] {
            for number in 0..100 {
                let host = self.share.host(format!("{name}-{number}"));
                assert_eq!(fs::read_to_string(host).unwrap(), name);
            }
        }
    }
}

#[test]
fn vmm_that_continues_without_init_gets_errors() {
    let old_ids = OldIds::new();
    let guest = Frontend::connect_with(&old_ids.supervisor.socket, SETUP).unwrap();
    let mut guest = Client::of(guest);
    old_ids.check_that_all_fail(&mut guest);
    let (node, _) = old_ids.files[0];
    let forget = Frame::new(FORGET, node).u64(1).message();
    assert!(guest.guest.raw(0, &forget, 0).unwrap().is_unanswered());
    for frame in [Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0), Frame::new(UNLINK, ROOT).name("old-1")] {
        assert_ne!(guest.errno(frame, 104).unwrap(), 0, "the root before INIT");
    }
    assert!(old_ids.share.host("old-1").exists());
    // After INIT the guest is served.
    guest.guest.init().unwrap();
    guest.look_up("new-0").unwrap();
}

#[test]
fn ids_of_a_dead_process_are_invalid_in_the_next() {
    let old_ids = OldIds::new();
    let mut guest = Client::connect(&old_ids.supervisor.socket, SETUP).unwrap().0;
    // As many files as before, opened in the same order.
    let files: Vec<Opened> =
        (0..100).map(|number| guest.open(&format!("new-{number}"), O_RDWR).unwrap()).collect();
    let listed = guest.body(Frame::new(OPENDIR, ROOT).u32(0).u32(0), 16).unwrap();
    assert_ne!(u64_at(&listed, 0).unwrap(), old_ids.listed);
    old_ids.check_that_all_fail(&mut guest);
    // A file handle of the dead process, together with a node id that is valid now.
    for ((node, _), (_, handle)) in files.iter().zip(&old_ids.files) {
        let write = Frame::new(WRITE, *node).u64(*handle).u64(0).u32(5).u32(0).u64(0).u32(O_RDWR).u32(0);
        assert_eq!(guest.errno(write.bytes(b"wrong"), 8).unwrap(), EBADF);
    }
    let list = Frame::new(READDIR, ROOT).u64(old_ids.listed).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
    assert_eq!(guest.errno(list, 4096).unwrap(), EBADF);
    // A FORGET of an unknown node has no effect.
    for (node, _) in &old_ids.files {
        let forget = Frame::new(FORGET, *node).u64(u64::MAX).message();
        assert!(guest.guest.raw(0, &forget, 0).unwrap().is_unanswered());
    }
    for (node, _) in files {
        assert_eq!(guest.errno(Frame::new(GETATTR, node).u32(0).u32(0).u64(0), 104).unwrap(), 0);
    }
}

#[test]
fn reboot_without_destroy_frees_everything_the_guest_held() {
    let mut bench = Bench::new().unwrap();
    for number in 0..300 {
        fs::write(bench.host(format!("file-{number}")), "x").unwrap();
    }
    let locked = bench.host("file-7");
    let mut before = None;
    for round in 0..3 {
        bench.guest.init().unwrap();
        bench.is_alive().unwrap();
        let now = bench.footprint().unwrap();
        let settled = before.get_or_insert(now);
        assert!(now.descriptors <= settled.descriptors, "round {round}: {settled:?} became {now:?}");
        let mut held = Vec::new();
        for number in 0..300 {
            let look_up = Frame::new(LOOKUP, ROOT).name(format!("file-{number}"));
            let node = u64_at(&bench.body(look_up, ENTRY_LEN).unwrap(), 0).unwrap();
            let open = Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0);
            let file = (node, u64_at(&bench.body(open, 16).unwrap(), 0).unwrap());
            for lock in [Lock::posix(locks::WRITE, 1, 0, 9), Lock::flock(locks::READ, 2)] {
                bench.body(lock.frame(SETLK, file), 0).unwrap();
            }
            held.push(file);
            bench.body(Frame::new(OPENDIR, ROOT).u32(0).u32(0), 16).unwrap();
        }
        assert!(bench.footprint().unwrap().descriptors > now.descriptors + 300);
        assert_eq!(host_locks(&locked).unwrap().len(), 2);
        bench.guest.init().unwrap();
        assert_eq!(host_locks(&locked).unwrap(), []);
        for (node, handle) in held {
            let asked = Frame::new(GETATTR, node).u32(0).u32(0).u64(0);
            assert_eq!(bench.errno(asked, 104).unwrap(), ESTALE);
            let read = Frame::new(READ, node).u64(handle).u64(0).u32(9).u32(0).u64(0).u32(0).u32(0);
            assert!([ESTALE, EBADF].contains(&bench.errno(read, 16).unwrap()));
        }
    }
}

/// Script of a guest. It creates files, appends to one of them, and prints each completed step. It
/// ends only when the guest is killed.
const WORK: &str = "cd /mnt/share; mkdir $1; i=0; \
    while :; do echo \"content $i\" > $1/new.$i; mv $1/new.$i $1/file.$i; echo \"line $i\" >> $1/lines; \
    echo \"done $i.\"; i=$((i + 1)); done";

/// Returns the number of the last completed step in a guest's output.
fn last_done(output: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(output).into_owned();
    let numbers = text.lines().filter_map(|line| line.strip_prefix("done ")?.strip_suffix('.')?.parse().ok());
    numbers.max()
}

/// Compares the files of a User-mode Linux guest with its output. `done` is the number of the last
/// step that the guest printed.
fn check_work(folder: &Path, done: u64) {
    let mut names: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for number in 0..=done {
        assert!(names.remove(&format!("file.{number}")), "file.{number} was created and does not exist");
        let content = fs::read_to_string(folder.join(format!("file.{number}"))).unwrap();
        assert_eq!(content, format!("content {number}\n"));
    }
    assert!(names.remove("lines"));
    let lines = fs::read_to_string(folder.join("lines")).unwrap();
    let known = lines.lines().count() as u64;
    assert!(known > done, "{known} lines after {done}");
    for (number, line) in lines.lines().enumerate() {
        assert_eq!(line, format!("line {number}"));
    }
    // The guest may have done further steps after the output that the test has read. Only the file
    // of the last step may still have the name `new.*`.
    let later = names.iter().filter(|name| name.starts_with("file.")).count() as u64;
    let new: Vec<&String> = names.iter().filter(|name| name.starts_with("new.")).collect();
    assert_eq!(new.len() as u64 + later, names.len() as u64, "{names:?}");
    assert!(new.len() <= 1, "{new:?}");
}

#[test]
fn finished_operations_of_a_killed_real_guest_survive() {
    let share = SharedFolder::new().unwrap();
    let others = share.serve(&["--tag=share"]).unwrap();
    let mut other = Guest::uml().share(others.socket(), "share").start(&WORK.replace("$1", "other")).unwrap();
    for number in 0..5 {
        let mut daemon = share.serve(&["--tag=share"]).unwrap();
        let name = format!("guest-{number}");
        let mut guest =
            Guest::uml().share(daemon.socket(), "share").start(&WORK.replace("$1", &name)).unwrap();
        guest.wait_for_output(&format!("done {}.", 20 + 7 * number)).unwrap();
        let of_daemon = number % 2 == 1;
        if of_daemon {
            kill(serving_id(daemon.id()));
        }
        guest.kill();
        let done = last_done(&guest.output()).unwrap();
        if of_daemon {
            daemon.wait_at_most(LIMIT).unwrap().expect("the daemon was killed");
        } else {
            // Once the next guest is served, no request of the last guest is in progress.
            Client::connect(daemon.socket(), SETUP).unwrap().0.look_up(&name).unwrap();
        }
        check_work(&share.host(&name), done);
    }
    let before = last_done(&other.output()).unwrap();
    other.wait_for_output(&format!("done {}.", before + 20)).unwrap();
    other.kill();
    let done = last_done(&other.output()).unwrap();
    Client::connect(others.socket(), SETUP).unwrap().0.look_up("other").unwrap();
    check_work(&share.host("other"), done);
}
