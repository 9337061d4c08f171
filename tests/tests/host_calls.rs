//! Is the table of host calls as small as the daemon's work? The whole daemon runs under strace with every argument as
//! the kernel gets it, with all that a guest may send; each row of the table has to be seen for each kind of thread it
//! is there for, and no thread under a filter may be seen with a call that no row is there for.
#![cfg(test)]

use pinhole_policy::host_calls::{ANSWERED, Condition, Row, Test, Threads, Width, every_row};
use pinhole_protocol::Errno;
use pinhole_tests::daemon::{Daemon, Serving, pinhole_program};
use pinhole_tests::frontend::frame::opcode::{
    FALLOCATE, FLUSH, FSYNC, GETLK, LOOKUP, MKDIR, OPEN_FILE, SETATTR, SETLK, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Frontend, MEMORY_START, OUT_HEADER_LEN};
use pinhole_tests::program::Program;
use pinhole_tests::surface::{Guest, prepare};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::{NamedTempFile, TempDir};
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend as _;

const LIMIT: Duration = Duration::from_mins(1);
const O_RDWR: u32 = 2;
const O_DIRECT: u32 = 0o40000;
const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const KINDS: [Threads; 3] = [Threads::CONTROL, Threads::WORKER, Threads::OFFLOAD];

/// What the C library does by itself, on whichever thread it happens to be when the heap grows or shrinks or another
/// thread is in the allocator: one kind of thread that is seen with it is enough.
const ALLOCATOR: [&str; 4] = ["brk", "mmap", "munmap", "futex"];

/// Rows that no test can bring about at will, by call and purpose.
const UNSEEN: [(&str, &str, &str); 5] = [
    ("clock_gettime", "the time", "where the kernel maps the clock nobody asks for it"),
    ("brk", "memory", "the first heap rarely grows in a short run"),
    ("futex", "wait for another thread", "the allocator's lock: only where two threads are in it"),
    ("madvise", "the guard", "this C library is older"),
    (
        "restart_syscall",
        "continue a timed wait",
        "these wait for a time only where the host has no thread left",
    ),
];

/// A call as the kernel got it.
struct Call<'t> {
    thread: u32,
    thread_name: &'t str,
    name: &'t str,
    arguments: Vec<u64>,
}

impl Call<'_> {
    fn sets_filter(&self) -> bool {
        self.name == "seccomp" && self.arguments.first() == Some(&1)
    }

    /// The kind of its thread.
    fn kind(&self) -> Threads {
        match self.thread_name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-') {
            "hiprio" | "request" | "pinhole-fuse" => Threads::WORKER,
            "pool" | "reaper" | "answers" => Threads::OFFLOAD,
            _ => Threads::CONTROL,
        }
    }
}

/// `17<request-1> statx(0x5, 0x7f12, 0x1100) = 0`; ends of calls that were begun elsewhere say nothing new.
fn parse(line: &str) -> Option<Call<'_>> {
    let (thread, rest) = line.split_once('<')?;
    let (thread_name, rest) = rest.split_once("> ")?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let arguments = rest.split([')', '<']).next()?;
    let number = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let thread = thread.trim().parse().ok()?;
    let arguments = arguments.split(',').filter_map(number).collect();
    (!name.is_empty() && name.chars().all(plain)).then_some(Call { thread, thread_name, name, arguments })
}

fn holds(condition: &Condition, arguments: &[u64]) -> bool {
    let Some(argument) = arguments.get(usize::from(condition.argument)) else { return false };
    let (argument, width) = match condition.width {
        Width::Bits32 => (argument & 0xffff_ffff, 0xffff_ffff),
        Width::Bits64 => (*argument, u64::MAX),
    };
    match condition.test {
        Test::Is(value) => argument == value & width,
        Test::Not(value) => argument != value & width,
        Test::Bits { mask, value } => argument & mask == value,
        Test::AtMost(value) => argument <= value,
    }
}

/// What was seen of the table, by the place of a row in it.
#[derive(Default)]
struct Seen {
    rows: BTreeSet<(usize, u8)>,
    /// Calls of threads under a filter that no row is there for.
    strange: BTreeSet<String>,
}

