//! The socket to which VMMs connect: made at a path, or inherited as a descriptor that listens.

use super::ServeError;
use super::socket_name::{self, SocketName};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// The socket to which VMMs connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// A socket made at this path, for the owner, and for a group if there is one.
    Path {
        /// The socket's name in the file system.
        path: PathBuf,
        /// The group that may connect beside the daemon's own user.
        group: Option<u32>,
    },
    /// A listening socket that the daemon was started with.
    Descriptor(RawFd),
}

/// A socket that listens. `drop` removes the name that was made for it.
#[derive(Debug)]
pub struct SocketListener {
    socket: UnixListener,
    name: SocketName,
}

impl SocketListener {
    /// Makes the socket, or takes the inherited one.
    ///
    /// # Errors
    /// [`ServeError`] with the reason.
    pub fn bind(listen: &ListenAt) -> Result<Self, ServeError> {
        match listen {
            ListenAt::Path { path, group } => {
                socket_name::bind(path, *group).map(|(socket, name)| Self { socket, name })
            }
            ListenAt::Descriptor(number) => take_descriptor(*number),
        }
    }

    /// Closes the socket and returns its name, for a process that outlives the one that listens.
    pub fn into_name(self) -> SocketName {
        self.name
    }

    /// Leaves the name to another process, which has a copy of this value.
    pub fn leave_name(&mut self) {
        self.name.forget();
    }

    pub(super) fn socket(&self) -> Result<UnixListener, ServeError> {
        self.socket.try_clone().map_err(ServeError::Accept)
    }
}

impl AsFd for SocketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes the listening socket that the daemon was started with. The descriptor is copied by its
/// number, so the copy has one owner.
fn take_descriptor(number: RawFd) -> Result<SocketListener, ServeError> {
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
    Ok(SocketListener { socket, name: SocketName::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn at(path: &Path) -> ListenAt {
        ListenAt::Path { path: path.to_owned(), group: None }
    }

    #[test]
    fn a_socket_is_for_its_owner_and_removed_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = SocketListener::bind(&at(&path)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_group_may_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let group = Some(rustix::process::getgid().as_raw());
        let _listener = SocketListener::bind(&ListenAt::Path { path: path.clone(), group }).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[test]
    fn a_socket_that_is_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = SocketListener::bind(&at(&path)).unwrap();
        assert!(matches!(SocketListener::bind(&at(&path)), Err(ServeError::InUse { .. })));
        assert!(path.exists());
        listener.socket.set_nonblocking(true).unwrap();
        let asked = listener.socket.accept().map_err(|error| error.kind());
        assert!(
            matches!(asked, Err(std::io::ErrorKind::WouldBlock)),
            "a check must not look like a connection"
        );
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(SocketListener::bind(&at(&path)).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(SocketListener::bind(&at(&path)), Err(ServeError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn only_a_listening_socket_is_taken_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let given = UnixListener::bind(folder.path().join("socket")).unwrap();
        drop(SocketListener::bind(&ListenAt::Descriptor(given.as_raw_fd())).unwrap());
        let file = tempfile::tempfile().unwrap();
        let taken = SocketListener::bind(&ListenAt::Descriptor(file.as_raw_fd()));
        assert!(matches!(taken, Err(ServeError::NotListening { .. })));
        assert!(matches!(
            SocketListener::bind(&ListenAt::Descriptor(1_000_000)),
            Err(ServeError::Descriptor { .. })
        ));
    }
}
