//! Enters the daemon's own sandbox, as the daemon does, and then tries to escape, as an attacker
//! would that has taken over the daemon.
//!
//! `intruder SHARE CANARY PROFILE HANDLES ISOLATION LAYERS THREAD ATTEMPT`; HANDLES as in
//! --inode-file-handles. Prints one line: `done` if the attempt worked, `errno N` if the host
//! refused it, `killed N` if the host ended the process by signal N. If an attempt ends the
//! supervisor that makes it, no line is printed. An attempt acts only on the files and processes
//! that the command line names, or in mounts of its own.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pinhole::cli::args::LogLevel;
use pinhole::cli::{config, log};
use pinhole::passthrough::{InodeHandle, InodeHandles, Passthrough, ShareConfig, Surroundings};
use pinhole::sandbox::{
    CapabilityChanges, Confined, IdMaps, Isolation, Layers, OnForbidden, Plan, ServingExit, Side,
    UnconfinedSupervisor,
};
use pinhole_policy::host_calls::Threads;
use pinhole_policy::{Facilities, Policy, Profile};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use rustix::thread::UnshareFlags;
use vm_memory::mmap::MmapRegionBuilder;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(line) => say(&line),
        Err(error) => {
            say(&format!("failed: {error}"));
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    // Ignore the result: a test that receives no line fails.
    drop(writeln!(io::stdout(), "{line}"));
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Request {
    share: PathBuf,
    canary: PathBuf,
    profile: Profile,
    /// Whether inode handles are used.
    handles: bool,
    isolation: Isolation,
    layers: Layers,
    thread: Threads,
    attempt: String,
}

fn parse(words: &[String]) -> Result<Request, Failure> {
    let [share, canary, profile, handles, isolation, layers, thread, attempt] = words else {
        return Err("eight words: SHARE CANARY PROFILE HANDLES ISOLATION LAYERS THREAD ATTEMPT".into());
    };
    let named = Profile::ALL.into_iter().find(|known| known.name() == profile);
    let mut all = Layers::empty();
    for layer in layers.split(',').filter(|layer| *layer != "no") {
        all |= match layer {
            "namespace" => Layers::NAMESPACE,
            "capabilities" => Layers::CAPABILITIES,
            "landlock" => Layers::LANDLOCK,
            "seccomp" => Layers::SECCOMP,
            other => return Err(format!("no such layer: {other}").into()),
        };
    }
    Ok(Request {
        share: share.into(),
        canary: canary.into(),
        profile: named.ok_or("no such profile")?,
        handles: handles != "never",
        isolation: match isolation.as_str() {
            "namespace" => Isolation::Namespace,
            "chroot" => Isolation::Chroot,
            _ => Isolation::None,
        },
        layers: all,
        thread: match thread.as_str() {
            "queue" => Threads::QUEUE,
            "offload" => Threads::OFFLOAD,
            "supervisor" => Threads::SUPERVISOR,
            _ => Threads::CONTROL,
        },
        attempt: attempt.clone(),
    })
}

/// State that an intruder may know or have open when it begins.
struct Known {
    /// Process outside the sandbox.
    parent: Pid,
    /// Inode handle of the canary.
    handle: InodeHandle,
    root: OwnedFd,
    proc_fds: OwnedFd,
}

/// Enters the sandbox and makes the attempt. Returns the line to print, or an empty text if another
/// process or thread has printed it.
fn run(words: &[String]) -> Result<String, Failure> {
    let request = parse(words)?;
    log::start(config::LogConfig { level: LogLevel::Info, syslog: false })?;
    log::catch_panics();
    make_mounts_private()?;
    let canary = rustix::fs::open(&request.canary, OFlags::PATH, Mode::empty())?;
    let (handle, _) = InodeHandle::of(canary.as_fd())?;
    drop(canary);
    let parent = rustix::process::getpid();
    let mut facilities = Facilities::empty();
    facilities.set(Facilities::IDENTITY, rustix::process::geteuid().is_root());
    facilities.set(Facilities::HANDLES, request.handles);
    facilities.set(Facilities::DEBUG, cfg!(debug_assertions));
    let plan = Plan {
        isolation: request.isolation,
        id_maps: IdMaps::default(),
        share: Some(request.share.clone()),
        reach: request.profile.granted(),
        read_only: Policy::of(request.profile).is_read_only(),
        facilities,
        capabilities: CapabilityChanges::default(),
        forbidden: OnForbidden::Kill,
        file_size: None,
        layers: request.layers,
        required: Layers::empty(),
    };
    let sides = plan.isolate();
    if request.thread == Threads::SUPERVISOR && rustix::process::getpid() != parent {
        // Only the supervisor prints a line, and the kernel ends this process together with it. It
        // may have ended already.
        let Ok(_inside) = sides else { return Ok(String::new()) };
        loop {
            std::thread::park();
        }
    }
    let inside = match sides? {
        Side::Outside(supervisor) => match supervise(supervisor, &request, handle)? {},
        Side::Inside(inside) => inside,
    };
    let Confined { places, threads, .. } = inside.confine()?;
    let (root, proc_fds) = (places.share.ok_or("no shared directory")?, places.proc_fds);
    let known = Known { parent, handle, root: root.try_clone()?, proc_fds: proc_fds.try_clone()? };
    let as_users = facilities.contains(Facilities::IDENTITY);
    let surroundings = Surroundings { root, proc_fds, as_users, threads: threads.clone() };
    let inode_handles = if request.handles { InodeHandles::Prefer } else { InodeHandles::Never };
    // Starts the same threads as a daemon that serves.
    let _host = Passthrough::within(host_config(&request.share, inode_handles), surroundings)?;
    threads.confine(Threads::CONTROL)?;
    if request.thread == Threads::CONTROL {
        return Ok(outcome_of(&request, &known));
    }
    let thread = std::thread::Builder::new().spawn(move || {
        let line = match threads.enter(request.thread) {
            Ok(()) => outcome_of(&request, &known),
            Err(error) => format!("failed: {error}"),
        };
        say(&line);
        REPORTED.store(true, Ordering::Release);
        // The attempt may make even a normal end impossible, so this loops.
        loop {
            std::thread::park();
        }
    })?;
    // Wait only until the thread has reported its outcome: the thread may never end.
    while !thread.is_finished() && !REPORTED.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(String::new())
}

/// Does the work of the supervisor, then ends the process. It makes the attempt itself if the
/// command line names the supervisor. Otherwise it prints how the serving process ended.
fn supervise(
    supervisor: UnconfinedSupervisor,
    request: &Request,
    handle: InodeHandle,
) -> Result<Infallible, Failure> {
    // The target is the process that started this one, which must be out of reach.
    let parent = rustix::process::getppid().ok_or("no process has started this one")?;
    let root = rustix::fs::open("/", OFlags::PATH, Mode::empty())?;
    let known = Known { parent, handle, proc_fds: root.try_clone()?, root };
    let supervisor = supervisor.confine()?;
    if request.thread == Threads::SUPERVISOR {
        say(&outcome_of(request, &known));
        supervisor.end_as(ServingExit::Status(0));
    }
    match supervisor.watch() {
        Ok(ServingExit::Status(0)) => {}
        Ok(ServingExit::Status(code)) => say(&format!("status {code}")),
        Ok(ServingExit::Signal(signal)) => say(&format!("killed {signal}")),
        Err(error) => say(&format!("failed: {error}")),
    }
    supervisor.end_as(ServingExit::Status(0))
}

/// Whether the thread has reported the outcome of its attempt.
static REPORTED: AtomicBool = AtomicBool::new(false);

fn host_config(share: &Path, inode_handles: InodeHandles) -> ShareConfig {
    ShareConfig { inode_handles, descriptors_max: 100, ..ShareConfig::new(share) }
}

/// Hides the mounts of this process from all other processes. A process that is not root needs
/// nothing: it can mount only in a mount namespace of its own.
fn make_mounts_private() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    #[expect(deprecated, reason = "the safe form; only file tables could break I/O safety, mounts cannot")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(c"/", private)?)
}