impl Seen {
    /// `alone`: threads that serve have their own filter and the others none.
    fn read(&mut self, trace: &str, alone: bool) {
        let calls: Vec<_> = trace.lines().filter_map(parse).collect();
        // A thread may install several; the last one is its own.
        let filters = calls.iter().enumerate().filter(|(_, call)| call.sets_filter());
        let last: BTreeMap<u32, usize> = filters.map(|(at, call)| (call.thread, at)).collect();
        let mut kinds: BTreeMap<u32, Option<Threads>> = BTreeMap::new();
        // Threads that are started by one under the first filter are under it too.
        let mut started = None;
        let mut ended = false;
        for (at, call) in calls.iter().enumerate() {
            let kind = kinds.entry(call.thread).or_insert(started);
            // While the main thread ends the process, strace may show another that is ended by it with the same call.
            let again = ended && call.name == "exit_group";
            ended |= call.name == "exit_group" && call.kind() == Threads::CONTROL;
            if let Some(kind) = *kind
                && !again
            {
                self.count(call, kind);
            }
            if last.get(&call.thread) == Some(&at) {
                *kind = Some(call.kind());
                if !alone && *kind == Some(Threads::CONTROL) {
                    started = *kind;
                }
            }
        }
        assert!(!kinds.is_empty(), "strace has seen nothing");
    }

    fn count(&mut self, call: &Call<'_>, kind: Threads) {
        let made = |row: &Row| {
            row.call == call.name
                && row.threads.intersects(kind)
                && row.when.iter().all(|condition| holds(condition, &call.arguments))
        };
        let rows = every_row().enumerate().filter(|(_, row)| made(row));
        let rows: Vec<_> = rows.map(|(at, _)| (at, kind.bits())).collect();
        let known = !rows.is_empty();
        self.rows.extend(rows);
        if !known && !ANSWERED.iter().any(|row| row.call == call.name) {
            self.strange.insert(format!("{} {}{:x?}", call.thread_name, call.name, call.arguments));
        }
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (at, row) in every_row().enumerate() {
            let seen = |kind: &Threads| self.rows.contains(&(at, kind.bits()));
            let kinds = KINDS.iter().filter(|kind| row.threads.intersects(**kind));
            let unseen: Vec<_> = kinds.filter(|kind| !seen(kind)).filter_map(|kind| kind.name()).collect();
            let enough = ALLOCATOR.contains(&row.call) && KINDS.iter().any(seen);
            let by_chance = UNSEEN.iter().any(|(call, why, _)| *call == row.call && row.why.starts_with(why));
            if !unseen.is_empty() && !enough && !by_chance {
                missing.push(format!("{} ({}): {unseen:?}", row.call, row.why));
            }
        }
        missing
    }
}

/// strace and where it writes.
fn strace(output: &Path) -> Vec<PathBuf> {
    let command = ["strace", "-f", "-qq", "-Y", "--raw=all", "--signal=none", "-o"];
    command.map(PathBuf::from).into_iter().chain([output.to_owned()]).collect()
}

struct Run {
    folder: TempDir,
    daemon: Serving,
}

impl Run {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir().unwrap();
        let share = folder.path().join("share");
        fs::create_dir(&share).unwrap();
        prepare(&share).unwrap();
        Self::over(&share, folder, arguments)
    }

    fn over(share: &Path, folder: TempDir, arguments: &[&str]) -> Self {
        let daemon = Daemon::pinhole(share).unwrap();
        let daemon = daemon.under(strace(&folder.path().join("trace"))).argument("--keep-listening");
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        let daemon = daemon
            .start()
            .unwrap_or_else(|error| panic!("{error}: strace is missing? run `apt-get install --yes strace`"));
        Self { folder, daemon }
    }

    /// Everything that a guest may send.
    fn play(&self) {
        let mut guest = Guest::connect(self.daemon.socket()).unwrap();
        guest.play().unwrap();
        guest.play_malformed().unwrap();
    }

    /// The process under strace that serves.
    fn process(&self) -> Pid {
        let mut process = self.daemon.serving_id();
        // Inside a sandbox it is the child of the one that strace has started.
        loop {
            let child = pinhole_tests::daemon::serving_id(process);
            if child == process {
                break;
            }
            process = child;
        }
        Pid::from_raw(i32::try_from(process).unwrap()).unwrap()
    }

    fn ended(mut self) -> String {
        rustix::process::kill_process(self.process(), Signal::TERM).unwrap();
        assert!(self.daemon.wait_at_most(LIMIT).unwrap().is_some(), "{}", self.daemon.stderr());
        fs::read_to_string(self.folder.path().join("trace")).unwrap()
    }
}

