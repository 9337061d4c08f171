//! Is each row of the table of host calls needed, and is no other call made?
//!
//! The whole daemon runs under strace with every argument as the kernel gets it, and a guest sends
//! every request. Each row must be seen for each kind of thread that it names, and no thread with a
//! filter may make a call without a row.

mod trace;

use pinhole_protocol::Errno;
use pinhole_tests::daemon::{Daemon, Serving, pinhole_program};
use pinhole_tests::frontend::frame::opcode::{
    FALLOCATE, FLUSH, FSYNC, GETLK, LOOKUP, MKDIR, OPEN_FILE, SETATTR, SETLK, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Frontend, MEMORY_START, OUT_HEADER_LEN};
use pinhole_tests::linux::{EFBIG, EINVAL, ENOSPC, EPERM, O_DIRECT, O_RDWR};
use pinhole_tests::mounted::unmount_when_unused;
use pinhole_tests::program::Program;
use pinhole_tests::surface::{SurfaceGuest, prepare, prepare_image};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::{NamedTempFile, TempDir};
use trace::{Processes, Seen};
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend as _;

const LIMIT: Duration = Duration::from_mins(1);

/// Returns the command of strace with its output file.
fn strace(output: &Path) -> Vec<PathBuf> {
    let command = ["strace", "-f", "-qq", "-Y", "--raw=all", "--signal=none", "-o"];
    command.map(PathBuf::from).into_iter().chain([output.to_owned()]).collect()
}

/// Returns the serving process of a daemon that strace started as `process`: the last in the chain
/// of children.
fn serving(mut process: u32) -> Pid {
    loop {
        let child = pinhole_tests::daemon::serving_id(process);
        if child == process {
            return Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        }
        process = child;
    }
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
        Self::start(Daemon::pinhole(share).unwrap(), folder, arguments)
    }

    fn start(daemon: Daemon, folder: TempDir, arguments: &[&str]) -> Self {
        let daemon = daemon.under(strace(&folder.path().join("trace"))).argument("--keep-listening");
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        let daemon = daemon
            .start()
            .unwrap_or_else(|error| panic!("{error}: strace is missing? run `apt-get install --yes strace`"));
        Self { folder, daemon }
    }

    /// Sends every request that a guest may send.
    fn play(&self) {
        let mut guest = SurfaceGuest::connect(self.daemon.socket()).unwrap();
        guest.play().unwrap();
        guest.play_malformed().unwrap();
    }

    /// Returns the serving process under strace.
    fn process(&self) -> Pid {
        serving(self.daemon.id())
    }

    /// Returns the process that strace has started.
    fn supervisor(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.daemon.serving_id()).unwrap()).unwrap()
    }

    fn ended(self) -> String {
        rustix::process::kill_process(self.supervisor(), Signal::TERM).unwrap();
        self.trace()
    }

    /// Waits until the daemon ends and returns the trace.
    fn trace(mut self) -> String {
        assert!(self.daemon.wait_at_most(LIMIT).unwrap().is_some(), "{}", self.daemon.stderr());
        fs::read_to_string(self.folder.path().join("trace")).unwrap()
    }
}

/// Guest with an open file.
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
        let found = writer.reply_body(&Frame::new(LOOKUP, 1).name("file"), 128);
        writer.node = u64_at(&found, 0).unwrap();
        let opened = writer.reply_body(&Frame::new(OPEN_FILE, writer.node).u32(O_RDWR).u32(0), 16);
        writer.handle = u64_at(&opened, 0).unwrap();
        writer
    }

    fn reply_body(&mut self, frame: &Frame, len: usize) -> Vec<u8> {
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

    /// Returns a lock of the whole file by the owner 1: of its bytes, or as flock(2) takes it.
    fn lock(&self, opcode: u32, kind: u32, flock: u32) -> Frame {
        let frame = Frame::new(opcode, self.node).u64(self.handle).u64(1).u64(0);
        frame.u64(i64::MAX.unsigned_abs()).u32(kind).u32(1).u32(flock).u32(0)
    }

    fn reserve(&self, offset: u64) -> Frame {
        Frame::new(FALLOCATE, self.node).u64(self.handle).u64(offset).u64(4096).u32(0).u32(0)
    }
}

