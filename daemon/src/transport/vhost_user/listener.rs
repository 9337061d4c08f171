//! The socket on which VMMs connect: made by us at a path, or given to us already listening.

use super::ServeError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Where VMMs connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket made at this path, for the owner alone or for a group beside.
    Path {
        /// The socket's name in the file system.
        path: PathBuf,
        /// Who may connect beside the daemon's own user, as a number.
        group: Option<u32>,
    },
    /// A listening socket that the daemon was started with.
    Descriptor(RawFd),
}

/// A socket that listens. Dropping it removes the name that it made.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    name: SocketName,
}

/// The name that we gave a socket; dropping it removes it.
#[derive(Debug, Default)]
pub struct SocketName(Option<Made>);

#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// So that the socket of one who came after us is not removed in place of ours.
    identity: (u64, u64),
}

impl Listener {
    /// Makes the socket, or takes the one given. Called before other threads exist: it changes the umask for a moment.
    ///
    /// # Errors
    /// What stands in the way, by name.
    pub fn bind(listen: &Listen) -> Result<Self, ServeError> {
        match listen {
            Listen::Path { path, group } => bind_path(path, *group),
            Listen::Descriptor(number) => take_descriptor(*number),
        }
    }

    /// Lets go of the socket and keeps its name, for a process that outlives the one that listens.
    pub fn into_name(self) -> SocketName {
        self.name
    }

    /// Leaves the name to another process, which has a copy of all this.
    pub fn leave_name(&mut self) {
        self.name.0 = None;
    }

    pub(super) fn socket(&self) -> Result<UnixListener, ServeError> {
        self.socket.try_clone().map_err(ServeError::Accept)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let Some(made) = &self.0 else { return };
        if identity(&made.path).is_ok_and(|now| now == made.identity)
            && let Err(error) = std::fs::remove_file(&made.path)
        {
            tracing::warn!(path = %made.path.display(), %error, "cannot remove the socket");
        }
    }
}

fn bind_path(path: &Path, group: Option<u32>) -> Result<Listener, ServeError> {
    remove_stale(path)?;
    let failed = |source: std::io::Error| ServeError::Bind { path: path.to_owned(), source };
    // Nobody but us may connect until the group is set.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let socket = bound.map_err(failed)?;
    let made = Made { path: path.to_owned(), identity: identity(path).map_err(failed)? };
    let listener = Listener { socket, name: SocketName(Some(made)) };
    if let Some(group) = group {
        give_to_group(path, Gid::from_raw(group)).map_err(|source| ServeError::Group {
            path: path.to_owned(),
            group,
            source,
        })?;
    }
    Ok(listener)
}

/// Lets a group connect. By descriptor, because chmod follows links: whoever may write to the socket's folder could
/// put one in its place.
fn give_to_group(path: &Path, group: Gid) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(std::io::Error::other("another file has taken the socket's place"));
    }
    rustix::fs::chownat(&socket, c"", None, Some(group), AtFlags::EMPTY_PATH)?;
    let number = format!("/proc/self/fd/{}", socket.as_raw_fd());
    Ok(rustix::fs::chmod(number, Mode::from_raw_mode(0o660))?)
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes a socket that nobody listens on.
///
/// A connection would tell whether somebody does, but it would also be that daemon's one connection. A datagram
/// socket asks without disturbing: the kernel answers "wrong type" where a stream socket lives, "refused" where none.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source: std::io::Error| ServeError::Bind { path: path.to_owned(), source };
    match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(ServeError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = std::os::unix::net::UnixDatagram::unbound().map_err(failed)?;
    match probe.connect(path).map_err(|error| error.kind()) {
        Err(std::io::ErrorKind::ConnectionRefused) => std::fs::remove_file(path).map_err(failed),
        Ok(()) | Err(_) => Err(ServeError::InUse { path: path.to_owned() }),
    }
}

/// Takes the listening socket that the daemon was started with. It is fetched from our own process: a number alone
/// proves no ownership, and the copy is ours.
fn take_descriptor(number: RawFd) -> Result<Listener, ServeError> {
    let failed = |source: rustix::io::Errno| ServeError::Descriptor { number, source: source.into() };
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(failed)?;
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let socket: OwnedFd = rustix::process::pidfd_getfd(own, number, flags).map_err(failed)?;
    let listens = sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(&socket).unwrap_or(false);
    if !listens {
        return Err(ServeError::NotListening { number });
    }
    let socket = UnixListener::from(socket);
    socket.set_nonblocking(false).map_err(|source| ServeError::Descriptor { number, source })?;
    Ok(Listener { socket, name: SocketName::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn at(path: &Path) -> Listen {
        Listen::Path { path: path.to_owned(), group: None }
    }

    #[test]
    fn a_socket_is_for_its_owner_alone_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&at(&path)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_may_connect_where_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let group = Some(rustix::process::getgid().as_raw());
        let _listener = Listener::bind(&Listen::Path { path: path.clone(), group }).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[test]
    fn a_socket_that_is_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&at(&path)).unwrap();
        assert!(matches!(Listener::bind(&at(&path)), Err(ServeError::InUse { .. })));
        assert!(path.exists());
        listener.socket.set_nonblocking(true).unwrap();
        let asked = listener.socket.accept().map_err(|error| error.kind());
        assert!(
            matches!(asked, Err(std::io::ErrorKind::WouldBlock)),
            "asking must not look like a connection"
        );
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&at(&path)).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Listener::bind(&at(&path)), Err(ServeError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn only_a_listening_socket_is_taken_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let given = UnixListener::bind(folder.path().join("socket")).unwrap();
        drop(Listener::bind(&Listen::Descriptor(given.as_raw_fd())).unwrap());
        let file = tempfile::tempfile().unwrap();
        let taken = Listener::bind(&Listen::Descriptor(file.as_raw_fd()));
        assert!(matches!(taken, Err(ServeError::NotListening { .. })));
        assert!(matches!(Listener::bind(&Listen::Descriptor(1_000_000)), Err(ServeError::Descriptor { .. })));
    }
}