/// A guest that holds an open file.
struct Writer {
    frontend: Frontend,
    node: u64,
    handle: u64,
}

impl Writer {
    fn new(socket: &Path) -> Self {
        let mut frontend = Frontend::connect(socket).unwrap();
        frontend.init().unwrap();
        let mut writer = Self { frontend, node: 1, handle: 0 };
        let found = writer.ask(&Frame::new(LOOKUP, 1).name("file"), 128);
        writer.node = u64_at(&found, 0).unwrap();
        let opened = writer.ask(&Frame::new(OPEN_FILE, writer.node).u32(O_RDWR).u32(0), 16);
        writer.handle = u64_at(&opened, 0).unwrap();
        writer
    }

    fn ask(&mut self, frame: &Frame, len: usize) -> Vec<u8> {
        let reply = self.frontend.raw(1, &frame.clone().message(), OUT_HEADER_LEN + len).unwrap();
        reply.success().unwrap().to_vec()
    }

    fn errno(&mut self, frame: &Frame) -> i32 {
        let reply = self.frontend.raw(1, &frame.clone().message(), OUT_HEADER_LEN + 8).unwrap();
        reply.error().unwrap().map_or(0, Errno::raw)
    }

    fn write(&self, offset: u64) -> Frame {
        let write = Frame::new(WRITE, self.node).u64(self.handle).u64(offset).u32(4).u32(0);
        write.u64(0).u32(O_RDWR).u32(0).bytes(b"data")
    }

    fn fsync(&self) -> Frame {
        Frame::new(FSYNC, self.node).u64(self.handle).u32(0).u32(0)
    }

    fn flush(&self) -> Frame {
        Frame::new(FLUSH, self.node).u64(self.handle).u32(0).u32(0).u64(0)
    }

    /// A lock of the whole file by the owner 1: of its bytes, or as flock(2) takes it.
    fn lock(&self, opcode: u32, kind: u32, flock: u32) -> Frame {
        let frame = Frame::new(opcode, self.node).u64(self.handle).u64(1).u64(0);
        frame.u64(i64::MAX.unsigned_abs()).u32(kind).u32(1).u32(flock).u32(0)
    }

    fn reserve(&self, offset: u64) -> Frame {
        Frame::new(FALLOCATE, self.node).u64(self.handle).u64(offset).u64(4096).u32(0).u32(0)
    }
}

/// Stops all threads for a moment: what waits for a time goes on by a call of its own.
fn interrupt(run: &Run) {
    rustix::process::kill_process(run.process(), Signal::STOP).unwrap();
    let status = format!("/proc/{}/status", run.process().as_raw_pid());
    let began = Instant::now();
    while !fs::read_to_string(&status).unwrap().to_lowercase().contains("state:\tt") {
        assert!(began.elapsed() < LIMIT, "it does not stop");
        std::thread::yield_now();
    }
    rustix::process::kill_process(run.process(), Signal::CONT).unwrap();
}

/// Past the process's own limit on files, which stands behind the daemon's.
fn pass_the_limit_on_files(run: &Run, writer: &mut Writer) {
    let limit = |current| Rlimit { current, maximum: None };
    let before =
        rustix::process::prlimit(Some(run.process()), Resource::Fsize, limit(Some(1 << 20))).unwrap();
    for frame in [writer.write(1 << 22), writer.reserve(1 << 22)] {
        assert_eq!(writer.errno(&frame), EFBIG);
    }
    rustix::process::prlimit(Some(run.process()), Resource::Fsize, before).unwrap();
}

/// A policy file, and the option that names it.
fn policy(text: &str) -> (String, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    (format!("--policy={}", file.path().display()), file)
}

