//! Is an image that merges EROFS images of layers what overlayfs shows of them, with their data in
//! place?

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pinhole_tests::disk_faults::leave_the_hosts_mounts;

use crate::facts::{self, Tree};
use crate::kernel_mount::{KernelMount, make};
use crate::prepare_command::{Workplace, comparable, data_files, names};
use crate::random_tree::{Purpose, RandomTree};

/// Makes an image of the folder `layer` as containerd does: from a tar file, with whiteouts.
fn make_layer(place: &Workplace, layer: &str, options: &[&str]) -> PathBuf {
    let (archive, image) = (format!("{layer}.tar"), place.path(&format!("{layer}.erofs")));
    let attributes = ["--xattrs", "--xattrs-include=*", "--warning=no-file-ignored"];
    let pack = [&attributes[..], &["--numeric-owner", "-C", layer, "-cf", &archive, "."]].concat();
    place.host("tar", &pack);
    make(&image, &[&["--tar=f", "--aufs"], options].concat(), &[place.path(&archive)]).unwrap();
    image
}

/// Returns the facts without those that overlayfs makes up: link counts of directories.
fn without_overlay(mut tree: Tree) -> Tree {
    for facts in tree.values_mut().filter(|facts| facts.mode & 0o170_000 == 0o040_000) {
        facts.nlink = 1;
    }
    tree
}

/// Writes files by path. A path with a slash at its end is a folder, and a whiteout is empty.
fn make_files(place: &Workplace, layer: &str, paths: &[&str]) {
    for path in paths {
        let full = place.path(&format!("{layer}/{path}"));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        if path.ends_with('/') {
            fs::create_dir_all(full).unwrap();
        } else {
            let is_whiteout = path.contains(".wh.");
            let count = if is_whiteout { 0 } else { path.len() * 50 };
            fs::write(full, format!("{layer}: {path}").repeat(count)).unwrap();
        }
    }
}

/// Compares a merged image with the overlayfs of its layers.
fn compare(place: &Workplace, layers: &[PathBuf]) {
    let words: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let answer = place.prepared(&format!("{} -o out/image", words.join(" ")));
    let mounts: Vec<_> = (0..)
        .zip(layers)
        .map(|(number, layer)| KernelMount::new(layer, &[], place.path(&format!("layer{number}"))).unwrap())
        .collect();
    let lower: Vec<_> = mounts.iter().rev().map(|mount| mount.folder().to_str().unwrap()).collect();
    fs::create_dir(place.path("overlay")).unwrap();
    let options = format!("lowerdir={}", lower.join(":"));
    place.host("mount", &["-t", "overlay", "-o", &options, "none", "overlay"]);
    let expected = without_overlay(comparable(&place.path("overlay")));
    let found = without_overlay(comparable(place.mounted(&answer).folder()));
    place.host("umount", &["overlay"]);
    facts::assert_equal(&found, &expected);
    let files = data_files(&answer);
    assert_eq!(files.iter().map(Path::new).collect::<Vec<_>>()[..layers.len()], layers[..]);
    let data: Vec<_> = files.iter().map(|file| format!("--data {file}")).collect();
    let inspected = place.pinhole(&format!("inspect out/image --verify-data {}", data.join(" ")));
    assert_eq!(inspected.code, Some(0), "{}{}", inspected.stdout, inspected.stderr);
}

#[test]
fn layers_of_containerd_are_merged_as_overlayfs_does() {
    leave_the_hosts_mounts().unwrap();
    for (seed, options) in [(400, &["-Enoinline_data"][..]), (401, &[])] {
        println!("seed {seed}, mkfs.erofs {options:?}");
        let place = Workplace::new();
        fs::create_dir(place.path("base")).unwrap();
        RandomTree::new(seed, Purpose::Files).make_files(&place.path("base")).unwrap();
        make_files(
            &place,
            "base",
            &["m/kept", "m/gone", "m/sub/a", "opaque/old", "opaque/sub/old", "n/file"],
        );
        fs::hard_link(place.path("base/m/kept"), place.path("base/m/linked")).unwrap();
        make_files(
            &place,
            "top",
            &["m/.wh.gone", "m/added", "opaque/.wh..wh..opq", "opaque/new", ".wh.n", "m/sub/b"],
        );
        make_files(&place, "last", &["m/sub/a", "n/again"]);
        let layers = ["base", "top", "last"].map(|layer| make_layer(&place, layer, options));
        compare(&place, &layers);
    }
}

#[test]
fn data_of_layers_is_not_copied() {
    let place = Workplace::new();
    make_files(&place, "base", &["one", "two"]);
    let layer = make_layer(&place, "base", &["-Enoinline_data"]);
    let before = fs::metadata(&layer).unwrap();
    let answer = place.prepared("base.erofs -o out/image");
    assert_eq!(names(&place.path("out")), ["image"]);
    assert_eq!(data_files(&answer), ["base.erofs"]);
    let after = fs::metadata(&layer).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    let mounted = place.mounted(&answer);
    assert_eq!(fs::read_to_string(mounted.folder().join("one")).unwrap(), "base: one".repeat(150));
}

#[test]
fn sources_that_cannot_be_layers_are_refused() {
    let place = Workplace::new();
    make_files(&place, "base", &["file"]);
    make_layer(&place, "base", &[]);
    fs::write(place.path("text"), b"text").unwrap();
    let line = place.refused("base.erofs text -o out/image");
    assert!(line.contains("text: ") && line.contains("; give uncompressed EROFS images"), "{line}");
    let usage = place.pinhole("prepare base.erofs - -o out/image");
    assert_eq!(usage.code, Some(2), "{}", usage.stderr);
    assert!(usage.stderr.contains("SOURCE: - cannot be one of several; give one SOURCE"), "{}", usage.stderr);
    let image = place.prepared("base -o out/prepared");
    assert_eq!(image["data_files"].as_array().unwrap().len(), 1);
    let line = place.refused("out/prepared -o out/image");
    assert!(line.contains("out/prepared: it has 1 data files of its own"), "{line}");
    let mut damaged = fs::read(place.path("base.erofs")).unwrap();
    damaged.truncate(2048);
    fs::write(place.path("base.erofs"), damaged).unwrap();
    assert!(place.refused("base.erofs -o out/image").contains("base.erofs: "));
}
