//! Does each request get exactly its reply, through the real binary and real virtqueues?
//!
//! The tests encode requests and decode replies by hand, from the structures in `linux/fuse.h`. So
//! they do not share a mistake with the daemon's decoder.

use pinhole_tests::frontend::frame::opcode::{
    ACCESS, BATCH_FORGET, BMAP, COPY_FILE_RANGE, COPY_FILE_RANGE_64, CREATE, DESTROY, FALLOCATE, FLUSH,
    FORGET, FSYNC, FSYNCDIR, GETATTR, GETXATTR, IOCTL, LINK, LISTXATTR, LOOKUP, LSEEK, MKDIR, MKNOD,
    OPEN_FILE, OPENDIR, POLL, READ, READDIR, READDIRPLUS, READLINK, RELEASE, RELEASEDIR, REMOVEXATTR, RENAME,
    RENAME2, RMDIR, SETATTR, SETXATTR, STATFS, STATX, SYMLINK, SYNCFS, TMPFILE, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, UNIQUE, check, u32_at, u64_at};
use pinhole_tests::frontend::{Bench, EVENT_IDX, INDIRECT, OUT_HEADER_LEN, Setup, Shape};
use pinhole_tests::linux::{EIO, ENOENT, ENOSYS, ENTRY_LEN, O_RDWR, ROOT};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

/// Length of `fuse_open_out` in bytes.
const OPEN_LEN: usize = 16;

fn getattr(node: u64) -> Frame {
    Frame::new(GETATTR, node).u32(0).u32(0).u64(0)
}

fn lookup(name: &str) -> Frame {
    Frame::new(LOOKUP, ROOT).name(name)
}

fn read(node: u64, handle: u64, offset: u64, size: u32) -> Frame {
    Frame::new(READ, node).u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0)
}

fn write(node: u64, handle: u64, offset: u64, data: &[u8]) -> Frame {
    let size = u32::try_from(data.len()).unwrap();
    Frame::new(WRITE, node).u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(O_RDWR).u32(0).bytes(data)
}

/// Starts a daemon. Its share has `file`, with ten bytes. Returns also the node id of the file and
/// a file handle for reading and writing.
fn start_with_file() -> (Bench, u64, u64) {
    let mut bench = Bench::with(Setup::default(), &["--xattr"]).unwrap();
    fs::write(bench.host("file"), "0123456789").unwrap();
    let node = u64_at(&bench.body(lookup("file"), ENTRY_LEN).unwrap(), 0).unwrap();
    let opened = bench.body(Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0), OPEN_LEN).unwrap();
    assert_eq!(opened.len(), OPEN_LEN);
    let handle = u64_at(&opened, 0).unwrap();
    (bench, node, handle)
}

/// Checks that the `fuse_attr` at the offset `at` of a reply equals the host's attributes of
/// `path`.
#[track_caller]
fn check_attr(body: &[u8], at: usize, path: &std::path::Path) {
    let host = path.symlink_metadata().unwrap();
    let wide = |offset| u64_at(body, at + offset).unwrap();
    let narrow = |offset| u32_at(body, at + offset).unwrap();
    assert_eq!(wide(0), host.ino(), "ino");
    assert_eq!(wide(8), host.size(), "size");
    assert_eq!(wide(16), host.blocks(), "blocks");
    assert_eq!(wide(24).cast_signed(), host.atime(), "atime");
    assert_eq!(wide(32).cast_signed(), host.mtime(), "mtime");
    assert_eq!(wide(40).cast_signed(), host.ctime(), "ctime");
    assert_eq!(i64::from(narrow(48)), host.atime_nsec(), "atimensec");
    assert_eq!(i64::from(narrow(52)), host.mtime_nsec(), "mtimensec");
    assert_eq!(i64::from(narrow(56)), host.ctime_nsec(), "ctimensec");
    assert_eq!(narrow(60), host.mode(), "mode");
    assert_eq!(u64::from(narrow(64)), host.nlink(), "nlink");
    assert_eq!(narrow(68), host.uid(), "uid");
    assert_eq!(narrow(72), host.gid(), "gid");
    assert_eq!(u64::from(narrow(80)), host.blksize(), "blksize");
}

