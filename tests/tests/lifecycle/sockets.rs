//! Does a daemon create its socket only where no socket exists, and leave the socket of another
//! daemon alone, in whatever order they run?

use pinhole_tests::daemon::{Daemon, pinhole_program};
use pinhole_tests::frontend::{Bench, Frontend, LIMIT, eventually};
use pinhole_tests::program::{Program, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// System calls that remove or move a name.
const REMOVING: &str = "unlink,unlinkat,rename,renameat,renameat2";
/// Numbers of the calls in [`REMOVING`] on x86-64.
const REMOVING_NUMBERS: [&str; 5] = ["87", "263", "82", "264", "316"];

/// Daemon that a tracer holds at its first call that removes or renames a name.
struct DelayedDaemon {
    program: Program,
    tracer: Pid,
}

impl DelayedDaemon {
    /// Starts the daemon and waits until the tracer holds it.
    fn new(share: &Path, socket: &Path) -> Self {
        let mut command = Command::new("strace");
        // -D: the program is the child of the test, and the tracer is not.
        command.args(["-D", "-qq", "-o", "/dev/null", "-e", &format!("trace={REMOVING}")]);
        command.args(["-e", &format!("inject={REMOVING}:delay_enter=600s")]);
        command
            .arg(pinhole_program().unwrap())
            .arg("--shared-dir")
            .arg(share)
            .arg("--socket-path")
            .arg(socket);
        let program = Program::start(&mut command)
            .unwrap_or_else(|error| panic!("{error}: run `apt-get install --yes strace`"));
        let of_process = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", program.id())).unwrap();
        eventually("the daemon is about to remove the stale socket", || {
            let call = of_process("syscall");
            call.split(' ').next().is_some_and(|number| REMOVING_NUMBERS.contains(&number))
        });
        let status = of_process("status");
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
        let tracer = Pid::from_raw(tracer.trim().parse().unwrap()).unwrap();
        Self { program, tracer }
    }

    /// Kills the tracer, which lets the daemon continue.
    fn release(self) -> Program {
        kill_process(self.tracer, Signal::KILL).unwrap();
        self.program
    }
}

#[test]
fn a_socket_in_use_is_left_to_its_owner() {
    let (folder, daemon) = Bench::serve(&[]).unwrap();
    let mut second = Command::new(pinhole_program().unwrap());
    second.arg("--shared-dir").arg(folder.path().join("share")).arg("--socket-path").arg(daemon.socket());
    let second = run(&mut second).unwrap();
    assert!(second.code == Some(1) && second.stderr.contains("in use"), "{second:?}");
    Frontend::connect(daemon.socket()).unwrap().init().unwrap();
}

/// Two daemons find that no process listens on the old socket. The slower daemon must not remove
/// the socket that the quicker one has created.
#[test]
fn slow_start_keeps_the_socket_of_another_daemon() {
    let folder = tempfile::Builder::new().prefix("pinhole-sockets-").tempdir().unwrap();
    let (share, socket) = (folder.path().join("share"), folder.path().join("socket"));
    fs::create_dir(&share).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let slow = DelayedDaemon::new(&share, &socket);
    let quick = Daemon::pinhole(&share).unwrap().at(&socket).start().unwrap();
    let mut slow = slow.release();
    let ended = slow.wait(LIMIT).unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", slow.stderr());
    assert!(slow.stderr().contains("in use"), "{}", slow.stderr());
    Frontend::connect(quick.socket()).unwrap().init().unwrap();
}
