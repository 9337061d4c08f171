//! Do path rules hold at the wire and for a real guest?
//!
//! Each test serves a share under a policy file. An operation that a rule removes is refused with
//! the errno in docs/use/policy.md, and everything else works as without rules.

use pinhole_protocol::{
    Create, Errno, GetAttr, Handle, Link, Lookup, MkDir, Name, NodeId, Open, OpenDir, OpenFlags, Operation,
    ReadDir, ReadDirPlus, Rename, RenameFlags, RmDir, SymLink, TmpFile, Unlink, Write, WriteFlags,
};
use pinhole_tests::daemon::Daemon;
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Bench, Setup};
use pinhole_tests::guest::Guest;
use pinhole_tests::linux::{O_RDWR, O_WRONLY};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use tempfile::TempDir;

/// Access to a directory without writing and linking.
const FEW: &str = r#"["lookup", "stat", "list", "read", "rename", "unlink", "exchange"]"#;

fn policy(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// Share with the directories `one` and `two`, each with a file and a directory with a file.
struct Ruled(Bench);

fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

impl Ruled {
    fn new(text: &str) -> Self {
        let (_folder, path) = policy(text);
        let bench = Bench::with(Setup::default(), &["--policy", &path]).unwrap();
        for directory in ["one", "two"] {
            fs::create_dir_all(bench.host(directory).join("dir")).unwrap();
            fs::write(bench.host(directory).join("file"), directory).unwrap();
            fs::write(bench.host(directory).join("dir/file"), directory).unwrap();
        }
        Self(bench)
    }

    fn request(&mut self, node: NodeId, operation: &Operation<'_>, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let reply = self.0.guest.request(1, node, operation, payload).unwrap();
        match reply.error().unwrap() {
            Some(errno) => Err(errno),
            None => Ok(reply.success().unwrap().to_vec()),
        }
    }

    /// Looks up a path name by name and returns its node.
    fn find(&mut self, path: &str) -> Result<NodeId, Errno> {
        path.split('/').try_fold(NodeId::ROOT, |node, name| {
            let found = with_name(name, |name| {
                self.request(node, &Operation::Lookup(Lookup { name: name.into() }), &[])
            })?;
            Ok(NodeId(u64_at(&found, 0).unwrap()))
        })
    }

    /// Returns the directory of a path, and its last name.
    fn place<'p>(&mut self, path: &'p str) -> (NodeId, &'p str) {
        match path.rsplit_once('/') {
            Some((directory, name)) => (self.find(directory).unwrap(), name),
            None => (NodeId::ROOT, path),
        }
    }

    /// Sends an operation on a name and returns its errno. `None` for success.
    fn at(&mut self, path: &str, operation: impl FnOnce(Name<'_>) -> Operation<'_>) -> Option<Errno> {
        let (directory, name) = self.place(path);
        with_name(name, |name| self.request(directory, &operation(name), &[])).err()
    }

    fn mkdir(&mut self, path: &str) -> Option<Errno> {
        self.at(path, |name| Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 }))
    }

    fn unlink(&mut self, path: &str) -> Option<Errno> {
        self.at(path, |name| Operation::Unlink(Unlink { name }))
    }

    fn rmdir(&mut self, path: &str) -> Option<Errno> {
        self.at(path, |name| Operation::RmDir(RmDir { name }))
    }

    fn create(&mut self, path: &str, flags: u32) -> Option<Errno> {
        let open = Open { flags: OpenFlags::from_bits_retain(flags), kill_suidgid: false };
        self.at(path, |name| Operation::Create(Create { name, open, mode: 0o644, umask: 0 }))
    }

    fn rename(&mut self, from: &str, to: &str, flags: RenameFlags) -> Option<Errno> {
        let ((old, name), (new_directory, new_name)) = (self.place(from), self.place(to));
        with_name(name, |name| {
            with_name(new_name, |new_name| {
                self.request(old, &Operation::Rename(Rename { name, new_directory, new_name, flags }), &[])
            })
        })
        .err()
    }

    fn link(&mut self, target: NodeId, path: &str) -> Option<Errno> {
        self.at(path, |name| Operation::Link(Link { target, name }))
    }

    fn open(&mut self, node: NodeId, flags: u32) -> Result<Handle, Errno> {
        let open = Open { flags: OpenFlags::from_bits_retain(flags), kill_suidgid: false };
        let opened = self.request(node, &Operation::Open(open), &[])?;
        Ok(Handle(u64_at(&opened, 0).unwrap()))
    }

    fn write(&mut self, node: NodeId, handle: Handle) -> Option<Errno> {
        let (write_flags, flags) = (WriteFlags::empty(), OpenFlags::empty());
        let write = Write { handle, offset: 0, size: 1, write_flags, lock_owner: None, flags };
        self.request(node, &Operation::Write(write), b"x").err()
    }

    /// Returns the names of a directory and their nodes, by READDIR (0 each) or READDIRPLUS.
    fn list(&mut self, path: &str, plus: bool) -> BTreeMap<String, u64> {
        let node = if path.is_empty() { NodeId::ROOT } else { self.find(path).unwrap() };
        let open = Operation::OpenDir(OpenDir { flags: OpenFlags::empty() });
        let handle = Handle(u64_at(&self.request(node, &open, &[]).unwrap(), 0).unwrap());
        let list = ReadDir { handle, offset: 0, size: 4096 };
        let list = if plus { Operation::ReadDirPlus(ReadDirPlus { list }) } else { Operation::ReadDir(list) };
        let (body, entry) = (self.request(node, &list, &[]).unwrap(), if plus { 128 } else { 0 });
        let (mut rest, mut names) = (&body[..], BTreeMap::new());
        while let Some(len) = rest.get(entry + 16..entry + 20) {
            let len = usize::try_from(u32::from_le_bytes(len.try_into().unwrap())).unwrap();
            let name = String::from_utf8(rest[entry + 24..entry + 24 + len].to_vec()).unwrap();
            names.insert(name, if plus { u64_at(rest, 0).unwrap() } else { 0 });
            rest = &rest[(entry + 24 + len).next_multiple_of(8)..];
        }
        names.retain(|name, _| name != "." && name != "..");
        names
    }
}

