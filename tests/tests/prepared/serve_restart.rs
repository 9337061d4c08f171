//! Does a daemon keep nothing of a guest, so that the next process serves the same guest?

use pinhole_protocol::{Errno, Handle, NodeId, Operation, ReadDir};
use pinhole_tests::daemon::Daemon;
use pinhole_tests::frontend::{Footprint, eventually};
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;

use crate::sample::{FILE_LEN, Guest, ImageFolder, file_bytes, image};

#[test]
fn next_process_serves_the_same_nodes_without_an_init() {
    let folder = ImageFolder::new(0);
    let socket = folder.folder().join("socket");
    let start = || {
        let daemon = Daemon::of_image(folder.image()).unwrap().at(&socket).confined_to(folder.folder());
        daemon.start().unwrap()
    };
    let mut guest = Guest::new(start());
    let (file, many) = (guest.node("file"), guest.node("many"));
    let list = |offset| Operation::ReadDir(ReadDir { handle: Handle(0), offset, size: 4096 });
    let first = guest.ask(many, &list(0)).unwrap();
    let cookie = pinhole_protocol::client::dirents(&first).last().unwrap().unwrap().1.offset;
    let rest = guest.ask(many, &list(cookie)).unwrap();
    let serving = Path::new("/proc").join(guest.daemon.serving_id().to_string());
    guest.daemon.signal(Signal::KILL).unwrap();
    assert!(guest.daemon.wait_at_most(Duration::from_secs(20)).unwrap().is_some());
    // The kernel ends the serving process with its parent.
    eventually("the serving process has ended", || !serving.exists());
    drop(guest);
    let mut next = Guest::before_init(start());
    assert_eq!(next.attributes(file).unwrap().size, FILE_LEN as u64);
    assert!(next.read(file, 0, 1 << 16).unwrap() == file_bytes());
    assert!(next.ask(many, &list(cookie)).unwrap() == rest, "the cookie leads elsewhere");
    assert_eq!(next.node("file"), file);
    assert_eq!(next.look_up(file, pinhole_protocol::LookupName::Itself).unwrap().node, file);
    // A guest that sends INIT again gets the same nodes too.
    next.frontend.init().unwrap();
    assert_eq!(next.node("file"), file);
}

#[test]
fn another_image_makes_old_nodes_stale() {
    let (one, other) = (ImageFolder::new(1), ImageFolder::new(2));
    assert_eq!(image(1).len(), image(2).len(), "the images differ in one owner");
    let mut guest = Guest::of(&one, &[]);
    let (file, generation) = (guest.node("file"), guest.entry("file").unwrap().generation);
    let mut guest = Guest::of(&other, &[]);
    for (node, expected) in [(file, Some(Errno::ESTALE)), (NodeId::ROOT, None)] {
        assert_eq!(guest.attributes(node).err(), expected, "{node:?}");
    }
    assert_ne!(guest.entry("file").unwrap().generation, generation);
}

#[test]
fn lookups_take_no_memory() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let look_up = |guest: &mut Guest, count: usize| {
        for number in 0..count {
            let path = format!("many/name-{:05}", number % 3000);
            assert!(guest.entry(&path).is_ok(), "{path}");
        }
    };
    look_up(&mut guest, 1000);
    let before = Footprint::of(guest.daemon.serving_id()).unwrap();
    look_up(&mut guest, 50_000);
    let after = Footprint::of(guest.daemon.serving_id()).unwrap();
    assert_eq!(after.descriptors, before.descriptors);
    let grown = after.anonymous_kib.saturating_sub(before.anonymous_kib);
    println!("100,000 lookups took {grown} KiB");
    assert!(grown < 64, "100,000 lookups took {grown} KiB");
}
