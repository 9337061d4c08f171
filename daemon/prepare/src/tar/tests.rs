//! Tests of tar files: forms of headers, hostile entries, damaged bytes.

use super::*;
use crate::fixture::{Layer, TarFixture, put, tar_layer};
use proptest::prelude::*;

fn read_archive(bytes: &[u8]) -> Layer {
    tar_layer(bytes, TarKind::Archive).unwrap()
}

/// Returns the message of a refused archive.
fn message(bytes: &[u8]) -> String {
    tar_layer(bytes, TarKind::Archive).unwrap_err().to_string()
}

#[test]
fn files_links_devices_and_attributes_are_read() {
    let data: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let device = |header: &mut [u8; 512]| {
        put(header, 329, b"0000400\0");
        put(header, 337, b"1000003\0");
    };
    let bytes = TarFixture::default()
        .entry(b'5', b"./", b"", |header| put(header, 100, b"0001777\0"))
        .file("d/file", &data)
        .file("d/empty", b"")
        .link(b'1', "hard", "./d/file")
        .link(b'2', "soft", "../anywhere")
        .entry(b'3', b"null", b"", device)
        .entry(b'6', b"fifo", b"", |_header| {})
        .entry(0, b"old/", b"", |_header| {})
        .end();
    let layer = read_archive(&bytes);
    assert_eq!(layer.content("d/file"), data);
    assert_eq!(layer.content("d/empty"), b"");
    assert_eq!(layer.find("hard"), layer.find("d/file"));
    assert_eq!(*layer.leaf("soft"), Leaf::Symlink(b"../anywhere".to_vec()));
    assert_eq!(*layer.leaf("null"), Leaf::CharacterDevice(0x4000_0003 & 0xff | 0x100 << 8 | 0x40000 << 12));
    assert_eq!(*layer.leaf("fifo"), Leaf::Fifo);
    assert!(layer.tree.directory(layer.find("old").unwrap()).is_some());
    let root = &layer.tree.node(crate::tree::ROOT).unwrap().attributes;
    assert_eq!((root.permissions, root.uid, root.gid), (0o1777, 10, 11));
    assert_eq!(root.mtime, Time { seconds: 15, nanoseconds: 0 });
}

#[test]
fn long_names_of_both_forms_are_read() {
    let long = "n".repeat(200) + "/" + &"m".repeat(255);
    let target = "t".repeat(300);
    let bytes = TarFixture::default()
        .entry(b'L', b"././@LongLink", format!("{long}\0").as_bytes(), |_header| {})
        .entry(b'K', b"././@LongLink", format!("{target}\0").as_bytes(), |_header| {})
        .link(b'2', "nnn", "ttt")
        .pax(&[("path", b"p/\xff\n"), ("linkpath", target.as_bytes())])
        .link(b'2', "x", "y")
        .entry(b'0', b"short", b"1", |header| put(header, 345, b"some/prefix"))
        .end();
    let layer = read_archive(&bytes);
    assert_eq!(*layer.leaf(&long), Leaf::Symlink(target.clone().into_bytes()));
    let parent = layer.tree.directory(layer.find("p").unwrap()).unwrap();
    assert!(parent.children.contains_key(&b"\xff\n"[..]));
    assert_eq!(layer.content("some/prefix/short"), b"1");
}

