//! What is under test: the backing file system itself, a FUSE server that the kernel mounts, or a
//! vhost-user daemon.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::child::wait_for_exit;
use pinhole_tests::guest::Parts;
use pinhole_tests::mounted::unmount_when_unused;
use rustix::mount::UnmountFlags;

use super::Driver;
use super::calls::{Calls, Syncs};
use super::guest::Guest;
use super::wire::Wire;
use crate::disk::mounts::Work;

/// Upper bound on the time until a server serves, and until it ends.
const LIMIT: Duration = Duration::from_secs(20);

/// Interval between two checks.
const LOOK: Duration = Duration::from_millis(2);

/// Placeholder for the virtiofsd that `cargo xtask guest --base` fetches.
pub(crate) const VIRTIOFSD: &str = "{virtiofsd}";

/// Returns the command of the fetched virtiofsd, if `text` names it.
fn fetched_virtiofsd(text: &str) -> io::Result<String> {
    if !text.contains(VIRTIOFSD) {
        return Ok(String::new());
    }
    let tree = Parts::locate().base().map_err(io::Error::other)?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let (loader, program) = (libraries.join("ld-linux-x86-64.so.2"), tree.join("usr/libexec/virtiofsd"));
    Ok(format!("{} --library-path {} {}", loader.display(), libraries.display(), program.display()))
}

/// What is under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The backing file system itself.
    Native,
    /// The backing file system without any persistence operation, which loses data.
    NativeUnsynced,
    /// Command of a FUSE server, with `{dir}` and `{mountpoint}`.
    Mount(String),
    /// Command of a vhost-user daemon, with `{dir}` and `{socket}`.
    Daemon(String),
}

/// Subject with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tested {
    /// Name in reports.
    pub(crate) name: String,
    /// Option of the command line that selects it.
    pub(crate) option: String,
    /// What is under test.
    pub(crate) subject: Subject,
}

impl Tested {
    /// Makes a subject with its name and option.
    pub(crate) fn new(name: &str, option: &str, subject: Subject) -> Self {
        Self { name: name.to_owned(), option: option.to_owned(), subject }
    }
}

/// Subject that serves a directory.
pub(crate) enum Served {
    /// The directory itself.
    Native(Calls),
    /// Mount of a FUSE server.
    Mount(Calls, MountedServer),
    /// Daemons of the guests. The driver is dropped first: that ends the connections.
    Daemons(Wire, Vec<Server>),
}

impl Served {
    /// Returns the driver.
    pub(crate) fn driver(&mut self) -> &mut dyn Driver {
        match self {
            Self::Native(calls) | Self::Mount(calls, _) => calls,
            Self::Daemons(wire, _) => wire,
        }
    }

    /// Ends the server, so that the directory is no longer in use.
    ///
    /// # Errors
    /// Fails if the server does not end, with its standard error.
    pub(crate) fn end(self) -> io::Result<()> {
        match self {
            Self::Native(_) => Ok(()),
            Self::Mount(calls, server) => {
                drop(calls);
                server.end()
            }
            Self::Daemons(wire, daemons) => {
                drop(wire);
                daemons.into_iter().try_for_each(Server::end)
            }
        }
    }
}

impl Subject {
    /// Starts to serve `folder` to so many guests. A mount has one guest.
    ///
    /// # Errors
    /// Fails if the server does not start, with its standard error.
    pub(crate) fn serve(&self, folder: &Path, work: &Work, guest_count: u8) -> io::Result<Served> {
        Ok(match self {
            Self::Native => Served::Native(Calls::new(vec![folder.to_path_buf(); 2], Syncs::Pass)),
            Self::NativeUnsynced => Served::Native(Calls::new(vec![folder.to_path_buf(); 2], Syncs::Ignore)),
            Self::Mount(command) => {
                let server = MountedServer::start(command, folder, work)?;
                Served::Mount(Calls::new(vec![server.point.clone()], Syncs::Refuse), server)
            }
            Self::Daemon(text) => {
                let (mut guests, mut daemons) = (Vec::new(), Vec::new());
                for number in 1..=guest_count {
                    let (daemon, guest) = connect(text, folder, work, number)?;
                    daemons.push(daemon);
                    guests.push(guest);
                }
                Served::Daemons(Wire::new(guests), daemons)
            }
        })
    }
}

