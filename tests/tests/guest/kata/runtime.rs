//! The daemon as each runtime of Kata starts it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::daemon::{pinhole_program, serving_id};
use tempfile::TempDir;

/// Line for which runtime-rs waits on standard error.
const READY: &str = "Waiting for vhost-user socket connection";

/// Upper bound on the time until the daemon prints [`READY`].
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Runtime of Kata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// `virtcontainers/virtiofsd.go`. It passes the listening socket as descriptor 3.
    Go,
    /// runtime-rs, `share_virtio_fs_standalone.rs`. It waits for [`READY`].
    Rust,
}

impl Runtime {
    /// Returns exactly the arguments that the runtime gives.
    fn arguments(self, shared: &Path, socket: &Path) -> Vec<String> {
        let (shared, socket) = (shared.display().to_string(), socket.display().to_string());
        let words: Vec<&str> = match self {
            Self::Go => {
                let shared = format!("--shared-dir={shared}");
                let before = ["--syslog", "--cache=auto"].map(str::to_owned);
                let after = ["--fd=3", "--thread-pool-size=1", "--announce-submounts"].map(str::to_owned);
                return before.into_iter().chain([shared]).chain(after).collect();
            }
            Self::Rust => vec![
                "--socket-path",
                &socket,
                "--shared-dir",
                &shared,
                "--cache",
                "auto",
                "--thread-pool-size=1",
                "-o",
                "announce_submounts",
            ],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Daemon that a runtime has started. `drop` kills it, as the Go runtime does.
pub(crate) struct Started {
    child: Child,
    work: TempDir,
}

impl Started {
    pub(crate) fn by(runtime: Runtime, shared: &Path) -> Self {
        let work = tempfile::tempdir().unwrap();
        let (socket, log) = (work.path().join("socket"), work.path().join("stderr"));
        let mut command = Command::new("sh");
        command.stderr(File::create(&log).unwrap()).stdout(Stdio::null());
        match runtime {
            Runtime::Go => {
                let listener = UnixListener::bind(&socket).unwrap();
                command.args(["-c", r#"exec "$@" 3<&0 < /dev/null"#, "sh"]);
                command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
            }
            Runtime::Rust => {
                command.args(["-c", r#"exec "$@""#, "sh"]).stdin(Stdio::null());
            }
        }
        command.arg(pinhole_program().unwrap()).args(runtime.arguments(shared, &socket));
        let started = Self { child: command.spawn().unwrap(), work };
        let began = Instant::now();
        while !started.stderr().contains(READY) {
            assert!(began.elapsed() < READY_LIMIT, "{}", started.stderr());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        started
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.work.path().join("socket")
    }

    /// Returns how many open files of the daemon are on the file system `device`.
    pub(crate) fn descriptors_on(&self, device: u64) -> usize {
        let folder = format!("/proc/{}/fd", serving_id(self.child.id()));
        let files = fs::read_dir(folder).unwrap().map(|file| fs::metadata(file.unwrap().path()));
        // A descriptor may be closed between the listing and the look at it.
        files.filter(|file| file.as_ref().is_ok_and(|file| file.dev() == device)).count()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.work.path().join("stderr")).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