fn rule(glob: &str, access: &str) -> String {
    format!("[[path]]\nmatch = \"{glob}\"\naccess = {access}\n")
}

#[test]
fn hidden_name_is_missing() {
    let mut share = Ruled::new(
        "[[path]]\nmatch = \"/one/**\"\nhidden = true\n[[path]]\nmatch = \"/key\"\nhidden = true\n",
    );
    fs::write(share.0.host("key"), "key").unwrap();
    for path in ["key", "one/file", "one/dir", "one/none"] {
        assert_eq!(share.find(path), Err(Errno::ENOENT), "{path}");
        assert_eq!(share.unlink(path), Some(Errno::ENOENT), "{path}");
        assert_eq!(share.rmdir(path), Some(Errno::ENOENT), "{path}");
        assert_eq!(share.rename(path, "new", RenameFlags::empty()), Some(Errno::ENOENT), "{path}");
        // EPERM and not EEXIST: the guest must not learn that the name exists.
        assert_eq!(share.mkdir(path), Some(Errno::EPERM), "{path}");
        assert_eq!(share.create(path, O_RDWR), Some(Errno::EPERM), "{path}");
        assert_eq!(share.rename("two/file", path, RenameFlags::empty()), Some(Errno::EPERM), "{path}");
        let link = share.at(path, |name| Operation::SymLink(SymLink { name, target: c"t" }));
        assert_eq!(link, Some(Errno::EPERM), "{path}");
    }
    for plus in [false, true] {
        assert_eq!(share.list("", plus).into_keys().collect::<Vec<_>>(), ["one", "two"]);
        assert!(share.list("one", plus).is_empty());
        assert_eq!(share.list("two", plus).len(), 2);
    }
    // The host reports that it is not empty. The guest does not see why.
    assert_eq!(share.rmdir("one"), Some(Errno::ENOTEMPTY));
    assert!(share.0.host("one/dir/file").exists() && share.0.host("key").exists());
}