/// Process of a server. Dropping it kills its process group.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Whether the process was reaped. A server that becomes a background process ends at once.
    has_ended: bool,
    log: PathBuf,
}

/// Returns a command of a user, with placeholders replaced. Words are separated by spaces.
fn command(text: &str, values: &[(&str, &Path)]) -> io::Result<Command> {
    let text = text.replace(VIRTIOFSD, &fetched_virtiofsd(text)?);
    let mut words = text.split_whitespace().map(|word| {
        values
            .iter()
            .fold(word.to_owned(), |word, (name, value)| word.replace(name, &value.display().to_string()))
    });
    let program = words.next().ok_or_else(|| io::Error::other("the command is empty"))?;
    // If this thread ends by a signal, the server ends too.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(words);
    Ok(command)
}

impl Server {
    fn start(command: &mut Command, log: PathBuf) -> io::Result<Self> {
        let stderr = File::create(&log)?;
        let stdout = stderr.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0).spawn();
        let child = child.map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))?;
        Ok(Self { child, has_ended: false, log })
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `is_ready` holds.
    fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> io::Result<()> {
        let began = Instant::now();
        while !is_ready() {
            if let Some(status) = self.wait(LOOK)?
                && !status.success()
            {
                return Err(io::Error::other(format!("the server ended with {status}: {}", self.log())));
            }
            if self.has_ended {
                std::thread::park_timeout(LOOK);
            }
            if began.elapsed() > LIMIT {
                return Err(io::Error::other(format!("the server did not {what}: {}", self.log())));
            }
        }
        Ok(())
    }
}

impl Server {
    /// Waits for the end of a server that has nothing to serve.
    fn end(mut self) -> io::Result<()> {
        self.wait(LIMIT)?;
        if self.has_ended {
            return Ok(());
        }
        Err(io::Error::other(format!("the server did not end: {}", self.log())))
    }

    /// Waits until the process has ended, for at most `limit`, and reaps it.
    fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        if self.has_ended || !wait_for_exit(&self.child, Some(limit))? {
            return Ok(None);
        }
        self.has_ended = true;
        self.child.wait().map(Some)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Ignore the result: the group may have ended.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or_default();
        }
        drop(self.child.wait());
    }
}

/// Starts the daemon of a guest and connects the guest.
fn connect(text: &str, folder: &Path, work: &Work, number: u8) -> io::Result<(Server, Guest)> {
    let socket = work.join(&format!("socket{number}"));
    // A daemon that was killed has left its socket.
    drop(fs::remove_file(&socket));
    let mut command = command(text, &[("{dir}", folder), ("{socket}", &socket)])?;
    let mut server = Server::start(&mut command, work.join(&format!("daemon{number}.log")))?;
    server.wait_until("listen", || socket.exists())?;
    let mut guest = Guest::connect(&socket);
    let began = Instant::now();
    // The socket exists shortly before the daemon listens.
    while guest.is_err() && began.elapsed() < LIMIT && server.wait(LOOK)?.is_none() {
        guest = Guest::connect(&socket);
    }
    let guest =
        guest.map_err(|error| io::Error::other(format!("no connection: {error}: {}", server.log())))?;
    Ok((server, guest))
}

/// FUSE server with its mount. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct MountedServer {
    point: PathBuf,
    server: Option<Server>,
}

impl MountedServer {
    fn start(text: &str, folder: &Path, work: &Work) -> io::Result<Self> {
        let point = work.make_folder("server")?;
        let mut command = command(text, &[("{dir}", folder), ("{mountpoint}", &point)])?;
        let mut server = Server::start(&mut command, work.join("server.log"))?;
        let before = device(work.join("").as_path())?;
        server.wait_until("mount", || device(&point).is_ok_and(|device| device != before))?;
        Ok(Self { point, server: Some(server) })
    }

    /// Unmounts the file system and waits for the end of the server.
    fn end(mut self) -> io::Result<()> {
        unmount_when_unused(&self.point)?;
        self.server.take().map_or(Ok(()), Server::end)
    }
}

impl Drop for MountedServer {
    fn drop(&mut self) {
        if self.server.is_some() {
            rustix::mount::unmount(&self.point, UnmountFlags::DETACH).unwrap_or_default();
        }
    }
}

/// Returns the device number of the file system at a path.
fn device(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::stat(path)?.st_dev)
}
