//! Is the load generator of the benchmark reliable: does it measure every row with the real binary,
//! leave nothing behind, and report a wrong reply?
#![cfg(test)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use pinhole_tests::daemon::{Daemon, Serving, pinhole_program};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pinhole-bench");

/// Time for a few operations of most rows in a debug build, in seconds.
const SHORT: &str = "0.02";
/// Times for rows without a completed operation until then, in seconds: listings of 10,000 entries,
/// cold reads, and any row on a busy host.
const LONGER: [&str; 3] = ["0.2", "2", "20"];

struct Fixture {
    folder: TempDir,
    daemon: Serving,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-load-").tempdir().unwrap();
        let daemon = Daemon::pinhole(folder.path()).unwrap().argument("--keep-listening").start().unwrap();
        Self { folder, daemon }
    }

    fn load(&self, arguments: &[&str]) -> Output {
        self.load_for(SHORT, arguments)
    }

    /// Measures rows, each again with more time until it has an operation.
    fn counted(&self, rows: &str, others: &[&str]) -> Vec<Value> {
        let play = |seconds: &str, rows: &str| -> (Vec<_>, Vec<_>) {
            let rows = format!("--rows={rows}");
            let measured = lines(&self.load_for(seconds, &[&[rows.as_str()], others].concat()));
            measured.into_iter().partition(|line| number(line, "operations") > 0)
        };
        let (mut counted, mut none) = play(SHORT, rows);
        for seconds in LONGER {
            let mut rows: Vec<_> = none.iter().filter_map(|line| line["row"].as_str()).collect();
            rows.dedup();
            if rows.is_empty() {
                return counted;
            }
            let (more, still_none) = play(seconds, &rows.join(","));
            counted.extend(more);
            none = still_none;
        }
        assert_eq!(none, Vec::<Value>::new());
        counted
    }

    fn load_for(&self, seconds: &str, arguments: &[&str]) -> Output {
        let mut command = load(self.folder.path(), seconds);
        command
            .arg("--socket")
            .arg(self.daemon.socket())
            .arg(format!("--process={}", self.daemon.serving_id()));
        command.args(arguments).output().unwrap()
    }
}

/// Makes an image of the share and serves it.
fn prepared(share: &Path, image: &Path) -> Serving {
    let prepare = ["prepare".as_ref(), share.as_os_str(), "--output".as_ref(), image.as_os_str()];
    let made = Command::new(pinhole_program().unwrap()).args(prepare).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Daemon::of_image(image).unwrap().argument("--keep-listening").start().unwrap()
}

fn load(share: &Path, seconds: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("load").arg("--share").arg(share).arg("--json").args(["--seconds", seconds]);
    command
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"))
}

