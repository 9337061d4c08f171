//! Does a share behave as POSIX demands?
//!
//! Runs test suites of other projects through `pinhole mount` at native speed: every case of
//! `pjdfstest`, compared with the results of a local directory, and `fsx` in four cache modes and
//! with `--writeback`. fsx does not use O_DIRECT, so one test here mixes O_DIRECT with buffered
//! reads and writes in all cache modes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::child::wait_for_exit;
use pinhole_tests::daemon::{Daemon, pinhole_program};
use pinhole_tests::guest::{Guest, Parts};
use tempfile::TempDir;

/// Number of fsx operations in each test, unless `PINHOLE_FSX_OPERATIONS` is set.
const FSX_OPERATIONS: u32 = 100_000;
/// Number of reads, writes and truncations of the O_DIRECT test with each set of options.
const DIRECT_OPERATIONS: u32 = 4_000;
/// Upper bound on the run of pjdfstest or fsx.
const SUITE_LIMIT: Duration = Duration::from_mins(20);
/// Upper bound on the time until a share is mounted.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);
/// Number of cases of pjdfstest 0.2.2, as its summary line prints it.
const PJDFSTEST_CASES: usize = 398;

/// Cases whose result differs from a local directory, each with its reason.
const DIFFERENCES: [(&str, &str); 1] = [(
    "link::link_count_max",
    "skipped: the C library derives LINK_MAX from the type of file system, and does not know that of FUSE",
)];

/// Cases whose result depends on timing, each with its reason. `docs/use/compatibility.md` lists
/// them.
const RACES: [(&str, &str); 1] = [(
    "open::etxtbsy",
    "opening a running program with O_RDONLY and O_TRUNC: the kernel's FUSE driver has the file truncated before it \
     finds out that it runs, and the program may be gone before it finds out",
)];

/// Share mounted by `pinhole mount`. `drop` unmounts it.
struct Mount {
    child: Child,
    work: TempDir,
}

impl Mount {
    /// Mounts a share on a disk, as most shares are.
    fn new(arguments: &[&str]) -> Self {
        Self::new_in(&std::env::temp_dir(), arguments)
    }

