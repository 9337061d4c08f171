//! Does each sync call of a program become exactly one sync call of the daemon on the host?
//!
//! The programs work on a mount by `pinhole mount`. strace records the sync calls of this daemon.

use pinhole_tests::linux::{O_DSYNC, O_SYNC};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_protocol::client::decode_entry;
use pinhole_protocol::{Lookup, Name, NodeId, OpenDir, OpenFlags, Operation, SyncFs};
use pinhole_tests::child::wait_for_exit;
use pinhole_tests::daemon::{Daemon, pinhole_program};
use pinhole_tests::disk_faults::fetched_program;
use pinhole_tests::frontend::Frontend;
use tempfile::TempDir;

/// Time limit for `pinhole mount` or strace to be ready.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);
/// Arguments for each cache mode.
const CACHE_MODES: [&[&str]; 8] = [
    &["--cache", "strict"],
    &["--cache", "never"],
    &["--cache", "never", "--allow-mmap"],
    &["--cache", "metadata"],
    &["--cache", "auto"],
    &["--cache", "exclusive"],
    &["--cache", "always"],
    &["--cache", "auto", "--writeback"],
];

/// Mounted share whose daemon runs under strace. `drop` unmounts it.
struct Traced {
    strace: Child,
    work: TempDir,
    /// Length in bytes of the part of the trace that earlier calls have read.
    seen: std::cell::Cell<usize>,
}

impl Traced {
    fn new(arguments: &[&str]) -> Self {
        Self::with_strace(&[], arguments)
    }

    /// Starts the daemon under strace with further `options` of strace.
    fn with_strace(options: &[&str], arguments: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "mounting needs root: run `sudo -E cargo xtask test`");
        assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: run `modprobe fuse`");
        let work = tempfile::Builder::new().prefix("pinhole-durability-").tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        fs::create_dir(path("share")).unwrap();
        fs::create_dir(path("mnt")).unwrap();
        fs::write(path("share/file"), [1; 8192]).unwrap();
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none"]);
        command.args(["-e", "trace=fsync,fdatasync,syncfs,sync,pwritev2,sync_file_range,msync"]);
        command
            .args(options)
            .arg("-o")
            .arg(path("trace"))
            .arg(pinhole_program().unwrap())
            .arg("mount")
            .args(arguments);
        if options.iter().any(|option| option.starts_with("inject=")) {
            // To make a call fail, strace replaces it by another one, which the daemon's filter
            // forbids.
            command.args(["--seccomp", "none"]);
        }
        command.arg(path("share")).arg(path("mnt"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let strace = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start strace ({error}): run `apt-get install --yes strace`")
        });
        let traced = Self { strace, work, seen: std::cell::Cell::new(0) };
        let began = Instant::now();
        while !traced.read("log").contains("Mounted ") {
            let ended = wait_for_exit(&traced.strace, Some(Duration::from_millis(20))).unwrap();
            assert!(!ended && began.elapsed() < MOUNT_LIMIT, "no mount: {}", traced.read("log"));
        }
        traced
    }

    /// Returns the text of the trace or of the daemon's log.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work.path().join(name)).unwrap_or_default()
    }

    /// Returns a path in the mount.
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join("mnt").join(name)
    }

    /// Returns the daemon's syncs on the host since this function was last called. Each is the name
    /// of a system call, or the flag of a `pwritev2`.
    ///
    /// strace stops the daemon at each call and writes a line before the call continues. So the
    /// trace has the calls of every request that was answered.
    fn syncs(&self) -> Vec<String> {
        let trace = self.read("trace");
        let new = trace.get(self.seen.get()..).unwrap_or_default();
        self.seen.set(trace.len());
        new.lines().filter_map(sync_of).collect()
    }

    /// Returns the daemon's syncs on the host while `what` runs.
    fn syncs_during(&self, what: impl FnOnce()) -> Vec<String> {
        self.syncs();
        what();
        self.syncs()
    }
}

/// Returns the sync in a line of the trace. If strace splits a call into two lines, the second line
/// counts.
fn sync_of(line: &str) -> Option<String> {
    if line.ends_with("<unfinished ...>") {
        return None;
    }
    let call = line.split_once(' ')?.1.trim_start();
    let call = call.strip_prefix("<... ").unwrap_or(call);
    let name = call.split(['(', ' ']).next()?;
    match name {
        "pwritev2" => {
            ["RWF_DSYNC", "RWF_SYNC"].into_iter().find(|flag| call.contains(flag)).map(str::to_owned)
        }
        _ => Some(name.to_owned()),
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.work.path().join("mnt")).output());
        if !wait_for_exit(&self.strace, Some(Duration::from_secs(5))).unwrap_or(false) {
            drop(self.strace.kill());
        }
        drop(self.strace.wait());
    }
}

