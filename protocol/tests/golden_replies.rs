//! Does each reply encode to the bytes that are written here by hand from `fuse.h`?
#![cfg(test)]

use pinhole_protocol::*;
use std::time::Duration;

/// Encodes a 16-bit number.
fn h(number: u16) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Encodes a 32-bit number.
fn w(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Encodes a 64-bit number.
fn l(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Checks that a reply encodes to these parts.
#[track_caller]
fn expect(reply: &Reply<'_>, parts: &[Vec<u8>]) {
    let mut out = Vec::new();
    reply.encode_into(&mut out);
    assert_eq!(out, parts.concat());
}

/// Returns attributes of which each field has a value of its own.
fn attr() -> Attr {
    let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    Attr {
        ino: 1,
        size: 2,
        blocks: 3,
        atime: at(4, 7),
        mtime: at(-5, 8),
        ctime: at(6, 9),
        mode: 10,
        nlink: 11,
        uid: 12,
        gid: 13,
        rdev: 14,
        blksize: 15,
        submount: true,
        dax: true,
    }
}

/// Returns the wire form of [`attr`].
fn attr_bytes() -> Vec<u8> {
    let longs = [l(1), l(2), l(3), l(4), l(0xffff_ffff_ffff_fffb), l(6)].concat();
    let words = [w(7), w(8), w(9), w(10), w(11), w(12), w(13), w(14), w(15), w(3)].concat();
    [longs, words].concat()
}

/// Returns the wire form of an entry with [`attr`] and [`TIMEOUTS`].
fn entry_bytes() -> Vec<u8> {
    [l(20), l(21), l(22), l(24), w(23), w(25), attr_bytes()].concat()
}

const TIMEOUTS: Timeouts = Timeouts { entry: Duration::new(22, 23), attr: Duration::new(24, 25) };

#[test]
fn entries_attributes_and_handles_are_encoded() {
    let entry = Entry { node: NodeId(20), generation: 21, attr: attr() };
    let flags = OpenReplyFlags::KEEP_CACHE | OpenReplyFlags::PARALLEL_DIRECT_WRITES;
    let open = OpenReply { handle: Handle(30), flags };
    expect(&Reply::Empty, &[]);
    expect(&Reply::Entry(entry, TIMEOUTS), &[entry_bytes()]);
    expect(&Reply::Created(Created { entry, open }, TIMEOUTS), &[entry_bytes(), l(30), w(0x42), w(0)]);
    expect(&Reply::Attr(attr(), TIMEOUTS.attr), &[l(24), w(25), w(0), attr_bytes()]);
    expect(&Reply::Open(open), &[l(30), w(0x42), w(0)]);
    let negative = [l(0), l(0), l(22), l(24), w(23), w(25), vec![0; 88]];
    expect(&Reply::Entry(Entry::negative(), TIMEOUTS), &negative);
}

#[test]
fn numbers_and_bytes_are_encoded() {
    expect(&Reply::Bytes(b"to"), &[b"to".to_vec()]);
    expect(&Reply::Ioctl(-2, b"out"), &[w(0xffff_fffe), w(0), w(0), w(0), b"out".to_vec()]);
    expect(&Reply::Written(5), &[w(5), w(0)]);
    expect(&Reply::Copied(5), &[l(5)]);
    expect(&Reply::XattrLen(5), &[w(5), w(0)]);
    expect(&Reply::Offset(5), &[l(5)]);
    expect(&Reply::Block(5), &[l(5)]);
    expect(&Reply::Poll(5), &[w(5), w(0)]);
    let lock = FileLock { start: 1, end: 2, kind: Some(LockKind::Write), pid: 4 };
    expect(&Reply::Lock(lock), &[l(1), l(2), w(1), w(4)]);
    let figures =
        Statfs { blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 6, namelen: 7, frsize: 8 };
    expect(&Reply::Statfs(figures), &[l(1), l(2), l(3), l(4), l(5), w(6), w(7), w(8), w(0), vec![0; 24]]);
}

#[test]
fn statx_is_encoded() {
    let at = |seconds| Timestamp { seconds, nanoseconds: 99 };
    let statx = Statx {
        mask: 1,
        blksize: 2,
        attributes: 3,
        attributes_mask: 4,
        nlink: 5,
        uid: 6,
        gid: 7,
        mode: 8,
        ino: 9,
        size: 10,
        blocks: 11,
        atime: at(12),
        btime: at(13),
        ctime: at(14),
        mtime: at(15),
        rdev_major: 16,
        rdev_minor: 17,
        dev_major: 18,
        dev_minor: 19,
    };
    let head = [l(24), w(25), w(0), l(0), l(0), w(1), w(2), l(3), w(5), w(6), w(7), h(8), h(0)].concat();
    let middle = [l(9), l(10), l(11), l(4)].concat();
    let times = [12, 13, 14, 15].map(|seconds| [l(seconds), w(99), w(0)].concat()).concat();
    let tail = [w(16), w(17), w(18), w(19), vec![0; 112]].concat();
    expect(&Reply::Statx(statx, TIMEOUTS.attr), &[head, middle, times, tail]);
}

#[test]
fn init_is_encoded_with_its_upper_flags() {
    let init = InitReply {
        major: 7,
        minor: 45,
        max_readahead: 1,
        flags: InitFlags::INIT_EXT | InitFlags::ASYNC_READ | InitFlags::HAS_INODE_DAX,
        max_background: 2,
        congestion_threshold: 3,
        max_write: 4,
        time_gran: 5,
        max_pages: 6,
        map_alignment: 7,
        max_stack_depth: 8,
        request_timeout: 9,
    };
    let head = [w(7), w(45), w(1), w(0x4000_0001), h(2), h(3), w(4), w(5), h(6), h(7)].concat();
    expect(&Reply::Init(init), &[head, w(2), w(8), h(9), vec![0; 22]]);
}

#[test]
fn headers_are_encoded_with_a_negative_error() {
    let bytes = |parts: &[Vec<u8>]| parts.concat();
    assert_eq!(out_header(Unique(5), None, 8).to_vec(), bytes(&[w(24), w(0), l(5)]));
    let not_found = bytes(&[w(16), w(0xffff_fffe), l(5)]);
    assert_eq!(out_header(Unique(5), Some(Errno::ENOENT), 0).to_vec(), not_found);
    assert_eq!(out_header(Unique(5), None, usize::MAX)[..4], [0xff; 4]);
}

#[test]
fn directory_entries_are_padded_to_eight_bytes() {
    let dirent = |name| Dirent { ino: 1, offset: 2, kind: DirentKind::DIRECTORY, name };
    let mut bytes = vec![9; 9];
    let mut buffer = DirentBuffer::new(&mut bytes, 64, None);
    assert!(buffer.is_empty() && !buffer.is_plus());
    buffer.push(&dirent(b"a")).unwrap();
    buffer.push(&dirent(b"12345678")).unwrap();
    assert!(buffer.len() == 64 && !buffer.fits(0));
    buffer.push(&dirent(b"b")).unwrap_err();
    let first = [l(1), l(2), w(1), w(4), b"a\0\0\0\0\0\0\0".to_vec()].concat();
    let second = [l(1), l(2), w(8), w(4), b"12345678".to_vec()].concat();
    assert_eq!(bytes, [first.clone(), second].concat());

    let mut buffer = DirentBuffer::new(&mut bytes, 320, Some(TIMEOUTS));
    let entry = Entry { node: NodeId(20), generation: 21, attr: attr() };
    buffer.push_plus(Some(&entry), &dirent(b"a")).unwrap();
    buffer.push_plus(None, &dirent(b"a")).unwrap();
    assert_eq!(buffer.push_plus(None, &dirent(b"a")), Err(Full));
    assert_eq!(bytes, [entry_bytes(), first.clone(), vec![0; 128], first].concat());
}

#[test]
fn memory_grows_with_entries_not_with_the_requested_size() {
    let mut bytes = Vec::new();
    let mut buffer = DirentBuffer::new(&mut bytes, usize::MAX, None);
    buffer.push(&Dirent { ino: 1, offset: 2, kind: DirentKind::UNKNOWN, name: b"a" }).unwrap();
    assert!(bytes.capacity() < 1024);
}

#[test]
fn the_kind_of_an_entry_follows_its_mode() {
    for (mode, kind) in [
        (0o100_644, DirentKind::REGULAR),
        (0o40_755, DirentKind::DIRECTORY),
        (0o120_777, DirentKind::SYMLINK),
    ] {
        assert_eq!(DirentKind::from_mode(mode), kind);
    }
}

#[test]
fn error_numbers_match_linux() {
    for (errno, raw, name) in [
        (Errno::EPERM, 1, "EPERM"),
        (Errno::EAGAIN, 11, "EAGAIN"),
        (Errno::ENOSYS, 38, "ENOSYS"),
        (Errno::ENODATA, 61, "ENODATA"),
        (Errno::EOPNOTSUPP, 95, "EOPNOTSUPP"),
        (Errno::ESTALE, 116, "ESTALE"),
        (Errno::EDQUOT, 122, "EDQUOT"),
    ] {
        assert_eq!((errno.raw(), errno.to_string().as_str()), (raw, name));
    }
    for impossible in [0, -2, 4096, i32::MIN, i32::MAX] {
        assert_eq!(Errno::from_raw(impossible), Errno::EIO);
    }
    assert_eq!(Errno::from_raw(4095).to_string(), "errno 4095");
}
