//! Is every malformed message a named error with a fitting errno, and never a panic?
#![cfg(test)]

use pinhole_protocol::*;
use proptest::prelude::*;

/// Returns a message: a header with this opcode and otherwise zeros, then the body.
fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
    let len = 40 + u32::try_from(body.len()).unwrap();
    let mut bytes = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
    bytes.resize(40, 0);
    bytes.extend_from_slice(body);
    bytes
}

#[track_caller]
fn error_of(opcode: Opcode, body: &[u8]) -> DecodeError {
    error_in(Dialect::default(), opcode, body)
}

#[track_caller]
fn error_in(dialect: Dialect, opcode: Opcode, body: &[u8]) -> DecodeError {
    Request::decode(&message(opcode.raw(), body), 0, dialect).unwrap().operation.unwrap_err()
}

/// The opcodes with a name in the request, and the number of bytes before the name.
const NAMED: &[(Opcode, usize)] = &[
    (Opcode::Lookup, 0),
    (Opcode::SymLink, 0),
    (Opcode::MkNod, 16),
    (Opcode::MkDir, 8),
    (Opcode::Unlink, 0),
    (Opcode::RmDir, 0),
    (Opcode::Rename, 8),
    (Opcode::Rename2, 16),
    (Opcode::Link, 8),
    (Opcode::Create, 16),
];

#[test]
fn no_opcode_accepts_a_name_that_is_not_one_component() {
    let long = [b'x'; 256];
    let names: [(&[u8], NameError, Errno); 8] = [
        (b"", NameError::Empty, Errno::EINVAL),
        (b".", NameError::Dots, Errno::EINVAL),
        (b"..", NameError::Dots, Errno::EINVAL),
        (b"/", NameError::Slash, Errno::EINVAL),
        (b"/etc/passwd", NameError::Slash, Errno::EINVAL),
        (b"../x", NameError::Slash, Errno::EINVAL),
        (b"x/", NameError::Slash, Errno::EINVAL),
        (&long, NameError::TooLong { len: 256 }, Errno::ENAMETOOLONG),
    ];
    for &(opcode, before) in NAMED {
        for (name, error, errno) in names {
            let body = [&vec![0; before], name, b"\0second\0"].concat();
            let decode_error = error_of(opcode, &body);
            assert_eq!((decode_error, decode_error.errno()), (DecodeError::Name(error), errno), "{opcode}");
        }
        let unterminated = error_of(opcode, &[&vec![0; before][..], b"name"].concat());
        assert_eq!(unterminated, DecodeError::Unterminated { what: "name" }, "{opcode}");
        // A NUL ends a name, so the body has one string too many.
        let split = error_of(opcode, &[&vec![0; before][..], b"na\0me\0two\0three\0"].concat());
        assert!(matches!(split, DecodeError::Trailing { .. }), "{opcode}: {split}");
    }
}

#[test]
fn second_name_of_a_rename_is_checked_too() {
    for (opcode, before) in [(Opcode::Rename, 8), (Opcode::Rename2, 16)] {
        for name in ["", ".", "..", "a/b", "/"] {
            let body = [&vec![0; before][..], b"good\0", name.as_bytes(), b"\0"].concat();
            assert!(matches!(error_of(opcode, &body), DecodeError::Name(_)), "{opcode} {name}");
        }
    }
}

#[test]
fn only_a_lookup_may_name_the_dots_if_negotiated() {
    let dialect = Dialect { lookup_dots: true, ..Dialect::default() };
    assert_eq!(Dialect::of(InitFlags::EXPORT_SUPPORT), dialect);
    for &(opcode, before) in NAMED {
        for (text, name) in [(&b".\0"[..], LookupName::Itself), (b"..\0", LookupName::Parent)] {
            let body = [&vec![0; before], text, b"second\0"].concat();
            let body = if opcode == Opcode::Lookup { text } else { &body };
            let decoded = |dialect| {
                Request::decode(&message(opcode.raw(), body), 0, dialect).unwrap().operation.map(drop)
            };
            let dots = Err(DecodeError::Name(NameError::Dots));
            assert_eq!(decoded(Dialect::default()), dots, "{opcode}");
            if opcode != Opcode::Lookup {
                assert_eq!(decoded(dialect), dots, "{opcode}");
                continue;
            }
            let bytes = message(opcode.raw(), body);
            let operation = Request::decode(&bytes, 0, dialect).unwrap().operation;
            assert_eq!(operation, Ok(Operation::Lookup(Lookup { name })));
            assert_eq!(name.component(), Err(NameError::Dots));
        }
    }
    for name in [&b"\0"[..], b"./\0", b"../x\0"] {
        let bytes = message(Opcode::Lookup.raw(), name);
        assert!(Request::decode(&bytes, 0, dialect).unwrap().operation.is_err(), "{name:?}");
    }
}

