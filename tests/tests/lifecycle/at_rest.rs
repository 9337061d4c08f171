//! Can a daemon at rest be measured: is a start timed to its ready line, does a front-end hold what it says while it
//! waits, and is nothing left of a daemon that is ended, its sandbox's second process included.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::daemon::{Daemon, DaemonError, Serving};
use pinhole_tests::frontend::eventually;
use tempfile::TempDir;

/// A share of three folders with ten files each.
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
    Command::new(env!("CARGO_BIN_EXE_load"))
        .arg("--socket")
        .arg(daemon.socket())
        .arg("--share")
        .arg(share)
        .args(["--hold", inodes])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Processes with `word` in their command lines.
fn with_argument(word: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| {
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        })
        .collect()
}

#[test]
fn a_front_end_waits_with_what_it_says_it_holds() {
    let share = share();
    let daemon = Daemon::pinhole(share.path()).unwrap().start().unwrap();
    let mut guest = hold(&daemon, share.path(), "33");
    let mut said = BufReader::new(guest.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "connected");
    let mut go_on = guest.stdin.take().unwrap();
    go_on.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "holds 33");
    assert!(guest.try_wait().unwrap().is_none(), "it waits");
    drop(go_on);
    assert!(guest.wait().unwrap().success());
    assert!(said.next().is_none());
}

#[test]
fn a_share_with_too_few_files_is_named_with_their_number() {
    let share = share();
    let daemon = Daemon::pinhole(share.path()).unwrap().start().unwrap();
    let mut guest = hold(&daemon, share.path(), "34");
    // Its end tells it to go on.
    drop(guest.stdin.take());
    let mut errors = String::new();
    guest.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("33 files and folders, not 34"), "{errors}");
    assert_eq!(guest.wait().unwrap().code(), Some(1));
}

#[test]
fn a_start_is_timed_to_the_ready_line() {
    let share = share();
    let began = Instant::now();
    let time = Daemon::pinhole(share.path()).unwrap().time_to_ready().unwrap();
    assert!(time > Duration::ZERO && time <= began.elapsed(), "{time:?}");
}

#[test]
fn a_daemon_that_ends_instead_is_no_start() {
    let missing = share().path().join("missing");
    let error = Daemon::pinhole(&missing).unwrap().time_to_ready().unwrap_err();
    let DaemonError::NotReady { stderr, .. } = &error else { panic!("{error}") };
    assert!(stderr.contains("missing"), "{stderr}");
}

/// Needs root, as the peer's namespaces do.
#[test]
fn nothing_is_left_of_a_daemon_in_two_processes() {
    let share = share();
    let daemon = Daemon::virtiofsd_sandboxed(share.path()).unwrap().start().unwrap();
    let socket = daemon.socket().display().to_string();
    assert_eq!(with_argument(&socket).len(), 2, "the peer has changed: {}", daemon.stderr());
    drop(daemon);
    eventually("nothing of the daemon is left", || with_argument(&socket).is_empty());
}