/// Opens a file for reading and writing, with further `flags` of open(2).
fn open_with_flags(path: &Path, flags: i32) -> File {
    fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// Returns whether data bypasses the guest's page cache in this mode.
fn is_uncached(mode: &[&str]) -> bool {
    ["strict", "never", "metadata"].iter().any(|uncached| mode.contains(uncached))
}

#[test]
fn synchronous_write_is_one_sync_in_every_cache_mode() {
    for mode in CACHE_MODES {
        let share = Traced::new(mode);
        for (flags, uncached, cached) in
            [(O_DSYNC.cast_signed(), "RWF_DSYNC", "fdatasync"), (O_SYNC.cast_signed(), "RWF_SYNC", "fsync")]
        {
            let file = open_with_flags(&share.path("file"), flags);
            let syncs = share.syncs_during(|| file.write_all_at(b"on disk", 100).unwrap());
            let expected = if is_uncached(mode) { uncached } else { cached };
            assert_eq!(syncs, [expected], "{mode:?}, {flags:#o}");
        }
    }
}

#[test]
fn rwf_sync_and_rwf_dsync_are_one_host_sync() {
    use rustix::io::ReadWriteFlags as Flags;
    for mode in CACHE_MODES {
        let share = Traced::new(mode);
        let file = open_with_flags(&share.path("file"), 0);
        let write = |flags| {
            let data = [io::IoSlice::new(b"on disk")];
            assert_eq!(rustix::io::pwritev2(&file, &data, 50, flags), Ok(7));
        };
        for (flags, uncached, cached) in
            [(Flags::DSYNC, "RWF_DSYNC", "fdatasync"), (Flags::SYNC, "RWF_SYNC", "fsync")]
        {
            let syncs = share.syncs_during(|| write(flags));
            assert_eq!(syncs, [if is_uncached(mode) { uncached } else { cached }], "{mode:?}, {flags:?}");
        }
        let syncs = share.syncs_during(|| write(Flags::empty()));
        assert!(syncs.is_empty(), "{mode:?}: a plain write after the synchronous one syncs: {syncs:?}");
    }
}

#[test]
fn fsync_is_one_fsync_and_fdatasync_one_fdatasync() {
    for mode in CACHE_MODES {
        let share = Traced::new(mode);
        let mut file = open_with_flags(&share.path("file"), 0);
        file.write_all(b"written").unwrap();
        assert_eq!(share.syncs_during(|| file.sync_all().unwrap()), ["fsync"], "{mode:?}");
        file.write_all(b"again").unwrap();
        assert_eq!(share.syncs_during(|| file.sync_data().unwrap()), ["fdatasync"], "{mode:?}");
        let directory = File::open(share.path("")).unwrap();
        assert_eq!(share.syncs_during(|| directory.sync_all().unwrap()), ["fsync"], "{mode:?}");
        assert_eq!(share.syncs_during(|| directory.sync_data().unwrap()), ["fdatasync"], "{mode:?}");
    }
}

/// Linux turns msync into fdatasync. In a mode without a page cache in the guest, the test maps
/// only if the mode permits shared mappings.
#[test]
fn msync_is_one_fdatasync() {
    let maps =
        |mode: &&[&str]| !is_uncached(mode) || mode.contains(&"--allow-mmap") || mode.contains(&"strict");
    for mode in CACHE_MODES.into_iter().filter(maps) {
        let share = Traced::new(mode);
        let commands = ["mmap -rw 0 8192", "mwrite -S 0x5a 100 200", "msync -s"];
        let mut stores = fetched_program("usr/sbin/xfs_io").unwrap();
        stores.args(commands.iter().flat_map(|command| ["-c", command])).arg(share.path("file"));
        let syncs = share.syncs_during(|| {
            let outcome = stores.output().unwrap();
            assert!(outcome.status.success() && outcome.stderr.is_empty(), "{mode:?}: {outcome:?}");
        });
        assert_eq!(syncs, ["fdatasync"], "{mode:?}");
        let host = fs::read(share.work.path().join("share/file")).unwrap();
        assert_eq!(host[100..300], [0x5a; 200], "{mode:?}");
    }
}

#[test]
fn host_syncs_only_on_request() {
    for mode in CACHE_MODES {
        let share = Traced::new(mode);
        let syncs = share.syncs_during(|| {
            let mut file = File::create(share.path("new")).unwrap();
            file.write_all(&vec![7; 100_000]).unwrap();
            // The close of a duplicate sends FLUSH. The close of the file sends FLUSH and RELEASE.
            drop(file.try_clone().unwrap());
            file.set_len(10).unwrap();
            drop(file);
            fs::rename(share.path("new"), share.path("newer")).unwrap();
            fs::remove_file(share.path("newer")).unwrap();
        });
        assert!(syncs.is_empty(), "{mode:?}: {syncs:?}");
    }
}

#[test]
fn a_synced_write_is_in_the_hosts_file() {
    for mode in CACHE_MODES {
        let share = Traced::new(mode);
        let file = open_with_flags(&share.path("file"), 0);
        file.write_all_at(b"here", 4000).unwrap();
        file.sync_data().unwrap();
        let host = fs::read(share.work.path().join("share/file")).unwrap();
        assert_eq!(&host[4000..4004], b"here", "{mode:?}");
    }
}

/// The daemon must not answer ENOSYS: Linux would then report success for every later fsync without
/// a request.
#[test]
fn read_only_share_answers_every_fsync() {
    let share = Traced::new(&["--readonly"]);
    let file = File::open(share.path("file")).unwrap();
    let directory = File::open(share.path("")).unwrap();
    for _ in 0..2 {
        let syncs = share.syncs_during(|| {
            file.sync_all().unwrap();
            file.sync_data().unwrap();
            directory.sync_all().unwrap();
        });
        assert_eq!(syncs, ["fsync", "fdatasync", "fsync"], "an fsync was not sent to the daemon");
        // The close of a duplicate sends FLUSH.
        drop(file.try_clone().unwrap());
    }
}

/// strace makes the daemon's calls fail with EIO, as they do if a disk has lost written data.
#[test]
fn fsync_error_of_the_host_reaches_the_caller() {
    for mode in CACHE_MODES {
        let share = Traced::with_strace(&["-e", "inject=fsync,fdatasync:error=EIO"], mode);
        let file = open_with_flags(&share.path("file"), 0);
        file.write_all_at(b"lost", 0).unwrap();
        let eio = Some(rustix::io::Errno::IO.raw_os_error());
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), eio, "{mode:?}");
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), eio, "{mode:?}");
        let directory = File::open(share.path("")).unwrap();
        assert_eq!(directory.sync_all().unwrap_err().raw_os_error(), eio, "{mode:?}");
    }
}

