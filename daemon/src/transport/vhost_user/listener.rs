//! The socket on which VMMs connect: made by us at a path, or given to us already listening.

use super::ServeError;
use super::socket_name::{self, SocketName};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

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

impl Listener {
    /// Makes the socket, or takes the one given.
    ///
    /// # Errors
    /// What stands in the way, by name.
    pub fn bind(listen: &Listen) -> Result<Self, ServeError> {
        match listen {
            Listen::Path { path, group } => {
                socket_name::bind(path, *group).map(|(socket, name)| Self { socket, name })
            }
            Listen::Descriptor(number) => take_descriptor(*number),
        }
    }

    /// Lets go of the socket and keeps its name, for a process that outlives the one that listens.
    pub fn into_name(self) -> SocketName {
        self.name
    }

    /// Leaves the name to another process, which has a copy of all this.
    pub fn leave_name(&mut self) {
        self.name.forget();
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
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

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
