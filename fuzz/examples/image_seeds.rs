//! Writes the seed corpus of `prepared_image`: `cargo run --example image_seeds`.
//!
//! The seeds are an image of the writer, and images that `mkfs.erofs` makes of a small folder in
//! each form that the reader accepts. The folder needs root, because it has device nodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_erofs::Time;
use pinhole_erofs::write::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree, write};
use pinhole_fuzz::image::Input;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Forms of images: name of the seed, whether the data has a file of its own, arguments.
const FORMS: [(&str, bool, &[&str]); 7] = [
    ("mkfs-inline", false, &[]),
    ("mkfs-plain", false, &["-Enoinline_data"]),
    ("mkfs-map", false, &["--chunksize=4096"]),
    ("mkfs-indexes", true, &["--chunksize=8192"]),
    ("mkfs-48bit", true, &["--chunksize=4096", "-E48bit"]),
    ("mkfs-48bit-inline", false, &["-E48bit"]),
    ("mkfs-prefixes", false, &["--xattr-prefix=trusted.overlay.", "-Eplain-xattr-prefixes"]),
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("corpus/prepared_image");
    fs::create_dir_all(&corpus).expect("the corpus folder can be made");
    let save = |name: &str, image: &[u8]| {
        // The first forged number is in the middle of the inodes, the second outside.
        let seed = Input::encode([44, u64::MAX / 32], image);
        fs::write(corpus.join(name), seed).expect("a seed can be written");
    };
    save("written", &written());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    fill(&source).expect("the folder can be filled: run this as root");
    for (name, has_data_file, arguments) in FORMS {
        let image = folder.path().join(name);
        let mut command = mkfs(root);
        command.args(["--quiet", "-T0", "--mkfs-time", "-U00000000-0000-0000-0000-000000000000"]);
        if has_data_file {
            command.arg(format!("--blobdev={}.data", image.display()));
        }
        let ended = command.args(arguments).arg(&image).arg(&source).status().expect("mkfs.erofs starts");
        assert!(ended.success(), "{command:?}");
        save(name, &fs::read(&image).expect("the image can be read"));
    }
}

/// Returns `mkfs.erofs` of the part `disks` of the test guests.
fn mkfs(root: &Path) -> Command {
    let parts = std::env::var_os("PINHOLE_GUEST_DIR").map_or_else(|| root.join("../.guest"), PathBuf::from);
    let libraries = parts.join("disks/usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(parts.join("disks/usr/bin/mkfs.erofs"));
    command
}

/// Makes a folder with every kind of file.
fn fill(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder.join("directory"))?;
    fs::write(folder.join("small"), "small")?;
    fs::hard_link(folder.join("small"), folder.join("directory/again"))?;
    std::os::unix::fs::symlink("small", folder.join("link"))?;
    let sparse = File::create(folder.join("sparse"))?;
    sparse.write_all_at(b"data", 4096)?;
    sparse.set_len(12_288)?;
    rustix::fs::mknodat(
        CWD,
        folder.join("null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )?;
    rustix::fs::mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::RUSR, 0)?;
    for name in ["small", "directory", "sparse"] {
        for (attribute, value) in
            [("trusted.overlay.opaque", "y"), ("user.comment", "a comment of some length")]
        {
            rustix::fs::setxattr(folder.join(name), attribute, value.as_bytes(), XattrFlags::empty())?;
        }
    }
    // The same seeds each time. The folder itself is last, because its entries change its time.
    let time = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in ["small", "link", "sparse", "null", "pipe", "directory", ""] {
        rustix::fs::utimensat(CWD, folder.join(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Returns an image of the writer.
fn written() -> Vec<u8> {
    let inode = |content| NewInode {
        permissions: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time { seconds: 1, nanoseconds: 2 },
        xattrs: vec![(b"user.comment".to_vec(), b"a comment of some length".to_vec())],
        content,
    };
    let extent = |offset| DataExtent { offset, device: 0, start: 4096, length: 4096 };
    let names = ["chunks", "flat", "link", "null"];
    let entries: BTreeMap<_, _> =
        names.iter().map(|name| name.as_bytes().to_vec()).zip((1..).map(InodeIndex)).collect();
    let inodes = vec![
        inode(Content::Directory(entries)),
        inode(Content::File(NewFile { size: 20_000, extents: vec![extent(4096), extent(12_288)] })),
        inode(Content::File(NewFile { size: 4000, extents: vec![DataExtent { length: 4000, ..extent(0) }] })),
        inode(Content::Symlink(b"flat".to_vec())),
        inode(Content::CharacterDevice(0x103)),
    ];
    let tree = Tree { inodes, devices: vec![NewDevice { tag: [b'a'; 64], blocks: 4 }] };
    let mut image = Vec::new();
    write(&tree, [0; 16], &mut image).expect("the tree is valid");
    image
}