/// Stops all threads for a moment. A wait with a timeout then continues by another call.
fn interrupt(process: Pid) {
    rustix::process::kill_process(process, Signal::STOP).unwrap();
    let status = format!("/proc/{}/status", process.as_raw_pid());
    let began = Instant::now();
    while !fs::read_to_string(&status).unwrap().to_lowercase().contains("state:\tt") {
        assert!(began.elapsed() < LIMIT, "the process does not stop");
        std::thread::yield_now();
    }
    rustix::process::kill_process(process, Signal::CONT).unwrap();
}

/// Exceeds the process's own limit on files, which is above the daemon's.
fn pass_the_limit_on_files(run: &Run, writer: &mut Writer) {
    let limit = |current| Rlimit { current, maximum: None };
    let before =
        rustix::process::prlimit(Some(run.process()), Resource::Fsize, limit(Some(1 << 20))).unwrap();
    for frame in [writer.write(1 << 22), writer.reserve(1 << 22)] {
        assert_eq!(writer.errno(&frame), EFBIG);
    }
    rustix::process::prlimit(Some(run.process()), Resource::Fsize, before).unwrap();
}

/// Writes a policy file. Also returns the option that names it.
fn policy(text: &str) -> (String, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    (format!("--policy={}", file.path().display()), file)
}

/// Sends requests that the load of `cargo xtask surface` lacks: a back channel to the front-end,
/// memory in a plain file, a write past the host's page cache, the truncation of a large file, and
/// a directory for a caller with more than one group.
fn send_rare_requests(writer: &mut Writer) {
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
    let handle = u64_at(&writer.reply_body(&direct, 16), 0).unwrap();
    let write = Frame::new(WRITE, writer.node).u64(handle).u64(0).u32(4096).u32(0);
    let write = write.u64(0).u32(O_RDWR | O_DIRECT).u32(0).bytes(&[1; 4096]);
    // The payload comes directly after the header, so it is not aligned to a block.
    assert_eq!(writer.errno(&write), EINVAL);
    let reserve = Frame::new(FALLOCATE, writer.node).u64(writer.handle).u64(0).u64(40 << 20).u32(0).u32(0);
    writer.reply_body(&reserve, 0);
    // The thread gives up the right to keep set-user-id for a user, but not for root.
    writer.reply_body(&reserve.caller(1000, 1000), 0);
    // FATTR_SIZE and FATTR_MTIME of `fuse_setattr_in`, without a file handle: the pool truncates
    // large files.
    let cut = Frame::new(SETATTR, writer.node).u32(8 | 32).u32(0).u64(0).u64(4096).u64(0).u64(0).u64(0);
    writer.reply_body(&cut.u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0), 104);
    let mkdir = Frame::new(MKDIR, 1).u32(0o755).u32(0).name("of-two-groups");
    writer.reply_body(&mkdir.groups(&[1000, 1001]).caller(1000, 1000), 128);
}

/// Runs a daemon with all of its options, one after another.
#[test]
fn every_allowed_call_is_used_and_no_other() {
    let mut seen = Seen::default();
    let all = ["--profile=full", "--xattr", "--posix-acl", "--allow-direct-io", "--preserve-noatime"];
    let run = Run::new(&all);
    run.play();
    let mut writer = Writer::new(run.daemon.socket());
    writer.reply_body(&writer.fsync(), 0);
    interrupt(run.process());
    send_rare_requests(&mut writer);
    pass_the_limit_on_files(&run, &mut writer);
    drop(writer);
    seen.read(&run.ended(), Processes::Two);

    let (flags, _file) = policy("profile = \"full\"\nallow = [\"ioctl-inode-flags\"]\n");
    let run = Run::new(&[&all[1..], &["--thread-pool-size=0", "--sandbox=none", &flags]].concat());
    run.play();
    seen.read(&run.ended(), Processes::Two);

    let (slow, _file) = policy("[limits]\noperations-per-second = 20\n");
    let run = Run::new(&[&slow]);
    let mut writer = Writer::new(run.daemon.socket());
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| (0..60).for_each(|_| drop(writer.reply_body(&writer.fsync(), 0))));
        while !asking.is_finished() {
            interrupt(run.process());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    drop(writer);
    seen.read(&run.ended(), Processes::Two);

    seen.read(&logged(), Processes::Two);
    supervised(&mut seen);
    on_other_file_systems(&mut seen);
    mounted_slowly(&mut seen);
    of_an_image(&mut seen);
    assert_eq!(seen.strange, BTreeSet::new(), "calls without a row");
    assert_eq!(seen.missing(), Vec::<String>::new(), "rows without a call");
}