#[test]
fn long_and_unusual_names_are_accepted() {
    let long = [&[b'x'; 255][..], b"\0"].concat();
    for name in [&long[..], b"...\0", b".a\0", b"\xff\xfe\n \\\0", b" \0"] {
        let bytes = message(1, name);
        let operation = Request::decode(&bytes, 0, Dialect::default()).unwrap().operation.unwrap();
        let Operation::Lookup(lookup) = operation else { panic!("LOOKUP") };
        assert_eq!(lookup.name.component().unwrap().as_c_str().to_bytes_with_nul(), name);
    }
}

#[test]
fn each_malformed_body_has_its_errno() {
    let target = |len: usize| [b"n\0", &vec![b'x'; len][..], b"\0"].concat();
    let xattr = |name: &str| [&8_u64.to_le_bytes(), name.as_bytes(), b"\0"].concat();
    let setxattr =
        |len: u32, flags: u32| [&len.to_le_bytes()[..], &flags.to_le_bytes(), b"user.x\0v"].concat();
    let rename = [&[0; 8], &8_u64.to_le_bytes()[..], b"a\0b\0"].concat();
    let fallocate = [&[0; 24], &0x100_u64.to_le_bytes()[..]].concat();
    let rows: &[(Opcode, &[u8], Errno)] = &[
        (Opcode::SymLink, &target(0), Errno::ENOENT),
        (Opcode::SymLink, &target(4096), Errno::ENAMETOOLONG),
        (Opcode::RemoveXattr, b"\0", Errno::ERANGE),
        (Opcode::GetXattr, &xattr(&"x".repeat(256)), Errno::ERANGE),
        (Opcode::SetXattr, &setxattr(65_537, 0), Errno::E2BIG),
        (Opcode::SetXattr, &setxattr(u32::MAX, 0), Errno::E2BIG),
        (Opcode::SetXattr, &setxattr(2, 0), Errno::EINVAL),
        (Opcode::SetXattr, &setxattr(0, 0), Errno::EINVAL),
        (Opcode::SetXattr, &setxattr(1, 3), Errno::EINVAL),
        (Opcode::Rename2, &rename, Errno::EINVAL),
        (Opcode::Fallocate, &fallocate, Errno::EOPNOTSUPP),
        (Opcode::Open, &3_u64.to_le_bytes(), Errno::EINVAL),
        (Opcode::Open, &(1_u64 << 33).to_le_bytes(), Errno::EINVAL),
        (Opcode::GetAttr, &[2; 16], Errno::EINVAL),
        (Opcode::GetLock, &[3; 48], Errno::EINVAL),
        (Opcode::BatchForget, &[1; 8], Errno::EINVAL),
        (Opcode::BatchForget, &[1; 23], Errno::EINVAL),
        (Opcode::RemoveMapping, &[0xff; 20], Errno::EINVAL),
        (Opcode::SetupMapping, &[4; 40], Errno::EINVAL),
        (Opcode::Ioctl, &[1; 32], Errno::EINVAL),
        (Opcode::StatFs, &[0], Errno::EINVAL),
        (Opcode::NotifyReply, &[], Errno::ENOSYS),
        (Opcode::CuseInit, &[], Errno::ENOSYS),
        (Opcode::CuseInitBswapReserved, &[], Errno::ENOSYS),
        (Opcode::InitBswapReserved, &[], Errno::ENOSYS),
    ];
    for (opcode, body, errno) in rows {
        let error = error_of(*opcode, body);
        assert_eq!(error.errno(), *errno, "{opcode}: {error}");
    }
    let extra = [&1_u64.to_le_bytes()[..], &2_u64.to_le_bytes(), b"user.x\0v"].concat();
    let error = error_in(Dialect { setxattr_ext: true, lookup_dots: false }, Opcode::SetXattr, &extra);
    assert_eq!(error, DecodeError::UnknownFlags { field: "setxattr_flags", bits: 2 });
}

