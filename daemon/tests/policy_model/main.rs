//! Do the daemon's path rules decide as a model that knows whole paths?
//!
//! The tests make random rules and requests. Where the model refuses a request, the guest must get
//! the model's errno. Where the model permits it, the guest must get the result of the same system
//! calls on a second tree. So the daemon permits and refuses exactly what the model does.
#![cfg(test)]

mod mirror;
mod rules;

use mirror::{errno, find, inode, names_in, path_fd, reopen, tree};
use pinhole::filesystem::{Allowed, Answer, Call, Caller, FileSystem, Pace, Paced, errno_of};
use pinhole::io_vectors::IoVectors;
use pinhole::passthrough::{GuestCaching, Passthrough, ShareConfig};
use pinhole_policy::{Access, Refusal, RequiresAccess};
use pinhole_protocol::{
    self as protocol, Create, Created, DirentBuffer, Entry, Errno, GetAttr, Handle, Link, Lookup, MkDir,
    Name, NodeId, Open, OpenDir, OpenFlags, ReadDir, Rename, RenameFlags, RmDir, SetAttr, SymLink, TmpFile,
    Unlink, WriteFlags,
};
use proptest::prelude::*;
use proptest::sample::select;
use rules::{Decision, NAMES, Rules, SharePath, UNNAMED};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use tempfile::TempDir;
use vm_memory::VolatileSlice;

