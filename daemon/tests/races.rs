//! Can a guest exceed its policy with two queues at once?
//!
//! The policy check comes before the host call. In between, the other queue creates, moves or
//! releases the object of the request. Each test races for a while and must never win.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a test of whole threads has the clock of the host")]
use pinhole::filesystem::{Allowed, Call, Caller, Durable, FileSystem, Pace, errno_of};
use pinhole::passthrough::{Passthrough, ShareConfig};
use pinhole_policy::{Policy, RequiresAccess};
use pinhole_protocol::{
    self as protocol, Entry, Errno, Forget, FsyncFlags, Handle, LockOwner, Lookup, MkDir, Name, NodeId, Open,
    OpenFlags, Release, SetAttr,
};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Length of a race. Without the protection under test, the guest wins within milliseconds.
const LONG: Duration = Duration::from_secs(1);

/// Distance between a key and the next key of the same slot (`slots.rs`). So a guest can predict
/// the next key.
const GENERATION: u64 = 1 << 32;

/// A share under a policy, with a directory `ro` and a file in it.
struct Share {
    policy: Policy,
    host: Passthrough,
    directory: TempDir,
}

impl Share {
    fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("ro")).unwrap();
        std::fs::create_dir(directory.path().join("ro/d")).unwrap();
        std::fs::write(directory.path().join("ro/file"), "x").unwrap();
        let policy = Policy::parse(policy).unwrap();
        let (limits, rules) = (*policy.limits(), policy.paths().cloned());
        let config = ShareConfig { limits, rules, ..ShareConfig::new(directory.path()) };
        Self { host: Passthrough::new(config).unwrap(), policy, directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Makes the policy check, as the session does.
    fn permit<'a, T>(&self, node: NodeId, operation: T) -> Result<Allowed<'a, T>, Errno>
    where
        Call<'a, T>: RequiresAccess,
    {
        let caller = Caller { uid: 0, gid: 0, groups: None, pid: 1 };
        let call = Call { node, caller, operation };
        self.policy.permit(call, &self.host).map_err(|denied| errno_of(denied.refusal))
    }

    fn look_up(&self, parent: NodeId, name: &str) -> Result<Entry, Errno> {
        with_name(name, |name| self.host.lookup(self.permit(parent, Lookup { name: name.into() })?))
    }

    fn find(&self, path: &str) -> NodeId {
        path.split('/').fold(NodeId::ROOT, |node, name| self.look_up(node, name).unwrap().node)
    }

    fn forget(&self, node: NodeId) {
        self.host.forget(self.permit(node, Forget { count: u64::MAX }).unwrap());
    }

    fn set_mode(&self, node: NodeId) -> Result<(), Errno> {
        let set = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        self.host.set_attr(self.permit(node, set)?, Pace::Patient).map(drop)
    }

    fn mk_dir(&self, parent: NodeId, name: &str) -> Result<(), Errno> {
        with_name(name, |name| {
            self.host.mk_dir(self.permit(parent, MkDir { name, mode: 0o755, umask: 0 })?).map(drop)
        })
    }

    fn unlink(&self, parent: NodeId, name: &str) -> Result<(), Errno> {
        with_name(name, |name| self.host.unlink(self.permit(parent, protocol::Unlink { name })?))
    }

    fn rename(
        &self,
        from: (NodeId, &str),
        to: (NodeId, &str),
        flags: protocol::RenameFlags,
    ) -> Result<(), Errno> {
        with_name(from.1, |name| {
            with_name(to.1, |new_name| {
                let rename = protocol::Rename { name, new_directory: to.0, new_name, flags };
                self.host.rename(self.permit(from.0, rename)?)
            })
        })
    }

    fn open(&self, node: NodeId, flags: u32) -> Result<Handle, Errno> {
        let flags = OpenFlags::from_bits_retain(flags);
        let open = self.permit(node, Open { flags, kill_suidgid: false })?;
        Ok(self.host.open(open, Pace::Patient)?.ready()?.handle)
    }

    fn fsync(&self, handle: Handle) -> Result<(), Errno> {
        let fsync = protocol::Fsync { handle, flags: FsyncFlags::DATASYNC };
        self.host.fsync(self.permit(NodeId::ROOT, fsync)?).and_then(Durable::wait)
    }

    fn release(&self, handle: Handle) -> Result<(), Errno> {
        let lock_owner = LockOwner(0);
        let release =
            Release { handle, flags: OpenFlags::empty(), flush: false, flock_unlock: false, lock_owner };
        self.host.release(self.permit(NodeId::ROOT, release)?, Pace::Patient)?.ready()
    }
}

fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

/// Races `ask` against `give_out` and returns how often `ask` succeeded.
///
/// One queue repeats `ask` for the key that the other queue gets next. `give_out` creates and
/// releases that key, and returns it. Each error of `ask` must be one of `refusals`.
fn wins(
    first: u64,
    refusals: &[Errno],
    ask: impl Fn(u64) -> Result<(), Errno> + Sync,
    give_out: impl Fn() -> u64,
) -> u64 {
    let (next, over, won) = (AtomicU64::new(first), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match ask(next.load(Ordering::Relaxed)) {
                    Ok(()) => drop(won.fetch_add(1, Ordering::Relaxed)),
                    Err(errno) => assert!(refusals.contains(&errno), "{errno:?}"),
                }
            }
        });
        let began = Instant::now();
        while began.elapsed() < LONG && won.load(Ordering::Relaxed) == 0 {
            let given = give_out();
            assert_eq!(given, next.load(Ordering::Relaxed), "the guest can predict the next key");
            next.store(given + GENERATION, Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
    });
    won.into_inner()
}

const PLAIN: protocol::RenameFlags = protocol::RenameFlags::empty();

/// Policy that permits reads only, below `ro`.
const READ_ONLY: &str = r#"
    [[path]]
    match = "/ro/**"
    access = ["lookup", "stat", "read", "list"]
"#;

/// Asserts that `ask` never succeeds for a node that does not exist yet. The policy cannot know the
/// rights at such a node.
fn no_wins_at(path: &str, refusals: &[Errno], ask: impl Fn(&Share, NodeId) -> Result<(), Errno> + Sync) {
    let share = Share::new(READ_ONLY);
    let (directory, name) = path.rsplit_once('/').unwrap();
    let directory = share.find(directory);
    let node = share.look_up(directory, name).unwrap().node;
    assert_eq!(ask(&share, node), Err(Errno::EPERM), "refused without a race");
    share.forget(node);
    let give_out = || {
        let node = share.look_up(directory, name).unwrap().node;
        share.forget(node);
        node.0
    };
    assert_eq!(wins(node.0 + GENERATION, refusals, |node| ask(&share, NodeId(node)), give_out), 0);
}

#[test]
fn future_id_changes_no_file() {
    no_wins_at("ro/file", &[Errno::EPERM, Errno::ESTALE], Share::set_mode);
}

#[test]
fn future_id_changes_no_directory() {
    let refusals = [Errno::EPERM, Errno::ESTALE];
    no_wins_at("ro/d", &refusals, |share, node| share.mk_dir(node, "new"));
    no_wins_at("ro/d", &refusals, |share, node| share.rename((NodeId::ROOT, "none"), (node, "new"), PLAIN));
    no_wins_at("ro/d", &refusals, |share, node| share.rename((node, "none"), (NodeId::ROOT, "new"), PLAIN));
}

#[test]
fn future_handle_is_refused() {
    let share = Share::new(READ_ONLY);
    let file = share.find("ro/file");
    let handle = share.open(file, 0).unwrap();
    assert_eq!(share.fsync(handle), Err(Errno::EPERM), "refused without a race");
    share.release(handle).unwrap();
    let give_out = || {
        let handle = share.open(file, 0).unwrap();
        share.release(handle).unwrap();
        handle.0
    };
    let refusals = [Errno::EPERM, Errno::EBADF];
    let ask = |handle| share.fsync(Handle(handle));
    assert_eq!(wins(handle.0 + GENERATION, &refusals, ask, give_out), 0);
}

