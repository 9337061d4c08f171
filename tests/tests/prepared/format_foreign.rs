//! Does the reader find in an image of `mkfs.erofs` what Linux finds there, whatever form the image
//! has? Does it refuse, by name, a form that it does not know?

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_erofs::{Image, OpenError, Refused};

use crate::facts;
use crate::kernel_mount::{KernelMount, check, make};
use crate::random_tree::{Purpose, RandomTree};

/// Compares the reader's view of an image with the kernel's.
fn compare(image: &Path, data_files: &[PathBuf], folder: &Path) {
    let data: Vec<Vec<u8>> = data_files.iter().map(|file| fs::read(file).unwrap()).collect();
    let lengths: Vec<_> = data.iter().map(|bytes| bytes.len() as u64).collect();
    let bytes = fs::read(image).unwrap();
    let found = facts::of_image(&Image::open(bytes.as_slice(), &lengths).unwrap(), &data).unwrap();
    let mounted = KernelMount::new(image, data_files, folder.join("mnt")).unwrap();
    facts::assert_equal(&found, &facts::of_mount(mounted.folder()).unwrap());
    check(image, data_files).unwrap();
}

/// Makes a folder of random files.
fn random_files(seed: u64, folder: &Path) -> PathBuf {
    let source = folder.join(format!("source{seed}"));
    fs::create_dir(&source).unwrap();
    RandomTree::new(seed, Purpose::Files).make_files(&source).unwrap();
    source
}

/// Makes an image of random files with each list of arguments, and compares it.
fn compare_all(with_data_file: bool, forms: &[&[&str]]) {
    let folder = tempfile::tempdir().unwrap();
    for (seed, form) in (20..).zip(forms) {
        println!("seed {seed}, mkfs.erofs {form:?}");
        let source = random_files(seed, folder.path());
        let image = folder.path().join(format!("image{seed}"));
        let data = folder.path().join(format!("data{seed}"));
        let mut arguments: Vec<String> = form.iter().map(|argument| (*argument).to_owned()).collect();
        if with_data_file {
            arguments.push(format!("--blobdev={}", data.display()));
        }
        make(&image, &arguments, &[source]).unwrap();
        let data_files = if with_data_file { vec![data] } else { Vec::new() };
        compare(&image, &data_files, folder.path());
    }
}

#[test]
fn images_with_all_data_inside_are_read() {
    compare_all(
        false,
        &[
            &[],
            &["-Enoinline_data"],
            &["-Eforce-inode-compact", "--all-root", "-T1000000000", "--all-time"],
            &["-Eforce-inode-extended"],
            &["--chunksize=4096"],
            &["--chunksize=65536"],
            &["-Ededupe"],
            &["-T1000000000", "--all-time"],
            &["-E48bit"],
            &["-E48bit", "-T1", "--all-time"],
            &["-E48bit,dot-omitted"],
            &["-Edot-omitted,noinline_data"],
        ],
    );
}

#[test]
fn images_with_a_data_file_are_read() {
    compare_all(
        true,
        &[
            &["--chunksize=4096"],
            &["--chunksize=16384"],
            &["--chunksize=1048576"],
            &["--chunksize=1073741824"],
            &["--chunksize=4096", "-Eforce-chunk-indexes"],
            &["--chunksize=4096", "-E48bit"],
        ],
    );
}

#[test]
fn images_with_every_form_of_attributes_are_read() {
    compare_all(
        false,
        &[
            &["-x-1"],
            &["-x0"],
            &["-x1"],
            &["-x100000"],
            &["--xattr-prefix=trusted.overlay.", "-Eplain-xattr-prefixes"],
            &["--xattr-prefix=user.com", "--xattr-prefix=trusted.", "-Eplain-xattr-prefixes"],
            &["-E^xattr-name-filter"],
            &["-Exattr-name-filter"],
            &["--xattr-inode-digest=trusted.digest"],
        ],
    );
}

#[test]
fn merged_images_of_layers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let forms: [&[&str]; 3] =
        [&["-Enoinline_data"], &["--chunksize=4096", "-Enoinline_data"], &["-Enoinline_data"]];
    let mut layers = Vec::new();
    for (seed, form) in (40..).zip(forms) {
        let layer = folder.path().join(format!("layer{seed}"));
        make(&layer, form, &[random_files(seed, folder.path())]).unwrap();
        layers.push(layer);
    }
    let image = folder.path().join("merged");
    make(&image, &["-Enoinline_data"], &layers).unwrap();
    compare(&image, &layers, folder.path());
}

#[test]
fn unsupported_images_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for (name, length) in [("large", 200_000), ("small", 1000)] {
        fs::write(source.join(name), vec![b'x'; length]).unwrap();
    }
    let forms: [(&[&str], Refused); 6] = [
        (&["-zlz4"], Refused::Lz4),
        (&["-zdeflate"], Refused::CompressionConfigs),
        (&["-zlz4", "-Efragments"], Refused::Lz4),
        (&["-zlz4", "-Eztailpacking"], Refused::Lz4),
        (&["-zlz4", "-m4096"], Refused::Metabox),
        (&["-b512"], Refused::BlockSize(9)),
    ];
    for (form, refused) in forms {
        let image = folder.path().join("image");
        make(&image, form, std::slice::from_ref(&source)).unwrap();
        let bytes = fs::read(&image).unwrap();
        assert_eq!(Image::open(bytes.as_slice(), &[]).unwrap_err(), OpenError::Refused(refused), "{form:?}");
    }
}
