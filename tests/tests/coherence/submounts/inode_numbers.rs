//! Does each file on a host mount below the share have its own inode number?

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use pinhole_protocol::NodeId;

use super::share::{Guest, Share, run};

/// First inode number that the daemon assigns to a file instead of the host's number.
const RENUMBERED: u64 = 1 << 63;

/// Returns a share with the files `one` and `two`, and the paths of these files on the host. Each
/// is a bind mount of a file of a different tmpfs, and both have the same inode number there.
pub(crate) fn share_with_two_equal_inodes() -> (Share, [PathBuf; 2]) {
    let share = Share::new();
    let sources = ["one", "two"].map(|name| {
        let folder = share.beside(name);
        fs::create_dir(&folder).unwrap();
        run("mount", &["-t", "tmpfs", "single"], &[&folder]);
        fs::write(folder.join("file"), format!("text of {name}")).unwrap();
        fs::write(share.path(name), "").unwrap();
        share.bind(&folder.join("file"), name);
        folder.join("file")
    });
    let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(&sources[0]),
        inode(&sources[1]),
        "the two tmpfs give their files different inode numbers"
    );
    (share, sources)
}

#[test]
fn single_files_of_two_file_systems_differ_by_inode_number() {
    let (share, _sources) = share_with_two_equal_inodes();
    fs::write(share.path("own"), "").unwrap();
    let numbers_of = |guest: &mut Guest| {
        ["one", "two", "own"].map(|name| {
            let found = guest.look_up_in(NodeId::ROOT, name).unwrap();
            assert_eq!(guest.attributes(found.node).unwrap().ino, found.attr.ino);
            found.attr.ino
        })
    };
    let mut guest = share.guest(&[]);
    let numbers = numbers_of(&mut guest);
    assert!(numbers[0] >= RENUMBERED && numbers[1] >= RENUMBERED && numbers[0] != numbers[1], "{numbers:x?}");
    assert!(numbers[2] < RENUMBERED);
    assert_eq!(
        guest.list(NodeId::ROOT, true),
        sorted(&[("one", numbers[0]), ("two", numbers[1]), ("own", numbers[2])])
    );
    drop(guest);
    assert_eq!(numbers_of(&mut share.guest(&[])), numbers, "another daemon assigns other numbers");
}

#[test]
fn trees_of_unannounced_file_systems_have_different_inode_numbers() {
    let share = Share::new();
    share.tmpfs("one", "1");
    share.tmpfs("two", "2");
    let mut guest = share.guest(&["--no-announce-submounts"]);
    let by_tree = ["one", "two"].map(|name| {
        let (root, file) = (guest.look_up(name), guest.look_up(&format!("{name}/file")));
        let numbers = [root, file].map(|node| guest.attributes(node).unwrap().ino);
        for plus in [true, false] {
            assert_eq!(guest.list(root, plus), sorted(&[("file", numbers[1])]));
        }
        numbers
    });
    let all = [by_tree[0], by_tree[1]].concat();
    for (at, number) in all.iter().enumerate() {
        assert!(*number >= RENUMBERED && !all[..at].contains(number), "{all:x?}");
    }
}

#[test]
fn announced_submount_keeps_its_own_inode_numbers() {
    let share = Share::new();
    share.tmpfs("data", "text");
    let mut guest = share.guest(&[]);
    let node = guest.look_up("data/file");
    let inode = fs::metadata(share.path("data/file")).unwrap().ino();
    assert_eq!(guest.attributes(node).unwrap().ino, inode);
}

fn sorted(names: &[(&str, u64)]) -> Vec<(String, u64)> {
    let mut names: Vec<_> = names.iter().map(|(name, inode)| ((*name).to_owned(), *inode)).collect();
    names.sort();
    names
}