#[test]
fn unknown_values_are_named() {
    let at = |offset: usize, value: u32, len: usize| {
        let mut body = vec![0; len];
        body[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        body
    };
    for whence in [0, 1, 5, u32::MAX] {
        assert_eq!(error_of(Opcode::Lseek, &at(16, whence, 24)), DecodeError::Whence(whence));
    }
    for opcode in [Opcode::GetLock, Opcode::SetLock, Opcode::SetLockWait] {
        assert_eq!(error_of(opcode, &at(32, 3, 48)), DecodeError::LockKind(3));
    }
    let unknown = DecodeError::UnknownFlags { field: "access mask", bits: 8 };
    assert_eq!(error_of(Opcode::Access, &at(0, 8 | 7, 8)), unknown);
    for mode in [0o040_755, 0o120_777, 0o170_644, 0o030_644] {
        let body = [at(0, mode, 16), b"n\0".to_vec()].concat();
        assert_eq!(error_of(Opcode::MkNod, &body), DecodeError::NodeKind(mode));
        assert_eq!(DecodeError::NodeKind(mode).errno(), Errno::EINVAL);
    }
    assert_eq!(DecodeError::Whence(0).errno(), Errno::EINVAL);
}

#[test]
fn mknod_without_a_file_type_makes_a_regular_file() {
    for mode in [0o644, 0o100_644] {
        let body = [&u32::to_le_bytes(mode)[..], &7_u32.to_le_bytes(), &[0; 8], b"n\0"].concat();
        let bytes = message(Opcode::MkNod.raw(), &body);
        let request = Request::decode(&bytes, 0, Dialect::default()).unwrap();
        let name = Name::parse(c"n").unwrap();
        let expected = MkNod { name, kind: NodeKind::Regular, mode: 0o644, umask: 0 };
        assert_eq!(request.operation, Ok(Operation::MkNod(expected)));
    }
}

#[test]
fn a_whole_second_of_nanoseconds_is_rejected() {
    for (valid, part) in [(1_u32 << 4, 56), (1 << 5, 60), (1 << 10, 64)] {
        let mut body = [0; 88];
        body[..4].copy_from_slice(&valid.to_le_bytes());
        body[part..part + 4].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        assert!(matches!(error_of(Opcode::SetAttr, &body), DecodeError::Nanoseconds { .. }));
    }
}

#[test]
fn an_unknown_opcode_still_has_a_header() {
    for raw in [0, 7, 19, 54, 4095, u32::MAX] {
        let bytes = message(raw, b"anything");
        let request = Request::decode(&bytes, 0, Dialect::default()).unwrap();
        assert_eq!(request.header.opcode, raw);
        assert_eq!(request.operation.unwrap_err().errno(), Errno::ENOSYS);
    }
}

#[test]
fn the_declared_length_must_be_the_length() {
    for declared in [0, 39, 41, 43, 45, u32::MAX] {
        let mut bytes = message(1, b"abc\0");
        bytes[..4].copy_from_slice(&declared.to_le_bytes());
        let error = Request::decode(&bytes, 0, Dialect::default()).unwrap().operation.unwrap_err();
        assert_eq!(error, DecodeError::Length { declared, have: 44 });
    }
}

#[test]
fn a_cut_off_header_is_a_header_error() {
    for len in 0..40 {
        let bytes = message(38, &[]);
        assert_eq!(Request::decode(&bytes[..len], 0, Dialect::default()), Err(HeaderError { len }));
    }
}

#[test]
fn only_a_write_has_a_payload_of_declared_length() {
    let mut bytes = message(16, &[0; 40]);
    bytes[56] = 9;
    for payload_len in [0_u8, 8, 10] {
        bytes[0] = 80 + payload_len;
        let request = Request::decode(&bytes, payload_len.into(), Dialect::default()).unwrap();
        assert!(matches!(request.operation, Err(DecodeError::Count { declared: 9, .. })));
    }
    let mut bytes = message(20, &[0; 16]);
    bytes[0] = 57;
    let error = Request::decode(&bytes, 1, Dialect::default()).unwrap().operation.unwrap_err();
    assert_eq!((error, error.errno()), (DecodeError::TooLong { have: 57 }, Errno::E2BIG));
}

#[test]
fn a_message_over_the_limit_is_rejected_not_truncated() {
    let readable_len = MESSAGE_LEN_MAX + 1;
    let mut bytes = message(42, &vec![0; readable_len - 40]);
    bytes.truncate(copied_len(Some(Opcode::BatchForget), readable_len));
    let payload_len = readable_len - bytes.len();
    let error = Request::decode(&bytes, payload_len, Dialect::default()).unwrap().operation.unwrap_err();
    assert_eq!(error, DecodeError::TooLong { have: readable_len });
}

#[test]
fn malformed_extensions_are_rejected_and_dropped() {
    let record =
        |size: u32, kind: u32, body: &[u8]| [&size.to_le_bytes(), &kind.to_le_bytes(), body].concat();
    let groups = record(16, 32, &[1, 0, 0, 0, 5, 0, 0, 0]);
    let rows: &[(&str, Vec<u8>)] = &[
        ("cut off", vec![0; 8]),
        ("longer than all", record(24, 32, &[0; 8])),
        ("not padded", record(12, 32, &[0; 8])),
        ("unknown", record(16, 33, &[0; 8])),
        ("twice", [&groups[..], &groups].concat()),
        ("groups beyond the record", record(16, 32, &[2, 0, 0, 0, 5, 0, 0, 0])),
        ("groups beyond any memory", record(16, 32, &[0xff; 8])),
        ("more groups than counted", record(24, 32, &[0; 16])),
        ("label beyond the record", record(24, 1, &[200, 0, 0, 0, 0, 0, 0, 0, b'a', 0, 0, 0, 0, 0, 0, 0])),
        ("label without a name", record(24, 1, &[0; 16])),
        ("more labels than counted", record(24, 0, &[0; 16])),
        ("fewer labels than counted", record(24, 2, &[0, 0, 0, 0, 0, 0, 0, 0, b'a', 0, 0, 0, 0, 0, 0, 0])),
    ];
    for (case, extensions) in rows {
        let mut bytes = message(1, &[b"n\0", &extensions[..]].concat());
        bytes[36] = u8::try_from(extensions.len() / 8).unwrap();
        let request = Request::decode(&bytes, 0, Dialect::default()).unwrap();
        assert_eq!(request.header.extensions, Extensions::default(), "{case}");
        assert_eq!(request.operation.unwrap_err().errno(), Errno::EINVAL, "{case}");
    }
    let mut bytes = message(1, b"n\0");
    bytes[36] = 1;
    let request = Request::decode(&bytes, 0, Dialect::default()).unwrap();
    assert!(matches!(request.operation, Err(DecodeError::Extension(_))));
}

/// Reads everything that borrows from the message. Returns a number that depends on all of it.
fn read_all(request: &Request<'_>) -> usize {
    let extensions = request.header.extensions;
    let groups = extensions.groups().map_or(0, Iterator::count);
    let labels = extensions.security_contexts().map_or(0, |contexts| contexts.iter().count());
    let shown = format!("{request:?}").len();
    if let Err(error) = &request.operation {
        assert!((1..=4095).contains(&error.errno().raw()), "{error}");
    }
    groups + labels + shown
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(
        opcode in prop_oneof![0_u32..=60, any::<u32>()],
        extensions in prop_oneof![Just(0_u16), 0_u16..=8, any::<u16>()],
        correct_len in prop::bool::weighted(0.9),
        payload_len in prop_oneof![Just(0_usize), 0..100_usize, Just(usize::MAX)],
        setxattr_ext in any::<bool>(),
        mut bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0..=4_u8, any::<u8>()], 0..300),
    ) {
        if bytes.len() >= 40 {
            bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
            bytes[36..38].copy_from_slice(&extensions.to_le_bytes());
            if correct_len && let Ok(len) = u32::try_from(bytes.len().saturating_add(payload_len)) {
                bytes[..4].copy_from_slice(&len.to_le_bytes());
            }
        }
        if let Ok(request) = Request::decode(&bytes, payload_len, Dialect { setxattr_ext, lookup_dots: setxattr_ext }) {
            prop_assert!(read_all(&request) > 0);
        }
        prop_assert!(client::dirents(&bytes).count() <= bytes.len() + 1);
        prop_assert!(client::dirents_plus(&bytes).count() <= bytes.len() + 1);
        let header = client::decode_out_header(&bytes);
        prop_assert!(header.is_err() || bytes.len() >= 16);
    }
}