/// tmpfs that is mounted on a directory. `drop` unmounts it.
struct Submount(PathBuf);

impl Submount {
    fn on(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "submount"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(path)
    }
}

impl Drop for Submount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

/// Linux sends SYNCFS only on virtio-fs, not on /dev/fuse. So a test client sends it.
#[test]
fn syncfs_syncs_the_share_and_every_reached_submount() {
    let folder = tempfile::tempdir().unwrap();
    let _one = Submount::on(folder.path().join("one"));
    let _two = Submount::on(folder.path().join("two"));
    for (arguments, reached, syncs) in [
        (&[][..], &[][..], 1),
        (&[], &[c"one"], 2),
        (&[], &[c"one", c"two"], 3),
        (&["--readonly"], &[c"one", c"two"], 3),
    ] {
        let mut daemon = Daemon::pinhole(folder.path()).unwrap();
        for argument in arguments {
            daemon = daemon.argument(*argument);
        }
        let daemon = daemon.start().unwrap();
        let mut guest = Frontend::connect(daemon.socket()).unwrap();
        guest.init().unwrap();
        for name in reached {
            let name = Name::parse(name).unwrap();
            let reply = guest
                .request(1, NodeId::ROOT, &Operation::Lookup(Lookup { name: name.into() }), &[])
                .unwrap();
            let (found, _) = decode_entry(reply.success().unwrap()).unwrap();
            // Open the directory, because the daemon closes a mount without open files after a
            // while.
            let open = Operation::OpenDir(OpenDir { flags: OpenFlags::empty() });
            guest.request(1, found.node, &open, &[]).unwrap().success().unwrap();
        }
        let trace = folder.path().join("trace");
        let mut strace = Attached::to(daemon.serving_id(), &trace);
        for _ in 0..2 {
            // The reply must not be ENOSYS, because Linux would never send SYNCFS again.
            let reply = guest.request(1, NodeId::ROOT, &Operation::SyncFs(SyncFs), &[]).unwrap();
            reply.success().unwrap();
        }
        strace.detach();
        let trace = fs::read_to_string(trace).unwrap();
        let counted = trace.lines().filter_map(sync_of).filter(|name| name == "syncfs").count();
        assert_eq!(counted, 2 * syncs, "{arguments:?}, {reached:?}: {trace}");
    }
}

/// strace of the `syncfs` calls of a daemon that already runs.
struct Attached(Child);

impl Attached {
    fn to(process: u32, trace: &Path) -> Self {
        let log = trace.with_extension("attached");
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=syncfs", "-p", &process.to_string(), "-o"]).arg(trace);
        let strace = command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).spawn();
        let strace = strace.unwrap_or_else(|error| {
            panic!("cannot start strace ({error}): run `apt-get install --yes strace`")
        });
        let attached = Self(strace);
        let began = Instant::now();
        while !fs::read_to_string(&log).unwrap().contains(" attached") {
            assert!(began.elapsed() < MOUNT_LIMIT, "{}", fs::read_to_string(&log).unwrap());
            let ended = wait_for_exit(&attached.0, Some(Duration::from_millis(10))).unwrap();
            assert!(!ended, "strace ended: {}", fs::read_to_string(&log).unwrap());
        }
        attached
    }

    fn detach(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