/// What the load of the surface leaves out: a channel back to the front-end, memory that is in a plain file, a write past the host's page cache, the truncation of a
/// large file, and a directory for a caller with more than one group.
fn do_the_rest(writer: &mut Writer) {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    writer.frontend.connection().set_backend_request_fd(&theirs).unwrap();
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(4096).unwrap();
    let (start, own) = (1 << 40, writer.frontend.region(MEMORY_START, 4096));
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: start,
        userspace_addr: start,
        mmap_offset: 0,
        mmap_handle: plain.as_raw_fd(),
        ..own
    };
    writer.frontend.connection().add_mem_region(&region).unwrap();
    let direct = Frame::new(OPEN_FILE, writer.node).u32(O_RDWR | O_DIRECT).u32(0);
    let handle = u64_at(&writer.ask(&direct, 16), 0).unwrap();
    let write = Frame::new(WRITE, writer.node).u64(handle).u64(0).u32(4096).u32(0);
    let write = write.u64(0).u32(O_RDWR | O_DIRECT).u32(0).bytes(&[1; 4096]);
    // Behind its header the payload is on no border of a block.
    assert_eq!(writer.errno(&write), EINVAL);
    let reserve = Frame::new(FALLOCATE, writer.node).u64(writer.handle).u64(0).u64(40 << 20).u32(0).u32(0);
    writer.ask(&reserve, 0);
    // The thread gives up the right to keep set-user-id for a user, not for root.
    writer.ask(&reserve.caller(1000, 1000), 0);
    // FATTR_SIZE and FATTR_MTIME of `fuse_setattr_in`, without the handle: the pool cuts what is large.
    let cut = Frame::new(SETATTR, writer.node).u32(8 | 32).u32(0).u64(0).u64(4096).u64(0).u64(0).u64(0);
    writer.ask(&cut.u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0), 104);
    let mkdir = Frame::new(MKDIR, 1).u32(0o755).u32(0).name("of-two-groups");
    writer.ask(&mkdir.groups(&[1000, 1001]).caller(1000, 1000), 128);
}

/// All that a daemon does, with all of its options, one of them after the other.
#[test]
fn each_row_is_needed_and_nothing_else_is() {
    let mut seen = Seen::default();
    let all = ["--profile=full", "--xattr", "--posix-acl", "--allow-direct-io", "--preserve-noatime"];
    let run = Run::new(&all);
    run.play();
    let mut writer = Writer::new(run.daemon.socket());
    writer.ask(&writer.fsync(), 0);
    interrupt(&run);
    do_the_rest(&mut writer);
    pass_the_limit_on_files(&run, &mut writer);
    drop(writer);
    seen.read(&run.ended(), false);

    let (flags, _file) = policy("profile = \"full\"\nallow = [\"ioctl-inode-flags\"]\n");
    let run = Run::new(&[&all[1..], &["--thread-pool-size=0", "--sandbox=none", &flags]].concat());
    run.play();
    seen.read(&run.ended(), false);

    let (slow, _file) = policy("[limits]\noperations-per-second = 20\n");
    let run = Run::new(&[&slow]);
    let mut writer = Writer::new(run.daemon.socket());
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| (0..60).for_each(|_| drop(writer.ask(&writer.fsync(), 0))));
        while !asking.is_finished() {
            interrupt(&run);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    drop(writer);
    seen.read(&run.ended(), false);

    seen.read(&logged(), false);
    on_other_file_systems(&mut seen);
    assert_eq!(seen.strange, BTreeSet::new(), "calls that no row is there for");
    assert_eq!(seen.missing(), Vec::<String>::new(), "rows that nothing needs");
}

/// What is refused goes to the log, by a worker and by the pool; the log is a socket, as under systemd.
fn logged() -> String {
    let folder = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("share")).unwrap();
    prepare(&path("share")).unwrap();
    let (rules, _file) =
        policy("[[path]]\nmatch = \"/file\"\naccess = [\"lookup\", \"stat\", \"read\", \"write\"]\n");
    let (log, standard_error) = UnixStream::pair().unwrap();
    let [strace, options @ ..] = &strace(&path("trace"))[..] else { panic!("no strace") };
    let mut command = Command::new(strace);
    command.args(options).arg(pinhole_program().unwrap()).args(["--log-level=debug", &rules]);
    command.arg("--shared-dir").arg(path("share")).arg("--socket-path").arg(path("socket"));
    let mut daemon = command.stderr(OwnedFd::from(standard_error)).spawn().unwrap();
    drop(command);
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Waiting for vhost-user socket connection")));
    let mut writer = Writer::new(&path("socket"));
    assert_eq!(writer.errno(&writer.fsync()), EPERM);
    assert_eq!(writer.errno(&Frame::new(UNLINK, 1).name("file")), EPERM);
    drop(writer);
    assert_eq!(lines.filter(|line| line.contains("denied")).count(), 2);
    assert!(daemon.wait().unwrap().success());
    fs::read_to_string(path("trace")).unwrap()
}