#[test]
fn every_row_is_answered_and_counted() {
    let fixture = Fixture::new();
    let listed = Command::new(PROGRAM).args(["load", "--list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: Vec<_> = listed.lines().filter_map(|line| Some(line.split_once(' ')?.0)).collect();
    let measured = fixture.counted(&listed.join(","), &["--depths=1,8"]);
    for row in listed {
        assert!(measured.iter().any(|line| line["row"] == row), "{row}");
    }
    for line in measured {
        assert!(number(&line, "p50_ns") <= number(&line, "p99_ns"), "{line}");
        assert!(number(&line, "p99_ns") <= number(&line, "p999_ns"), "{line}");
        assert!(number(&line, "peak_kib") > 0, "{line}");
    }
}

#[test]
fn prepared_share_is_read_without_open() {
    let (writable, images) = (Fixture::new(), TempDir::new().unwrap());
    let rows = "lookup-hit,getattr,small-file,readdirplus,readdirplus-20000";
    writable.counted(rows, &["--depths=8"]);
    let daemon = prepared(writable.folder.path(), &images.path().join("image"));
    let fixture = Fixture { daemon, ..writable };
    let measured = fixture.counted(rows, &["--depths=8"]);
    assert_eq!(measured.len(), 5, "{measured:?}");
    // RELEASE needs a handle, which an image has not.
    let refused = fixture.load(&["--rows=open-release", "--depths=1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("errno 38"), "{refused:?}");
}

#[test]
fn each_queue_has_its_thread() {
    let fixture = Fixture::new();
    let measured = fixture.counted("getattr,create-unlink,mixed", &["--depths=4", "--queues=4"]);
    assert_eq!(measured.len(), 3);
    assert!(measured.iter().all(|line| number(line, "queues") == 4));
}

#[test]
fn processor_time_of_the_daemon_is_measured() {
    let fixture = Fixture::new();
    let measured = fixture.counted("getattr", &["--depths=1"]);
    let cpu = number(&measured[0], "cpu_ns_per_operation");
    // Each reply takes processor time.
    assert!(cpu > 0, "{measured:?}");
    assert!(number(&measured[0], "elapsed_ns") > 0);
}

#[test]
fn row_removes_its_directories() {
    let fixture = Fixture::new();
    lines(&fixture.load(&["--rows=create-unlink", "--depths=1,8"]));
    let left = fs::read_dir(fixture.folder.path().join("made")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn bare_host_calls_have_every_row_without_a_queue() {
    let folder = TempDir::new().unwrap();
    let measured = lines(&load(folder.path(), "0.1").arg("--native").output().unwrap());
    assert!(measured.iter().all(|line| line["row"] != "getattr-beside-cold"));
    assert!(measured.iter().all(|line| number(line, "operations") > 0), "{measured:?}");
    assert!(measured.len() >= 21);
}

#[test]
fn wrong_step_ends_the_run() {
    let fixture = Fixture::new();
    let mut command = load(fixture.folder.path(), SHORT);
    command.arg("--steps").arg("--socket").arg(fixture.daemon.socket());
    command.arg(format!("--process={}", fixture.daemon.serving_id()));
    let (input, mut asked) = io::pipe().unwrap();
    asked.write_all(b"getattr 1\nlookup-hit 8\ngetattr 64\n").unwrap();
    drop(asked);
    let output = command.stdin(input).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[0]["row"], &rows[1]["depth"]), (2, &"getattr".into(), &8.into()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, "error: `getattr 64`: give a depth from 1 to 33\n");
}

#[test]
fn unknown_row_is_an_error_that_lists_the_rows() {
    let output =
        load(Path::new("/nonexistent"), SHORT).args(["--native", "--rows=getattrs"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("there is no row `getattrs`; the rows are getattr, lookup-hit"), "{text}");
}

#[test]
fn wrong_reply_ends_the_run_with_row_and_errno() {
    // A read-only share refuses CREATE.
    let writable = Fixture::new();
    lines(&writable.load(&["--rows=getattr,create-unlink", "--depths=1"]));
    let folder = &writable.folder;
    let daemon = Daemon::pinhole(folder.path()).unwrap().argument("--readonly").start().unwrap();
    let mut command = load(folder.path(), SHORT);
    command.arg("--socket").arg(daemon.socket()).arg(format!("--process={}", daemon.serving_id()));
    let output = command.args(["--rows=getattr,create-unlink", "--depths=1"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    // EROFS is 30.
    assert!(text.contains("create-unlink, depth 1: the reply has errno 30"), "{text}");
}

/// Returns a share of three folders with ten files each.
fn share() -> TempDir {
    let share = tempfile::Builder::new().prefix("pinhole-rest-").tempdir().unwrap();
    for folder in ["a", "b", "c"] {
        fs::create_dir(share.path().join(folder)).unwrap();
        for file in 0..10 {
            fs::write(share.path().join(folder).join(file.to_string()), "").unwrap();
        }
    }
    share
}

fn hold(daemon: &Serving, share: &Path, inodes: &str) -> Child {
    waiting(daemon, &["--share", share.to_str().unwrap(), "--hold", inodes])
}

fn waiting(daemon: &Serving, arguments: &[&str]) -> Child {
    Command::new(PROGRAM)
        .arg("load")
        .arg("--socket")
        .arg(daemon.socket())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn front_end_keeps_its_connection() {
    let share = share();
    let daemon = Daemon::pinhole(share.path()).unwrap().start().unwrap();
    let mut guest = hold(&daemon, share.path(), "33");
    let mut said = BufReader::new(guest.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "connected");
    let mut input = guest.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "holds 33");
    assert!(guest.try_wait().unwrap().is_none(), "it should wait");
    drop(input);
    assert!(guest.wait().unwrap().success());
    assert!(said.next().is_none());
}

#[test]
fn front_end_lists_every_folder() {
    let (share, images) = (share(), TempDir::new().unwrap());
    let of_folder = Daemon::pinhole(share.path()).unwrap().start().unwrap();
    for daemon in [of_folder, prepared(share.path(), &images.path().join("image"))] {
        let mut guest = waiting(&daemon, &["--hold-listed"]);
        drop(guest.stdin.take());
        let mut said = String::new();
        guest.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "connected\nholds 33\n");
        assert!(guest.wait().unwrap().success());
    }
}

#[test]
fn share_with_too_few_files_is_an_error() {
    let share = share();
    let daemon = Daemon::pinhole(share.path()).unwrap().start().unwrap();
    let mut guest = hold(&daemon, share.path(), "34");
    // The end of its input tells it to continue.
    drop(guest.stdin.take());
    let mut errors = String::new();
    guest.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("33 files and folders, not 34"), "{errors}");
    assert_eq!(guest.wait().unwrap().code(), Some(1));
}
