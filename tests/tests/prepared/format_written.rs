//! Is an image of the writer the tree that it was given, for the reader, for `fsck.erofs` and for
//! Linux?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pinhole_erofs::Image;
use pinhole_erofs::write::write;

use crate::facts::{self, Facts};
use crate::kernel_mount::{KernelMount, check};
use crate::random_tree::{Purpose, RandomTree};

/// Trees that each run tries.
const SEEDS: std::ops::Range<u64> = 0..24;

/// Image of a random tree, with its data files.
struct Written {
    random: RandomTree,
    image: PathBuf,
    data_files: Vec<PathBuf>,
}

fn written(seed: u64, folder: &Path) -> Written {
    let random = RandomTree::new(seed, Purpose::Image);
    println!("seed {seed}, {} inodes", random.tree.inodes.len());
    let image = folder.join("image");
    let mut bytes = Vec::new();
    write(&random.tree, u128::from(seed).to_le_bytes(), &mut bytes).unwrap();
    fs::write(&image, bytes).unwrap();
    let data_files = random.write_data_files(folder).unwrap();
    Written { random, image, data_files }
}

/// Returns what an image shares with the tree: not the facts that the writer chooses.
fn chosen_by_the_tree(mut tree: facts::Tree) -> facts::Tree {
    for facts in tree.values_mut() {
        facts.inode = 0;
        if !facts.entries.is_empty() {
            facts.entries.clear();
            facts.size = 0;
        }
    }
    tree
}

fn read(written: &Written) -> facts::Tree {
    let lengths: Vec<_> = written.random.data.iter().map(|bytes| bytes.len() as u64).collect();
    let bytes = fs::read(&written.image).unwrap();
    let image = Image::open(bytes.as_slice(), &lengths).unwrap();
    facts::of_image(&image, &written.random.data).unwrap()
}

#[test]
fn reader_finds_the_tree_that_was_written() {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let written = written(seed, folder.path());
        facts::assert_equal(&chosen_by_the_tree(read(&written)), &written.random.facts());
    }
}

#[test]
fn linux_finds_the_tree_that_was_written() {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let written = written(seed, folder.path());
        let mounted =
            KernelMount::new(&written.image, &written.data_files, folder.path().join("mnt")).unwrap();
        let found = facts::of_mount(mounted.folder()).unwrap();
        facts::assert_equal(&found, &read(&written));
        facts::assert_equal(&chosen_by_the_tree(found), &written.random.facts());
    }
}

#[test]
fn fsck_accepts_what_was_written() {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let written = written(seed, folder.path());
        check(&written.image, &written.data_files).unwrap();
    }
}

#[test]
fn hard_links_are_one_inode() {
    let folder = tempfile::tempdir().unwrap();
    let found = read(&written(1, folder.path()));
    let mut names: BTreeMap<u64, u64> = BTreeMap::new();
    for facts in found.values().filter(|facts| facts.entries.is_empty()) {
        *names.entry(facts.inode).or_default() += 1;
    }
    assert!(names.values().any(|count| *count > 1), "no hard link in the tree");
    for Facts { inode, nlink, .. } in found.values().filter(|facts| facts.entries.is_empty()) {
        assert_eq!(names[inode], *nlink);
    }
}

#[test]
fn same_tree_gives_the_same_bytes() {
    let bytes = || {
        let mut bytes = Vec::new();
        write(&RandomTree::new(3, Purpose::Image).tree, [0; 16], &mut bytes).unwrap();
        bytes
    };
    assert!(bytes() == bytes(), "the bytes differ");
}
