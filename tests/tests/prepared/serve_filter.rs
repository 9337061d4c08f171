//! Is the daemon of an image left with five system calls on a queue thread, and with no file or
//! right of the host?

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole_protocol::{
    Errno, GetXattr, Handle, ListXattr, LookupName, Name, NodeId, Operation, ReadDir, ReadDirPlus, ReadLink,
    StatFs,
};

use crate::sample::{FILE_LEN, Guest, ImageFolder, file_bytes};

/// Requests of the long test.
const REQUESTS: usize = 100_000;

const LOG_LIMIT: Duration = Duration::from_secs(20);

/// Returns the line of the daemon's memory map that has the heap.
fn heap(guest: &Guest) -> String {
    let maps = fs::read_to_string(format!("/proc/{}/maps", guest.daemon.serving_id())).unwrap();
    let heap = maps.lines().find(|line| line.ends_with("[heap]")).unwrap();
    heap.split(' ').next().unwrap().to_owned()
}

/// Sends the request with this number: one of many kinds, some of them refused.
fn send(guest: &mut Guest, number: usize, (file, link, many): (NodeId, NodeId, NodeId)) {
    let look_up = |name| pinhole_protocol::Lookup { name: LookupName::parse(name).unwrap() };
    let list = ReadDir {
        handle: Handle(0),
        offset: 0,
        size: if number.is_multiple_of(97) { 1 << 20 } else { 4096 },
    };
    let root = NodeId::ROOT;
    let (node, operation) = match number % 12 {
        0 => (root, Operation::Lookup(look_up(c"file"))),
        1 => (root, Operation::Lookup(look_up(c"missing"))),
        2 => (many, Operation::ReadDir(list)),
        3 => (many, Operation::ReadDirPlus(ReadDirPlus { list })),
        4 => (link, Operation::ReadLink(ReadLink)),
        5 => (file, Operation::GetXattr(GetXattr { name: c"user.comment", size: 64 << 10 })),
        6 => (file, Operation::ListXattr(ListXattr { size: 64 << 10 })),
        7 => (root, Operation::StatFs(StatFs)),
        8 => (file, Operation::GetXattr(GetXattr { name: c"user.missing", size: 0 })),
        9 => return assert_eq!(guest.attributes(NodeId(u64::MAX)), Err(Errno::ESTALE)),
        10 => return assert_eq!(guest.attributes(file).unwrap().size, FILE_LEN as u64),
        _ => {
            let offset = number % FILE_LEN;
            let bytes = guest.read(file, offset, 1 << 20).unwrap();
            return assert_eq!(bytes, file_bytes()[offset..]);
        }
    };
    let answered = guest.ask(node, &operation);
    assert_eq!(answered.is_err(), number % 12 == 8, "{operation:?}: {answered:?}");
}

#[test]
fn hundred_thousand_requests_make_the_heap_no_larger() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &["--seccomp=kill"]);
    let nodes = (guest.node("file"), guest.node("link"), guest.node("many"));
    let before = heap(&guest);
    for number in 0..REQUESTS {
        send(&mut guest, number, nodes);
    }
    assert_eq!(heap(&guest), before, "no thread has asked for memory");
    guest.attributes(NodeId::ROOT).unwrap();
}

/// Each of these makes a queue thread the last to use a descriptor or a mapping.
#[test]
fn queues_restart_and_memory_changes_under_the_filter() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &["--seccomp=kill", "--keep-listening"]);
    for round in 0..50 {
        let base = guest.frontend.stop_queue(1).unwrap();
        guest.frontend.resume_queue(1, base).unwrap();
        guest.entry("file").unwrap_or_else(|errno| panic!("{round}: {errno:?}"));
        guest.frontend.share_memory().unwrap();
        guest.entry("file").unwrap_or_else(|errno| panic!("{round}: {errno:?}"));
    }
}

#[test]
fn lines_of_queue_threads_reach_the_log_with_their_time() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &["--seccomp=kill", "--log-level=debug"]);
    // A message with a wrong length, and a change, which is denied.
    let refused = guest.frontend.raw(1, &[40, 0, 0, 0, 1, 0, 0, 0], 128);
    assert!(refused.is_err() || refused.is_ok_and(|reply| reply.success().is_err()));
    let unlink = pinhole_protocol::Unlink { name: Name::parse(c"file").unwrap() };
    assert_eq!(guest.ask(NodeId::ROOT, &Operation::Unlink(unlink)), Err(Errno::EROFS));
    guest.daemon.wait_for_log("denied", LOG_LIMIT).unwrap();
    let log = guest.daemon.stderr();
    let line = log.lines().find(|line| line.contains("denied")).unwrap();
    assert!(line.starts_with("20") && line.contains('T') && !line.contains('\0'), "{line}");
}

/// Returns the entries of a folder of the serving process in /proc.
fn entries(guest: &Guest, folder: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(format!("/proc/{}/{folder}", guest.daemon.serving_id()));
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn no_capability_file_or_directory_of_the_host_is_left() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    guest.entry("file").unwrap();
    let process = guest.daemon.serving_id();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let mounts: Vec<_> = mounts.lines().collect();
    assert!(matches!(mounts[..], [one] if one.contains(" - tmpfs ") && one.contains(" ro,")), "{mounts:?}");
    assert_eq!(entries(&guest, "root"), Vec::<PathBuf>::new());
    let places: Vec<_> =
        entries(&guest, "fd").iter().filter_map(|descriptor| fs::read_link(descriptor).ok()).collect();
    let is_directory = |place: &&PathBuf| place.is_absolute() && Path::new(place).is_dir();
    assert_eq!(places.iter().find(is_directory), None, "{places:?}");
}