#[test]
fn requests_before_init_fail_with_eio() {
    let mut bench = Bench::before_init(Setup::default(), &[]).unwrap();
    assert_eq!(bench.errno(getattr(ROOT), 104).unwrap(), EIO);
    assert_eq!(bench.errno(lookup("file"), ENTRY_LEN).unwrap(), EIO);
    bench.guest.init().unwrap();
    assert_eq!(bench.errno(getattr(ROOT), 104).unwrap(), 0);
}

#[test]
fn init_reply_has_only_features_of_both_sides() {
    let mut bench = Bench::before_init(Setup::default(), &[]).unwrap();
    // The fields are major, minor, max_readahead, flags (INIT_EXT and MAX_PAGES), flags2 and
    // unused.
    let init = Frame::new(26, 0).u32(7).u32(45).u32(0x2_0000).u32(1 << 30 | 1 << 22).u32(0).bytes(&[0; 44]);
    let body = bench.body(init, 64).unwrap();
    assert_eq!(body.len(), 64);
    assert_eq!((u32_at(&body, 0).unwrap(), u32_at(&body, 4).unwrap()), (7, 45));
    assert!(u32_at(&body, 8).unwrap() <= 0x2_0000, "more readahead than the guest offered");
    assert_eq!(u32_at(&body, 12).unwrap() & !(1 << 30 | 1 << 22), 0, "a flag that the guest did not offer");
    assert!(u32_at(&body, 20).unwrap() >= 4096, "max_write");
}

#[test]
fn lookup_and_getattr_return_the_hosts_attributes() {
    let (mut bench, node, _) = start_with_file();
    let path = bench.host("file");
    let entry = bench.body(lookup("file"), ENTRY_LEN).unwrap();
    assert_eq!((entry.len(), u64_at(&entry, 0).unwrap()), (ENTRY_LEN, node));
    check_attr(&entry, 40, &path);
    let body = bench.body(getattr(node), 104).unwrap();
    assert_eq!(body.len(), 104);
    check_attr(&body, 16, &path);
    assert_eq!(bench.errno(lookup("none"), ENTRY_LEN).unwrap(), ENOENT);
}

#[test]
fn statx_has_a_birth_time() {
    let (mut bench, node, _) = start_with_file();
    let body = bench.body(Frame::new(STATX, node).u32(0).u32(0).u64(0).u32(0).u32(0xfff), 288).unwrap();
    assert_eq!(body.len(), 288);
    // The first 32 bytes are attr_valid, attr_valid_nsec, flags and spare[2]. Then comes a
    // `fuse_statx`, with mask at 0, ino at 32, size at 40 and btime at 80.
    let statx = &body[32..];
    assert_eq!(u64_at(statx, 40).unwrap(), 10);
    let host = bench.host("file").metadata().unwrap();
    assert_eq!(u64_at(statx, 32).unwrap(), host.ino());
    if let Ok(born) = host.created() {
        assert_ne!(u32_at(statx, 0).unwrap() & 0x800, 0, "STATX_BTIME");
        let born = born.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(u64_at(statx, 80).unwrap(), born.as_secs());
    }
}