    /// Mounts a share that lies in a new folder in `folder`.
    fn new_in(folder: &Path, arguments: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "mounting needs root: run `sudo -E cargo xtask test`");
        assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: run `modprobe fuse`");
        let work = tempfile::Builder::new().prefix("pinhole-conformance-").tempdir_in(folder).unwrap();
        // Cases that run as other users need to enter the folder.
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["share", "mnt", "local"] {
            fs::create_dir(work.path().join(folder)).unwrap();
        }
        let log = File::create(work.path().join("log")).unwrap();
        let mut command = Command::new(pinhole_program().unwrap());
        command.arg("mount").args(["-o", "suid,dev", "--profile=full"]).args(arguments);
        command.args(["share", "mnt"].map(|folder| work.path().join(folder)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut mount = Self { child: command.spawn().unwrap(), work };
        let began = Instant::now();
        while !mount.log().contains("Mounted ") {
            let ended = wait_for_exit(&mount.child, Some(Duration::from_millis(20))).unwrap();
            assert!(!ended && began.elapsed() < MOUNT_LIMIT, "no mount: {}", mount.log());
        }
        assert!(mount.child.try_wait().unwrap().is_none());
        mount
    }

    /// Returns the output of the daemon up to now.
    fn log(&self) -> String {
        fs::read_to_string(self.work.path().join("log")).unwrap()
    }

    /// Returns the mount point.
    fn mounted(&self) -> PathBuf {
        self.work.path().join("mnt")
    }

    /// Returns the shared directory on the host.
    fn shared(&self) -> PathBuf {
        self.work.path().join("share")
    }

    /// Returns a directory on the file system of the shared directory that is not served.
    fn local(&self) -> PathBuf {
        self.work.path().join("local")
    }

    /// Checks that the daemon still serves and has printed no warnings or errors since the mount.
    /// Before the mount, it may warn about features that the host lacks.
    fn assert_healthy(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the daemon ended: {}", self.log());
        fs::metadata(self.mounted()).unwrap();
        let log = self.log();
        let (_, served) = log.split_once("Mounted ").unwrap();
        assert!(!served.contains("WARN") && !served.contains("ERROR"), "{log}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.mounted()).output());
        if !wait_for_exit(&self.child, Some(Duration::from_secs(5))).unwrap_or(false) {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// Runs a suite to its end, or kills it at the limit. Returns whether it succeeded, and its output.
fn run(command: &mut Command) -> (bool, String) {
    let mut printed = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(printed.try_clone().unwrap()).stderr(printed.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    if !wait_for_exit(&child, Some(SUITE_LIMIT)).unwrap() {
        child.kill().unwrap();
    }
    let success = child.wait().unwrap().success();
    let mut bytes = Vec::new();
    printed.rewind().unwrap();
    printed.read_to_end(&mut bytes).unwrap();
    (success, String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the name of a user's group from /etc/passwd and /etc/group. pjdfstest needs the groups
/// of `nobody` and `daemon`. Debian has both users, but the name of their group can differ between
/// hosts.
fn group_of(user: &str) -> String {
    let table = |path: &str| fs::read_to_string(path).unwrap();
    let field = |line: &str, index| line.split(':').nth(index).unwrap_or_default().to_owned();
    let passwd = table("/etc/passwd");
    let line = passwd.lines().find(|line| field(line, 0) == user);
    let id = field(line.unwrap_or_else(|| panic!("no user {user}: run `useradd --system {user}`")), 3);
    let groups = table("/etc/group");
    field(groups.lines().find(|line| field(line, 2) == id).unwrap(), 0)
}

/// Returns the configuration of pjdfstest: features of the file system, and two users with the
/// names of their groups.
fn pjdfstest_config(group_of_nobody: &str, group_of_daemon: &str) -> String {
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutimensat = {{}}\nutime_now = {{}}\n\
         stat_st_birthtime = {{}}\n[settings]\nnaptime = 0.01\n\
         [dummy_auth]\nentries = [[\"nobody\", \"{group_of_nobody}\"], [\"daemon\", \"{group_of_daemon}\"]]\n"
    )
}

/// Runs pjdfstest in a directory and returns the result of each case.
fn run_pjdfstest(directory: &Path, config: &Path) -> BTreeSet<(String, String)> {
    let mut command = Command::new(Parts::locate().tool("pjdfstest").unwrap());
    parse_results(&run(command.arg("-c").arg(config).arg("-p").arg(directory)).1)
}

/// Returns the cases in the output of pjdfstest, each with its result: "ok", "FAILED" or "skipped".
/// Checks that they are as many as the summary line says.
fn parse_results(text: &str) -> BTreeSet<(String, String)> {
    let cases: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| name.contains("::"))
        .map(|(name, result)| (name.to_owned(), result.trim().to_owned()))
        .collect();
    let total = text.lines().find_map(|line| line.strip_prefix("Summary: ")?.strip_suffix(" total"));
    let total = total.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    assert_eq!(total, Some(cases.len()), "{text}");
    cases
}

#[test]
fn pjdfstest_has_the_same_results_as_on_a_local_directory() {
    let mut mount = Mount::new(&[]);
    let config = mount.work.path().join("pjdfstest.toml");
    fs::write(&config, pjdfstest_config(&group_of("nobody"), &group_of("daemon"))).unwrap();
    let local = run_pjdfstest(&mount.local(), &config);
    let served = run_pjdfstest(&mount.mounted(), &config);
    assert!(local.len() >= PJDFSTEST_CASES, "only {} cases ran", local.len());
    let explained = |case: &str| DIFFERENCES.iter().chain(&RACES).any(|(name, _)| *name == case);
    let different: Vec<_> = served.difference(&local).filter(|(name, _)| !explained(name)).collect();
    assert!(different.is_empty(), "not the results of a local directory: {different:?}");
    for (name, reason) in DIFFERENCES {
        let differs = served.difference(&local).any(|(case, _)| case == name);
        assert!(differs, "{name} no longer differs; remove it from the list ({reason})");
    }
    assert_eq!(fs::read_dir(mount.shared()).unwrap().count(), 0, "pjdfstest left files behind");
    mount.assert_healthy();
}

/// Returns the configuration of fsx: the operations and their weights. Without `mapped`, fsx uses
/// no mappings: it makes shared mappings even for reading, and `never` refuses these. Files have
/// half and transfers a quarter of the size that fsx uses by default, because comparisons take most
/// of the time. Transfers have at least one byte: fsx takes EINVAL of posix_fallocate with length 0
/// for a fault.
fn fsx_config(mapped: bool) -> String {
    let (mapped, invalidate) = if mapped { (10, 1) } else { (0, 0) };
    format!(
        "flen = 131072\n[opsize]\nmin = 1\nmax = 16384\n[weights]\nclose_open = 1\ninvalidate = {invalidate}\nread = 10\n\
         write = 10\nmapread = {mapped}\nmapwrite = {mapped}\ntruncate = 5\nfsync = 0.5\nfdatasync = 0.5\n\
         posix_fallocate = 2\npunch_hole = 2\nsendfile = 1\nposix_fadvise = 1\ncopy_file_range = 2\n"
    )
}

/// Returns the seed of all random choices: `PINHOLE_SEED`, or a fixed one.
fn seed() -> u32 {
    std::env::var("PINHOLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101)
}

/// Checks that fsx finds no error on a share with these options, with or without mappings.
fn assert_fsx_passes(options: &[&str], mapped: bool) {
    println!("PINHOLE_SEED={}", seed());
    let operations = std::env::var("PINHOLE_FSX_OPERATIONS").ok().and_then(|count| count.parse().ok());
    let operations: u32 = operations.unwrap_or(FSX_OPERATIONS);
    // In memory, because fsx syncs each mapped write, and a disk would make the test slow.
    let mut mount = Mount::new_in(Path::new("/dev/shm"), options);
    let config = mount.work.path().join("fsx.toml");
    fs::write(&config, fsx_config(mapped)).unwrap();
    let mut command = Command::new(Parts::locate().tool("fsx").unwrap());
    command.arg("-f").arg(config).args(["-N", &operations.to_string(), "-S", &seed().to_string()]);
    let (success, text) = run(command.arg("-P").arg(mount.work.path()).arg(mount.mounted().join("file")));
    let end = text.lines().rev().take(60).collect::<Vec<_>>();
    assert!(success, "seed {}, {options:?}: {end:#?}", seed());
    assert!(text.contains("All operations completed"), "seed {}, {options:?}: {end:#?}", seed());
    mount.assert_healthy();
}

#[test]
fn fsx_passes_with_cache_never() {
    assert_fsx_passes(&["--cache", "never"], false);
}

#[test]
fn fsx_passes_with_cache_strict() {
    assert_fsx_passes(&["--cache", "strict"], true);
}

#[test]
fn fsx_passes_with_cache_auto() {
    assert_fsx_passes(&["--cache", "auto"], true);
}

#[test]
fn fsx_passes_with_cache_exclusive() {
    assert_fsx_passes(&["--cache", "exclusive"], true);
}

#[test]
fn fsx_passes_with_cache_auto_and_writeback() {
    assert_fsx_passes(&["--cache", "auto", "--writeback"], true);
}

/// Repeatable random numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    /// Returns a number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Returns a buffer, and a range of `len` bytes in it that is aligned for O_DIRECT.
fn aligned(len: usize) -> (Vec<u8>, std::ops::Range<usize>) {
    let buffer = vec![0; len + BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    (buffer, start..start + len)
}

/// Alignment of O_DIRECT transfers in bytes.
const BLOCK: usize = 4096;
/// Largest length of the file in blocks.
const BLOCKS: u64 = 48;

/// Checks reads, writes and truncations against a model of the file's bytes. Each operation
/// randomly uses a descriptor with O_DIRECT or one without.
fn assert_direct_and_buffered_io_agree(options: &[&str]) {
    println!("PINHOLE_SEED={}", seed());
    let mut mount = Mount::new(options);
    let path = mount.mounted().join("file");
    let open = |flags| {
        OpenOptions::new().read(true).write(true).create(true).custom_flags(flags).open(&path).unwrap()
    };
    let (direct, buffered) = (open(rustix::fs::OFlags::DIRECT.bits().cast_signed()), open(0));
    let mut model: Vec<u8> = Vec::new();
    let mut numbers = Numbers(u64::from(seed()));
    for step in 0..DIRECT_OPERATIONS {
        let context = format!("seed {}, step {step}, {options:?}", seed());
        let first_block = numbers.below(BLOCKS);
        let len = usize::try_from(1 + numbers.below(BLOCKS - first_block)).unwrap() * BLOCK;
        let start = usize::try_from(first_block).unwrap() * BLOCK;
        let (mut buffer, range) = aligned(len);
        let bytes = &mut buffer[range];
        let file = if numbers.below(2) == 0 { &direct } else { &buffered };
        match numbers.below(5) {
            0 | 1 => {
                bytes.fill(u8::try_from(1 + numbers.below(255)).unwrap());
                file.write_all_at(bytes, start as u64).expect(&context);
                model.resize(model.len().max(start + len), 0);
                model[start..start + len].copy_from_slice(bytes);
            }
            2 | 3 => {
                let expected = model.get(start..(start + len).min(model.len())).unwrap_or_default();
                let mut read = 0;
                while let count @ 1.. =
                    file.read_at(&mut bytes[read..], (start + read) as u64).expect(&context)
                {
                    read += count;
                }
                assert!(bytes[..read] == *expected, "{context}: {read} bytes at {start}, wrong or too few");
            }
            _ => {
                file.set_len(start as u64).expect(&context);
                model.resize(start, 0);
            }
        }
    }
    buffered.sync_all().unwrap();
    drop((direct, buffered));
    let shared = mount.shared().join("file");
    assert!(fs::read(&shared).unwrap() == model, "seed {}, {options:?}: the host's file differs", seed());
    assert_eq!(fs::metadata(shared).unwrap().size(), model.len() as u64);
    mount.assert_healthy();
}

#[test]
fn direct_and_buffered_io_agree_in_every_cache_mode() {
    for mode in ["never", "metadata", "strict", "auto", "exclusive", "always"] {
        assert_direct_and_buffered_io_agree(&["--cache", mode]);
        assert_direct_and_buffered_io_agree(&["--cache", mode, "--allow-direct-io"]);
    }
    assert_direct_and_buffered_io_agree(&["--cache", "auto", "--writeback", "--allow-direct-io"]);
}

/// Runs some cases of pjdfstest and a short fsx in a guest. All of both would take too long,
/// because the guest has one virtual CPU.
#[test]
fn parts_of_pjdfstest_and_fsx_pass_in_a_guest() {
    println!("PINHOLE_SEED={}", seed());
    let tool = |name| fs::read(Parts::locate().tool(name).unwrap()).unwrap();
    let shared = tempfile::tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::pinhole(shared.path()).unwrap().argument("--tag=s").argument("--profile=full");
    let daemon = daemon.start().unwrap();
    // The test reads failures from the output, because cases of `RACES` may fail.
    let script = format!(
        "set -e\nexport PATH=/extra:$PATH\n/extra/pjdfstest -c /extra/pjdfstest.toml -p /mnt/s open rename link unlink chmod truncate || true\n\
         /extra/fsx -f /extra/fsx.toml -N 3000 -S {} -P /tmp /mnt/s/file",
        seed()
    );
    let finished = Guest::uml()
        .userland()
        .share(daemon.socket(), "s")
        .file("pjdfstest", 0o755, tool("pjdfstest"))
        .file("fsx", 0o755, tool("fsx"))
        // Two cases find `sleep` with it. Packages that are only unpacked do not have it.
        .file("which", 0o755, "#!/bin/sh\ncommand -v \"$1\"\n")
        .file("pjdfstest.toml", 0o644, pjdfstest_config("nogroup", "daemon"))
        .file("fsx.toml", 0o644, fsx_config(true))
        .run(&script)
        .unwrap();
    assert_eq!(finished.exit_code, 0, "{}", finished.text());
    let is_race = |case: &str| RACES.iter().any(|(name, _)| *name == case);
    let results = parse_results(&finished.text()).into_iter();
    let failed: Vec<_> = results.filter(|(case, result)| result == "FAILED" && !is_race(case)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let text = finished.text();
    assert!(text.contains("All operations completed"), "seed {}: {text}", seed());
}
