//! Do requests and replies come back unchanged after encoding and decoding?
#![cfg(test)]

mod any_operation;

use any_operation::{Spec, any_spec};
use pinhole_protocol::{
    Attr, Created, Dialect, Dirent, DirentBuffer, DirentKind, Entry, Errno, Extensions, FileLock, Handle,
    Header, InitFlags, InitReply, NodeId, OpenReply, OpenReplyFlags, Operation, Reply, Request, Statfs,
    Statx, Timeouts, Timestamp, Unique, client, copied_len, out_header,
};
use proptest::prelude::*;
use std::ffi::CStr;
use std::time::Duration;

/// Encodes a message with this operation, splits it as the transport does, and checks that it
/// decodes to the same operation.
fn check(operation: &Operation<'_>, header: &Header<'_>, dialect: Dialect) {
    let payload =
        if let Operation::Write(write) = operation { vec![7; write.size as usize] } else { Vec::new() };
    let mut message = Vec::new();
    client::encode_request(header, operation, &payload, dialect, &mut message);
    let copied = copied_len(header.known_opcode(), message.len());
    let request = Request::decode(&message[..copied], message.len() - copied, dialect).unwrap();
    assert_eq!(request.header, *header);
    assert_eq!(request.operation.as_ref(), Ok(operation));
    assert_eq!(Some(operation.opcode()), header.known_opcode());
    for cut in 0..copied {
        // A truncated message is never accepted.
        match Request::decode(&message[..cut], 0, dialect) {
            Ok(request) => assert!(request.operation.is_err(), "cut at {cut}"),
            Err(error) => assert!(error.len < 40),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_decoded_as_it_was_encoded(
        spec in any_spec(),
        (unique, node, uid, gid, pid) in any::<(u64, u64, u32, u32, u32)>(),
        (setxattr_ext, lookup_dots) in any::<(bool, bool)>(),
        groups in prop::option::of(prop::collection::vec(any::<u32>(), 0..5)),
        label in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
    ) {
        let dialect = Dialect { setxattr_ext, lookup_dots };
        let label: Vec<(&CStr, &[u8])> = label.iter().map(|label| (c"security.selinux", &label[..])).collect();
        let mut extensions = Vec::new();
        // A WRITE has no extensions: they would follow its data.
        if !matches!(spec, Spec::Write(..)) {
            client::encode_extensions(&label, groups.as_deref(), &mut extensions);
        }
        let extensions = Extensions::parse(&extensions).unwrap();
        spec.with_operation(dialect, |operation| {
            let header = Header {
                uid, gid, pid, extensions, ..client::header(operation, Unique(unique), NodeId(node))
            };
            check(operation, &header, dialect);
        });
    }

    #[test]
    fn extensions_are_read_as_they_were_written(
        groups in prop::collection::vec(any::<u32>(), 0..9),
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
    ) {
        let labels: Vec<(&CStr, &[u8])> = labels.iter().map(|label| (c"security.x", &label[..])).collect();
        let mut bytes = Vec::new();
        client::encode_extensions(&labels, Some(&groups), &mut bytes);
        let extensions = Extensions::parse(&bytes).unwrap();
        prop_assert_eq!(extensions.groups().unwrap().collect::<Vec<_>>(), groups);
        let read: Vec<_> = extensions.security_contexts().into_iter()
            .flat_map(|contexts| contexts.iter().map(|context| (context.name, context.value)).collect::<Vec<_>>())
            .collect();
        prop_assert_eq!(read, labels);
    }

    #[test]
    fn directory_entries_are_read_as_they_were_packed(
        names in prop::collection::vec(prop::collection::vec(1_u8..=46, 1..=255), 0..40),
        plus in any::<bool>(),
        capacity in 0..20_000_usize,
    ) {
        let timeouts = plus.then_some(Timeouts { entry: Duration::from_millis(1500), attr: Duration::from_secs(2) });
        let mut bytes = Vec::new();
        let mut buffer = DirentBuffer::new(&mut bytes, capacity, timeouts);
        let mut packed = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let dirent = Dirent { ino: 5, offset: index as u64, kind: DirentKind::REGULAR, name };
            let entry = index.is_multiple_of(2).then_some(ENTRY);
            let (fits, len) = (buffer.fits(name.len()), buffer.len());
            let pushed = if plus { buffer.push_plus(entry.as_ref(), &dirent) } else { buffer.push(&dirent) };
            prop_assert_eq!(pushed.is_ok(), fits);
            prop_assert_eq!(buffer.len() > len, fits);
            if fits {
                packed.push((entry.filter(|_| plus), dirent));
            }
        }
        prop_assert!(bytes.len() <= capacity);
        let read = if plus { client::dirents_plus(&bytes) } else { client::dirents(&bytes) };
        let read: Vec<_> = read.map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), packed.len());
        for ((read_entry, read_dirent), (entry, dirent)) in read.into_iter().zip(packed) {
            prop_assert_eq!(read_dirent, dirent);
            prop_assert_eq!(read_entry.is_some(), plus);
            let node = entry.map_or(NodeId(0), |entry| entry.node);
            prop_assert_eq!(read_entry.map_or(NodeId(0), |(entry, _)| entry.node), node);
            if entry.is_some() {
                prop_assert_eq!(read_entry, entry.zip(timeouts));
            }
        }
    }
}

