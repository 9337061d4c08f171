//! What happens if the files of a running daemon are truncated, written or replaced?

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use pinhole_protocol::{Errno, NodeId, Operation, StatFs};

use crate::sample::{BLOCK, FILE_LEN, Guest, ImageFolder, file_bytes, image};

const LOG_LIMIT: Duration = Duration::from_secs(20);

/// Waits for the line of the log, and checks that every request then fails.
fn expect_end(guest: &mut Guest, file: NodeId, line: &str) {
    guest.daemon.wait_for_log(line, LOG_LIMIT).unwrap();
    assert_eq!(guest.attributes(NodeId::ROOT), Err(Errno::EIO));
    assert_eq!(guest.read(file, 0, 10), Err(Errno::EIO));
    assert_eq!(guest.entry("file").err(), Some(Errno::EIO));
    assert_eq!(guest.ask(NodeId::ROOT, &Operation::StatFs(StatFs)), Err(Errno::EIO));
    assert_eq!(guest.daemon.stderr().matches("every request fails").count(), 1);
    assert!(guest.daemon.stderr().contains(line));
}

#[test]
fn truncated_image_is_an_error_and_not_a_crash() {
    let folder = ImageFolder::new(0);
    // The report of the change and the next request race, so one or the other comes first.
    for len in [0, BLOCK as u64, 100].into_iter().cycle().take(12) {
        fs::write(folder.image(), image(0)).unwrap();
        let mut guest = Guest::of(&folder, &[]);
        let file = guest.node("file");
        File::options().write(true).open(folder.image()).unwrap().set_len(len).unwrap();
        for _ in 0..3 {
            let found = guest.entry("many/name-02000").map(drop);
            assert!(matches!(found, Ok(()) | Err(Errno::EIO)), "{found:?}");
        }
        expect_end(&mut guest, file, "image: the image was ");
    }
}

#[test]
fn written_image_is_not_served_any_longer() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    let image = File::options().write(true).open(folder.image()).unwrap();
    image.write_all_at(&[1], 3000).unwrap();
    expect_end(&mut guest, file, "the image was changed while it was served");
}

#[test]
fn truncated_data_file_fails_past_its_end() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    File::options().write(true).open(folder.data()).unwrap().set_len(BLOCK as u64).unwrap();
    assert_eq!(guest.read(file, 0, BLOCK).unwrap(), file_bytes()[..BLOCK]);
    for _ in 0..3 {
        assert_eq!(guest.read(file, 0, 2 * BLOCK), Err(Errno::EIO));
        assert_eq!(guest.read(file, 2 * BLOCK, 10), Err(Errno::EIO));
    }
    guest.daemon.wait_for_log("the file is shorter than the image says", LOG_LIMIT).unwrap();
    assert_eq!(guest.daemon.stderr().matches("shorter than the image").count(), 1);
    assert_eq!(guest.attributes(file).unwrap().size, FILE_LEN as u64, "the image itself is whole");
}

#[test]
fn replaced_files_leave_a_running_guest_on_the_old_ones() {
    let folder = ImageFolder::new(1);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    let new = folder.folder().join("new");
    fs::write(&new, image(2)).unwrap();
    fs::rename(&new, folder.image()).unwrap();
    fs::write(&new, vec![0; 600 * BLOCK]).unwrap();
    fs::rename(&new, folder.data()).unwrap();
    assert_eq!(guest.attributes(NodeId::ROOT).unwrap().uid, 1);
    assert!(guest.read(file, 0, 1 << 16).unwrap() == file_bytes());
    let mut next = Guest::of(&folder, &[]);
    assert_eq!(next.attributes(NodeId::ROOT).unwrap().uid, 2);
    let file = next.node("file");
    assert!(next.read(file, 0, 1 << 16).unwrap() == vec![0; FILE_LEN]);
    fs::remove_file(folder.image()).unwrap();
    assert_eq!(guest.attributes(NodeId::ROOT).unwrap().uid, 1);
}
