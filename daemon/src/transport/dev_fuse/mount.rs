//! Mounting and unmounting: by system calls for root, by the program `fusermount3` for other users.

use super::own_mount::OwnMount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Words that [`MountRequest::options`] may contain.
pub const MOUNT_OPTIONS: &str =
    "ro, rw, suid, nosuid, dev, nodev, exec, noexec, atime, noatime, nodiratime, sync, async, dirsync";

/// The directory to share and the place to mount it.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The directory that is shared; the first column of the mount table.
    pub directory: PathBuf,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// Words of [`MOUNT_OPTIONS`]. A later word wins. The default is `nosuid`, `nodev`.
    pub options: Vec<String>,
}

/// Reason why there is no mount.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MountError {
    #[error(
        "/dev/fuse is missing: load the kernel's module with `modprobe fuse`, or pass the device into the container"
    )]
    NoDevice,
    #[error("/dev/fuse: {source}; let this user read and write the device")]
    Device { source: io::Error },
    #[error("{} holds a FUSE mount whose server is gone: run `umount {}` first", path.display(), path.display())]
    Stale { path: PathBuf },
    #[error("{} is not a directory that can be mounted on: {source}; give an existing directory", path.display())]
    Mountpoint { path: PathBuf, source: io::Error },
    #[error("{} lies inside the shared directory {}: mount it elsewhere", path.display(), shared.display())]
    Inside { path: PathBuf, shared: PathBuf },
    #[error("{}: cannot mount here: {source}; allow mounts (CAP_SYS_ADMIN), or choose another directory", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("fusermount3 cannot be run ({source}): install the package fuse3, or mount as root")]
    NoFusermount { source: io::Error },
    #[error("{}: fusermount3 has not mounted it: {text}; see fusermount3(1)", path.display())]
    Fusermount { path: PathBuf, text: String },
}

/// A mount. `drop` unmounts.
#[derive(Debug)]
pub struct Mounted {
    device: Arc<OwnedFd>,
    mountpoint: PathBuf,
    by: Mounter,
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mounter {
    Root(OwnMount),
    Fusermount,
}

impl Mounted {
    /// Mounts. Until requests are served, programs that access the mount wait.
    ///
    /// # Errors
    /// [`MountError`], whose message is for the user of the command line.
    pub fn new(request: MountRequest) -> Result<Self, MountError> {
        let mountpoint = check(&request)?;
        let (device, by) = if rustix::process::geteuid().is_root() {
            let device = open_device()?;
            let named = (&*request.directory, &*request.options);
            let own = OwnMount::new(named, device.as_fd(), mountpoint.as_fd())
                .map_err(|source| MountError::Mount { path: request.mountpoint.clone(), source })?;
            (device, Mounter::Root(own))
        } else {
            (by_fusermount(&request)?, Mounter::Fusermount)
        };
        Ok(Self { device: Arc::new(device), mountpoint: request.mountpoint, by, gone: false })
    }

    /// Returns the device from which requests come.
    pub(super) const fn device(&self) -> &Arc<OwnedFd> {
        &self.device
    }

    /// Drops the mount without unmounting it, because another process has done that.
    pub(super) fn forget(mut self) {
        self.gone = true;
    }

    /// Unmounts. Returns true if programs still use the mount. Then no path leads to it any more,
    /// and these programs keep it.
    pub(super) fn unmount(mut self) -> bool {
        self.gone = true;
        self.take_away()
    }

    /// Unmounts; see [`Mounted::unmount`].
    fn take_away(&self) -> bool {
        let outcome = match self.by {
            Mounter::Root(own) => own.unmount(self.device.as_fd()),
            Mounter::Fusermount if self.ask_fusermount(None) => Ok(false),
            Mounter::Fusermount if self.ask_fusermount(Some("-z")) => Ok(true),
            Mounter::Fusermount => Err(io::Error::other("fusermount3 has refused")),
        };
        outcome.unwrap_or_else(|error| {
            tracing::warn!("{} could not be unmounted: {error}", self.mountpoint.display());
            true
        })
    }

