//! A share with host mounts below it, and a test client that sends FUSE requests.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pinhole_protocol::client::{decode_attr, decode_entry, decode_open};
use pinhole_protocol::{
    Attr, Entry, Forget, GetAttr, Handle, LockOwner, Lookup, Name, NodeId, Open, OpenDir, OpenFlags,
    Operation, Read, ReadDir, ReadDirPlus, Release,
};
use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::disk_faults::leave_the_hosts_mounts;
use pinhole_tests::frontend::{Frontend, Setup};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use tempfile::TempDir;

/// Time limit until an unused mount can be unmounted. It takes a few seconds, and longer on a busy
/// host.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// Shared folder. The daemon sees each later mount and unmount below it.
pub(crate) struct Share {
    folder: TempDir,
}

impl Share {
    pub(crate) fn new() -> Self {
        leave_the_hosts_mounts().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        let share = Self { folder };
        rustix::mount::mount_bind(share.path(""), share.path("")).unwrap();
        rustix::mount::mount_change(share.path(""), MountPropagationFlags::SHARED).unwrap();
        share
    }

    /// Returns the path of `name` below the share. Without a name, returns the share itself.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// Returns a path of the host beside the share.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a daemon and connects a guest.
    pub(crate) fn guest(&self, arguments: &[&str]) -> Guest {
        let daemon = Daemon::pinhole(self.path("")).unwrap();
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        Guest::of(daemon.start().unwrap())
    }

    /// Mounts a tmpfs at `name`. It has the file `file` with the content `text`.
    pub(crate) fn tmpfs(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        run("mount", &["-t", "tmpfs", "submount"], &[&self.path(name)]);
        fs::write(self.path(name).join("file"), text).unwrap();
    }

    /// Mounts an ext4 image at `name`. It has the file `file` with the content `text`.
    pub(crate) fn ext4(&self, name: &str, text: &str) {
        let image = self.beside(&format!("{}.image", name.replace('/', "-")));
        if !image.exists() {
            fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
            run("mkfs.ext4", &["-q", "-F"], &[&image]);
        }
        fs::create_dir_all(self.path(name)).unwrap();
        run("mount", &["-o", "loop"], &[&image, &self.path(name)]);
        fs::write(self.path(name).join("file"), text).unwrap();
    }

    pub(crate) fn bind(&self, from: &Path, name: &str) {
        rustix::mount::mount_bind(from, self.path(name)).unwrap();
    }

    pub(crate) fn unmount(&self, name: &str) -> rustix::io::Result<()> {
        rustix::mount::unmount(self.path(name), UnmountFlags::NOFOLLOW)
    }