#[test]
fn pax_attributes_win_over_the_header() {
    let capability = b"\x01\0\0\x02\n\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let bytes = TarFixture::default()
        .entry(
            b'g',
            b"pax_global_header",
            b"52 comment=1234567890123456789012345678901234567890\n",
            |_header| {},
        )
        .pax(&[
            ("uid", b"4294967295"),
            ("gid", b"0"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.empty", b""),
        ])
        .file("f", b"x")
        .file("g", b"y")
        .end();
    let layer = read_archive(&bytes);
    let attributes = &layer.tree.node(layer.find("f").unwrap()).unwrap().attributes;
    assert_eq!((attributes.uid, attributes.gid), (u32::MAX, 0));
    assert_eq!(attributes.mtime, Time { seconds: -2, nanoseconds: 500_000_000 });
    let expected =
        [(b"security.capability".to_vec(), capability.to_vec()), (b"user.empty".to_vec(), Vec::new())];
    assert_eq!(attributes.xattrs, expected);
    assert_eq!(layer.tree.node(layer.find("g").unwrap()).unwrap().attributes.uid, 10);
}

#[test]
fn sparse_file_keeps_its_holes() {
    let part = |offset: u64, len: u64| format!("{offset:011o}\0{len:011o}\0");
    let (first, second) = (vec![7; 512], vec![9; 4096]);
    let mut more = [0; 512];
    put(&mut more, 0, part(1 << 20, 4096).as_bytes());
    put(&mut more, 24, part(2 << 20, 0).as_bytes());
    let data = [&more[..], &first, &second].concat();
    let bytes = TarFixture::default().entry(b'S', b"sparse", &data, |header| {
        put(header, 124, format!("{:011o}\0", 512 + 4096).as_bytes());
        put(header, 257, b"ustar  \0");
        put(header, 386, part(8192, 512).as_bytes());
        put(header, 482, b"\x01");
        put(header, 483, format!("{:011o}\0", 2 << 20).as_bytes());
    });
    let layer = read_archive(&bytes.file("next", b"1").end());
    let file = layer.file("sparse");
    let regions: Vec<_> = file.regions.iter().map(|region| (region.offset, region.len)).collect();
    assert_eq!((file.size, regions), (2 << 20, vec![(8192, 4096), (1 << 20, 4096)]));
    let content = layer.content("sparse");
    assert_eq!(content[8192..8192 + 512], first);
    assert!(content[8192 + 512..1 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(content[1 << 20..][..4096], second);
    assert_eq!(layer.content("next"), b"1");
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let one = |name: &str| TarFixture::default().file(name, b"").end();
    let pax = |records: &[(&str, &[u8])]| TarFixture::default().pax(records).file("victim", b"").end();
    let typed = |kind: u8| TarFixture::default().entry(kind, b"victim", b"", |_header| {}).end();
    let sized = |kind: u8| TarFixture::default().entry(kind, b"victim", b"data", |_header| {}).end();
    let sparse = |region: &str| {
        let entry = TarFixture::default().entry(b'S', b"victim", b"data", |header| {
            put(header, 257, b"ustar  \0");
            put(header, 386, region.as_bytes());
            put(header, 483, b"00000000004\0");
        });
        entry.end()
    };
    for (bytes, expected) in [
        (
            one("/etc/passwd"),
            "a.tar: entry \"/etc/passwd\": the name \"/etc/passwd\" is absolute; give relative",
        ),
        (one("a/../../b"), "entry \"a/../../b\": the name \"..\" leaves its directory; give relative"),
        (pax(&[("path", b"a\0b")]), "entry \"a\\x00b\": the name \"a\\x00b\" contains a NUL"),
        (pax(&[("path", &[b'x'; 300])]), "is too long; give"),
        (pax(&[("path", &[b'/'; 5000])]), "the path has 5000 bytes; at most 4095"),
        (
            pax(&[("GNU.sparse.major", b"1")]),
            "entry \"victim\": a sparse file in PAX form (\"GNU.sparse.major\"); pack",
        ),
        (
            pax(&[("SCHILY.acl.default", b"user::rwx")]),
            "an ACL as text (\"SCHILY.acl.default\"); pack it with",
        ),
        (
            pax(&[("SCHILY.xattr.system.nfs4_acl", b"x")]),
            "\"system.nfs4_acl\" is not the name of an extended",
        ),
        (
            pax(&[("SCHILY.xattr.user.x", &vec![0; 65_536])]),
            "an extended attribute has 65536 bytes; at most 65535",
        ),
        (pax(&[("comment", &vec![b'x'; 600_000])]), "the header has 600016 bytes; at most 524288"),
        (pax(&[("size", b"-1")]), "\"size\" has the value \"-1\"; pack it again"),
        (typed(b'V'), "entry \"victim\": an entry of type 'V'; only files"),
        (sized(b'5'), "entry \"victim\": an entry of type '5' with 4 bytes of data; only"),
        (sized(b'2'), "entry \"victim\": a symlink whose target is empty"),
        (sparse("00000000000\x0000000000005\0"), "regions are not in order or not within its size"),
        (sparse("00000000000\x0000000000003\0"), "a file of 4 bytes with 4 bytes of data"),
        (
            TarFixture::default().link(b'1', "h", "missing").end(),
            "a hard link to \"missing\", which is not there",
        ),
        (TarFixture::default().link(b'1', "h", "/abs").end(), "\"/abs\" is absolute"),
        (TarFixture::default().file(".", b"").end(), "the root of the tree is not a directory here"),
        (
            TarFixture::default().file("a", b"").file("a/b", b"").end(),
            "its directory \"a\" is another kind of file",
        ),
        (
            TarFixture::default().entry(b'3', b"dev", b"", |header| put(header, 329, b"7777777\0")).end(),
            "a device with the number 2097151:0; at most 4095:1048575",
        ),
        (
            TarFixture::default().entry(b'0', b"f", b"", |header| put(header, 108, b"garbage\0")).end(),
            "wrong user id",
        ),
    ] {
        let message = message(&bytes);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(!message.contains('\n') && message.len() < 600, "{message}");
    }
}

#[test]
fn incomplete_and_concatenated_archives_are_refused() {
    let whole = TarFixture::default().file("a", &[1; 600]);
    let mut cut = whole.0.clone();
    cut.truncate(1000);
    assert!(message(&cut).contains("it ends at byte 1000, without the end"), "{}", message(&cut));
    assert!(message(&whole.0).contains("it ends at byte 1536"));
    assert!(message(b"").contains("it ends at byte 0"));
    tar_layer(&whole.0, TarKind::OciLayer).unwrap();
    let dangling = TarFixture::default().pax(&[("path", b"a")]);
    tar_layer(&dangling.0, TarKind::OciLayer).unwrap_err();
    assert!(message(&dangling.clone().end()).contains("it ends at byte"));
    let twice = [whole.clone().end(), whole.clone().end()].concat();
    assert!(message(&twice).contains("data behind the end"), "{}", message(&twice));
    let mut wrong = whole.end();
    wrong[0] = b'b';
    assert!(message(&wrong).contains("the header at byte 0 has a wrong checksum"));
    assert!(message(&[b'x'; 2000]).contains("not a tar file"));
}

#[test]
fn whiteouts_are_names_except_in_layers() {
    let bytes = TarFixture::default().file("d/.wh.x", b"").file("d/.wh..wh..opq", b"").end();
    assert!(read_archive(&bytes).find("d/.wh.x").is_some());
    let layer = tar_layer(&bytes, TarKind::OciLayer).unwrap();
    assert_eq!(layer.find("d"), None);
    for name in ["d/.wh.", "d/.wh...", "d/.wh..wh.plnk"] {
        let bytes = TarFixture::default().file(name, b"").end();
        assert!(tar_layer(&bytes, TarKind::OciLayer).is_err(), "{name}");
    }
}

#[test]
fn same_files_in_the_same_order_have_one_digest() {
    let tar = |names: [&str; 2]| TarFixture::default().file(names[0], b"one").file(names[1], b"two").end();
    let digest = |names| read_archive(&tar(names)).digest.unwrap();
    assert_eq!(digest(["a", "b"]), digest(["x/y", "b"]));
    assert_eq!(read_archive(&TarFixture::default().file("empty", b"").end()).digest, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A damaged archive may be read or refused. It must not panic.
    #[test]
    fn damaged_archives_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        is_layer in any::<bool>(),
    ) {
        let mut bytes = TarFixture::default()
            .file("a/b", &[3; 700])
            .pax(&[("path", b"long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"1")])
            .file("c", b"x")
            .link(b'1', "d", "long")
            .entry(b'S', b"sparse", b"data", |header| {
                put(header, 257, b"ustar  \0");
                put(header, 386, b"00000010000\x0000000000004\0");
                put(header, 483, b"00000020000\0");
            })
            .end();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // The checksum of the header is made right again, so that its fields are reached.
            let begin = at - at % 512;
            let header: &mut [u8; 512] = (&mut bytes[begin..begin + 512]).try_into().unwrap();
            put(header, 148, b"        ");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            put(header, 148, format!("{sum:06o}\0 ").as_bytes());
        }
        bytes.truncate(cut.index(bytes.len()).max(512));
        let kind = if is_layer { TarKind::OciLayer } else { TarKind::Archive };
        if let Err(error) = tar_layer(&bytes, kind) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
