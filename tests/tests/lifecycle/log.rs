//! Does a daemon serve and end correctly if its log cannot be written?
//!
//! A queue thread logs each invalid request, and the thread `relay` writes the line. If the write
//! fails and the thread then makes a call that its filter forbids, the kernel kills the daemon.

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::GETATTR;
use pinhole_tests::frontend::{Frontend, LIMIT, OUT_HEADER_LEN};
use pinhole_tests::linux::ROOT;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Number of invalid requests, each with its own line in the log. The smallest buffer of a pipe or
/// a socket does not hold all lines.
const LINES: usize = 100;
/// Text in the log line of an invalid request.
const LINE: &str = "a request that does not decode";

/// Describes a daemon that serves a new share in `folder` and logs at level `debug`.
fn daemon(folder: &TempDir, arguments: &[&str]) -> Daemon {
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    let daemon = Daemon::pinhole(share).unwrap().confined_to(folder.path());
    let always = ["--keep-listening", "--log-level", "debug"];
    always.iter().chain(arguments).fold(daemon, |daemon, argument| daemon.argument(*argument))
}

/// Connects a guest, which sends [`LINES`] invalid requests and then a valid one. Checks each
/// reply.
fn visit(daemon: &mut Serving) {
    let started = Instant::now();
    let mut guest = loop {
        match Frontend::connect(daemon.socket()) {
            Ok(guest) => break guest,
            Err(error) => {
                assert_eq!(
                    daemon.wait_at_most(Duration::from_millis(10)).unwrap(),
                    None,
                    "the daemon has ended"
                );
                assert!(started.elapsed() < LIMIT, "{error}");
            }
        }
    };
    guest.init().unwrap();
    for _ in 0..LINES {
        let senseless = Frame::new(GETATTR, ROOT).u32(0).message();
        assert!(guest.raw(1, &senseless, OUT_HEADER_LEN).unwrap().error().unwrap().is_some());
    }
    let frame = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0);
    guest.raw(1, &frame.message(), OUT_HEADER_LEN + 104).unwrap().success().unwrap();
}

/// Checks that two guests are served one after another, and that a signal ends the daemon with
/// success.
#[track_caller]
fn assert_serves_two_guests_and_ends(mut daemon: Serving) {
    visit(&mut daemon);
    visit(&mut daemon);
    daemon.signal(Signal::TERM).unwrap();
    let status = daemon.wait_at_most(LIMIT).unwrap().expect("the daemon has not ended");
    assert!(status.success(), "{status}");
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("pinhole-log-").tempdir().unwrap()
}

#[test]
fn daemon_survives_a_log_on_a_full_disk() {
    let folder = folder();
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_serves_two_guests_and_ends(daemon(&folder, &[]).start_with_stderr(full).unwrap());
}

#[test]
fn daemon_survives_the_end_of_its_log_reader() {
    let piped = folder();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_serves_two_guests_and_ends(daemon(&piped, &[]).start_with_stderr(writer).unwrap());
    let folder = folder();
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    assert_serves_two_guests_and_ends(daemon(&folder, &[]).start_with_stderr(OwnedFd::from(writer)).unwrap());
}

#[test]
fn log_reader_that_does_not_read_blocks_no_request() {
    let piped = folder();
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    assert_serves_two_guests_and_ends(daemon(&piped, &[]).start_with_stderr(writer).unwrap());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains(LINE) && text.matches(LINE).count() < LINES, "{text}");

    let folder = folder();
    let (mut reader, writer) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&writer, 4096).unwrap();
    assert_serves_two_guests_and_ends(daemon(&folder, &[]).start_with_stderr(OwnedFd::from(writer)).unwrap());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains(LINE) && text.matches(LINE).count() < LINES, "{text}");
}

/// Tests the report of a panic, inside the sandbox, on each kind of thread of the serving process.
#[test]
fn panic_is_caught_when_stderr_cannot_be_written() {
    let folder = folder();
    fs::create_dir(folder.path().join("share")).unwrap();
    fs::write(folder.path().join("canary"), "c").unwrap();
    let panic = |profile: &str, thread: &str, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intruder"));
        command.arg(folder.path().join("share")).arg(folder.path().join("canary"));
        command.args([profile, "prefer", "namespace", "namespace,capabilities,landlock,seccomp"]);
        command.args([thread, "panic"]);
        let output = command.stdin(Stdio::null()).stderr(stderr).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), "done", "{thread} under {profile}: {}", output.status);
        String::from_utf8(output.stderr).unwrap()
    };
    for profile in ["share", "rootfs"] {
        for thread in ["control", "queue", "offload"] {
            let text = panic(profile, thread, Stdio::piped());
            assert!(text.contains("panicked at") && text.contains("the attempt `panic`"), "{text}");
            panic(profile, thread, File::options().write(true).open("/dev/full").unwrap().into());
            panic(profile, thread, io::pipe().unwrap().1.into());
        }
    }
}

/// The policy's limit on the size of files is a limit of the process, so it applies to the log too.
#[test]
fn daemon_survives_a_log_at_its_own_size_limit() {
    let folder = folder();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "profile = \"share\"\n[limits]\nfile-size = 4096\n").unwrap();
    let log = folder.path().join("log");
    fs::write(&log, [b'x'; 8192]).unwrap();
    let appended = File::options().append(true).open(&log).unwrap();
    let daemon = daemon(&folder, &["--policy", policy.to_str().unwrap()]);
    assert_serves_two_guests_and_ends(daemon.start_with_stderr(appended).unwrap());
    let text = fs::read(&log).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains(LINE), "the log has a line past its size limit");
}

/// A limit on the size of files that an operator has set applies to the supervisor and to the
/// serving process from their start. The test runs with guests that may write and with guests that
/// may not.
#[test]
fn daemon_survives_an_inherited_size_limit_of_the_log() {
    for profile in ["share", "rootfs"] {
        let folder = folder();
        let log = folder.path().join("log");
        fs::write(&log, [b'x'; 8192]).unwrap();
        let appended = File::options().append(true).open(&log).unwrap();
        // 8 blocks of 512 bytes, less than the log has already.
        let limited = ["/bin/sh", "-c", "ulimit -f 8; exec \"$@\"", "sh"].map(PathBuf::from);
        let daemon = daemon(&folder, &["--profile", profile]).under(limited);
        assert_serves_two_guests_and_ends(daemon.start_with_stderr(Stdio::from(appended)).unwrap());
        assert_eq!(log.metadata().unwrap().len(), 8192);
    }
}
