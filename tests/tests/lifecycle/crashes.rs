//! Does the supervisor report correctly how a daemon crashed, with advice?
//!
//! The serving process ends by signals, access to truncated memory, a failed allocation and a
//! forbidden call. The supervisor's log line and its exit status must name the cause.

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, SharedFolder};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{FSYNC, LOOKUP};
use pinhole_tests::frontend::{Bench, Descriptor, LIMIT, Setup, eventually};
use pinhole_tests::linux::{O_RDWR, ROOT};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend as _;

/// Length of a page in bytes.
const PAGE: u64 = 4096;
/// Physical address of the guest memory whose file the test truncates.
const TRUNCATED_AT: u64 = 1 << 40;

/// Returns a process id for system calls.
fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Waits until the daemon ends. Checks that the supervisor ended by `signal`, and that it reported
/// the serving process and the name of the signal. Returns standard error.
#[track_caller]
fn wait_for_end_by(mut daemon: Serving, serving: u32, signal: Signal, name: &str) -> String {
    let ended = daemon.wait_at_most(LIMIT).unwrap();
    let stderr = daemon.stderr();
    let report = format!("the serving process {serving} was ended by {name}");
    assert!(stderr.contains(&report), "no `{report}` in {stderr}");
    assert_eq!(ended.and_then(|status| status.signal()), Some(signal.as_raw()), "{stderr}");
    stderr
}

/// For the first process of a PID namespace, the kernel ignores signals that it does not handle,
/// except SIGKILL. So this daemon has no sandbox and no PID namespace.
#[test]
fn a_signal_is_reported_by_its_name() {
    for (signal, name) in [
        (Signal::SEGV, "SIGSEGV"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SYS, "SIGSYS"),
    ] {
        let mut bench = Bench::with(Setup::default(), &["--sandbox=none"]).unwrap();
        bench.is_alive().unwrap();
        let serving = bench.daemon.serving_id();
        kill_process(pid(serving), signal).unwrap();
        let stderr = wait_for_end_by(bench.daemon, serving, signal, name);
        assert!(stderr.contains("ERROR"), "{stderr}");
    }
}

#[test]
fn access_to_truncated_guest_memory_is_reported_as_sigbus() {
    let mut bench = Bench::new().unwrap();
    let serving = bench.daemon.serving_id();
    let memory: File = rustix::fs::memfd_create(c"truncated", MemfdFlags::CLOEXEC).unwrap().into();
    memory.set_len(2 * PAGE).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: TRUNCATED_AT,
        userspace_addr: TRUNCATED_AT,
        memory_size: 2 * PAGE,
        mmap_offset: 0,
        mmap_handle: memory.as_raw_fd(),
    };
    bench.guest.connection().add_mem_region(&region).unwrap();
    bench.is_alive().unwrap();
    memory.set_len(PAGE).unwrap();
    let (queue, guest_memory) = bench.guest.queue(1).unwrap();
    let message = Descriptor { address: TRUNCATED_AT + PAGE, len: 40, flags: 0, next: 0 };
    queue.write_table(guest_memory, queue.place().descriptors, &[message]).unwrap();
    queue.offer(guest_memory, 0).unwrap();
    queue.kick().unwrap();
    wait_for_end_by(bench.daemon, serving, Signal::BUS, "SIGBUS");
}

#[test]
fn a_failed_allocation_is_reported_as_sigabrt() {
    let mut bench = Bench::new().unwrap();
    let serving = bench.daemon.serving_id();
    let one_page = Rlimit { current: Some(PAGE), maximum: None };
    rustix::process::prlimit(Some(pid(serving)), Resource::Data, one_page).unwrap();
    // Each file that the guest knows uses memory, until the rest of the heap is used up.
    let files = (0..100_000).map(|n| format!("file-{n}"));
    let survived = files.take_while(|name| {
        fs::write(bench.host(name), "").unwrap();
        bench.errno(Frame::new(LOOKUP, ROOT).name(name), 128).is_ok()
    });
    assert_ne!(survived.count(), 100_000, "no allocation failed");
    let stderr = wait_for_end_by(bench.daemon, serving, Signal::ABORT, "SIGABRT");
    assert!(stderr.contains("memory allocation of"), "{stderr}");
}

/// To make the daemon send a forbidden call, the test lets strace answer fsync in place of the
/// kernel. strace then changes the number of the call to an invalid one, so that the kernel does
/// nothing. The filter checks the number after the tracer, and refuses it.
#[test]
fn forbidden_call_is_reported_with_a_command_that_finds_it() {
    let share = SharedFolder::new().unwrap();
    fs::write(share.host("file"), "content").unwrap();
    let daemon = share.serve(&[]).unwrap();
    let (mut guest, _) = Client::connect(daemon.socket(), Setup::default()).unwrap();
    let (node, handle) = guest.open("file", O_RDWR).unwrap();
    let fsync = Frame::new(FSYNC, node).u64(handle).u32(0).u32(0);
    guest.body(fsync.clone(), 0).unwrap();
    let serving = daemon.serving_id();
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:retval=0", "-p"]);
    let tracer = tracer.arg(serving.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut tracer =
        tracer.unwrap_or_else(|error| panic!("no strace ({error}): run `apt-get install --yes strace`"));
    eventually("each thread is traced", || {
        fs::read_dir(format!("/proc/{serving}/task")).unwrap().all(|thread| {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
            !status.lines().any(|line| line == "TracerPid:\t0")
        })
    });
    let asked = guest.submit(fsync, 0).unwrap();
    let stderr = wait_for_end_by(daemon, serving, Signal::SYS, "SIGSYS");
    assert!(stderr.contains(&format!("--grep 'type=1326.* pid={serving} '")), "{stderr}");
    drop((asked, guest));
    tracer.wait().unwrap();
}