/// Ends a daemon in unusual ways: at once, because of two signals, and by a crash, which the
/// supervisor reports in its log. The log is a file or a socket.
fn supervised(seen: &mut Seen) {
    let run = Run::new(&[]);
    rustix::process::kill_process(run.process(), Signal::STOP).unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        rustix::process::kill_process(run.supervisor(), signal).unwrap();
    }
    seen.read(&run.trace(), Processes::Supervisor);

    let run = Run::new(&[]);
    rustix::process::kill_process(run.process(), Signal::KILL).unwrap();
    seen.read(&run.trace(), Processes::Supervisor);

    let (mut daemon, log, folder) = with_a_socket_as_log(&[]);
    rustix::process::kill_process(serving(daemon.id()), Signal::KILL).unwrap();
    assert_eq!(log.filter(|line| line.contains("was ended by SIGKILL")).count(), 1);
    daemon.wait().unwrap();
    seen.read(&fs::read_to_string(folder.path().join("trace")).unwrap(), Processes::Supervisor);
}

/// Refused requests go to the log, from a queue thread and from the pool. The log is a socket, as
/// under systemd.
fn logged() -> String {
    let (rules, _file) =
        policy("[[path]]\nmatch = \"/file\"\naccess = [\"lookup\", \"stat\", \"read\", \"write\"]\n");
    let (mut daemon, log, folder) = with_a_socket_as_log(&["--log-level=debug", &rules]);
    let mut writer = Writer::new(&folder.path().join("socket"));
    assert_eq!(writer.errno(&writer.fsync()), EPERM);
    assert_eq!(writer.errno(&Frame::new(UNLINK, 1).name("file")), EPERM);
    drop(writer);
    assert_eq!(log.filter(|line| line.contains("denied")).count(), 2);
    assert!(daemon.wait().unwrap().success());
    fs::read_to_string(folder.path().join("trace")).unwrap()
}

/// Starts a daemon and returns it when it is ready, with the later lines of its log, and the folder
/// of its socket and its trace.
fn with_a_socket_as_log(arguments: &[&str]) -> (Child, impl Iterator<Item = String> + use<>, TempDir) {
    let folder = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("share")).unwrap();
    prepare(&path("share")).unwrap();
    let (log, standard_error) = UnixStream::pair().unwrap();
    let [strace, options @ ..] = &strace(&path("trace"))[..] else { panic!("no strace") };
    let mut command = Command::new(strace);
    command.args(options).arg(pinhole_program().unwrap()).args(arguments);
    command.arg("--shared-dir").arg(path("share")).arg("--socket-path").arg(path("socket"));
    let daemon = command.stderr(OwnedFd::from(standard_error)).spawn().unwrap();
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Waiting for vhost-user socket connection")));
    (daemon, lines, folder)
}

/// Uses file systems whose `close` may write data back, whose locks are on a server, or whose
/// `fsync` may not make a name durable. The daemon serves an overlay on its pool and on its queue
/// threads, and a file system of a server (here `pinhole mount`) on its pool.
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
        [&[][..], &["--thread-pool-size=0"]].map(|arguments| {
            let run = Run::over(&merged, tempfile::tempdir().unwrap(), arguments);
            let mut writer = Writer::new(run.daemon.socket());
            writer.reply_body(&writer.flush(), 0);
            writer.reply_body(&writer.fsync(), 0);
            drop(writer);
            run.ended()
        })
    });
    rustix::mount::unmount(&merged, UnmountFlags::DETACH).unwrap();
    for trace in traced.unwrap() {
        seen.read(&trace, Processes::Two);
    }
    in_memory(seen);
    mounted(seen);
}

/// Uses a tmpfs: there the pool checks the free space before a long reservation.
fn in_memory(seen: &mut Seen) {
    let share = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir_in("/dev/shm").unwrap();
    prepare(share.path()).unwrap();
    let run = Run::over(share.path(), tempfile::tempdir().unwrap(), &[]);
    let mut writer = Writer::new(run.daemon.socket());
    let reserve =
        |len: u64| Frame::new(FALLOCATE, writer.node).u64(writer.handle).u64(0).u64(len).u32(0).u32(0);
    let (long, longer_than_memory) = (reserve(70 << 20), reserve(1 << 60));
    writer.reply_body(&long, 0);
    assert_eq!(writer.errno(&longer_than_memory), ENOSPC);
    drop(writer);
    let size = fs::metadata(share.path().join("file")).unwrap().len();
    assert_eq!(size, 70 << 20, "an impossible reservation allocates no block");
    seen.read(&run.ended(), Processes::Two);
}

