//! Does INIT agree on what both sides support, for every kind of guest?
#![cfg(test)]

use pinhole_protocol::{Dialect, Errno, InitFlags, InitOffer, InitRequest, negotiate};

const OFFER: InitOffer = InitOffer {
    flags: InitFlags::MAX_PAGES
        .union(InitFlags::MAP_ALIGNMENT)
        .union(InitFlags::SETXATTR_EXT)
        .union(InitFlags::SECURITY_CTX)
        .union(InitFlags::HAS_INODE_DAX),
    max_readahead: 1 << 20,
    max_write: 1 << 20,
    max_background: 64,
    congestion_threshold: 48,
    time_gran: 1,
    map_alignment: Some(12),
    max_stack_depth: 1,
    request_timeout: 30,
};

/// Returns the INIT of a guest of version 7.`minor`.
fn guest(minor: u32, flags: InitFlags) -> InitRequest {
    InitRequest { major: 7, minor, max_readahead: 1 << 17, flags }
}

#[test]
fn a_current_guest_gets_all_common_features() {
    let all = guest(45, InitFlags::all());
    let done = negotiate(&all, &OFFER).unwrap();
    assert!(done.ready);
    assert_eq!(done.minor, 45);
    assert_eq!(done.flags, OFFER.flags | InitFlags::INIT_EXT);
    assert_eq!(done.dialect, Dialect { setxattr_ext: true, lookup_dots: false });
    let reply = done.reply;
    assert_eq!((reply.major, reply.minor, reply.flags), (7, 45, done.flags));
    assert_eq!((reply.max_write, reply.max_pages, reply.map_alignment), (1 << 20, 256, 12));
    assert_eq!((reply.max_readahead, reply.max_background, reply.congestion_threshold), (1 << 17, 64, 48));
    // Neither PASSTHROUGH nor REQUEST_TIMEOUT was agreed on.
    assert_eq!((reply.max_stack_depth, reply.request_timeout), (0, 0));
}

#[test]
fn a_newer_minor_version_falls_back_to_ours() {
    let done = negotiate(&guest(46, InitFlags::all()), &OFFER).unwrap();
    assert_eq!((done.minor, done.reply.minor), (45, 45));
}

#[test]
fn features_unknown_to_the_guest_are_not_used() {
    let done = negotiate(&guest(31, InitFlags::empty()), &OFFER).unwrap();
    assert_eq!((done.flags, done.dialect, done.minor), (InitFlags::empty(), Dialect::default(), 31));
    // Without MAX_PAGES a request has at most 32 pages.
    assert_eq!((done.reply.max_write, done.reply.max_pages), (128 * 1024, 0));
    assert_eq!(done.reply.map_alignment, 0);
}

#[test]
fn upper_flags_need_init_ext() {
    let without = guest(45, InitFlags::all() - InitFlags::INIT_EXT);
    assert!(!negotiate(&without, &OFFER).unwrap().flags.contains(InitFlags::HAS_INODE_DAX));
}

#[test]
fn security_contexts_need_counted_extensions() {
    for (minor, agreed) in [(36, false), (37, false), (38, true)] {
        let done = negotiate(&guest(minor, InitFlags::all()), &OFFER).unwrap();
        assert_eq!(done.flags.contains(InitFlags::SECURITY_CTX), agreed, "7.{minor}");
    }
}

#[test]
fn unknown_and_reserved_flags_are_never_used() {
    let everything = InitFlags::from_bits_retain(u64::MAX);
    let done = negotiate(&guest(45, everything), &InitOffer { flags: everything, ..OFFER }).unwrap();
    assert_eq!(done.flags, InitFlags::all() - InitFlags::INIT_RESERVED);
}

#[test]
fn without_a_window_there_is_no_map_alignment() {
    let offer = InitOffer { map_alignment: None, ..OFFER };
    let done = negotiate(&guest(45, InitFlags::all()), &offer).unwrap();
    assert!(!done.flags.contains(InitFlags::MAP_ALIGNMENT));
}

#[test]
fn a_guest_older_than_7_27_is_refused() {
    for (major, minor) in [(7, 26), (7, 0), (6, 99), (0, 0)] {
        let request = InitRequest { major, minor, ..guest(0, InitFlags::empty()) };
        assert_eq!(negotiate(&request, &OFFER), Err(Errno::EPROTO), "{major}.{minor}");
    }
    negotiate(&guest(27, InitFlags::empty()), &OFFER).unwrap();
}

#[test]
fn a_newer_major_version_gets_ours_and_must_retry() {
    let request = InitRequest { major: 8, ..guest(1, InitFlags::all()) };
    let done = negotiate(&request, &OFFER).unwrap();
    assert!(!done.ready);
    assert_eq!((done.reply.major, done.reply.minor, done.reply.max_write), (7, 45, 0));
    assert_eq!(done.flags, InitFlags::empty());
}

#[test]
fn max_pages_fits_any_max_write() {
    for (max_write, pages) in [(0, 1), (1, 1), (4096, 1), (4097, 2), (u32::MAX, u16::MAX)] {
        let done = negotiate(&guest(45, InitFlags::all()), &InitOffer { max_write, ..OFFER }).unwrap();
        assert_eq!(done.reply.max_pages, pages, "{max_write}");
    }
}
