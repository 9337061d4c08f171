//! Tests of directories as sources: kinds, holes, hard links, names, changes.

use super::*;
use crate::fixture::{Layer, Unseen, layer};
use rustix::fs::{CWD, XattrFlags};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};

fn read_directory(path: &Path, outputs: &[(u64, u64)]) -> Result<Layer, PrepareError> {
    let options = WalkOptions { one_file_system: false, outputs };
    layer(|tree, data| read(path, &options, (tree, data), &mut Unseen))
}

fn message(path: &Path) -> String {
    read_directory(path, &[]).unwrap_err().to_string()
}

#[test]
fn kinds_names_and_attributes_are_read() {
    let source = tempfile::tempdir().unwrap();
    let path = |name: &str| source.path().join(name);
    fs::create_dir(path("d")).unwrap();
    fs::write(path("d/file"), b"content").unwrap();
    fs::hard_link(path("d/file"), path("a hard link")).unwrap();
    symlink("x".repeat(4000), path("soft")).unwrap();
    rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let odd = OsStr::from_bytes(b"\xff\n\x01");
    fs::write(source.path().join(odd), b"").unwrap();
    fs::write(path(&"n".repeat(255)), b"").unwrap();
    rustix::fs::setxattr(path("d/file"), "user.a", b"\0value\n", XattrFlags::CREATE).unwrap();
    let layer = read_directory(source.path(), &[]).unwrap();
    assert_eq!(layer.content("d/file"), b"content");
    assert_eq!(layer.find("a hard link"), layer.find("d/file"));
    assert_eq!(*layer.leaf("soft"), Leaf::Symlink(vec![b'x'; 4000]));
    assert_eq!(*layer.leaf("fifo"), Leaf::Fifo);
    assert_eq!(*layer.leaf("socket"), Leaf::Socket);
    assert!(layer.find(&"n".repeat(255)).is_some());
    let root = layer.tree.directory(ROOT).unwrap();
    assert!(root.children.contains_key(odd.as_bytes()));
    let attributes = &layer.tree.node(layer.find("d/file").unwrap()).unwrap().attributes;
    let metadata = fs::metadata(path("d/file")).unwrap();
    assert_eq!(attributes.xattrs, [(b"user.a".to_vec(), b"\0value\n".to_vec())]);
    assert_eq!(attributes.mtime.seconds, metadata.mtime());
    assert_eq!(i64::from(attributes.mtime.nanoseconds), metadata.mtime_nsec());
    assert_eq!(u32::from(attributes.permissions), metadata.mode() & 0o7777);
    assert_eq!((attributes.uid, attributes.gid), (metadata.uid(), metadata.gid()));
}

#[test]
fn holes_are_kept() {
    let source = tempfile::tempdir().unwrap();
    let file = File::create(source.path().join("sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    File::create(source.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    let layer = read_directory(source.path(), &[]).unwrap();
    let regions: Vec<_> =
        layer.file("sparse").regions.iter().map(|region| (region.offset, region.len)).collect();
    assert_eq!(regions, [(0, 4096), (1 << 20, 4096)]);
    assert_eq!((layer.file("hole").size, layer.file("hole").regions.len()), (1 << 30, 0));
    let content = layer.content("sparse");
    assert_eq!((&content[..5], &content[1 << 20..][..3]), (&b"begin"[..], &b"end"[..]));
}

#[test]
fn order_of_creation_does_not_matter() {
    let names = ["b", "a/x", "c", "a/b/y", "a.b"];
    let digest = |names: &mut dyn Iterator<Item = &&str>| {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir_all(source.path().join("a/b")).unwrap();
        names.for_each(|name| fs::write(source.path().join(name), name).unwrap());
        read_directory(source.path(), &[]).unwrap().digest.unwrap()
    };
    assert_eq!(digest(&mut names.iter()), digest(&mut names.iter().rev()));
}

#[test]
fn symlinks_in_the_source_are_not_followed() {
    let source = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"x").unwrap();
    symlink(outside.path(), source.path().join("link")).unwrap();
    let layer = read_directory(source.path(), &[]).unwrap();
    assert!(matches!(layer.leaf("link"), Leaf::Symlink(_)));
    assert_eq!(layer.digest, None);
}

#[test]
fn file_that_grows_while_it_is_read_is_an_error() {
    struct Growing(File);
    impl Progress for Growing {
        fn expect(&mut self, _bytes: u64) {}
        fn advance(&mut self, _bytes: u64) {
            self.0.write_all(b"more").unwrap();
        }
    }
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("log");
    fs::write(&path, b"begin").unwrap();
    let mut growing = Growing(File::options().append(true).open(&path).unwrap());
    let options = WalkOptions { one_file_system: false, outputs: &[] };
    let done = layer(|tree, data| read(source.path(), &options, (tree, data), &mut growing));
    let error = done.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}: it changed while it was read; give a tree that does not change, such as a snapshot",
            path.display()
        )
    );
}

#[test]
fn directory_that_gains_a_name_is_an_error() {
    struct Creating(PathBuf);
    impl Progress for Creating {
        fn expect(&mut self, _bytes: u64) {}
        fn advance(&mut self, _bytes: u64) {
            fs::write(&self.0, b"").unwrap();
        }
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a"), b"1").unwrap();
    let options = WalkOptions { one_file_system: false, outputs: &[] };
    let mut creating = Creating(source.path().join("b"));
    let error = layer(|tree, data| read(source.path(), &options, (tree, data), &mut creating)).unwrap_err();
    assert!(matches!(error, PrepareError::Directory(DirectoryError::Changed { .. })), "{error}");
}

#[test]
fn sources_that_cannot_be_read_whole_are_refused() {
    let source = tempfile::tempdir().unwrap();
    let inside = source.path().join("out");
    fs::create_dir(&inside).unwrap();
    let metadata = fs::metadata(&inside).unwrap();
    let error = read_directory(source.path(), &[(metadata.dev(), metadata.ino())]).unwrap_err();
    assert!(matches!(error, PrepareError::Directory(DirectoryError::Inside { path }) if path == inside));
    let deep = "d/".repeat(513);
    fs::create_dir_all(source.path().join(&deep)).unwrap();
    assert!(message(source.path()).contains("the path has 513 levels of directories; at most 512"));
    assert!(message(Path::new("/proc/self/fdinfo")).contains("it changed while it was read"));
    assert!(message(&source.path().join("missing")).contains("cannot read it"));
}
