//! Do common programs work on a share, and does the host have every byte that they wrote?
//!
//! Each test boots a guest with its own Debian userland: fio with verified blocks, git, a tarball
//! of 30 MB, SQLite, a compiler.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::Guest;
use tempfile::TempDir;

/// Makes a folder to share, on the disk of the build folder.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("work-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs workloads on `shared` one after another in one guest and returns their output.
fn run(shared: &Path, arguments: &[&str], workloads: &[&str]) -> String {
    let daemon = Daemon::pinhole(shared).unwrap().argument("--tag=work");
    let mut daemon =
        arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument)).start().unwrap();
    let lines: Vec<_> =
        workloads.iter().map(|name| format!("sh /extra/workloads.sh {name} /mnt/work || exit 9")).collect();
    let finished = Guest::uml()
        .userland()
        .memory_mib(768)
        .limit(Duration::from_mins(8))
        .share(daemon.socket(), "work")
        .file("workloads.sh", 0o644, include_str!("scripts/workloads.sh"))
        .run(&lines.join("\n"))
        .unwrap();
    assert_eq!(
        finished.exit_code,
        0,
        "{workloads:?} printed:\n{}\ndaemon:\n{}",
        finished.text(),
        daemon.stderr()
    );
    let ended = daemon.wait_at_most(Duration::from_secs(10)).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", daemon.stderr());
    finished.text()
}

/// Runs a program of the host in `folder` and returns its output.
fn on_host(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let outcome = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(
        outcome.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&outcome.stderr)
    );
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

/// Pseudo-random bytes from a seed (xorshift64*), so that every run has the same tree.
struct Bytes(u64);

impl Bytes {
    /// Returns the next number.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns the next `length` bytes.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Makes a tree of about 30 MB: 600 files of 0 to 100 kB with several modes and times, and links.
fn make_tree(top: &Path) {
    let mut bytes = Bytes(0x70_696e_686f_6c65);
    for number in 0..600_u32 {
        let folder = top.join(format!("folder-{}/below-{}", number % 12, number % 5));
        fs::create_dir_all(&folder).unwrap();
        let length = usize::try_from(bytes.next() % 100_000).unwrap();
        let path = folder.join(format!("file-{number}"));
        fs::write(&path, bytes.take(if number % 50 == 0 { 0 } else { length })).unwrap();
        let mode = [0o644, 0o600, 0o755, 0o440].into_iter().cycle().nth(number as usize % 4).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(u64::from(number) * 1_000_000 + 1);
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        if number % 40 == 0 {
            std::os::unix::fs::symlink(format!("file-{number}"), folder.join(format!("link-{number}")))
                .unwrap();
            fs::hard_link(&path, folder.join(format!("twin-{number}"))).unwrap();
        }
    }
}

/// Returns every path below `top` with the attributes that an archive keeps: mode, modification
/// time, number of links and content. Directories have no time and no number of links here.
fn contents(top: &Path) -> Vec<(PathBuf, u32, i64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let status = fs::symlink_metadata(&path).unwrap();
            let content = if status.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if status.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let links = if status.is_dir() { 0 } else { status.nlink() };
            let modified = if status.is_dir() { 0 } else { status.mtime() };
            let below = path.strip_prefix(top).unwrap().to_path_buf();
            found.push((below, status.mode(), modified, links, content));
        }
    }
    found.sort();
    found
}

#[test]
fn fio_verifies_buffered_direct_and_mapped_io() {
    let shared = folder();
    let output = run(shared.path(), &[], &["fio_buffered", "fio_direct", "fio_mmap"]);
    assert_eq!(output.matches("verified").count(), 5, "{output}");
    for name in ["sequential", "random", "direct", "direct-queued", "mapped"] {
        assert_eq!(fs::metadata(shared.path().join("fio").join(name)).unwrap().len(), 24 << 20, "{name}");
    }
}

