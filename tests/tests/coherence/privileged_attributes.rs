//! Does any reply let a guest cache the mode of a file with set-user-id or set-group-id?
//!
//! The daemon removes these bits when the file is changed. A guest's kernel that had cached the
//! mode would still honor them in `exec`. The tests use a cache mode in which a guest may cache all
//! other attributes for a day.

use pinhole_protocol::client::{
    decode_attr, decode_created, decode_entry, decode_open, decode_statx, dirents_plus,
};
use pinhole_protocol::{
    Create, GetAttr, GetStatx, Link, Lookup, MkDir, MkNod, Name, NodeId, NodeKind, Open, OpenDir, OpenFlags,
    Operation, ReadDir, ReadDirPlus, SetAttr, TmpFile,
};
use pinhole_tests::frontend::{Bench, Setup};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

const O_RDWR: OpenFlags = OpenFlags::from_bits_retain(2);
/// Timeout of `--cache exclusive`.
const DAY: Duration = Duration::from_hours(24);
/// Modes with privileged bits.
const BITS: [u32; 4] = [0o4755, 0o2755, 0o6755, 0o2644];

/// Returns the body of the reply to a request that must succeed.
fn reply_body(bench: &mut Bench, node: NodeId, operation: &Operation<'_>) -> Vec<u8> {
    bench.guest.request(1, node, operation, &[]).unwrap().success().unwrap().to_vec()
}

fn start_daemon() -> Bench {
    let mut bench = Bench::with(Setup::default(), &["--cache=exclusive"]).unwrap();
    bench.is_alive().unwrap();
    bench
}

fn file_with_mode(bench: &Bench, name: &str, mode: u32) {
    fs::write(bench.host(name), "").unwrap();
    fs::set_permissions(bench.host(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Sends each request whose reply has the attributes of an existing file. Returns the name of each
/// request with the attribute timeout in its reply. The file has the mode `mode`.
fn timeouts_of_known_file(mode: u32) -> Vec<(&'static str, Duration)> {
    let mut bench = start_daemon();
    file_with_mode(&bench, "file", mode);
    let name = Name::parse(c"file").unwrap();
    let root = NodeId::ROOT;
    let (found, timeouts) =
        decode_entry(&reply_body(&mut bench, root, &Operation::Lookup(Lookup { name: name.into() })))
            .unwrap();
    assert_eq!(timeouts.entry, DAY, "the guest may cache the name itself");
    assert_eq!(found.attr.mode & 0o7777, mode);
    let (get_attr, set_attr) = (GetAttr { handle: None }, SetAttr { mode: Some(mode), ..SetAttr::default() });
    let get_statx = GetStatx { handle: None, flags: 0, mask: 0x7ff };
    let mut by_request = vec![("LOOKUP", timeouts.attr)];
    let attr = |body: Vec<u8>| decode_attr(&body).unwrap().1;
    by_request.push(("GETATTR", attr(reply_body(&mut bench, found.node, &Operation::GetAttr(get_attr)))));
    by_request.push(("SETATTR", attr(reply_body(&mut bench, found.node, &Operation::SetAttr(set_attr)))));
    let statx = reply_body(&mut bench, found.node, &Operation::GetStatx(get_statx));
    by_request.push(("STATX", decode_statx(&statx).unwrap().1));
    let link = Link { target: found.node, name: Name::parse(c"link").unwrap() };
    by_request
        .push(("LINK", decode_entry(&reply_body(&mut bench, root, &Operation::Link(link))).unwrap().1.attr));
    let open = Open { flags: O_RDWR, kill_suidgid: false };
    let create = Operation::Create(Create { name, open, mode: 0o644, umask: 0 });
    by_request.push((
        "CREATE of an existing file",
        decode_created(&reply_body(&mut bench, root, &create)).unwrap().1.attr,
    ));
    by_request.push(("READDIRPLUS", timeout_in_listing(&mut bench, b"file")));
    by_request
}

/// Returns the attribute timeout of one name in a READDIRPLUS of the root.
fn timeout_in_listing(bench: &mut Bench, name: &[u8]) -> Duration {
    let open = Operation::OpenDir(OpenDir { flags: OpenFlags::empty() });
    let handle = decode_open(&reply_body(bench, NodeId::ROOT, &open)).unwrap().handle;
    let list = ReadDir { handle, offset: 0, size: 4096 };
    let body = reply_body(bench, NodeId::ROOT, &Operation::ReadDirPlus(ReadDirPlus { list }));
    let mut entries = dirents_plus(&body).map(Result::unwrap);
    entries.find(|(_, dirent)| dirent.name == name).unwrap().0.unwrap().1.attr
}

/// Sends each request that creates a file, with the mode `mode`. Returns the name of each request
/// with the attribute timeout in its reply.
fn timeouts_of_new_file(mode: u32) -> Vec<(&'static str, Duration)> {
    let mut bench = start_daemon();
    let root = NodeId::ROOT;
    let named = |text| Name::parse(text).unwrap();
    let open = Open { flags: O_RDWR, kill_suidgid: false };
    let create = Operation::Create(Create { name: named(c"created"), open, mode, umask: 0 });
    let (created, timeouts) = decode_created(&reply_body(&mut bench, root, &create)).unwrap();
    assert_eq!(created.entry.attr.mode & 0o7777, mode);
    let mut by_request = vec![("CREATE", timeouts.attr)];
    let node = MkNod { name: named(c"node"), kind: NodeKind::Regular, mode, umask: 0 };
    by_request.push((
        "MKNOD",
        decode_entry(&reply_body(&mut bench, root, &Operation::MkNod(node))).unwrap().1.attr,
    ));
    let nameless = Operation::TmpFile(TmpFile { open, mode, umask: 0 });
    by_request.push(("TMPFILE", decode_created(&reply_body(&mut bench, root, &nameless)).unwrap().1.attr));
    by_request
}

#[test]
fn no_reply_lets_guest_cache_mode_with_privileged_bits() {
    for mode in BITS {
        for (reply, timeout) in timeouts_of_known_file(mode).into_iter().chain(timeouts_of_new_file(mode)) {
            assert_eq!(timeout, Duration::ZERO, "{reply} of a file with mode {mode:o}");
        }
    }
}

#[test]
fn replies_about_ordinary_files_keep_their_timeout() {
    for (reply, timeout) in timeouts_of_known_file(0o1755).into_iter().chain(timeouts_of_new_file(0o755)) {
        assert_eq!(timeout, DAY, "{reply}");
    }
}

#[test]
fn set_group_id_directories_keep_their_timeout() {
    let mut bench = start_daemon();
    let name = Name::parse(c"folder").unwrap();
    let make = Operation::MkDir(MkDir { name, mode: 0o2775, umask: 0 });
    let (entry, timeouts) = decode_entry(&reply_body(&mut bench, NodeId::ROOT, &make)).unwrap();
    fs::set_permissions(bench.host("folder"), fs::Permissions::from_mode(0o2775)).unwrap();
    let (attr, kept) =
        decode_attr(&reply_body(&mut bench, entry.node, &Operation::GetAttr(GetAttr { handle: None })))
            .unwrap();
    assert_eq!((attr.mode & 0o7777, timeouts.attr, kept), (0o2775, DAY, DAY));
    assert_eq!(timeout_in_listing(&mut bench, b"folder"), DAY);
}