const BEFORE_EPOCH: Timestamp = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
const ATTR: Attr = Attr {
    ino: 1,
    size: u64::MAX,
    blocks: 3,
    atime: BEFORE_EPOCH,
    mtime: Timestamp { seconds: i64::MAX, nanoseconds: 1 },
    ctime: Timestamp { seconds: i64::MIN, nanoseconds: 2 },
    mode: 0o100_644,
    nlink: 4,
    uid: 5,
    gid: 6,
    rdev: 7,
    blksize: 8,
    submount: true,
    dax: false,
};
const ENTRY: Entry = Entry { node: NodeId(9), generation: 10, attr: ATTR };
const OPEN: OpenReply = OpenReply { handle: Handle(11), flags: OpenReplyFlags::KEEP_CACHE };
const TIMEOUTS: Timeouts = Timeouts { entry: Duration::new(1, 2), attr: Duration::new(3, 4) };

/// Encodes a reply body and checks its length.
fn body(reply: &Reply<'_>) -> Vec<u8> {
    let mut out = vec![0xff; 7];
    reply.encode_into(&mut out);
    assert_eq!(out.len(), reply.body_len());
    out
}

#[test]
fn every_reply_is_decoded_as_it_was_encoded() {
    let statx = Statx {
        mask: 1,
        blksize: 2,
        attributes: 3,
        attributes_mask: 4,
        nlink: 5,
        uid: 6,
        gid: 7,
        mode: 0o100_644,
        ino: 9,
        size: 10,
        blocks: 11,
        atime: BEFORE_EPOCH,
        btime: ATTR.mtime,
        ctime: ATTR.ctime,
        mtime: Timestamp { seconds: 16, nanoseconds: 17 },
        rdev_major: 12,
        rdev_minor: 13,
        dev_major: 14,
        dev_minor: 15,
    };
    let statfs =
        Statfs { blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 6, namelen: 7, frsize: 8 };
    let lock = FileLock { start: 1, end: u64::MAX, kind: None, pid: 3 };
    let init = InitReply {
        major: 7,
        minor: 45,
        max_readahead: 1,
        flags: InitFlags::INIT_EXT | InitFlags::HAS_INODE_DAX,
        max_background: 2,
        congestion_threshold: 3,
        max_write: 4,
        time_gran: 5,
        max_pages: 6,
        map_alignment: 7,
        max_stack_depth: 8,
        request_timeout: 9,
    };
    let timeout = Duration::new(5, 6);
    assert_eq!(body(&Reply::Empty), []);
    assert_eq!(client::decode_entry(&body(&Reply::Entry(ENTRY, TIMEOUTS))), Ok((ENTRY, TIMEOUTS)));
    let created = Created { entry: ENTRY, open: OPEN };
    let reply = body(&Reply::Created(created, TIMEOUTS));
    assert_eq!(client::decode_created(&reply), Ok((created, TIMEOUTS)));
    assert_eq!(client::decode_attr(&body(&Reply::Attr(ATTR, timeout))), Ok((ATTR, timeout)));
    assert_eq!(client::decode_statx(&body(&Reply::Statx(statx, timeout))), Ok((statx, timeout)));
    assert_eq!(client::decode_open(&body(&Reply::Open(OPEN))), Ok(OPEN));
    assert_eq!(body(&Reply::Bytes(b"target")), b"target");
    assert_eq!(client::decode_ioctl(&body(&Reply::Ioctl(-3, b"out"))), Ok((-3, &b"out"[..])));
    assert_eq!(client::decode_u32(&body(&Reply::Written(1))), Ok(1));
    assert_eq!(client::decode_u64(&body(&Reply::Copied(u64::MAX))), Ok(u64::MAX));
    assert_eq!(client::decode_statfs(&body(&Reply::Statfs(statfs))), Ok(statfs));
    assert_eq!(client::decode_u32(&body(&Reply::XattrLen(2))), Ok(2));
    assert_eq!(client::decode_lock(&body(&Reply::Lock(lock))), Ok(lock));
    assert_eq!(client::decode_u64(&body(&Reply::Offset(3))), Ok(3));
    assert_eq!(client::decode_u64(&body(&Reply::Block(4))), Ok(4));
    assert_eq!(client::decode_u32(&body(&Reply::Poll(5))), Ok(5));
    assert_eq!(client::decode_init(&body(&Reply::Init(init))), Ok(init));
}

#[test]
fn reply_headers_are_decoded_as_they_were_encoded() {
    for (error, body_len) in [(None, 5), (Some(Errno::ENOENT), 0), (Some(Errno::from_raw(4095)), 0)] {
        let mut reply = out_header(Unique(77), error, body_len).to_vec();
        reply.resize(16 + body_len, 1);
        let (header, body) = client::decode_out_header(&reply).unwrap();
        assert_eq!((header.error, header.unique, body.len()), (error, Unique(77), body_len));
        client::decode_out_header(&reply[..15]).unwrap_err();
    }
}
