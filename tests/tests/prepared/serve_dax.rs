//! Does a DAX window show the bytes of the image's files, and only to read?

use pinhole_protocol::{Errno, NodeId};
use pinhole_tests::dax_vmm::{Rules, Window, connect, setup_mapping};
use pinhole_tests::frontend::{OUT_HEADER_LEN, Setup};

use crate::sample::{BLOCK, Guest, ImageFolder, data_bytes, file_bytes};

/// Length of a slot of the window in bytes.
const SLOT: u64 = 2 << 20;

/// Serves the sample to a guest whose VMM has these rules.
fn with_window(rules: Rules) -> (ImageFolder, Guest, Window) {
    let folder = ImageFolder::new(0);
    let daemon = folder.serve(&["--dax-window=16M", "--dax=always"]);
    let setup = Setup { queues: 2, ..Setup::default() };
    let (frontend, window) = connect(daemon.socket(), setup, rules).unwrap();
    let mut guest = Guest { frontend, daemon };
    guest.frontend.init().unwrap();
    (folder, guest, window)
}

/// Maps a slot of a file, and returns the errno of the reply; 0 is success.
fn map(guest: &mut Guest, node: NodeId, flags: u64, at: u64) -> i32 {
    let message = setup_mapping(node.0, [0, SLOT, flags, at]).message();
    let reply = guest.frontend.raw(1, &message, OUT_HEADER_LEN).unwrap();
    reply.error().unwrap().map_or(0, Errno::raw)
}

#[test]
fn contiguous_files_are_offered_and_mapped_at_their_place() {
    let (_folder, mut guest, window) = with_window(Rules::mapping());
    for (path, is_offered) in [
        ("file", true),
        ("dir/inner", true),
        ("sparse", false),
        ("empty", false),
        ("link", false),
        ("fifo", false),
    ] {
        let entry = guest.entry(path).unwrap();
        assert_eq!(entry.attr.dax, is_offered, "{path}");
        assert_eq!(guest.attributes(entry.node).unwrap().dax, is_offered, "{path}");
    }
    let (file, inner) = (guest.node("file"), guest.node("dir/inner"));
    assert_eq!(map(&mut guest, file, 1 << 1, 0), 0);
    assert_eq!(map(&mut guest, inner, 1 << 1, SLOT), 0);
    assert_eq!(window.load(0, file_bytes().len()).unwrap(), file_bytes());
    assert_eq!(window.load(SLOT, 10).unwrap(), data_bytes()[5 * BLOCK..][..10]);
    // The hole at the end of the data file makes every slot whole.
    assert_eq!(window.load(2 * SLOT - 8, 8).unwrap(), [0; 8]);
    window.store(0, b"x").unwrap_err();
    assert_eq!(window.faults(), Vec::<String>::new());
    let messages = window.take_messages();
    let mapped: Vec<_> = messages.iter().filter(|message| message.map && message.accepted).collect();
    assert!(mapped.iter().rev().take(2).all(|message| !message.writable_descriptor), "{mapped:?}");
}

#[test]
fn other_files_and_writable_mappings_are_refused() {
    let (_folder, mut guest, _window) = with_window(Rules::mapping());
    let file = guest.node("file");
    assert_eq!(map(&mut guest, file, 1, 0), Errno::EROFS.raw(), "for writing");
    for (path, errno) in [
        ("sparse", Errno::EOPNOTSUPP),
        ("empty", Errno::EOPNOTSUPP),
        ("dir", Errno::ENODEV),
        ("link", Errno::ENODEV),
        ("null", Errno::ENODEV),
    ] {
        let node = guest.node(path);
        assert_eq!(map(&mut guest, node, 1 << 1, 0), errno.raw(), "{path}");
    }
    assert_eq!(map(&mut guest, NodeId(77), 1 << 1, 0), Errno::ESTALE.raw());
    guest.entry("file").unwrap();
}

#[test]
fn bytes_past_the_last_slot_are_not_mapped() {
    let (_folder, mut guest, window) = with_window(Rules::mapping());
    let file = guest.node("file");
    window.take_messages();
    for from in [SLOT, 1 << 40, (1 << 63) - SLOT] {
        let message = setup_mapping(file.0, [from, SLOT, 1 << 1, 0]).message();
        let reply = guest.frontend.raw(1, &message, OUT_HEADER_LEN).unwrap();
        assert_eq!(reply.error().unwrap(), Some(Errno::EINVAL), "{from:#x}");
    }
    assert!(window.take_messages().is_empty());
}

/// QEMU maps only files that are open for writing.
#[test]
fn front_end_without_read_only_mappings_gets_none() {
    let (_folder, mut guest, window) = with_window(Rules::strict());
    let entry = guest.entry("file").unwrap();
    assert!(!entry.attr.dax);
    window.take_messages();
    assert_eq!(map(&mut guest, entry.node, 1 << 1, 0), Errno::EOPNOTSUPP.raw());
    assert!(window.take_messages().is_empty());
    assert_eq!(guest.read(entry.node, 0, 4).unwrap(), file_bytes()[..4]);
}
