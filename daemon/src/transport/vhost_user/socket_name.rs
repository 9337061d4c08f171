//! The name of a listening socket in the file system.
//!
//! Another user may be able to write to the folder of the socket, and to rename files in it at any
//! moment. So the socket is made in a folder that only this process can enter, gets its group and
//! mode there, and is then moved to its name. An old socket with that name is moved into the
//! private folder before it is checked. Each step acts on a file, not on a name that may lead to
//! another file by then.

use super::ServeError;
use crate::file_id::FileId;
use crate::limits::{PRIVATE_FOLDERS_MAX, SOCKET_LOCK_LIMIT, SOCKET_LOCK_NAP};
use crate::sync::clock;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// The longest name in bytes with which `/proc/self/fd/N/NAME` fits into a socket address (107).
const NAME_LEN_MAX: usize = 80;

/// The name of a socket that this process made. `drop` removes the name.
#[derive(Debug, Default)]
pub struct SocketName(Option<Made>);

#[derive(Debug)]
struct Made {
    place: SocketPlace,
    /// Identity of the socket. The socket of a later daemon must not be removed.
    identity: FileId,
}

impl SocketName {
    /// Leaves the name to another process.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// Removes the name. The supervisor's filter allows exactly these calls.
    ///
    /// Between the check and the removal another file may take the name. A user with the right to
    /// do that could remove the file as well.
    pub fn remove(&self) {
        let Some(Made { place, identity }) = &self.0 else { return };
        if look(&place.folder, &place.name).is_ok_and(|now| FileId::of_stat(&now) == *identity)
            && let Err(error) = rustix::fs::unlinkat(&place.folder, &place.name, AtFlags::empty())
        {
            tracing::warn!(path = %place.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes a socket that listens at a path, for its owner, and for a group if there is one.
///
/// # Errors
/// [`ServeError`] with the reason.
pub(super) fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, SocketName), ServeError> {
    let failed = |source: io::Error| ServeError::Bind { path: path.to_owned(), source };
    let place = SocketPlace::of(path).map_err(failed)?;
    let _locked = place.lock();
    let private = PrivateFolder::beside(&place).map_err(failed)?;
    place.clear(&private)?;
    let inner = private.socket_name();
    let socket = UnixListener::bind(private.path_of(inner)).map_err(failed)?;
    let opened = private.open(inner).map_err(failed)?;
    admit(opened.as_fd(), group).map_err(|source| match group {
        Some(group) => ServeError::Group { path: path.to_owned(), group, source },
        None => failed(source),
    })?;
    let identity = look_at(&opened).map(|stat| FileId::of_stat(&stat)).map_err(failed)?;
    let moved = move_new((private.as_fd(), inner), (place.folder.as_fd(), &place.name));
    drop(private);
    match moved {
        Ok(()) => Ok((socket, SocketName(Some(Made { place, identity })))),
        // Another daemon has taken the name meanwhile.
        Err(Errno::EXIST) => Err(ServeError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Allows the owner and the group to connect.
fn admit(socket: BorrowedFd<'_>, group: Option<u32>) -> io::Result<()> {
    let mode = match group {
        Some(group) => {
            rustix::fs::chownat(socket, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
            0o660
        }
        None => 0o600,
    };
    Ok(rustix::fs::chmod(by_number(socket), Mode::from_raw_mode(mode))?)
}

/// Returns the status of a name. Follows no link.
fn look(folder: impl AsFd, name: &OsStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(folder, name, flags, StatxFlags::INO | StatxFlags::TYPE)
}

fn look_at(file: impl AsFd) -> io::Result<Statx> {
    let wanted = StatxFlags::INO | StatxFlags::TYPE | StatxFlags::UID | StatxFlags::MODE;
    Ok(rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)?)
}

fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

fn by_number(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Moves a file to a name that does not exist yet.
fn move_new(
    (from, old): (BorrowedFd<'_>, &OsStr),
    (to, new): (BorrowedFd<'_>, &OsStr),
) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        // The file system does not support the flag. A second name works too.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(from, old, to, new, AtFlags::empty())?;
            rustix::fs::unlinkat(from, old, AtFlags::empty())
        }
        moved => moved,
    }
}

/// The folder of a socket and its name there. The folder stays the same if its path changes.
#[derive(Debug)]
struct SocketPlace {
    folder: OwnedFd,
    name: OsString,
    /// The path as given, for messages.
    path: PathBuf,
}

impl SocketPlace {
    fn of(path: &Path) -> io::Result<Self> {
        // No VMM can connect to a path that is too long for an address.
        SocketAddr::from_pathname(path)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, above, flags, Mode::empty())?;
        Ok(Self { folder, name: name.to_owned(), path: path.to_owned() })
    }

    /// Locks the folder, so that other daemons do not look for a stale socket there at the same
    /// time. Returns `None` if the folder cannot be locked, or if another process keeps it locked.
    fn lock(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, c".", flags, Mode::empty()).ok()?;
        let began = clock::now();
        while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            if clock::elapsed(began) > SOCKET_LOCK_LIMIT {
                return None;
            }
            std::thread::park_timeout(SOCKET_LOCK_NAP);
        }
        Some(folder)
    }

    /// Removes a socket on which no process listens.
    ///
    /// A connection would show whether a process listens, but it would be the one connection of
    /// that daemon. A datagram socket does not disturb it: the kernel answers "wrong type" if a
    /// stream socket listens, and "refused" if none does.
    fn clear(&self, private: &PrivateFolder<'_>) -> Result<(), ServeError> {
        let path = || self.path.clone();
        let failed = |source: io::Error| ServeError::Bind { path: path(), source };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(|error| failed(error.into()))?,
        };
        let seen = look_at(&found).map_err(failed)?;
        if kind(&seen) != FileType::Socket {
            return Err(ServeError::NotASocket { path: path() });
        }
        let probe = UnixDatagram::unbound().map_err(failed)?;
        match probe.connect(by_number(found.as_fd())).map_err(|error| error.kind()) {
            Err(io::ErrorKind::ConnectionRefused) => {}
            Ok(()) | Err(_) => return Err(ServeError::InUse { path: path() }),
        }
        let stale = OsStr::new("stale");
        match rustix::fs::renameat(&self.folder, &self.name, private, stale) {
            Err(Errno::NOENT) => return Ok(()),
            moved => moved.map_err(|error| failed(error.into()))?,
        }
        let moved = private.open(stale).and_then(|moved| look_at(&moved)).map_err(failed)?;
        if FileId::of_stat(&moved) == FileId::of_stat(&seen) {
            return Ok(());
        }
        // Another daemon has made a socket there meanwhile. The socket gets its name back, unless a
        // third daemon has taken the name.
        match move_new((private.as_fd(), stale), (self.folder.as_fd(), &self.name)) {
            Ok(()) | Err(Errno::EXIST) => Err(ServeError::InUse { path: path() }),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// A folder that no other user can enter, beside a socket's name. `drop` removes it with its
/// contents.
struct PrivateFolder<'p> {
    place: &'p SocketPlace,
    name: OsString,
    folder: OwnedFd,
}

impl<'p> PrivateFolder<'p> {
    fn beside(place: &'p SocketPlace) -> io::Result<Self> {
        let own = rustix::process::getpid();
        let mut tries = 0..PRIVATE_FOLDERS_MAX;
        let name = loop {
            let Some(number) = tries.next() else { return Err(io::ErrorKind::AlreadyExists.into()) };
            let name = OsString::from(format!(".pinhole-{own}-{number}"));
            match rustix::fs::mkdirat(&place.folder, &name, Mode::RWXU) {
                Ok(()) => break name,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&place.folder, &name, flags, Mode::empty())?;
        let private = Self { place, name, folder };
        let stat = look_at(&private.folder)?;
        let is_open = Mode::from_raw_mode(stat.stx_mode.into()).intersects(Mode::RWXG | Mode::RWXO);
        let is_private = stat.stx_uid == rustix::process::geteuid().as_raw() && !is_open;
        if is_private { Ok(private) } else { Err(io::Error::other("another folder has taken its place")) }
    }

    /// Returns the name of the socket in this folder: its later name, which `ss` will show, if that
    /// is short enough.
    fn socket_name(&self) -> &'p OsStr {
        let name = self.place.name.as_os_str();
        if name.len() <= NAME_LEN_MAX && name != "stale" { name } else { OsStr::new("socket") }
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        PathBuf::from(by_number(self.folder.as_fd())).join(name)
    }

    fn open(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?)
    }
}

impl AsFd for PrivateFolder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for PrivateFolder<'_> {
    fn drop(&mut self) {
        for left in [OsStr::new("stale"), self.socket_name()] {
            // Ignore the result: usually the file was moved away.
            rustix::fs::unlinkat(&self.folder, left, AtFlags::empty()).unwrap_or_default();
        }
        if let Err(error) = rustix::fs::unlinkat(&self.place.folder, &self.name, AtFlags::REMOVEDIR) {
            tracing::warn!(folder = %self.place.path.with_file_name(&self.name).display(), %error, "cannot remove a folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o777
    }

    /// Another process with write access to the folder exchanges the socket for another file, again
    /// and again.
    #[test]
    fn a_socket_swapped_in_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (path, decoy) = (folder.path().join("socket"), folder.path().join("decoy"));
        let _other = UnixListener::bind(&decoy).unwrap();
        std::fs::set_permissions(&decoy, std::fs::Permissions::from_mode(0o600)).unwrap();
        let group = Some(rustix::process::getgid().as_raw());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    let flags = RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &path, CWD, &decoy, flags).unwrap_or_default();
                }
            });
            for _ in 0..500 {
                // If the decoy has the name, the name is in use. A socket that was bound stays
                // there as a stale one.
                if let Ok((_socket, mut name)) = bind(&path, group) {
                    name.forget();
                }
            }
            over.store(true, Ordering::Release);
        });
        let names = [&path, &decoy].into_iter().filter(|path| path.exists());
        let modes: HashSet<_> =
            names.filter(|path| UnixStream::connect(path).is_ok()).map(|path| mode(path)).collect();
        assert_eq!(modes, HashSet::from([0o600]));
    }

    #[test]
    fn one_of_many_daemons_takes_a_stale_socket() {
        const DAEMONS: usize = 4;
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(DAEMONS);
            let bound: Vec<_> = std::thread::scope(|scope| {
                let bind_one = || {
                    start.wait();
                    bind(&path, None).ok()
                };
                let threads: Vec<_> = (0..DAEMONS).map(|_| scope.spawn(bind_one)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_name_is_removed_in_its_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("run")).unwrap();
        let (_socket, name) = bind(&at("run/socket"), None).unwrap();
        std::fs::rename(at("run"), at("moved")).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        drop(name);
        assert!(!at("moved/socket").exists());
    }

    #[test]
    fn nothing_is_left_beside_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, _name) = bind(&path, None).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_long_name_is_given_to_the_socket() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("n".repeat(NAME_LEN_MAX + 5));
        let (_socket, _name) = bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
