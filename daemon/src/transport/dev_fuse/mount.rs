//! Mounting and unmounting: by `mount(2)` for root, by the `fusermount3` program for everybody else.

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Words that [`MountRequest::options`] may contain.
pub const MOUNT_OPTIONS: &str =
    "ro, rw, suid, nosuid, dev, nodev, exec, noexec, atime, noatime, nodiratime, sync, async, dirsync";

/// What to mount where.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The directory that is shared; the first column of the mount table.
    pub directory: PathBuf,
    /// Where it shall appear.
    pub mountpoint: PathBuf,
    /// Out of [`MOUNT_OPTIONS`]; a later word wins. Without any: `nosuid`, `nodev`.
    pub options: Vec<String>,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MountError {
    #[error(
        "/dev/fuse is missing: load the kernel's module with `modprobe fuse`, or pass the device into the container"
    )]
    NoDevice,
    #[error("cannot open /dev/fuse: {source}")]
    Device { source: io::Error },
    #[error("{} holds a FUSE mount whose server is gone: run `umount {}` first", path.display(), path.display())]
    Stale { path: PathBuf },
    #[error("{} is not a directory that can be mounted on: {source}", path.display())]
    Mountpoint { path: PathBuf, source: io::Error },
    #[error("{} lies inside the shared directory {}: mount it elsewhere", path.display(), shared.display())]
    Inside { path: PathBuf, shared: PathBuf },
    #[error("cannot mount on {}: {source}", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("only root mounts by itself and fusermount3 cannot be run ({source}): install the package fuse3")]
    NoFusermount { source: io::Error },
    #[error("fusermount3 has not mounted {}: {text}", path.display())]
    Fusermount { path: PathBuf, text: String },
}

/// A mount; it goes when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    device: Arc<OwnedFd>,
    mountpoint: PathBuf,
    by: Mounter,
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mounter {
    Root,
    Fusermount,
}

impl Mounted {
    /// Mounts. Until requests are served, whoever looks at the mount waits.
    ///
    /// # Errors
    /// [`MountError`], in words for the one who typed the command.
    pub fn new(request: MountRequest) -> Result<Self, MountError> {
        check(&request)?;
        let (device, by) = if rustix::process::geteuid().is_root() {
            (by_root(&request)?, Mounter::Root)
        } else {
            (by_fusermount(&request)?, Mounter::Fusermount)
        };
        Ok(Self { device: Arc::new(device), mountpoint: request.mountpoint, by, gone: false })
    }

    /// Where requests come from.
    pub(super) const fn device(&self) -> &Arc<OwnedFd> {
        &self.device
    }

    /// Somebody else has unmounted it.
    pub(super) fn forget(mut self) {
        self.gone = true;
    }

    /// Unmounts. `true`: it was busy, so only its name is gone and its users still have it.
    pub(super) fn unmount(mut self) -> bool {
        self.gone = true;
        let plainly = self.try_unmount(false);
        if !plainly && !self.try_unmount(true) {
            tracing::warn!("{} could not be unmounted", self.mountpoint.display());
        }
        !plainly
    }

    fn try_unmount(&self, lazily: bool) -> bool {
        match self.by {
            Mounter::Root => {
                let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
                rustix::mount::unmount(&self.mountpoint, flags | UnmountFlags::NOFOLLOW).is_ok()
            }
            Mounter::Fusermount => {
                let mut command = Command::new("fusermount3");
                command.args(["-u", "-q"]).args(lazily.then_some("-z")).arg("--").arg(&self.mountpoint);
                command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.gone {
            self.gone = true;
            let _gone = self.try_unmount(true);
        }
    }
}

fn check(request: &MountRequest) -> Result<(), MountError> {
    let path = || request.mountpoint.clone();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = |path: &Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
    let mountpoint = match at(&request.mountpoint) {
        Err(Errno::NOTCONN) => return Err(MountError::Stale { path: path() }),
        opened => opened.map_err(|error| MountError::Mountpoint { path: path(), source: error.into() })?,
    };
    // A dead FUSE mount may be opened by path alone; asking it anything shows that nobody answers.
    if rustix::fs::fstat(&mountpoint).is_err_and(|error| error == Errno::NOTCONN) {
        return Err(MountError::Stale { path: path() });
    }
    // The share would contain itself: each walk through it endless, and one thread enough to wait for itself.
    if let Ok(shared) = at(&request.directory) {
        let (inner, outer) = (name_of(&mountpoint), name_of(&shared));
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
            && inner.starts_with(&outer)
        {
            return Err(MountError::Inside { path: path(), shared: request.directory.clone() });
        }
    }
    Ok(())
}

fn name_of(directory: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()
}

fn by_root(request: &MountRequest) -> Result<OwnedFd, MountError> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = opened.map_err(|error| match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => MountError::NoDevice,
        other => MountError::Device { source: other.into() },
    })?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = CString::new(data).map_err(|error| MountError::Device { source: error.into() })?;
    let flags = flags_of(&request.options);
    rustix::mount::mount(&request.directory, &request.mountpoint, "fuse.pinhole", flags, data.as_c_str())
        .map_err(|error| MountError::Mount { path: request.mountpoint.clone(), source: error.into() })?;
    Ok(device)
}

fn flags_of(options: &[String]) -> MountFlags {
    options.iter().fold(MountFlags::NOSUID | MountFlags::NODEV, |flags, word| match word.as_str() {
        "ro" => flags | MountFlags::RDONLY,
        "rw" => flags - MountFlags::RDONLY,
        "nosuid" => flags | MountFlags::NOSUID,
        "suid" => flags - MountFlags::NOSUID,
        "nodev" => flags | MountFlags::NODEV,
        "dev" => flags - MountFlags::NODEV,
        "noexec" => flags | MountFlags::NOEXEC,
        "exec" => flags - MountFlags::NOEXEC,
        "noatime" => flags | MountFlags::NOATIME,
        "atime" => flags - MountFlags::NOATIME,
        "nodiratime" => flags | MountFlags::NODIRATIME,
        "sync" => flags | MountFlags::SYNCHRONOUS,
        "async" => flags - MountFlags::SYNCHRONOUS,
        "dirsync" => flags | MountFlags::DIRSYNC,
        _ => flags,
    })
}

/// fusermount3 mounts with its own privileges and sends the open device back over the socket that `_FUSE_COMMFD`
/// names.
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

/// Commas and backslashes of the directory's name are escaped, as fusermount3 reads them.
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
    fn a_mount_ignores_suid_and_devices_unless_told_otherwise() {
        assert_eq!(flags_of(&[]), MountFlags::NOSUID | MountFlags::NODEV);
        assert_eq!(flags_of(&request(&["suid", "dev", "ro"]).options), MountFlags::RDONLY);
        assert_eq!(flags_of(&request(&["suid", "dev", "ro", "rw"]).options), MountFlags::empty());
    }

    #[test]
    fn every_mount_option_does_something_or_undoes_it() {
        for word in MOUNT_OPTIONS.split(", ") {
            let all = MountFlags::from_bits_retain(u32::MAX);
            let set = flags_of(&[word.to_owned()]) != flags_of(&[]);
            let kept = ["nosuid", "nodev", "rw", "exec", "atime", "async"].contains(&word);
            assert!(set || kept, "{word} of {all:?}");
        }
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