#[test]
fn setattr_changes_mode_size_and_times() {
    let (mut bench, node, _) = start_with_file();
    // `valid` is MODE, SIZE, ATIME and MTIME. The fields after it are padding, fh, size,
    // lock_owner, atime, mtime, ctime, three numbers of nanoseconds, mode, unused4, uid, gid and
    // unused5.
    let frame = Frame::new(SETATTR, node).u32(1 | 8 | 16 | 32).u32(0).u64(0).u64(4).u64(0);
    let frame = frame.u64(1_000_000_000).u64(1_100_000_000).u64(0).u32(11).u32(22).u32(0);
    let frame = frame.u32(0o640).u32(0).u32(0).u32(0).u32(0);
    let body = bench.body(frame, 104).unwrap();
    check_attr(&body, 16, &bench.host("file"));
    let host = bench.host("file").metadata().unwrap();
    assert_eq!((host.mode() & 0o7777, host.size()), (0o640, 4));
    assert_eq!((host.atime(), host.atime_nsec()), (1_000_000_000, 11));
    assert_eq!((host.mtime(), host.mtime_nsec()), (1_100_000_000, 22));
}

#[test]
fn names_are_made_linked_moved_and_removed() {
    let (mut bench, node, _) = start_with_file();
    let made = bench.body(Frame::new(MKDIR, ROOT).u32(0o755).u32(0).name("dir"), ENTRY_LEN).unwrap();
    check_attr(&made, 40, &bench.host("dir"));
    let made = bench.body(Frame::new(SYMLINK, ROOT).name("link").name("to/nowhere"), ENTRY_LEN).unwrap();
    let target = bench.body(Frame::new(READLINK, u64_at(&made, 0).unwrap()), 4096).unwrap();
    assert_eq!(target, b"to/nowhere");
    let fifo = 0o010_644;
    let made =
        bench.body(Frame::new(MKNOD, ROOT).u32(fifo).u32(0).u32(0).u32(0).name("fifo"), ENTRY_LEN).unwrap();
    check_attr(&made, 40, &bench.host("fifo"));
    assert!(bench.host("fifo").metadata().unwrap().file_type().is_fifo());
    let linked = bench.body(Frame::new(LINK, ROOT).u64(node).name("second"), ENTRY_LEN).unwrap();
    assert_eq!(u64_at(&linked, 0).unwrap(), node, "a file has one node");
    assert_eq!(u32_at(&linked, 40 + 64).unwrap(), 2, "nlink");
    let moved = Frame::new(RENAME, ROOT).u64(ROOT).name("second").name("third");
    assert!(bench.body(moved, 0).unwrap().is_empty());
    assert!(bench.host("third").exists() && !bench.host("second").exists());
    let exchanged = Frame::new(RENAME2, ROOT).u64(ROOT).u32(2).u32(0).name("dir").name("third");
    assert!(bench.body(exchanged, 0).unwrap().is_empty());
    assert!(bench.host("third").is_dir() && bench.host("dir").is_file());
    let refused = Frame::new(RENAME2, ROOT).u64(ROOT).u32(1).u32(0).name("dir").name("third");
    assert_eq!(
        bench.errno(refused, 0).unwrap(),
        17,
        "RENAME_NOREPLACE to an existing name fails with EEXIST"
    );
    assert!(bench.body(Frame::new(RMDIR, ROOT).name("third"), 0).unwrap().is_empty());
    assert!(bench.body(Frame::new(UNLINK, ROOT).name("dir"), 0).unwrap().is_empty());
    let mut left: Vec<_> =
        fs::read_dir(bench.host("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["fifo", "file", "link"]);
}

#[test]
fn data_is_read_written_seeked_and_made_durable() {
    let (mut bench, node, handle) = start_with_file();
    assert_eq!(bench.body(read(node, handle, 3, 100), 100).unwrap(), b"3456789");
    let written = bench.body(write(node, handle, 8, b"abcd"), 8).unwrap();
    assert_eq!((written.len(), u32_at(&written, 0).unwrap()), (8, 4));
    assert_eq!(fs::read(bench.host("file")).unwrap(), b"01234567abcd");
    assert!(bench.body(read(node, handle, 12, 100), 100).unwrap().is_empty(), "the end of the file");
    let grown = Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(8192).u32(0).u32(0);
    assert!(bench.body(grown, 0).unwrap().is_empty());
    assert_eq!(bench.host("file").metadata().unwrap().size(), 8192);
    let hole = bench.body(Frame::new(LSEEK, node).u64(handle).u64(0).u32(4).u32(0), 8).unwrap();
    assert_eq!(hole.len(), 8);
    assert!(u64_at(&hole, 0).unwrap() <= 8192, "SEEK_HOLE");
    for (opcode, body) in [(FSYNC, Frame::new(FSYNC, node)), (FLUSH, Frame::new(FLUSH, node))] {
        let frame = if opcode == FSYNC {
            body.u64(handle).u32(0).u32(0)
        } else {
            body.u64(handle).u32(0).u32(0).u64(7)
        };
        assert!(bench.body(frame, 0).unwrap().is_empty(), "opcode {opcode}");
    }
    assert!(bench.body(Frame::new(SYNCFS, ROOT).u64(0), 0).unwrap().is_empty());
    let release = Frame::new(RELEASE, node).u64(handle).u32(O_RDWR).u32(0).u64(0);
    assert!(bench.body(release, 0).unwrap().is_empty());
    assert_eq!(
        bench.errno(read(node, handle, 0, 10), 10).unwrap(),
        9,
        "READ of a released handle fails with EBADF"
    );
}

#[test]
fn files_are_created_with_and_without_a_name_and_copied() {
    let (mut bench, node, handle) = start_with_file();
    let frame = Frame::new(CREATE, ROOT).u32(O_RDWR).u32(0o100_666).u32(0o022).u32(0).name("new");
    let body = bench.body(frame, ENTRY_LEN + OPEN_LEN).unwrap();
    assert_eq!(body.len(), ENTRY_LEN + OPEN_LEN);
    check_attr(&body, 40, &bench.host("new"));
    assert!(bench.host("new").metadata().unwrap().permissions().mode() & 0o600 == 0o600);
    let (new_node, new_handle) = (u64_at(&body, 0).unwrap(), u64_at(&body, ENTRY_LEN).unwrap());
    for (opcode, offset) in [(COPY_FILE_RANGE, 0), (COPY_FILE_RANGE_64, 10)] {
        let frame = Frame::new(opcode, node).u64(handle).u64(0).u64(new_node).u64(new_handle);
        let copied = bench.body(frame.u64(offset).u64(10).u64(0), 8).unwrap();
        assert_eq!((copied.len(), u32_at(&copied, 0).unwrap()), (8, 10), "opcode {opcode}");
    }
    assert_eq!(fs::read(bench.host("new")).unwrap(), b"01234567890123456789");
    let frame = Frame::new(TMPFILE, ROOT).u32(O_RDWR).u32(0o100_600).u32(0).u32(0).name("/");
    let reply = bench.ask(frame, ENTRY_LEN + OPEN_LEN).unwrap();
    // A host file system without O_TMPFILE returns EOPNOTSUPP.
    if reply.error().unwrap().map_or(0, pinhole_protocol::Errno::raw) != 95 {
        let body = reply.success().unwrap();
        assert_eq!((body.len(), u32_at(body, 40 + 64).unwrap()), (ENTRY_LEN + OPEN_LEN, 0), "no name");
    }
}

#[test]
fn readdir_and_readdirplus_list_whole_directories() {
    let (mut bench, _, _) = start_with_file();
    for number in 0..100 {
        fs::write(bench.host(format!("entry-{number:03}")), "").unwrap();
    }
    let opened = bench.body(Frame::new(OPENDIR, ROOT).u32(0o200_000).u32(0), OPEN_LEN).unwrap();
    let handle = u64_at(&opened, 0).unwrap();
    for (opcode, before) in [(READDIR, 0), (READDIRPLUS, ENTRY_LEN)] {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let list = Frame::new(opcode, ROOT).u64(handle).u64(offset).u32(1024).u32(0).u64(0).u32(0).u32(0);
            let body = bench.body(list, 1024).unwrap();
            if body.is_empty() {
                break;
            }
            let mut at = 0;
            while at < body.len() {
                offset = u64_at(&body, at + before + 8).unwrap();
                let len = u32_at(&body, at + before + 16).unwrap() as usize;
                let start = at + before + 24;
                names.push(String::from_utf8(body[start..start + len].to_vec()).unwrap());
                at += (before + 24 + len).next_multiple_of(8);
            }
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        assert_eq!(names.len(), 101, "opcode {opcode}");
        names.dedup();
        assert_eq!(names.len(), 101, "opcode {opcode}: a name came twice");
    }
    let synced = bench.body(Frame::new(FSYNCDIR, ROOT).u64(handle).u32(0).u32(0), 0).unwrap();
    assert!(synced.is_empty());
    let released = Frame::new(RELEASEDIR, ROOT).u64(handle).u32(0).u32(0).u64(0);
    assert!(bench.body(released, 0).unwrap().is_empty());
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let (mut bench, node, _) = start_with_file();
    // With SETXATTR_EXT the fields are size, flags, setxattr_flags and padding.
    let set = Frame::new(SETXATTR, node).u32(5).u32(0).u32(0).u32(0).name("user.key").bytes(b"value");
    assert!(bench.body(set, 0).unwrap().is_empty());
    let len = bench.body(Frame::new(GETXATTR, node).u32(0).u32(0).name("user.key"), 8).unwrap();
    assert_eq!((len.len(), u32_at(&len, 0).unwrap()), (8, 5));
    let value = bench.body(Frame::new(GETXATTR, node).u32(64).u32(0).name("user.key"), 64).unwrap();
    assert_eq!(value, b"value");
    let list = bench.body(Frame::new(LISTXATTR, node).u32(1024).u32(0), 1024).unwrap();
    assert!(list.split(|byte| *byte == 0).any(|name| name == b"user.key"));
    assert!(bench.body(Frame::new(REMOVEXATTR, node).name("user.key"), 0).unwrap().is_empty());
    let gone = bench.errno(Frame::new(GETXATTR, node).u32(64).u32(0).name("user.key"), 64).unwrap();
    assert_eq!(gone, 61, "ENODATA");
}

#[test]
fn statfs_and_access_return_the_hosts_answer() {
    let (mut bench, node, _) = start_with_file();
    let body = bench.body(Frame::new(STATFS, ROOT), 80).unwrap();
    let host = rustix::fs::statvfs(bench.host("")).unwrap();
    assert_eq!(body.len(), 80);
    assert_eq!(u64_at(&body, 0).unwrap(), host.f_blocks);
    assert_eq!(u64::from(u32_at(&body, 44).unwrap()), host.f_namemax);
    assert!(bench.body(Frame::new(ACCESS, node).u32(4).u32(0), 0).unwrap().is_empty());
}

#[test]
fn unsupported_operations_return_enosys() {
    let (mut bench, node, handle) = start_with_file();
    assert_eq!(bench.errno(Frame::new(BMAP, node).u64(0).u32(4096).u32(0), 8).unwrap(), ENOSYS);
    let poll = Frame::new(POLL, node).u64(handle).u64(0).u32(0).u32(1);
    assert_eq!(bench.errno(poll, 8).unwrap(), ENOSYS);
    let ioctl = Frame::new(IOCTL, node).u64(handle).u32(0).u32(1).u64(0).u32(0).u32(0);
    assert!(bench.errno(ioctl, 16).unwrap() != 0);
    assert_eq!(bench.errno(Frame::new(9999, node), 16).unwrap(), ENOSYS);
}

#[test]
fn forget_gets_no_reply_and_its_buffers_back() {
    let (mut bench, node, _) = start_with_file();
    let forget = Frame::new(FORGET, node).u64(1).message();
    let batch = Frame::new(BATCH_FORGET, 0).u32(2).u32(0).u64(node).u64(1).u64(77).u64(1).message();
    for (message, queue) in [(&forget, 0), (&forget, 1), (&batch, 0), (&batch, 1)] {
        let reply = bench.guest.raw(queue, message, 0).unwrap();
        assert!(reply.is_unanswered() && reply.rest_untouched);
    }
    let with_room = bench.guest.raw(0, &forget, 64).unwrap();
    assert!(with_room.is_unanswered() && with_room.rest_untouched, "a FORGET with space for a reply got one");
    bench.is_alive().unwrap();
}

#[test]
fn destroy_is_answered_and_the_next_guest_begins_with_init() {
    let (mut bench, _, _) = start_with_file();
    assert!(bench.body(Frame::new(DESTROY, 0), 0).unwrap().is_empty());
    assert_eq!(bench.errno(getattr(ROOT), 104).unwrap(), EIO);
    bench.guest.init().unwrap();
    bench.is_alive().unwrap();
}

#[test]
fn every_layout_of_descriptors_carries_the_same_request() {
    let plain = Setup { features: 0, ..Setup::default() };
    for setup in [
        plain,
        Setup { features: EVENT_IDX, ..plain },
        Setup { features: INDIRECT, ..plain },
        Setup::default(),
    ] {
        let mut bench = Bench::with(setup, &[]).unwrap();
        fs::write(bench.host("file"), "0123456789").unwrap();
        for indirect in [false, setup.features & INDIRECT != 0] {
            for descriptor_len_max in [1 << 20, 17, 3] {
                bench.guest.shape = Shape { indirect, descriptor_len_max };
                let entry = bench.body(lookup("file"), ENTRY_LEN).unwrap();
                check_attr(&entry, 40, &bench.host("file"));
            }
        }
    }
}

#[test]
fn a_queue_wraps_around_many_times() {
    let setup = Setup { queue_size: 4, ..Setup::default() };
    let mut bench = Bench::with(setup, &[]).unwrap();
    // 70,000 requests wrap the 16-bit index of the rings around once.
    for round in 0..70_000u64 {
        let message = getattr(ROOT).unique(round).message();
        let reply = bench.guest.raw(1, &message, OUT_HEADER_LEN + 104).unwrap();
        check(&reply, round).unwrap();
    }
}

#[test]
fn one_kick_is_enough_for_a_full_queue() {
    for features in [0, EVENT_IDX] {
        let mut bench = Bench::with(Setup { queue_size: 64, features, ..Setup::default() }, &[]).unwrap();
        let shape = Shape::default();
        let (queue, memory) = bench.guest.queue(1).unwrap();
        let before = queue.interrupts;
        let sent: Vec<_> = (0..32)
            .map(|number| {
                let message = getattr(ROOT).unique(number).message();
                queue.submit(memory, &message, OUT_HEADER_LEN + 104, shape).unwrap()
            })
            .collect();
        queue.kick().unwrap();
        for (number, sent) in (0..).zip(&sent) {
            let used = queue.wait(memory).unwrap();
            assert_eq!(used.head, u32::from(sent.head), "replies are out of order");
            check(&queue.take_reply(memory, sent, used.len).unwrap(), number).unwrap();
        }
        assert!(queue.interrupts - before <= 32, "more interrupts than requests");
    }
}

#[test]
fn guest_that_kicks_only_on_request_is_served() {
    for features in [0, EVENT_IDX] {
        let mut bench = Bench::with(Setup { features, ..Setup::default() }, &[]).unwrap();
        let (queue, memory) = bench.guest.queue(1).unwrap();
        for round in 0..20_000 {
            let message = getattr(ROOT).unique(round).message();
            let sent = queue.submit(memory, &message, OUT_HEADER_LEN + 104, Shape::default()).unwrap();
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if queue.wants_kick(memory).unwrap() {
                queue.kick().unwrap();
            }
            let used = queue.wait(memory).unwrap();
            check(&queue.take_reply(memory, &sent, used.len).unwrap(), round).unwrap();
        }
    }
}

#[test]
fn guest_that_wants_no_interrupt_gets_none() {
    let mut bench = Bench::with(Setup { features: EVENT_IDX, ..Setup::default() }, &[]).unwrap();
    let (queue, memory) = bench.guest.queue(1).unwrap();
    let message = getattr(ROOT).message();
    for _ in 0..100 {
        // The guest asks for an interrupt only at the fourth of four replies.
        queue.want_interrupt(memory, queue.next_used().wrapping_add(3)).unwrap();
        queue.was_interrupted();
        for _ in 0..3 {
            queue.submit(memory, &message, OUT_HEADER_LEN + 104, Shape::default()).unwrap();
            queue.kick().unwrap();
            while queue.take_used(memory).unwrap().is_none() {
                std::thread::yield_now();
            }
        }
        assert!(!queue.was_interrupted(), "interrupted too early");
        queue.submit(memory, &message, OUT_HEADER_LEN + 104, Shape::default()).unwrap();
        queue.kick().unwrap();
        queue.wait_for_call().unwrap();
        assert!(queue.take_used(memory).unwrap().is_some());
    }
}

#[test]
fn several_queues_are_served_at_once() {
    let mut bench = Bench::with(Setup { queues: 9, ..Setup::default() }, &[]).unwrap();
    let shape = Shape::default();
    let mut waiting = Vec::new();
    for round in 0..50 {
        for index in 0..9 {
            let (queue, memory) = bench.guest.queue(index).unwrap();
            let message = getattr(ROOT).unique(round).message();
            waiting.push((index, queue.submit(memory, &message, OUT_HEADER_LEN + 104, shape).unwrap()));
            queue.kick().unwrap();
        }
        for (index, sent) in waiting.drain(..).rev() {
            let (queue, memory) = bench.guest.queue(index).unwrap();
            let used = queue.wait(memory).unwrap();
            check(&queue.take_reply(memory, &sent, used.len).unwrap(), round).unwrap();
        }
    }
}

#[test]
fn only_queues_in_use_have_a_queue_thread() {
    let bench = Bench::with(Setup { queues: 2, ..Setup::default() }, &[]).unwrap();
    let few = bench.footprint().unwrap().threads;
    let bench = Bench::with(Setup { queues: 9, ..Setup::default() }, &[]).unwrap();
    assert_eq!(bench.footprint().unwrap().threads, few + 7);
}

#[test]
fn configuration_has_the_tag_and_the_queue_count() {
    let arguments = ["--tag", "a-tag", "--num-request-queues", "5"];
    let mut bench = Bench::with(Setup::default(), &arguments).unwrap();
    let space = bench.guest.config(0, 44).unwrap();
    assert_eq!(&space[..6], b"a-tag\0");
    assert_eq!(space[36..], [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.guest.config(36, 4).unwrap(), [5, 0, 0, 0]);
    assert_eq!(
        bench.guest.config(40, 16).unwrap(),
        [0; 16],
        "bytes past the end of the configuration are zero"
    );
}

#[test]
fn reply_never_exceeds_the_space_for_it() {
    let (mut bench, node, handle) = start_with_file();
    let reply = bench.guest.raw(1, &getattr(node).message(), OUT_HEADER_LEN + 103).unwrap();
    check(&reply, UNIQUE).unwrap();
    assert_eq!(reply.error().unwrap().map(pinhole_protocol::Errno::raw), Some(EIO));
    let reply = bench.guest.raw(1, &getattr(node).message(), OUT_HEADER_LEN - 1).unwrap();
    assert!(reply.is_unanswered() && reply.rest_untouched);
    let reply = bench.guest.raw(1, &read(node, handle, 0, 10).message(), OUT_HEADER_LEN + 4).unwrap();
    check(&reply, UNIQUE).unwrap();
    assert!(reply.used_len <= 20);
    bench.is_alive().unwrap();
}