    fn ask_fusermount(&self, option: Option<&str>) -> bool {
        let mut command = Command::new("fusermount3");
        command.args(["-u", "-q"]).args(option).arg("--").arg(&self.mountpoint);
        command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.gone {
            self.gone = true;
            self.take_away();
        }
    }
}

/// Opens the mount point and checks it.
fn check(request: &MountRequest) -> Result<OwnedFd, MountError> {
    let path = || request.mountpoint.clone();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = |path: &Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
    let mountpoint = match at(&request.mountpoint) {
        Err(Errno::NOTCONN) => return Err(MountError::Stale { path: path() }),
        opened => opened.map_err(|error| MountError::Mountpoint { path: path(), source: error.into() })?,
    };
    // A dead FUSE mount can be opened, but every other access fails.
    if rustix::fs::fstat(&mountpoint).is_err_and(|error| error == Errno::NOTCONN) {
        return Err(MountError::Stale { path: path() });
    }
    // The share would contain itself: a walk through it would be endless, and a thread could wait
    // for itself.
    if let Ok(shared) = at(&request.directory) {
        let (inner, outer) = (name_of(&mountpoint), name_of(&shared));
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
            && inner.starts_with(&outer)
        {
            return Err(MountError::Inside { path: path(), shared: request.directory.clone() });
        }
    }
    Ok(mountpoint)
}

fn name_of(directory: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()
}

fn open_device() -> Result<OwnedFd, MountError> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|error| match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => MountError::NoDevice,
        other => MountError::Device { source: other.into() },
    })
}

/// Mounts with fusermount3, which has its own privileges. It returns the open device over the
/// socket that `_FUSE_COMMFD` names.
fn by_fusermount(request: &MountRequest) -> Result<OwnedFd, MountError> {
    let failed = |error: Errno| MountError::Device { source: error.into() };
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
            .map_err(failed)?;
    rustix::io::fcntl_setfd(&ours, FdFlags::CLOEXEC).map_err(failed)?;
    let mut command = Command::new("fusermount3");
    command
        .arg("-o")
        .arg(fusermount_options(request))
        .arg("--")
        .arg(&request.mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null());
    let output = command.output().map_err(|source| MountError::NoFusermount { source })?;
    drop(theirs);
    let device = receive_descriptor(&ours).map_err(failed)?;
    device.ok_or_else(|| MountError::Fusermount {
        path: request.mountpoint.clone(),
        text: String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
    })
}

/// Returns the options for fusermount3. It expects commas and backslashes in the directory's name
/// to be escaped.
fn fusermount_options(request: &MountRequest) -> OsString {
    let name = request.directory.display().to_string().replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("default_permissions,subtype=pinhole,fsname={name}");
    for word in &request.options {
        options.push(',');
        options.push_str(word);
    }
    options.into()
}

fn receive_descriptor(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket.as_fd(), &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut descriptors) = message else { return None };
        descriptors.next()
    });
    Ok(descriptors.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    fn request(options: &[&str]) -> MountRequest {
        let options = options.iter().map(ToString::to_string).collect();
        MountRequest { directory: "/srv/a,b".into(), mountpoint: "/mnt".into(), options }
    }

    #[test]
    fn a_comma_in_the_name_does_not_end_fusermounts_option() {
        let options = fusermount_options(&request(&["ro"]));
        assert_eq!(options, r"default_permissions,subtype=pinhole,fsname=/srv/a\,b,ro");
    }

    #[test]
    fn the_descriptor_that_fusermount_sends_arrives() {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let sent = tempfile::tempfile().unwrap();
        let descriptors = [sent.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&theirs, &[io::IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        let received = receive_descriptor(&ours).unwrap().unwrap();
        assert_eq!(rustix::fs::fstat(&received).unwrap().st_ino, rustix::fs::fstat(&sent).unwrap().st_ino);
    }

    #[test]
    fn a_mountpoint_inside_the_share_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        let request = MountRequest {
            directory: folder.path().to_owned(),
            mountpoint: folder.path().join("in"),
            options: Vec::new(),
        };
        assert!(matches!(check(&request), Err(MountError::Inside { .. })));
    }
}
