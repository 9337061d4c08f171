//! Is an image of a tar file the tree that GNU tar extracts from it? Are hostile entries refused?

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::prepare_command::{Workplace, assert_same_tree, comparable};
use crate::random_tree::{Purpose, RandomTree};

/// Arguments of GNU tar for attributes, to pack and to unpack.
const ATTRIBUTES: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

/// Makes a random tree with a sparse file.
fn make_source(place: &Workplace, seed: u64) {
    RandomTree::new(seed, Purpose::Files).make_files(&place.path("source")).unwrap();
    let file = File::create(place.path("source/with holes")).unwrap();
    (0..12).for_each(|number| file.write_all_at(b"data", number << 20).unwrap());
    file.set_len(20 << 20).unwrap();
}

/// Packs the source with GNU tar, and unpacks it into the folder `unpacked`.
fn pack_and_unpack(place: &Workplace, archive: &str, options: &[&str]) {
    let packed = ["--warning=no-file-ignored", "--numeric-owner", "-C", "source", "-cf", archive];
    place.host("tar", &[&packed[..], options, &["."]].concat());
    fs::create_dir_all(place.path("unpacked")).unwrap();
    let unpacked = ["--warning=no-timestamp", "--numeric-owner", "-C", "unpacked", "-xpf", archive];
    place.host("tar", &[&unpacked[..], &ATTRIBUTES].concat());
}

#[test]
fn archives_of_every_form_are_what_tar_extracts() {
    let forms: [&[&str]; 6] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--gzip"],
        &["--format=gnu", "--sparse", "--zstd"],
    ];
    for (seed, form) in (200..).zip(forms) {
        println!("seed {seed}, tar {form:?}");
        let place = Workplace::new();
        make_source(&place, seed);
        pack_and_unpack(&place, "a.tar", form);
        let answer = place.prepared("a.tar -o out/image");
        assert_same_tree(&place.mounted(&answer), &place.path("unpacked"));
    }
}

#[test]
fn archive_with_attributes_is_the_directory_itself() {
    let place = Workplace::new();
    make_source(&place, 210);
    pack_and_unpack(&place, "a.tar", &["--format=posix", "--xattrs", "--xattrs-include=*"]);
    let answer = place.prepared("a.tar -o out/image");
    let mut expected = comparable(&place.path("source"));
    // GNU tar leaves out sockets and hard links of devices, and this form leaves out holes.
    let socket = rustix::fs::FileType::Socket.as_raw_mode();
    expected.retain(|_, facts| facts.mode & 0o170_000 != socket);
    let mut found = comparable(place.mounted(&answer).folder());
    for facts in expected.values_mut().chain(found.values_mut()) {
        facts.data.clear();
        facts.nlink = 1;
    }
    crate::facts::assert_equal(&found, &expected);
}

#[test]
fn same_archive_in_any_compression_gives_the_same_bytes() {
    let place = Workplace::new();
    make_source(&place, 211);
    place.host("tar", &["--warning=no-file-ignored", "-C", "source", "-cf", "a.tar", "."]);
    place.host("sh", &["-c", "gzip -k a.tar; zstd -q a.tar"]);
    let plain = place.prepared("a.tar -o out/plain");
    for name in ["a.tar.gz", "a.tar.zst"] {
        assert_eq!(place.prepared(&format!("{name} -o out/{name}"))["digest"], plain["digest"], "{name}");
    }
    let program = pinhole_tests::daemon::pinhole_program().unwrap();
    let script = format!("zstd -dc a.tar.zst | {} prepare - -o out/stdin > /dev/null", program.display());
    place.host("sh", &["-c", &script]);
    assert!(fs::read(place.path("out/stdin")).unwrap() == fs::read(place.path("out/plain")).unwrap());
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    let place = Workplace::new();
    fs::write(place.path("source/file"), b"x").unwrap();
    for (name, why) in
        [("/etc/evil", "is absolute"), ("../evil", "leaves its directory"), ("a/../../evil", "leaves")]
    {
        let transform = format!("--transform=s,^file$,{name},");
        place.host("tar", &["-P", "-C", "source", &transform, "-cf", "a.tar", "file"]);
        let line = place.refused("a.tar -o out/image");
        assert!(
            line.contains(&format!("a.tar: entry \"{name}\": the name ")) && line.contains(why),
            "{line}"
        );
    }
}

#[test]
fn sparse_files_in_pax_form_are_refused_by_name() {
    let place = Workplace::new();
    make_source(&place, 212);
    place.host("tar", &["--format=posix", "--sparse", "-C", "source", "-cf", "a.tar", "with holes"]);
    let line = place.refused("a.tar -o out/image");
    assert!(line.contains("a sparse file in PAX form (\"GNU.sparse."), "{line}");
    assert!(line.contains("; pack it with `tar --format=gnu`"), "{line}");
}

#[test]
fn incomplete_archives_are_refused() {
    let place = Workplace::new();
    make_source(&place, 213);
    place.host("tar", &["--warning=no-file-ignored", "-C", "source", "-cf", "a.tar", "."]);
    place.host("sh", &["-c", "gzip -k a.tar; zstd -q a.tar"]);
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        let whole = fs::read(place.path(name)).unwrap();
        for part in [whole.len() / 2, whole.len() / 100, 1] {
            fs::write(place.path("part"), &whole[..part]).unwrap();
            let line = place.refused("part -o out/image");
            assert!(line.starts_with("pinhole: part: "), "{name}, {part} bytes: {line}");
        }
    }
    fs::write(place.path("text"), b"not a tar file").unwrap();
    assert!(place.refused("text -o out/image").contains("text: it ends at byte 14, without the end"));
    place.host("sh", &["-c", "xz -k a.tar 2>/dev/null || printf '\\375\\067zXZ\\000' > a.tar.xz"]);
    assert!(place.refused("a.tar.xz -o out/image").contains("it is compressed with xz; give tar"));
}