#[test]
fn granted_operations_work() {
    let share = Share::new("[[path]]\nmatch = \"/other\"\naccess = []\n");
    share.set_mode(share.find("ro/file")).unwrap();
    share.mk_dir(share.find("ro/d"), "new").unwrap();
    assert!(share.path("ro/d/new").is_dir());
    let handle = share.open(share.find("ro/file"), 0).unwrap();
    share.fsync(handle).unwrap();
    share.release(handle).unwrap();
}

/// Returns whether a race can move a directory to a place where the policy permits none.
///
/// One queue makes `a/x` a directory by `change`, again and again. Another queue moves the file of
/// that name to `ro`, where no directory may be moved to.
fn brings_a_directory(change: impl Fn(&Share, NodeId) + Sync) -> bool {
    let access = r#"["lookup", "stat", "read", "list", "rename"]"#;
    let share = Share::new(&format!("[[path]]\nmatch = \"/ro/**\"\naccess = {access}\n"));
    std::fs::create_dir_all(share.path("a/d/e")).unwrap();
    let (ro, a) = (share.find("ro"), share.find("a"));
    assert_eq!(share.rename((a, "d"), (ro, "d2"), PLAIN), Err(Errno::EXDEV), "refused without a race");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                change(&share, a);
            }
        });
        let (began, mut came) = (Instant::now(), false);
        while began.elapsed() < LONG * 2 && !came {
            std::fs::write(share.path("a/x"), "x").unwrap_or_default();
            if share.rename((a, "x"), (ro, "x"), PLAIN).is_ok() {
                came = share.path("ro/x").is_dir();
            }
        }
        over.store(true, Ordering::Relaxed);
        came
    })
}

#[test]
fn concurrent_exchange_moves_no_directory() {
    assert!(!brings_a_directory(|share, a| {
        share.rename((a, "x"), (a, "d"), protocol::RenameFlags::EXCHANGE).unwrap_or_default();
    }));
}

#[test]
fn concurrent_mkdir_moves_no_directory() {
    assert!(!brings_a_directory(|share, a| {
        share.unlink(a, "x").unwrap_or_default();
        share.mk_dir(a, "x").unwrap_or_default();
        std::fs::remove_dir(share.path("a/x")).unwrap_or_default();
    }));
}

/// The reply to a creation describes the created inode, even if the host gives its name to another
/// file at that moment. A reply with another file type is EIO in the program, and an error would
/// say that no file was created.
#[test]
fn created_inode_is_reported_if_its_name_is_taken() {
    let share = Share::new("profile = \"share\"\n");
    let (over, mut gone) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::fs::hard_link(share.path("ro/file"), share.path("other")).unwrap();
                std::fs::rename(share.path("other"), share.path("name")).unwrap();
                std::fs::remove_file(share.path("name")).unwrap();
            }
        });
        let until = Instant::now() + Duration::from_secs(20);
        while gone < 5 && Instant::now() < until {
            let made = with_name("name", |name| {
                let make = protocol::SymLink { name, target: c"to" };
                share.host.sym_link(share.permit(NodeId::ROOT, make)?)
            });
            match made {
                Ok(entry) => {
                    assert_eq!(entry.attr.mode & 0o170_000, 0o120_000, "{entry:?}");
                    let attributes = share
                        .host
                        .get_attr(share.permit(entry.node, protocol::GetAttr { handle: None }).unwrap());
                    gone += u32::from(attributes == Err(Errno::ESTALE));
                    share.forget(entry.node);
                }
                Err(errno) => assert_eq!(errno, Errno::EEXIST),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(gone > 0, "the name was never taken in time");
    assert_eq!(share.host.held().nodes, 0);
}