/// Makes the attempt and returns the line that describes its outcome.
fn outcome_of(request: &Request, known: &Known) -> String {
    match attempt(request, known) {
        Ok(()) => "done".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("errno {number}"),
            None => format!("failed: {error}"),
        },
    }
}

/// Makes the attempt that the command line names. Returns the error of the host if it fails.
fn attempt(request: &Request, known: &Known) -> io::Result<()> {
    let canary = &request.canary;
    let (name, rest) = request.attempt.split_once('=').unwrap_or((&request.attempt, ""));
    match name {
        "path" => open_for_reading(CWD, canary),
        "dot-dot" => open_for_reading(known.root.as_fd(), &upwards(canary)),
        "proc" => {
            let root = Path::new("../root").join(canary.strip_prefix("/").unwrap_or(canary));
            open_for_reading(known.proc_fds.as_fd(), &root)
        }
        "handle" => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mount = rustix::fs::openat2(&known.root, c".", flags, Mode::empty(), ResolveFlags::empty())?;
            known.handle.open(mount.as_fd(), OFlags::RDONLY).map(drop)
        }
        // As in the daemon, where a panic is caught and costs only its request.
        "panic" => match std::panic::catch_unwind(panic) {
            Ok(()) => Err(io::Error::other("no panic")),
            Err(_said) => Ok(()),
        },
        "exec" => Err(Command::new("/bin/echo").arg("done").exec()),
        "connect" => TcpStream::connect(rest).map(drop),
        "connect-abstract" => UnixStream::connect_addr(&SocketAddr::from_abstract_name(rest)?).map(drop),
        "ptrace" => {
            let parent = rustix::process::pidfd_open(known.parent, PidfdFlags::empty())?;
            Ok(rustix::process::pidfd_getfd(parent, 1, PidfdGetfdFlags::empty()).map(drop)?)
        }
        "mount" => Ok(rustix::mount::mount(c"none", c"/", c"tmpfs", MountFlags::empty(), None)?),
        "unshare" =>
        {
            #[expect(deprecated, reason = "the safe form; mounts cannot break I/O safety")]
            Ok(rustix::thread::unshare(UnshareFlags::NEWNS)?)
        }
        "filter-with-flags" => {
            let (pass, arch) = (seccompiler::SeccompAction::Allow, std::env::consts::ARCH.try_into());
            let arch = arch.map_err(|error: seccompiler::BackendError| io::Error::other(error))?;
            let fail = seccompiler::SeccompAction::Errno(1);
            let rules = std::collections::BTreeMap::new();
            let filter = seccompiler::SeccompFilter::new(rules, pass, fail, arch);
            let program: Result<seccompiler::BpfProgram, _> = filter.and_then(TryInto::try_into);
            let program = program.map_err(io::Error::other)?;
            // By SECCOMP_FILTER_FLAG_TSYNC.
            seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
        }
        "kill" => Ok(rustix::process::test_kill_process(known.parent)?),
        "execute-memory" => {
            // PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS.
            let memory = MmapRegionBuilder::<()>::new(4096).with_mmap_prot(5).with_mmap_flags(0x22).build();
            memory.map(drop).map_err(io::Error::other)
        }
        "chmod" => {
            Ok(rustix::fs::chmodat(&known.root, c"foreign", Mode::from_raw_mode(0o777), AtFlags::empty())?)
        }
        "write" => {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat2(&known.root, c"foreign", flags, Mode::empty(), ResolveFlags::empty());
            Ok(file.map(drop)?)
        }
        "create" => {
            // A filter does not see the flags of this call, so the other layers must refuse it.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o600);
            Ok(rustix::fs::openat2(&known.root, c"new", flags, mode, ResolveFlags::empty()).map(drop)?)
        }
        other => Err(io::Error::other(format!("no such attempt: {other}"))),
    }
}

#[expect(clippy::panic, reason = "the attempt is a panic")]
fn panic() {
    panic!("the attempt `panic`");
}

/// Opens a path and reads its first byte.
fn open_for_reading(directory: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    // Uses the call that the filter of a queue thread permits and whose path the filter cannot see.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(directory, path, flags, Mode::empty(), ResolveFlags::empty())?;
    let mut byte = [0];
    let len = rustix::io::preadv2(
        &file,
        &mut [io::IoSliceMut::new(&mut byte)],
        0,
        rustix::io::ReadWriteFlags::empty(),
    )?;
    if len == 1 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Returns a relative path that leads from any directory up to the root and down to the canary.
fn upwards(canary: &Path) -> PathBuf {
    let mut path: PathBuf = std::iter::repeat_n("..", 32).collect();
    path.push(canary.strip_prefix("/").unwrap_or(canary));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_ends_at_the_canary() {
        assert!(upwards(Path::new("/a/b")).ends_with("../a/b"));
    }
}
