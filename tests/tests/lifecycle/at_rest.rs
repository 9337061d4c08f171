//! Does the test harness measure the start of a daemon up to its ready line, and does it end all
//! processes of a daemon, also of one with a second process for its sandbox?

use std::fs;
use std::time::{Duration, Instant};

use pinhole_tests::daemon::{Daemon, DaemonError};
use pinhole_tests::frontend::eventually;
use tempfile::TempDir;

/// Makes a share of three folders with ten files each.
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

/// Returns the ids of the processes with `word` in their command lines.
fn processes_with_argument(word: &str) -> Vec<u32> {
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
fn start_time_ends_at_the_ready_line() {
    let share = share();
    let began = Instant::now();
    let time = Daemon::pinhole(share.path()).unwrap().time_to_ready().unwrap();
    assert!(time > Duration::ZERO && time <= began.elapsed(), "{time:?}");
}

#[test]
fn daemon_that_ends_before_its_ready_line_is_an_error() {
    let missing = share().path().join("missing");
    let error = Daemon::pinhole(&missing).unwrap().time_to_ready().unwrap_err();
    let DaemonError::NotReady { stderr, .. } = &error else { panic!("{error}") };
    assert!(stderr.contains("missing"), "{stderr}");
}

/// Needs root, because virtiofsd needs root for its namespaces.
#[test]
fn daemon_of_two_processes_ends_completely() {
    let share = share();
    let daemon = Daemon::virtiofsd_sandboxed(share.path()).unwrap().start().unwrap();
    let socket = daemon.socket().display().to_string();
    assert_eq!(
        processes_with_argument(&socket).len(),
        2,
        "virtiofsd does not have two processes: {}",
        daemon.stderr()
    );
    drop(daemon);
    eventually("no process of the daemon is left", || processes_with_argument(&socket).is_empty());
}