/// Holds the flock of a file until another process waits for it and the daemon has tried it again.
/// Then releases it.
fn wait_for_a_lock(path: &Path, trace: &Path) {
    let open = || fs::File::options().read(true).write(true).open(path).unwrap();
    let (holder, waiter) = (open(), open());
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| flock(&waiter, FlockOperation::LockExclusive).unwrap());
        let began = Instant::now();
        let is_tried = |trace: &str| trace.lines().any(|line| line.contains("<answers> flock("));
        while !is_tried(&fs::read_to_string(trace).unwrap()) {
            assert!(!waiting.is_finished() && began.elapsed() < LIMIT, "the lock was not tried again");
            std::thread::yield_now();
        }
        flock(&holder, FlockOperation::Unlock).unwrap();
    });
}

/// Runs `pinhole mount`, and a daemon whose share is that mount.
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
    writer.reply_body(&writer.lock(GETLK, 1, 0), 24);
    for flock in [0, 1] {
        writer.reply_body(&writer.lock(SETLK, 1, flock), 0);
    }
    writer.reply_body(&writer.flush(), 0);
    drop(writer);
    seen.read(&run.ended(), Processes::Two);
    unmount_when_unused(&path("mnt")).unwrap();
    assert!(program.wait(LIMIT).unwrap().is_some(), "{}", program.stderr());
    seen.read(&fs::read_to_string(path("trace")).unwrap(), Processes::One);
}

/// Runs `pinhole mount` under a speed limit, interrupts it, and lets it refuse a request. The log
/// is a socket.
fn mounted_slowly(seen: &mut Seen) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["host", "mnt"] {
        fs::create_dir(path(name)).unwrap();
    }
    let (slow, _file) = policy("deny = [\"mkdir\"]\n[limits]\noperations-per-second = 20\n");
    let (log, standard_error) = UnixStream::pair().unwrap();
    let [strace, options @ ..] = &strace(&path("trace"))[..] else { panic!("no strace") };
    let mut command = Command::new(strace);
    command.args(options).arg(pinhole_program().unwrap()).args(["mount", "--log-level=debug", &slow]);
    command.arg(path("host")).arg(path("mnt"));
    let mut mount = command.stderr(OwnedFd::from(standard_error)).spawn().unwrap();
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Mounted ")));
    let process = serving(mount.id());
    std::thread::scope(|scope| {
        let name = |number: usize| path("mnt").join(number.to_string());
        let asking = scope.spawn(move || (0..60).filter(|number| name(*number).exists()).count());
        while !asking.is_finished() {
            interrupt(process);
            std::thread::park_timeout(Duration::from_millis(50));
        }
        assert_eq!(asking.join().unwrap(), 0);
    });
    assert!(fs::create_dir(path("mnt/folder")).is_err());
    assert!(lines.any(|line| line.contains("denied")));
    unmount_when_unused(&path("mnt")).unwrap();
    assert!(mount.wait().unwrap().success());
    seen.read(&fs::read_to_string(path("trace")).unwrap(), Processes::One);
}

/// Serves an image of the files of the load: with a pool, without one, and as a mount of this host.
fn of_an_image(seen: &mut Seen) {
    let folder = tempfile::Builder::new().prefix("pinhole-host-calls-").tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["share", "mnt"] {
        fs::create_dir(path(name)).unwrap();
    }
    prepare(&path("share")).unwrap();
    let image = prepare_image(&pinhole_program().unwrap(), &path("share")).unwrap();
    for arguments in [&[][..], &["--thread-pool-size=0"]] {
        let run = Run::start(Daemon::of_image(&image).unwrap(), tempfile::tempdir().unwrap(), arguments);
        run.play();
        seen.read(&run.ended(), Processes::Two);
    }
    let [strace, options @ ..] = &strace(&path("trace"))[..] else { panic!("no strace") };
    let mut command = Command::new(strace);
    command.args(options).arg(pinhole_program().unwrap()).args(["mount", "--prepared"]);
    let mut program = Program::start(command.arg(&image).arg(path("mnt"))).unwrap();
    program.wait_for("Mounted ").unwrap();
    assert_eq!(fs::read(path("mnt/other")).unwrap(), fs::read(path("share/other")).unwrap());
    assert!(fs::create_dir(path("mnt/folder")).is_err());
    unmount_when_unused(&path("mnt")).unwrap();
    assert!(program.wait(LIMIT).unwrap().is_some(), "{}", program.stderr());
    seen.read(&fs::read_to_string(path("trace")).unwrap(), Processes::One);
}
