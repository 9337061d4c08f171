//! Is an image of a directory that directory, for Linux, and always the same?

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use pinhole_tests::disk_faults::leave_the_hosts_mounts;

use crate::prepare_command::{Workplace, assert_same_tree, data_files, longest_name, names};
use crate::random_tree::{Purpose, RandomTree};

#[test]
fn random_directories_are_the_same_in_linux() {
    for seed in 100..104 {
        println!("seed {seed}");
        let place = Workplace::new();
        RandomTree::new(seed, Purpose::Files).make_files(&place.path("source")).unwrap();
        fs::write(place.path("source").join(longest_name()), b"long").unwrap();
        let answer = place.prepared("source -o out/image");
        assert_same_tree(&place.mounted(&answer), &place.path("source"));
        let inspected = place.pinhole("inspect out/image --verify-data");
        assert_eq!(inspected.code, Some(0), "{}", inspected.stdout);
    }
}

#[test]
fn same_directory_gives_the_same_bytes() {
    let place = Workplace::new();
    RandomTree::new(7, Purpose::Files).make_files(&place.path("source")).unwrap();
    fs::create_dir(place.path("elsewhere")).unwrap();
    // The copy has other inode numbers, and its directories another order.
    place.host("cp", &["-a", "--sparse=always", "source/.", "other"]);
    let (one, two) = (place.prepared("source -o out/image"), place.prepared("other -o elsewhere/image"));
    assert_eq!(one["digest"], two["digest"]);
    assert!(fs::read(place.path("out/image")).unwrap() == fs::read(place.path("elsewhere/image")).unwrap());
    assert_eq!(names(&place.path("out")), names(&place.path("elsewhere")));
}

#[test]
fn sparse_file_over_four_gigabytes_keeps_data_and_holes() {
    let place = Workplace::new();
    let path = place.path("source/sparse");
    let file = File::create(&path).unwrap();
    for (at, text) in [(0, "begin"), ((4 << 30) + (512 << 20), "middle"), ((5 << 30) - 3, "end")] {
        file.write_all_at(text.as_bytes(), at).unwrap();
    }
    let answer = place.prepared("source -o out/image");
    let mounted = place.mounted(&answer);
    assert_same_tree_of_large_file(&path, &mounted.folder().join("sparse"));
    let data = fs::metadata(place.path(&data_files(&answer)[0])).unwrap();
    assert!(data.blocks() * 512 <= 1 << 20, "the data file takes {} sectors", data.blocks());
    assert!(answer["metadata_bytes"].as_u64().unwrap() < 1 << 20, "{answer}");
}

/// Compares two files without reading their holes. In an image of a file of 5 GiB, holes are on 128
/// KiB, and the data around them is zero.
fn assert_same_tree_of_large_file(expected: &std::path::Path, found: &std::path::Path) {
    let (expected, found) = (File::open(expected).unwrap(), File::open(found).unwrap());
    let len = expected.metadata().unwrap().len();
    assert_eq!(found.metadata().unwrap().len(), len);
    let (mut at, mut segments) = (0, 0);
    while let Ok(start) = rustix::fs::seek(&found, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&found, rustix::fs::SeekFrom::Hole(start)).unwrap();
        let mut bytes =
            [vec![0; usize::try_from(at - start).unwrap()], vec![1; usize::try_from(at - start).unwrap()]];
        found.read_exact_at(&mut bytes[0], start).unwrap();
        expected.read_exact_at(&mut bytes[1], start).unwrap();
        assert!(bytes[0] == bytes[1], "{start}..{at} differs");
        assert!(at - start <= 128 << 10, "{start}..{at} is one segment");
        segments += 1;
    }
    assert_eq!(segments, 3);
    for hole in [1 << 30, 4 << 30, (4 << 30) + (700 << 20)] {
        let mut byte = [1];
        found.read_exact_at(&mut byte, hole).unwrap();
        assert_eq!(byte, [0], "{hole}");
    }
}

#[test]
fn directory_of_20_000_entries_is_whole() {
    let place = Workplace::new();
    for number in 0..20_000 {
        fs::write(place.path(&format!("source/{number:05} {}", "x".repeat(number % 200))), b"").unwrap();
    }
    let answer = place.prepared("source -o out/image");
    assert_eq!(answer["inodes"], 20_001);
    assert_eq!(answer["data_files"].as_array().unwrap().len(), 0);
    assert_same_tree(&place.mounted(&answer), &place.path("source"));
}

#[test]
fn other_file_systems_are_left_out_if_asked() {
    leave_the_hosts_mounts().unwrap();
    let place = Workplace::new();
    fs::create_dir(place.path("source/mounted")).unwrap();
    place.host("mount", &["-t", "tmpfs", "none", "source/mounted"]);
    fs::write(place.path("source/mounted/file"), b"x").unwrap();
    assert_eq!(place.prepared("source -o out/all")["inodes"], 3);
    assert_eq!(place.prepared("source -o out/one --one-file-system")["inodes"], 2);
    place.host("umount", &["source/mounted"]);
}

#[test]
fn large_files_are_aligned_if_asked() {
    let place = Workplace::new();
    fs::write(place.path("source/a small"), b"x").unwrap();
    fs::write(place.path("source/large"), vec![7; 3 << 20]).unwrap();
    let answer = place.prepared("source -o out/image --align 2M");
    let data = File::open(place.path(&data_files(&answer)[0])).unwrap();
    assert_eq!(data.metadata().unwrap().len(), (2 + 3 + 2) << 20);
    let mut bytes = [0; 2];
    data.read_exact_at(&mut bytes, 2 << 20).unwrap();
    assert_eq!(bytes, [7, 7]);
    assert_same_tree(&place.mounted(&answer), &place.path("source"));
}

#[test]
fn output_within_the_source_is_refused() {
    let place = Workplace::new();
    let line = place.refused("source -o source/image");
    assert!(line.contains("source: the image or its data files would be written there"), "{line}");
    let line = place.refused(". -o out/image");
    assert!(line.contains("out: the image or its data files would be written there"), "{line}");
    let line = place.refused("source -o out/image --data-dir source");
    assert!(line.contains("write them outside of the source"), "{line}");
}