    /// Unmounts the mount at `name` as soon as it is unused. Returns the time until then.
    pub(crate) fn unmount_when_idle(&self, name: &str) -> Duration {
        let began = Instant::now();
        loop {
            match self.unmount(name) {
                Ok(()) => return began.elapsed(),
                Err(rustix::io::Errno::BUSY) if began.elapsed() < IDLE_LIMIT => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(error) => panic!("cannot unmount {name} after {:?}: {error}", began.elapsed()),
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path(""), UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Runs a program, which must succeed, with the arguments `words` and then `paths`.
pub(crate) fn run(program: &str, words: &[&str], paths: &[&Path]) {
    let done = Command::new(program).args(words).args(paths).output();
    let done =
        done.unwrap_or_else(|error| panic!("{program}: {error}: run `apt-get install e2fsprogs mount`"));
    let said = String::from_utf8_lossy(&done.stderr);
    let hint = if words.contains(&"loop") { "; without loop devices, run `modprobe loop`" } else { "" };
    assert!(done.status.success(), "{program} {words:?}: {}{hint}", said.trim());
}

/// Test client that sends FUSE requests and caches nothing.
pub(crate) struct Guest {
    pub(crate) wire: Frontend,
    pub(crate) daemon: Serving,
    /// Mount ids of the descriptors that the daemon had when the guest had connected.
    mounts: BTreeSet<String>,
}

impl Guest {
    fn of(daemon: Serving) -> Self {
        let setup = Setup { queues: 2, ..Setup::default() };
        let mut wire = Frontend::connect_with(daemon.socket(), setup).unwrap();
        wire.init().unwrap();
        let mounts = mount_ids_of(daemon.serving_id()).into_iter().collect();
        Self { wire, daemon, mounts }
    }

    /// Waits until the daemon has at most `left` descriptors on mounts below the share.
    pub(crate) fn wait_until_idle(&self, left: usize) {
        let below = || {
            let mounts = mount_ids_of(self.daemon.serving_id());
            mounts.iter().filter(|mount| !self.mounts.contains(*mount)).count()
        };
        let began = Instant::now();
        while below() > left {
            let elapsed = began.elapsed();
            assert!(elapsed < IDLE_LIMIT, "{} descriptors are open after {elapsed:?}", below());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn request(&mut self, node: NodeId, operation: &Operation<'_>) -> io::Result<Vec<u8>> {
        let reply = self.wire.request(1, node, operation, &[])?;
        match reply.error()? {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.raw())),
            None => Ok(reply.success()?.to_vec()),
        }
    }

    pub(crate) fn look_up_in(&mut self, node: NodeId, name: &str) -> io::Result<Entry> {
        let name = CString::new(name).unwrap();
        let name = Name::parse(&name).unwrap();
        self.request(node, &Operation::Lookup(Lookup { name: name.into() }))
            .map(|body| decode_entry(&body).unwrap().0)
    }

    /// Looks up each name of a path, and returns their nodes in the same order.
    pub(crate) fn walk(&mut self, path: &str) -> Vec<NodeId> {
        let mut found = vec![NodeId::ROOT];
        for name in path.split('/') {
            found.push(self.look_up_in(*found.last().unwrap(), name).unwrap().node);
        }
        found.split_off(1)
    }

    /// Looks up a path and returns its node.
    pub(crate) fn look_up(&mut self, path: &str) -> NodeId {
        *self.walk(path).last().unwrap()
    }

    pub(crate) fn attributes(&mut self, node: NodeId) -> io::Result<Attr> {
        self.request(node, &Operation::GetAttr(GetAttr { handle: None }))
            .map(|body| decode_attr(&body).unwrap().0)
    }

    pub(crate) fn open(&mut self, node: NodeId) -> io::Result<Handle> {
        let open = Open { flags: OpenFlags::empty(), kill_suidgid: false };
        self.request(node, &Operation::Open(open)).map(|body| decode_open(&body).unwrap().handle)
    }

    pub(crate) fn release(&mut self, node: NodeId, handle: Handle) {
        let (flags, lock_owner) = (OpenFlags::empty(), LockOwner(0));
        let release = Release { handle, flags, flush: false, flock_unlock: false, lock_owner };
        self.request(node, &Operation::Release(release)).unwrap();
    }

    /// Returns the content of a file.
    pub(crate) fn read(&mut self, node: NodeId) -> io::Result<String> {
        let handle = self.open(node)?;
        let flags = OpenFlags::empty();
        let read = Read { handle, offset: 0, size: 4096, lock_owner: None, flags };
        let bytes = self.request(node, &Operation::Read(read));
        self.release(node, handle);
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// Returns the names in a directory with their inode numbers, sorted, without "." and "..".
    /// Uses READDIRPLUS if `plus` is set. Sends one request, so the directory must be small.
    pub(crate) fn list(&mut self, node: NodeId, plus: bool) -> Vec<(String, u64)> {
        let opened = self.request(node, &Operation::OpenDir(OpenDir { flags: OpenFlags::empty() })).unwrap();
        let list = ReadDir { handle: decode_open(&opened).unwrap().handle, offset: 0, size: 4096 };
        let list = if plus { Operation::ReadDirPlus(ReadDirPlus { list }) } else { Operation::ReadDir(list) };
        let body = self.request(node, &list).unwrap();
        // `struct fuse_dirent`, after a `struct fuse_entry_out` if the listing has attributes.
        let before = if plus { 128 } else { 0 };
        let mut names = Vec::new();
        let mut rest = &body[..];
        while rest.len() > before {
            let dirent = &rest[before..];
            let inode = u64::from_le_bytes(dirent[..8].try_into().unwrap());
            let len = u32::from_le_bytes(dirent[16..20].try_into().unwrap()) as usize;
            names.push((String::from_utf8(dirent[24..24 + len].to_vec()).unwrap(), inode));
            rest = &dirent[(24 + len).next_multiple_of(8).min(dirent.len())..];
        }
        names.retain(|(name, _)| name != "." && name != "..");
        names.sort();
        names
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        let operation = Operation::Forget(Forget { count: 1 });
        self.wire.request(0, node, &operation, &[]).unwrap();
    }
}

/// Returns the mount id of each descriptor of a process.
fn mount_ids_of(process: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    let of = |path: PathBuf| {
        // The process may have closed the descriptor in the meantime.
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(|id| id.trim().to_owned())
    };
    descriptors.filter_map(|entry| of(entry.unwrap().path())).collect()
}

pub(crate) fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Option<i32> {
    answer.unwrap_err().raw_os_error()
}