/// Whose `close` may write back, and whose locks a server has: an overlay's on a worker, a server's, which `pinhole mount` is,
/// on the pool. And whose `fsync` may leave out a name.
fn on_other_file_systems(seen: &mut Seen) {
    let folder = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    prepare(&path("lower")).unwrap();
    let layers = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", folder.path().display());
    let mount =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(path("merged")).status();
    assert!(mount.unwrap().success(), "an overlay needs root: run `sudo -E cargo xtask test`");
    let merged = path("merged");
    let traced = std::panic::catch_unwind(|| {
        let work = tempfile::tempdir().unwrap();
        let run = Run::over(&merged, work, &[]);
        let mut writer = Writer::new(run.daemon.socket());
        writer.ask(&writer.flush(), 0);
        writer.ask(&writer.fsync(), 0);
        drop(writer);
        run.ended()
    });
    rustix::mount::unmount(&merged, UnmountFlags::DETACH).unwrap();
    seen.read(&traced.unwrap(), false);
    in_memory(seen);
    mounted(seen);
}

/// Where memory is what there is to reserve, the pool looks how much is free before it begins with a long reservation.
fn in_memory(seen: &mut Seen) {
    let share = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir_in("/dev/shm").unwrap();
    prepare(share.path()).unwrap();
    let run = Run::over(share.path(), tempfile::tempdir().unwrap(), &[]);
    let mut writer = Writer::new(run.daemon.socket());
    let reserve =
        |len: u64| Frame::new(FALLOCATE, writer.node).u64(writer.handle).u64(0).u64(len).u32(0).u32(0);
    let (long, longer_than_memory) = (reserve(70 << 20), reserve(1 << 60));
    writer.ask(&long, 0);
    assert_eq!(writer.errno(&longer_than_memory), ENOSPC);
    drop(writer);
    let size = fs::metadata(share.path().join("file")).unwrap().len();
    assert_eq!(size, 70 << 20, "of what cannot succeed nothing is done");
    seen.read(&run.ended(), false);
}

/// One takes the lock of a file that another waits for, until it is given back.
fn wait_for_a_lock(path: &Path, trace: &Path) {
    let open = || fs::File::options().read(true).write(true).open(path).unwrap();
    let (holder, waiter) = (open(), open());
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| flock(&waiter, FlockOperation::LockExclusive).unwrap());
        let began = Instant::now();
        let is_tried = |trace: &str| trace.lines().any(|line| line.contains("<answers> flock("));
        while !is_tried(&fs::read_to_string(trace).unwrap()) {
            assert!(!waiting.is_finished() && began.elapsed() < LIMIT, "nobody has tried it again");
            std::thread::yield_now();
        }
        flock(&holder, FlockOperation::Unlock).unwrap();
    });
}

/// `pinhole mount`, and a daemon whose share is what it has mounted.
fn mounted(seen: &mut Seen) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["host", "mnt"] {
        fs::create_dir(path(name)).unwrap();
    }
    let [strace, options @ ..] = &strace(&path("trace"))[..] else { panic!("no strace") };
    let mut command = Command::new(strace);
    command.args(options).arg(pinhole_program().unwrap()).arg("mount");
    let mut program = Program::start(command.arg(path("host")).arg(path("mnt"))).unwrap();
    program.wait_for("Mounted ").unwrap();
    fs::create_dir(path("mnt/folder")).unwrap();
    fs::write(path("mnt/file"), "content").unwrap();
    fs::rename(path("mnt/file"), path("mnt/folder/file")).unwrap();
    wait_for_a_lock(&path("mnt/folder/file"), &path("trace"));
    let run = Run::over(&path("mnt/folder"), tempfile::tempdir().unwrap(), &[]);
    let mut writer = Writer::new(run.daemon.socket());
    writer.ask(&writer.lock(GETLK, 1, 0), 24);
    for flock in [0, 1] {
        writer.ask(&writer.lock(SETLK, 1, flock), 0);
    }
    writer.ask(&writer.flush(), 0);
    drop(writer);
    seen.read(&run.ended(), false);
    rustix::mount::unmount(path("mnt"), UnmountFlags::empty()).unwrap();
    assert!(program.wait(LIMIT).unwrap().is_some(), "{}", program.stderr());
    seen.read(&fs::read_to_string(path("trace")).unwrap(), true);
}