/// A request of the guest. A number is an index into the known nodes or handles.
#[derive(Clone, Debug)]
enum GuestRequest {
    Lookup(usize, &'static str),
    GetAttr(usize),
    ChMod(usize),
    MkDir(usize, &'static str),
    SymLink(usize, &'static str),
    Create(usize, &'static str, u32),
    TmpFile(usize),
    Link(usize, usize, &'static str),
    Unlink(usize, &'static str),
    RmDir(usize, &'static str),
    Rename((usize, &'static str), (usize, &'static str), bool),
    Open(usize, u32),
    Read(usize),
    Write(usize),
    List(usize),
}

/// A node in the model.
struct KnownNode {
    /// The same file in the second tree.
    fd: OwnedFd,
    /// Every path by which the guest has reached the node.
    paths: BTreeSet<SharePath>,
}

/// An open file.
struct OpenFile {
    node: NodeId,
    fd: OwnedFd,
}

struct Comparison {
    rules: Rules,
    share: Passthrough,
    shared: TempDir,
    mirror: TempDir,
    known: BTreeMap<NodeId, KnownNode>,
    handles: Vec<(Handle, OpenFile)>,
}

fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

fn open_of(flags: u32) -> Open {
    Open { flags: OpenFlags::from_bits_retain(flags), kill_suidgid: false }
}

/// Returns the accesses that opening with an access mode requires.
fn open_access(flags: u32) -> Access {
    [Access::READ, Access::WRITE, Access::READ | Access::WRITE][usize::try_from(flags).unwrap()]
}

/// Returns the model's error if `wanted` is not granted by `decision`. `makes`: the request creates
/// the name.
fn check(decision: Decision, wanted: Access, makes: bool) -> Answer<()> {
    if decision.hidden {
        return Err(if makes { Errno::EPERM } else { Errno::ENOENT });
    }
    let missing = wanted - decision.access;
    if missing.is_empty() { Ok(()) } else { Err(errno_of(missing.refusal(false))) }
}

impl Comparison {
    fn new(rules: Rules) -> Self {
        let (shared, mirror) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = ShareConfig {
            // A guest that caches names gets ESTALE once if a name is gone, and looks it up again.
            // This guest does not repeat requests, so it caches no names.
            cache: GuestCaching::Exclusive,
            entry_timeout: std::time::Duration::ZERO,
            limits: *rules.policy.limits(),
            rules: rules.policy.paths().cloned(),
            ..ShareConfig::new(shared.path())
        };
        for tree in [&shared, &mirror] {
            for directory in NAMES {
                let path = tree.path().join(directory);
                std::fs::create_dir(&path).unwrap();
                std::fs::create_dir(path.join("a")).unwrap();
                std::fs::write(path.join("b"), "b").unwrap();
                std::fs::hard_link(path.join("b"), path.join("a/c")).unwrap();
            }
        }
        let root = KnownNode { fd: path_fd(mirror.path()), paths: BTreeSet::from([SharePath::new()]) };
        let known = BTreeMap::from([(NodeId::ROOT, root)]);
        let share = Passthrough::new(config).unwrap();
        Self { rules, share, shared, mirror, known, handles: Vec::new() }
    }

    /// Returns one of the existing nodes. A deleted node that is not open is stale, which does not
    /// depend on the policy.
    fn node(&self, which: usize) -> NodeId {
        let is_open = |node: NodeId| self.handles.iter().any(|(_, opened)| opened.node == node);
        let lives = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_nlink > 0;
        let alive = self.known.iter().filter(|(node, known)| lives(&known.fd) || is_open(**node));
        let alive: Vec<NodeId> = alive.map(|(node, _)| *node).collect();
        alive[which % alive.len()]
    }

    fn fd(&self, node: NodeId) -> &OwnedFd {
        &self.known[&node].fd
    }

    /// Returns every path to a name in a directory.
    fn paths_to(&self, directory: NodeId, name: &'static str) -> BTreeSet<SharePath> {
        self.known[&directory].paths.iter().map(|path| [&path[..], &[name]].concat()).collect()
    }

    fn at_name(&self, directory: NodeId, name: &'static str) -> Decision {
        self.rules.all(&self.paths_to(directory, name), &[])
    }

    fn at_node(&self, node: NodeId) -> Decision {
        self.rules.all(&self.known[&node].paths, &[])
    }

    fn permit<'a, T>(&self, node: NodeId, operation: T) -> Answer<Allowed<'a, T>>
    where
        Call<'a, T>: RequiresAccess,
    {
        let caller = Caller { uid: 0, gid: 0, groups: None, pid: 1 };
        let call = Call { node, caller, operation };
        self.rules.policy.permit(call, &self.share).map_err(|denied| errno_of(denied.refusal))
    }

    /// Notes that the guest has reached a node. If the file was known before, it must be the same
    /// node.
    fn note_reached(&mut self, entry: &Entry, fd: OwnedFd, paths: BTreeSet<SharePath>) {
        let same = self.known.iter().find(|(_, known)| inode(&known.fd) == inode(&fd)).map(|(node, _)| *node);
        assert_eq!(same.unwrap_or(entry.node), entry.node, "another node for the same file");
        self.known.entry(entry.node).or_insert(KnownNode { fd, paths: BTreeSet::new() }).paths.extend(paths);
    }

    /// Notes that the guest has reached the file of this name by the name, if it knows the file.
    fn note_moved(&mut self, directory: NodeId, name: &'static str) {
        let Ok(fd) = find(self.fd(directory), name) else { return };
        let paths = self.paths_to(directory, name);
        if let Some(known) = self.known.values_mut().find(|known| inode(&known.fd) == inode(&fd)) {
            known.paths.extend(paths);
        }
    }

    /// Compares a reply that contains a node with the expected result.
    fn entry(&mut self, got: Answer<Entry>, expected: Answer<()>, (directory, name): (NodeId, &'static str)) {
        assert_eq!(got.as_ref().map(|_| ()).map_err(|errno| *errno), expected);
        if let Ok(entry) = got {
            let fd = find(self.fd(directory), name).unwrap();
            self.note_reached(&entry, fd, self.paths_to(directory, name));
        }
    }

    fn make(&mut self, (directory, name): (NodeId, &'static str), link: bool) {
        let access = if link { Access::SYMLINK } else { Access::MKDIR };
        let got = with_name(name, |name| {
            if link {
                self.share.sym_link(self.permit(directory, SymLink { name, target: c"t" })?)
            } else {
                self.share.mk_dir(self.permit(directory, MkDir { name, mode: 0o755, umask: 0 })?)
            }
        });
        let expected = check(self.at_name(directory, name), access, true).and_then(|()| {
            let fd = self.fd(directory);
            if link {
                rustix::fs::symlinkat("t", fd, name).map_err(errno)
            } else {
                rustix::fs::mkdirat(fd, name, Mode::from_raw_mode(0o755)).map_err(errno)
            }
        });
        self.entry(got, expected, (directory, name));
    }

    fn create(&mut self, (directory, name): (NodeId, &'static str), flags: u32) {
        let got = with_name(name, |name| {
            let create = Create { name, open: open_of(flags), mode: 0o644, umask: 0 };
            self.share.create(self.permit(directory, create)?, Pace::Patient).and_then(Paced::ready)
        });
        let mut found = None;
        let wanted = Access::CREATE | open_access(flags);
        let expected = check(self.at_name(directory, name), wanted, true).and_then(|()| {
            let mode = OFlags::from_bits_retain(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match rustix::fs::openat(self.fd(directory), name, mode, Mode::from_raw_mode(0o644)) {
                Ok(file) => return Ok(file),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(errno(error)),
            }
            // The file exists. All its known paths decide, and the path of this name.
            let fd = find(self.fd(directory), name)?;
            let mut paths = self.paths_to(directory, name);
            let known = self.known.iter().find(|(_, known)| inode(&known.fd) == inode(&fd));
            found = known.map(|(node, _)| *node);
            paths.extend(known.into_iter().flat_map(|(_, known)| known.paths.iter().cloned()));
            let missing = open_access(flags) - self.rules.all(&paths, &[]).access;
            if !missing.is_empty() {
                return Err(errno_of(missing.refusal(false)));
            }
            self.mirror_open(&fd, flags)
        });
        assert_eq!(
            got.as_ref().map(|_| ()).map_err(|errno| *errno),
            expected.as_ref().map(|_| ()).map_err(|e| *e)
        );
        let Ok(Created { entry, open: opened }) = got else {
            // The daemon looked the name up, so a known file was reached by it.
            if let Some(node) = found {
                let paths = self.paths_to(directory, name);
                self.known.get_mut(&node).unwrap().paths.extend(paths);
            }
            return;
        };
        let fd = find(self.fd(directory), name).unwrap();
        self.note_reached(&entry, fd, self.paths_to(directory, name));
        self.handles.push((opened.handle, OpenFile { node: entry.node, fd: expected.unwrap() }));
    }

    fn mirror_open(&self, fd: &OwnedFd, flags: u32) -> Answer<OwnedFd> {
        let kind = inode(fd).1;
        if kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        if kind == FileType::Symlink {
            return Err(Errno::ELOOP);
        }
        reopen(fd, OFlags::from_bits_retain(flags))
    }

    fn tmp_file(&mut self, directory: NodeId) {
        let create = TmpFile { open: open_of(2), mode: 0o644, umask: 0 };
        let got = self.permit(directory, create).and_then(|call| self.share.tmp_file(call));
        let wanted = Access::TMPFILE | Access::READ | Access::WRITE;
        let expected = check(self.at_name(directory, UNNAMED), wanted, true).and_then(|()| {
            let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
            rustix::fs::openat(self.fd(directory), ".", flags, Mode::from_raw_mode(0o644)).map_err(errno)
        });
        assert_eq!(
            got.as_ref().map(|_| ()).map_err(|errno| *errno),
            expected.as_ref().map(|_| ()).map_err(|e| *e)
        );
        if let Ok(Created { entry, open: opened }) = got {
            let file = expected.unwrap();
            self.note_reached(
                &entry,
                reopen(&file, OFlags::PATH).unwrap(),
                self.paths_to(directory, UNNAMED),
            );
            self.handles.push((opened.handle, OpenFile { node: entry.node, fd: file }));
        }
    }

    fn link(&mut self, target: NodeId, (directory, name): (NodeId, &'static str)) {
        let got = with_name(name, |name| self.share.link(self.permit(directory, Link { target, name })?));
        let (from, to) = (self.known[&target].paths.clone(), self.paths_to(directory, name));
        let permitted = check(self.at_node(target), Access::LINK, true)
            .and_then(|()| check(self.at_name(directory, name), Access::LINK, true))
            .and_then(|()| if self.rules.moves(&from, &to).0 { Ok(()) } else { Err(Errno::EXDEV) });
        let expected = permitted.and_then(|()| {
            let path = format!("/proc/self/fd/{}", self.fd(target).as_raw_fd());
            let flags = AtFlags::SYMLINK_FOLLOW;
            rustix::fs::linkat(rustix::fs::CWD, path, self.fd(directory), name, flags).map_err(errno)
        });
        self.entry(got, expected, (directory, name));
    }

    fn remove(&mut self, (directory, name): (NodeId, &'static str), is_directory: bool) {
        let got = with_name(name, |name| {
            if is_directory {
                self.share.rm_dir(self.permit(directory, RmDir { name })?)
            } else {
                self.share.unlink(self.permit(directory, Unlink { name })?)
            }
        });
        let (access, flags) = if is_directory {
            (Access::RMDIR, AtFlags::REMOVEDIR)
        } else {
            (Access::UNLINK, AtFlags::empty())
        };
        let expected = check(self.at_name(directory, name), access, false)
            .and_then(|()| rustix::fs::unlinkat(self.fd(directory), name, flags).map_err(errno));
        assert_eq!(got, expected);
    }

    fn rename(&mut self, from: (NodeId, &'static str), to: (NodeId, &'static str), exchange: bool) {
        let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        let got = with_name(from.1, |name| {
            with_name(to.1, |new_name| {
                let rename = Rename { name, new_directory: to.0, new_name, flags };
                self.share.rename(self.permit(from.0, rename)?)
            })
        });
        let (old, new) = (self.paths_to(from.0, from.1), self.paths_to(to.0, to.1));
        let wanted = Access::RENAME | if exchange { Access::EXCHANGE } else { Access::empty() };
        // The new name is created. If both names are the same, this applies to the old name too.
        let expected = check(self.at_name(from.0, from.1), wanted, from == to && !exchange)
            .and_then(|()| check(self.at_name(to.0, to.1), wanted, !exchange))
            .and_then(|()| {
                let back = if exchange { self.rules.moves(&new, &old) } else { (true, true) };
                match self.rules.moves(&old, &new) {
                    (file, _) if !file || !back.0 => Err(Errno::EXDEV),
                    (_, directory) if directory && back.1 => Ok(()),
                    _ => self.is_file(from).and_then(|()| if exchange { self.is_file(to) } else { Ok(()) }),
                }
            })
            .and_then(|()| {
                let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
                rustix::fs::renameat_with(self.fd(from.0), from.1, self.fd(to.0), to.1, flags).map_err(errno)
            });
        assert_eq!(got, expected);
        if got.is_ok() {
            self.note_moved(to.0, to.1);
            self.note_moved(from.0, from.1);
        }
    }

    /// Refuses a directory: it must not be moved to a place with fewer rights below.
    fn is_file(&self, (directory, name): (NodeId, &'static str)) -> Answer<()> {
        let kind = inode(&find(self.fd(directory), name)?).1;
        if kind == FileType::Directory { Err(Errno::EXDEV) } else { Ok(()) }
    }

    fn open(&mut self, node: NodeId, flags: u32) {
        let got = self.permit(node, open_of(flags));
        let got = got.and_then(|call| self.share.open(call, Pace::Patient)).and_then(Paced::ready);
        let expected = check(self.at_node(node), open_access(flags), false)
            .and_then(|()| self.mirror_open(self.fd(node), flags));
        assert_eq!(
            got.as_ref().map(|_| ()).map_err(|errno| *errno),
            expected.as_ref().map(|_| ()).map_err(|e| *e)
        );
        if let Ok(opened) = got {
            self.handles.push((opened.handle, OpenFile { node, fd: expected.unwrap() }));
        }
    }

    fn transfer(&self, which: usize, writes: bool) {
        let Some((handle, opened)) = self.handles.get(which % self.handles.len().max(1)) else { return };
        let (flags, handle, mut bytes) = (OpenFlags::from_bits_retain(2), *handle, *b"b");
        let vectors = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice()));
        let (got, access) = if writes {
            let write_flags = WriteFlags::empty();
            let write = protocol::Write { handle, offset: 0, size: 1, write_flags, lock_owner: None, flags };
            let call = self.permit(opened.node, write);
            (call.and_then(|call| self.share.write(call, &vectors, Pace::Patient)), Access::WRITE)
        } else {
            let read = protocol::Read { handle, offset: 0, size: 1, lock_owner: None, flags };
            let call = self.permit(opened.node, read);
            (call.and_then(|call| self.share.read(call, &vectors, Pace::Patient)), Access::READ)
        };
        let expected = check(self.at_node(opened.node), access, false).and_then(|()| {
            if writes {
                rustix::io::pwrite(&opened.fd, b"b", 0).map_err(errno)
            } else {
                rustix::io::pread(&opened.fd, &mut [0; 1], 0).map_err(errno)
            }
        });
        assert_eq!(got.and_then(Paced::ready), expected);
    }

    fn list(&self, node: NodeId) {
        let got = self.permit(node, OpenDir { flags: OpenFlags::empty() }).and_then(|call| {
            let handle = self.share.open_dir(call)?.handle;
            let mut bytes = Vec::new();
            let mut into = DirentBuffer::new(&mut bytes, 4096, None);
            self.share.read_dir(self.permit(node, ReadDir { handle, offset: 0, size: 4096 })?, &mut into)?;
            Ok(names_in(&bytes))
        });
        let decision = self.at_node(node);
        let expected = check(decision, Access::LIST, false).and_then(|()| {
            let fd = self.fd(node);
            if inode(fd).1 != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            let names = names.map(|name| NAMES.into_iter().find(|known| **known == name).unwrap());
            Ok(names.filter(|name| !self.at_name(node, name).hidden).map(str::to_owned).collect())
        });
        assert_eq!(got, expected);
    }

    fn attributes(&mut self, node: NodeId, change: bool) {
        let (got, wanted) = if change {
            let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            let call = self.permit(node, change);
            let got = call.and_then(|call| self.share.set_attr(call, Pace::Patient)).and_then(Paced::ready);
            (got, Access::STAT | Access::CHMOD)
        } else {
            (
                self.permit(node, GetAttr { handle: None }).and_then(|call| self.share.get_attr(call)),
                Access::STAT,
            )
        };
        let expected = check(self.at_node(node), wanted, false).and_then(|()| {
            let fd = self.fd(node);
            if !change {
                return Ok(());
            }
            // By the descriptor's path, as the daemon does: a symbolic link has no mode to change.
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmod(path, Mode::from_raw_mode(0o600)).map_err(errno)
        });
        assert_eq!(got.map(|_| ()), expected);
    }

    fn carry_out(&mut self, request: &GuestRequest) {
        match *request {
            GuestRequest::Lookup(directory, name) => {
                let directory = self.node(directory);
                let got = with_name(name, |name| {
                    self.share.lookup(self.permit(directory, Lookup { name: name.into() })?)
                });
                let expected = check(self.at_name(directory, name), Access::LOOKUP, false)
                    .and_then(|()| find(self.fd(directory), name).map(drop));
                self.entry(got, expected, (directory, name));
            }
            GuestRequest::GetAttr(node) => self.attributes(self.node(node), false),
            GuestRequest::ChMod(node) => self.attributes(self.node(node), true),
            GuestRequest::MkDir(directory, name) => self.make((self.node(directory), name), false),
            GuestRequest::SymLink(directory, name) => self.make((self.node(directory), name), true),
            GuestRequest::Create(directory, name, flags) => self.create((self.node(directory), name), flags),
            GuestRequest::TmpFile(directory) => self.tmp_file(self.node(directory)),
            GuestRequest::Link(target, directory, name) => {
                self.link(self.node(target), (self.node(directory), name));
            }
            GuestRequest::Unlink(directory, name) => self.remove((self.node(directory), name), false),
            GuestRequest::RmDir(directory, name) => self.remove((self.node(directory), name), true),
            GuestRequest::Rename(from, to, exchange) => {
                self.rename((self.node(from.0), from.1), (self.node(to.0), to.1), exchange);
            }
            GuestRequest::Open(node, flags) => self.open(self.node(node), flags),
            GuestRequest::Read(handle) => self.transfer(handle, false),
            GuestRequest::Write(handle) => self.transfer(handle, true),
            GuestRequest::List(node) => self.list(self.node(node)),
        }
    }
}

fn requests() -> impl Strategy<Value = Vec<GuestRequest>> {
    let name = || select(&NAMES[..]);
    let which = || 0..64_usize;
    let request = prop_oneof![
        6 => (which(), name()).prop_map(|(at, name)| GuestRequest::Lookup(at, name)),
        1 => which().prop_map(GuestRequest::GetAttr),
        1 => which().prop_map(GuestRequest::ChMod),
        1 => (which(), name()).prop_map(|(at, name)| GuestRequest::MkDir(at, name)),
        1 => (which(), name()).prop_map(|(at, name)| GuestRequest::SymLink(at, name)),
        6 => (which(), name(), 0..3_u32).prop_map(|(at, name, flags)| GuestRequest::Create(at, name, flags)),
        1 => which().prop_map(GuestRequest::TmpFile),
        3 => (which(), which(), name()).prop_map(|(of, at, name)| GuestRequest::Link(of, at, name)),
        2 => (which(), name()).prop_map(|(at, name)| GuestRequest::Unlink(at, name)),
        1 => (which(), name()).prop_map(|(at, name)| GuestRequest::RmDir(at, name)),
        6 => ((which(), name()), (which(), name()), any::<bool>())
            .prop_map(|(from, to, exchange)| GuestRequest::Rename(from, to, exchange)),
        2 => (which(), 0..3_u32).prop_map(|(at, flags)| GuestRequest::Open(at, flags)),
        1 => which().prop_map(GuestRequest::Read),
        1 => which().prop_map(GuestRequest::Write),
        1 => which().prop_map(GuestRequest::List),
    ];
    proptest::collection::vec(request, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn guest_may_do_exactly_what_its_rules_allow(rules in rules::rules(), requests in requests()) {
        let Some(rules) = Rules::new(rules) else { return Ok(()) };
        let mut comparison = Comparison::new(rules);
        for request in &requests {
            comparison.carry_out(request);
        }
        prop_assert_eq!(tree(comparison.shared.path()), tree(comparison.mirror.path()));
    }
}

#[test]
fn hidden_name_is_refused_like_a_missing_name() {
    assert_eq!(errno_of(Refusal::Hidden), Errno::ENOENT);
}