#[test]
fn read_only_directory_refuses_changes_below_it() {
    let rules = rule("/one/**", r#"["lookup", "stat", "list", "read", "readlink"]"#);
    let mut share = Ruled::new(&rules);
    let file = share.find("one/dir/file").unwrap();
    assert_eq!(share.open(file, O_WRONLY), Err(Errno::EPERM));
    share.open(file, 0).unwrap();
    for path in ["one/dir/new", "one/new"] {
        assert_eq!(share.create(path, 0), Some(Errno::EPERM), "{path}");
        assert_eq!(share.mkdir(path), Some(Errno::EPERM), "{path}");
    }
    assert_eq!(share.unlink("one/file"), Some(Errno::EPERM));
    assert_eq!(share.rmdir("one/dir"), Some(Errno::EPERM));
    assert_eq!(share.rename("one/file", "two/new", RenameFlags::empty()), Some(Errno::EPERM));
    assert_eq!(share.rename("two/file", "one/new", RenameFlags::empty()), Some(Errno::EPERM));
    assert_eq!(share.link(file, "two/new"), Some(Errno::EPERM));
    // The rule covers what is below `one`, but not `one` itself.
    assert_eq!(share.rename("one", "three", RenameFlags::empty()), Some(Errno::EXDEV));
    assert_eq!(share.create("two/new", O_RDWR), None);
    assert_eq!(share.unlink("two/new"), None);
    assert_eq!(share.list("one", true).len(), 2);
}

#[test]
fn rootfs_may_have_one_writable_directory() {
    let all = r#"["lookup", "stat", "list", "read", "write", "create", "mkdir", "unlink", "rename", "link"]"#;
    let text = format!("profile = \"rootfs\"\n{}", rule("/one/**", all));
    let mut share = Ruled::new(&text);
    assert_eq!(share.create("one/new", O_RDWR), None);
    assert_eq!(share.mkdir("one/dir/new"), None);
    assert_eq!(share.unlink("one/file"), None);
    for path in ["two/new", "new", "two/dir/new"] {
        assert_eq!(share.create(path, O_RDWR), Some(Errno::EPERM), "{path}");
    }
    assert_eq!(share.unlink("two/file"), Some(Errno::EPERM));
    let file = share.find("two/file").unwrap();
    assert_eq!(share.open(file, O_RDWR), Err(Errno::EPERM));
    share.open(file, 0).unwrap();
}

#[test]
fn a_file_with_two_names_is_decided_by_both() {
    let mut share = Ruled::new(&rule("/two/**", r#"["lookup", "stat", "list", "read"]"#));
    fs::hard_link(share.0.host("one/file"), share.0.host("two/same")).unwrap();
    let file = share.find("one/file").unwrap();
    let handle = share.open(file, O_RDWR).unwrap();
    assert_eq!(share.write(file, handle), None);
    assert_eq!(share.find("two/same"), Ok(file));
    // A file that is known by both names may be written by neither, not even if it was opened
    // before.
    assert_eq!(share.write(file, handle), Some(Errno::EPERM));
    assert_eq!(share.open(file, O_WRONLY), Err(Errno::EPERM));
    assert_eq!(share.create("one/file", O_WRONLY), Some(Errno::EPERM));
    assert_eq!(share.create("one/file", 0), None);
    // A name belongs to its directory.
    assert_eq!(share.unlink("one/file"), None);
    assert!(share.0.host("two/same").exists());
}

#[test]
fn a_listing_is_a_way_to_a_file_too() {
    let mut share = Ruled::new(&rule("/two/**", r#"["lookup", "stat", "list", "read"]"#));
    fs::hard_link(share.0.host("one/file"), share.0.host("two/same")).unwrap();
    let file = share.find("one/file").unwrap();
    assert_eq!(share.list("two", true).get("same"), Some(&file.0));
    assert_eq!(share.open(file, O_WRONLY), Err(Errno::EPERM));
}

#[test]
fn listing_has_only_names_where_no_more_is_granted() {
    let rules = rule("/one", r#"["lookup", "stat", "list"]"#) + &rule("/one/**", "[]");
    let mut share = Ruled::new(&rules);
    let listed = share.list("one", true);
    assert_eq!(listed, BTreeMap::from([("dir".to_owned(), 0), ("file".to_owned(), 0)]));
    assert_eq!(share.find("one/file"), Err(Errno::EPERM));
}

#[test]
fn rename_to_a_path_with_more_rights_is_exdev() {
    let mut share = Ruled::new(&rule("/one/**", FEW));
    let plain = RenameFlags::empty();
    assert_eq!(share.rename("one/file", "two/new", plain), Some(Errno::EXDEV));
    assert_eq!(share.rename("one/dir", "two/new", plain), Some(Errno::EXDEV));
    assert_eq!(share.rename("one/file", "two/file", RenameFlags::EXCHANGE), Some(Errno::EXDEV));
    assert_eq!(share.rename("two/file", "one/file", RenameFlags::EXCHANGE), Some(Errno::EXDEV));
    // A file may move to a path with less access, but a directory may not: the rules for its
    // content would change.
    assert_eq!(share.rename("two/dir", "one/new", plain), Some(Errno::EXDEV));
    let file = share.find("two/file").unwrap();
    let handle = share.open(file, O_RDWR).unwrap();
    assert_eq!(share.rename("two/file", "one/new", plain), None);
    assert_eq!(share.find("one/new"), Ok(file));
    assert_eq!(share.write(file, handle), Some(Errno::EPERM));
    // Within one rule everything works.
    assert_eq!(share.rename("one/new", "one/file", RenameFlags::EXCHANGE), None);
    assert_eq!(share.rename("one/dir", "one/moved", plain), None);
    assert_eq!(share.rename("two/dir", "moved", plain), None);
}

#[test]
fn a_directory_that_is_moved_takes_its_rules_along() {
    let text = rule("/*/dir/file", r#"["lookup", "stat", "read"]"#);
    let mut share = Ruled::new(&text);
    let file = share.find("one/dir/file").unwrap();
    assert_eq!(share.open(file, O_WRONLY), Err(Errno::EPERM));
    // At the new path, no rule would apply to it.
    assert_eq!(share.rename("one/dir", "one/other", RenameFlags::empty()), Some(Errno::EXDEV));
    assert_eq!(share.rmdir("two/dir"), Some(Errno::ENOTEMPTY));
    assert_eq!(share.rename("two/dir/file", "two/new", RenameFlags::empty()), Some(Errno::EPERM));
    fs::remove_dir_all(share.0.host("two/dir")).unwrap();
    assert_eq!(share.rename("one/dir", "two/dir", RenameFlags::empty()), None);
    assert_eq!(share.find("two/dir/file"), Ok(file));
    assert_eq!(share.open(file, O_WRONLY), Err(Errno::EPERM));
}

#[test]
fn unnamed_file_is_not_linked_where_more_is_allowed() {
    let few = r#"["lookup", "stat", "read", "write", "tmpfile", "link"]"#;
    let mut share = Ruled::new(&rule("/one/*", few));
    let open = Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false };
    let one = share.find("one").unwrap();
    let made = share.request(one, &Operation::TmpFile(TmpFile { open, mode: 0o644, umask: 0 }), &[]).unwrap();
    let file = NodeId(u64_at(&made, 0).unwrap());
    assert_eq!(share.link(file, "two/new"), Some(Errno::EXDEV));
    assert_eq!(share.link(file, "one/new"), None);
    assert!(share.0.host("one/new").exists() && !share.0.host("two/new").exists());
}

#[test]
fn file_moved_by_the_host_keeps_its_known_rule() {
    let mut share = Ruled::new(&rule("/two/**", r#"["lookup", "stat", "list", "read"]"#));
    let file = share.find("one/file").unwrap();
    fs::rename(share.0.host("one/file"), share.0.host("two/moved")).unwrap();
    // ESTALE makes a guest with a path look up the name again. A guest without a path sends the
    // same request again.
    assert_eq!(share.open(file, O_RDWR), Err(Errno::ESTALE));
    let handle = share.open(file, O_RDWR).unwrap();
    assert_eq!(share.write(file, handle), None);
    // The old rule applies until the guest finds the new path.
    assert_eq!(share.find("two/moved"), Ok(file));
    assert_eq!(share.write(file, handle), Some(Errno::EPERM));
}

#[test]
fn without_stat_getattr_of_a_node_is_refused() {
    let mut share = Ruled::new(&rule("/one/file", r#"["lookup", "read"]"#));
    let file = share.find("one/file").unwrap();
    let get_attr = Operation::GetAttr(GetAttr { handle: None });
    assert_eq!(share.request(file, &get_attr, &[]).err(), Some(Errno::EPERM));
}

/// Programs of a guest, with a directory whose files cannot be linked elsewhere, a read-only
/// directory and a hidden file.
const GUEST: &str = r#"
set -e
cd /mnt/work
not() {
    if "$@" 2>/dev/null; then echo "went through: $*"; exit 1; fi
}
not ls -d secret few/secret
not cat secret
test "$(ls -A few)" = ""
test "$(ls | sort | tr '\n' ' ')" = "few fixed free log "
# To where less may be done: a file by renaming, a directory by copying.
mkdir -p free/tree/deep
echo data > free/tree/deep/file
ln -s deep/file free/tree/link
echo single > free/single
mv free/single few/single
mv free/tree few/tree
test ! -e free/tree -a ! -e free/single
test "$(cat few/tree/link)" = data
# And back, which is more: all by copying.
mv few/tree free/tree
mv few/single free/single
test "$(cat free/tree/deep/file free/single)" = "data
single"
test ! -e few/tree
# Nothing changes what is fixed.
not mv fixed/file free/
not sh -c 'echo x >> fixed/file'
not rm -f fixed/file
cp fixed/file free/copy
test "$(cat free/copy)" = fixed
# What may grow may not be written anew.
echo one >> log/a.log
echo two >> log/a.log
test "$(cat log/a.log)" = "one
two"
not sh -c 'echo three > log/a.log'
not dd if=/dev/zero of=log/a.log bs=1 count=1 conv=notrunc
not truncate -s 0 log/a.log
not rm -f log/a.log
test "$(cat log/a.log)" = "one
two"
# As a container's layers are unpacked and run.
cd free
for layer in 1 2 3; do
  mkdir -p root/bin root/etc root/var/lib
  i=0
  while [ $i -lt 50 ]; do echo "$layer $i" > root/var/lib/$i; i=$((i + 1)); done
  cp /bin/busybox root/bin/busybox && chmod 755 root/bin/busybox
  ln -sf busybox root/bin/sh
  ln -f root/var/lib/1 root/etc/linked
  tar cf layer.tar root && rm -rf root && tar xf layer.tar
done
test "$(root/bin/busybox cat root/etc/linked)" = "3 1"
test "$(find root -type f | wc -l)" = 52
rm -rf root layer.tar
sync
"#;

#[test]
fn guest_copies_instead_of_moving_and_sees_no_hidden_names() {
    let folder = tempfile::tempdir().unwrap();
    for directory in ["few", "free", "fixed", "log"] {
        fs::create_dir(folder.path().join(directory)).unwrap();
    }
    for (path, content) in [("secret", "s"), ("few/secret", "s"), ("fixed/file", "fixed")] {
        fs::write(folder.path().join(path), content).unwrap();
    }
    let few = r#"["lookup", "stat", "readlink", "list", "read", "write", "create", "mkdir", "symlink", "unlink",
        "rmdir", "rename", "truncate", "chmod", "chown", "utimens"]"#;
    let log = rule("/log/*.log", r#"["lookup", "stat", "read", "create", "append"]"#);
    let hidden = "[[path]]\nmatch = \"/**/secret\"\nhidden = true\n";
    let rules =
        rule("/few/**", few) + &rule("/fixed/**", r#"["lookup", "stat", "list", "read"]"#) + &log + hidden;
    let (_folder, policy) = policy(&rules);
    let daemon = Daemon::pinhole(folder.path()).unwrap().argument("--tag=work").argument("--policy");
    let daemon = daemon.argument(policy).start().unwrap();
    let finished = Guest::uml().share(daemon.socket(), "work").run(GUEST).unwrap();
    assert_eq!(finished.exit_code, 0, "{}\ndaemon:\n{}", finished.text(), daemon.stderr());
    assert_eq!(fs::read_to_string(folder.path().join("fixed/file")).unwrap(), "fixed");
    assert_eq!(fs::read_to_string(folder.path().join("free/tree/deep/file")).unwrap(), "data\n");
}

/// Returns the number of hidden names in a directory, from `PINHOLE_HIDDEN_NAMES` if it is set.
fn hidden_names() -> usize {
    std::env::var("PINHOLE_HIDDEN_NAMES").map_or(50_000, |count| count.parse().unwrap())
}

#[test]
fn names_among_many_hidden_ones_are_listed_in_bounded_steps() {
    // Largest number of names that one READDIR skips.
    const STEP: usize = 8192;
    let mut share = Ruled::new("[[path]]\nmatch = \"/two/hidden-*\"\nhidden = true\n");
    let folder = share.0.host("two");
    for n in 0..hidden_names() {
        fs::hard_link(folder.join("file"), folder.join(format!("hidden-{n}")))
            .or_else(|_too_many| fs::write(folder.join(format!("hidden-{n}")), ""))
            .unwrap();
    }
    for plus in [false, true] {
        let two = share.find("two").unwrap();
        let open = Operation::OpenDir(OpenDir { flags: OpenFlags::empty() });
        let handle = Handle(u64_at(&share.request(two, &open, &[]).unwrap(), 0).unwrap());
        let (mut names, mut dots, mut offset) = (Vec::new(), 0, 0);
        loop {
            let list = ReadDir { handle, offset, size: 4096 };
            let list =
                if plus { Operation::ReadDirPlus(ReadDirPlus { list }) } else { Operation::ReadDir(list) };
            let body = share.request(two, &list, &[]).unwrap();
            // The queue serves other requests in between.
            share.request(two, &Operation::GetAttr(GetAttr { handle: None }), &[]).unwrap();
            let (mut rest, entry) = (&body[..], if plus { 128 } else { 0 });
            while let Some(len) = rest.get(entry + 16..entry + 20) {
                let len = usize::try_from(u32::from_le_bytes(len.try_into().unwrap())).unwrap();
                offset = u64_at(rest, entry + 8).unwrap();
                match &rest[entry + 24..entry + 24 + len] {
                    b"." => dots += 1,
                    name => names.push(String::from_utf8(name.to_vec()).unwrap()),
                }
                rest = &rest[(entry + 24 + len).next_multiple_of(8)..];
            }
            if body.is_empty() {
                break;
            }
        }
        names.sort();
        assert_eq!(names, ["..", "dir", "file"]);
        // Each step without a visible name ends with "." again. Some steps have a name.
        assert!(dots >= hidden_names() / STEP - 3, "{dots} steps");
    }
}