#[test]
fn fio_verifies_with_host_direct_io_and_no_cache() {
    let shared = folder();
    let output = run(shared.path(), &["--cache=never", "--allow-direct-io"], &["fio_buffered", "fio_direct"]);
    assert_eq!(output.matches("verified").count(), 4, "{output}");
}

#[test]
fn fio_verifies_with_a_writeback_cache() {
    let shared = folder();
    let output =
        run(shared.path(), &["--cache=always", "--writeback"], &["fio_buffered", "fio_direct", "fio_mmap"]);
    assert_eq!(output.matches("verified").count(), 5, "{output}");
}

#[test]
fn a_git_repository_is_made_merged_packed_and_sound() {
    let shared = folder();
    let output = run(shared.path(), &[], &["git"]);
    let lines: Vec<_> = output.lines().rev().take(3).collect();
    assert_eq!(lines.first(), Some(&"4"), "{output}");
    assert_eq!(lines.get(1), lines.get(2), "the clone has another tree: {output}");
    assert!(fs::metadata(shared.path().join("repository/renamed/1")).unwrap().is_file());
    assert!(!shared.path().join("repository/b").exists());
    let counted = (1..=1000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    assert_eq!(fs::read_to_string(shared.path().join("clone/c/1")).unwrap(), counted);
}

#[test]
fn a_tarball_of_thirty_megabytes_is_unpacked_as_it_was() {
    let (source, shared) = (folder(), folder());
    let tree = source.path().join("tree");
    make_tree(&tree);
    let archive = shared.path().join("tree.tar");
    on_host(source.path(), "tar", &["--numeric-owner", "-cf", archive.to_str().unwrap(), "tree"]);
    let length = fs::metadata(&archive).unwrap().len();
    assert!((25_000_000..40_000_000).contains(&length), "{length} bytes");
    let output = run(shared.path(), &[], &["tarball"]);
    let expected = contents(&tree);
    let files = expected.iter().filter(|entry| entry.1 & 0o170_000 == 0o100_000).count();
    assert_eq!(output, format!("{files}\n{}\n", expected.len() + 1));
    let unpacked = contents(&shared.path().join("unpacked/tree"));
    assert_eq!(unpacked.len(), expected.len());
    for (here, there) in unpacked.iter().zip(&expected) {
        assert!(here == there, "{} differs from the packed tree", there.0.display());
    }
}

#[test]
fn sqlite_keeps_its_integrity_in_every_journal_mode() {
    let shared = folder();
    let output = run(shared.path(), &[], &["sqlite", "sqlite_interrupted"]);
    // The numbers are those of the same statements in memory.
    let one = |journal: &str| format!("{journal}\nok\n19793|957858|197059\nok\n5\n");
    let expected = ["delete", "wal", "truncate"].map(one).concat();
    let (journals, interrupted) = output.split_at_checked(expected.len()).unwrap_or((&output, ""));
    assert_eq!(journals, expected);
    assert!(interrupted.contains("killed.db-journal"), "no transaction was left to roll back: {interrupted}");
    assert!(interrupted.ends_with("ok\n1\n"), "{interrupted}");
    let database = fs::read(shared.path().join("wal.db")).unwrap();
    assert!(database.starts_with(b"SQLite format 3\0"));
}

#[test]
fn a_program_is_compiled_linked_and_run_on_the_share() {
    let shared = folder();
    let output = run(shared.path(), &[], &["compile"]);
    // The guest's clock is a fraction of a second behind the host's, and make reports that.
    let is_clock = |line: &&str| line.contains("modification time") || line.contains("Clock skew");
    let lines: Vec<_> = output.lines().filter(|line| !is_clock(line)).collect();
    assert_eq!(lines, ["compiled on the share 5050", "up to date", "out of date"]);
    let program = fs::read(shared.path().join("program/program")).unwrap();
    assert!(program.starts_with(b"\x7fELF"));
}
