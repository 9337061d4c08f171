//! Tests of files with temporary names, which file systems without `O_TMPFILE` need, and of
//! publication.

use super::*;
use std::fs;
use std::io::Write as _;

fn folder() -> (tempfile::TempDir, TemporaryNames, Folder) {
    let directory = tempfile::tempdir().unwrap();
    let names = TemporaryNames::default();
    let folder = Folder::open(directory.path(), &names).unwrap();
    (directory, names, folder)
}

fn names_in(directory: &tempfile::TempDir) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Creates a file of either kind with this content.
fn new_file(folder: &Folder, is_named: bool, content: &str) -> NewFile {
    let file = if is_named { folder.create_named().unwrap() } else { folder.create().unwrap() };
    assert_eq!(file.temporary_name.is_some(), is_named);
    file.file().write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn files_of_both_kinds_are_published_and_replaced() {
    for is_named in [true, false] {
        let (directory, names, folder) = folder();
        let read = || fs::read_to_string(directory.path().join("name")).unwrap();
        let first = new_file(&folder, is_named, "first");
        let published = first.publish("name".as_ref(), &mut names.hold().unwrap()).unwrap().unwrap();
        assert_eq!((names_in(&directory), read()), (vec!["name".into()], "first".to_owned()));
        let second = new_file(&folder, is_named, "second");
        assert!(second.publish("name".as_ref(), &mut names.hold().unwrap()).unwrap().is_none());
        assert_eq!((names_in(&directory).len(), read()), (1, "first".to_owned()));
        let third = new_file(&folder, is_named, "third");
        third.replace("name".as_ref(), &mut names.hold().unwrap()).unwrap();
        assert_eq!((names_in(&directory).len(), read()), (1, "third".to_owned()));
        published.take_back();
        assert_eq!(names_in(&directory).len(), 0);
        assert_eq!(names.hold().unwrap().files.len(), 0);
    }
}

#[test]
fn dropped_file_is_removed() {
    let (directory, names, folder) = folder();
    let file = new_file(&folder, true, "content");
    assert_eq!(names_in(&directory).len(), 1);
    drop(file);
    assert_eq!(names_in(&directory).len(), 0);
    assert_eq!(names.hold().unwrap().files.len(), 0);
}

#[test]
fn file_that_is_dropped_during_a_publication_is_removed() {
    let (directory, names, folder) = folder();
    let file = new_file(&folder, true, "content");
    let held = names.hold().unwrap();
    drop(file);
    drop(held);
    assert_eq!(names_in(&directory).len(), 0);
}

#[test]
fn interruption_removes_temporary_files_and_forbids_new_ones() {
    let (directory, names, folder) = folder();
    let file = new_file(&folder, true, "content");
    names.interrupt();
    assert_eq!(names_in(&directory).len(), 0);
    assert!(matches!(names.hold(), Err(OutputError::Interrupted)));
    assert!(matches!(folder.create_named(), Err(OutputError::Interrupted)));
    drop(file);
}

#[test]
fn failed_replacement_leaves_the_old_file_alone() {
    for is_named in [true, false] {
        let (directory, names, folder) = folder();
        fs::create_dir(directory.path().join("name")).unwrap();
        let file = new_file(&folder, is_named, "content");
        let replaced = file.replace("name".as_ref(), &mut names.hold().unwrap());
        assert!(matches!(replaced, Err(OutputError::Write { .. })));
        assert_eq!(names_in(&directory), ["name"]);
    }
}
