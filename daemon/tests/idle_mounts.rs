//! Do the descriptors of mounts below the share count in the budget, and do they stay open while a
//! request uses them?
#![cfg(test)]
use pinhole::filesystem::{Call, Caller, FileSystem, Pace, Paced};
use pinhole::passthrough::{Passthrough, ShareConfig};
use pinhole_policy::{NoPlaces, Permitted, Policy, RequiresAccess};
use pinhole_protocol::{
    self as protocol, Entry, Errno, Forget, GetAttr, InitFlags, Lookup, Name, NodeId, Open, OpenFlags,
};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// A share with tmpfs mounts below it. They are unmounted when this is dropped.
struct Share {
    folder: TempDir,
    mounts: Vec<PathBuf>,
    host: Passthrough,
}

impl Share {
    fn with_mounts(count: usize, descriptors_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Passthrough::new(ShareConfig { descriptors_max, ..ShareConfig::new(folder.path()) });
        let mounts = (0..count).map(|n| folder.path().join(format!("mount-{n}"))).collect();
        let share = Self { folder, mounts, host: host.unwrap() };
        for mount in &share.mounts {
            std::fs::create_dir(mount).unwrap();
            rustix::mount::mount("submount", mount, "tmpfs", MountFlags::empty(), None)
                .unwrap_or_else(|error| panic!("mounting takes root ({error}): `sudo -E cargo xtask test`"));
            std::fs::write(mount.join("file"), "text").unwrap();
        }
        share
    }

    fn look_up(&self, parent: NodeId, name: &str) -> Result<Entry, Errno> {
        let name = CString::new(name).unwrap();
        self.host.lookup(at(parent, Lookup { name: Name::parse(&name).unwrap().into() }))
    }

    /// Carries out each operation that opens the mount again.
    fn use_file(&self, root: NodeId, file: NodeId) {
        assert_eq!(self.look_up(root, "file").unwrap().node, file);
        self.forget(file);
        self.host.get_attr(at(file, GetAttr { handle: None })).unwrap();
        let open = Open { flags: OpenFlags::from_bits_retain(2), kill_suidgid: false };
        let handle = self.host.open(at(file, open), Pace::Patient).and_then(Paced::ready).unwrap().handle;
        let (flags, lock_owner) = (OpenFlags::empty(), protocol::LockOwner(0));
        let release = protocol::Release { handle, flags, flush: false, flock_unlock: false, lock_owner };
        self.host.release(at(file, release), Pace::Patient).and_then(Paced::ready).unwrap();
    }

    fn forget(&self, node: NodeId) {
        self.host.forget(at(node, Forget { count: 1 }));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for mount in &self.mounts {
            rustix::mount::unmount(mount, UnmountFlags::DETACH).unwrap_or_default();
        }
        assert!(self.folder.path().exists());
    }
}

/// Returns an operation of root on a node, as permitted by a policy that permits everything.
fn at<'a, T>(node: NodeId, operation: T) -> Permitted<Call<'a, T>>
where
    Call<'a, T>: RequiresAccess,
{
    let caller = Caller { uid: 0, gid: 0, groups: None, pid: 1 };
    Policy::full().permit(Call { node, caller, operation }, &NoPlaces).unwrap()
}

#[test]
fn descriptors_of_mounts_count_in_the_budget() {
    const LIMIT: u64 = 6;
    let share = Share::with_mounts(12, LIMIT);
    let mut known = Vec::new();
    let refused = loop {
        match share.look_up(NodeId::ROOT, &format!("mount-{}", known.len())) {
            Ok(found) => known.push(found.node),
            Err(errno) => break errno,
        }
    };
    assert_eq!(refused, Errno::ENFILE);
    // A look-up needs one more descriptor while it runs.
    assert_eq!(known.len() as u64, LIMIT - 1);
    assert_eq!(share.host.held().descriptors, LIMIT - 1);
    for node in known {
        share.forget(node);
    }
    share.host.close_idle();
    assert_eq!(share.host.held().descriptors, 0, "the descriptors of forgotten nodes are closed");
    share.look_up(NodeId::ROOT, "mount-11").unwrap();
}

#[test]
fn idle_mounts_are_closed_and_opened_again() {
    let share = Share::with_mounts(4, 100);
    let nodes: Vec<_> = (0..4)
        .map(|n| {
            let root = share.look_up(NodeId::ROOT, &format!("mount-{n}")).unwrap().node;
            share.look_up(root, "file").unwrap().node
        })
        .collect();
    let stat = |node| share.host.get_attr(at(node, GetAttr { handle: None }));
    let before: Vec<_> = nodes.iter().map(|node| stat(*node).unwrap().ino).collect();
    assert!(share.host.held().descriptors >= 8);
    while share.host.close_idle() {}
    assert_eq!(share.host.held().descriptors, 0);
    let after: Vec<_> = nodes.iter().map(|node| stat(*node).unwrap().ino).collect();
    assert_eq!(before, after);
}

#[test]
fn no_mount_is_closed_under_a_request() {
    const CLOSED: u64 = 1000;
    let share = Share::with_mounts(2, 100);
    let roots: Vec<_> =
        (0..2).map(|n| share.look_up(NodeId::ROOT, &format!("mount-{n}")).unwrap().node).collect();
    let files: Vec<_> = roots.iter().map(|root| share.look_up(*root, "file").unwrap().node).collect();
    let closed = AtomicU64::new(0);
    let is_enough = || closed.load(Ordering::Relaxed) >= CLOSED;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_enough() {
                let before = share.host.held().descriptors;
                share.host.close_idle();
                let freed = before.saturating_sub(share.host.held().descriptors);
                closed.fetch_add(freed, Ordering::Relaxed);
            }
        });
        for (root, file) in roots.iter().zip(&files) {
            scope.spawn(|| {
                while !is_enough() {
                    let before = closed.load(Ordering::Relaxed);
                    share.use_file(*root, *file);
                    // Most pauses are long enough for the mount to become idle. Some are not.
                    for _ in 0..100 {
                        if closed.load(Ordering::Relaxed) != before {
                            break;
                        }
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    share.host.reset(InitFlags::empty());
    while share.host.close_idle() {}
    assert_eq!(share.host.held().descriptors, 0);
}
