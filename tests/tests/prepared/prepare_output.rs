//! Do image and data files appear only as a whole, and does a failure leave nothing behind?

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use pinhole_tests::disk_faults::leave_the_hosts_mounts;
use pinhole_tests::program::{Program, pinhole};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;

use crate::prepare_command::{Workplace, data_files, names};

#[test]
fn existing_image_is_replaced_only_with_force() {
    let place = Workplace::new();
    fs::write(place.path("source/a"), b"1").unwrap();
    let first = place.prepared("source -o out/image");
    let line = place.refused("source -o out/image");
    assert_eq!(line, "pinhole: out/image: the file exists; give --force to replace it, or another IMAGE");
    let mut old = File::open(place.path("out/image")).unwrap();
    fs::write(place.path("source/b"), b"2").unwrap();
    let second = place.prepared("source -o out/image --force");
    assert_ne!(first["digest"], second["digest"]);
    let mut bytes = Vec::new();
    old.read_to_end(&mut bytes).unwrap();
    assert_eq!(u64::try_from(bytes.len()).unwrap(), first["metadata_bytes"].as_u64().unwrap());
    assert!(bytes != fs::read(place.path("out/image")).unwrap(), "the old file has changed");
    assert_eq!(names(&place.path("out")).len(), 3);
}

#[test]
fn only_regular_files_are_replaced() {
    let place = Workplace::new();
    fs::create_dir(place.path("out/folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("out/link")).unwrap();
    for image in ["out/folder", "out/link"] {
        let line = place.refused(&format!("source -o {image} --force"));
        assert!(line.contains("it exists and is not a regular file"), "{line}");
    }
    assert!(place.refused("source -o out/folder/").contains("not the name of a file"));
    assert!(
        place.refused("source -o missing/image").contains("missing: cannot use the folder: No such file")
    );
}

#[test]
fn full_disk_leaves_nothing_behind() {
    leave_the_hosts_mounts().unwrap();
    let place = Workplace::new();
    place.host("mount", &["-t", "tmpfs", "-o", "size=4m", "none", "out"]);
    fs::write(place.path("source/large"), vec![7; 16 << 20]).unwrap();
    let line = place.refused("source -o out/image");
    assert!(line.contains("out: cannot write a file there: No space left on device"), "{line}");
    assert!(line.contains("; free space, or give another IMAGE or --data-dir"), "{line}");
    fs::create_dir(place.path("data")).unwrap();
    fs::remove_file(place.path("source/large")).unwrap();
    // Only the image is too large here: the data file, which has its name last, must go too.
    for number in 0..500 {
        let name = format!("source/{number:03}{}", "x".repeat(240));
        fs::write(place.path(&name), b"x").unwrap();
        for attribute in ["user.a", "user.b"] {
            let value = vec![u8::try_from(number % 251).unwrap(); 3000 + number];
            rustix::fs::setxattr(place.path(&name), attribute, &value, rustix::fs::XattrFlags::CREATE).ok();
        }
    }
    place.host("mount", &["-o", "remount,size=64k", "out"]);
    let line = place.refused("source -o out/image --data-dir data");
    assert!(line.contains("out: cannot write a file there: No space left on device"), "{line}");
    assert_eq!(names(&place.path("data")), [] as [&OsStr; 0]);
    let free = rustix::fs::statvfs(place.path("out")).unwrap();
    assert_eq!(free.f_blocks, free.f_bfree, "space is in use");
    place.host("umount", &["out"]);
}

#[test]
fn limit_on_file_sizes_is_an_error() {
    let place = Workplace::new();
    fs::write(place.path("source/large"), vec![7; 4 << 20]).unwrap();
    let program = pinhole_tests::daemon::pinhole_program().unwrap();
    let script =
        format!("ulimit -f 100; {} prepare source -o out/image 2> log; echo $? > code", program.display());
    place.host("bash", &["-c", &script]);
    let log = fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("cannot write a file there: File too large"), "{log}");
    assert_eq!(fs::read_to_string(place.path("code")).unwrap(), "1\n");
    assert_eq!(names(&place.path("out")), [] as [&OsStr; 0]);
}

#[test]
fn signals_in_the_middle_leave_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let place = Workplace::new();
        fs::write(place.path("source/file"), vec![7; 8 << 20]).unwrap();
        place.host("tar", &["-C", "source", "-cf", "a.tar", "."]);
        rustix::fs::mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let words = ["prepare", "pipe", "-o", "out/image"];
        let mut program = Program::start(pinhole(words).unwrap().current_dir(place.path(""))).unwrap();
        let archive = fs::read(place.path("a.tar")).unwrap();
        let mut pipe = File::options().write(true).open(place.path("pipe")).unwrap();
        // More than a pipe holds, so the program has read and written some of it.
        pipe.write_all(&archive[..4 << 20]).unwrap();
        assert_eq!(program.wait(Duration::from_millis(50)).unwrap(), None);
        let code = program.end_by(signal).unwrap();
        let expected = if signal == Signal::KILL { None } else { Some(128 + signal.as_raw()) };
        assert_eq!(code, expected, "{signal:?}");
        assert_eq!(names(&place.path("out")), [] as [&OsStr; 0], "{signal:?}");
    }
}

#[test]
fn files_have_the_permissions_of_the_umask() {
    let place = Workplace::new();
    fs::write(place.path("source/file"), b"x").unwrap();
    let program = pinhole_tests::daemon::pinhole_program().unwrap();
    for (umask, mode) in [("027", 0o640), ("077", 0o600), ("000", 0o666)] {
        let script = format!(
            "rm -f out/*; umask {umask}; {} prepare source -o out/image > /dev/null",
            program.display()
        );
        place.host("sh", &["-c", &script]);
        for name in names(&place.path("out")) {
            let found = fs::metadata(place.path("out").join(&name)).unwrap().mode() & 0o777;
            assert_eq!(found, mode, "umask {umask}: {name:?}");
        }
    }
}

#[test]
fn data_file_with_other_bytes_is_not_used() {
    let place = Workplace::new();
    fs::write(place.path("source/file"), b"content").unwrap();
    let answer = place.prepared("source -o out/one");
    let path = place.path(&data_files(&answer)[0]);
    let again = place.prepared("source -o out/two");
    assert_eq!(
        (again["digest"].clone(), again["data_files"][0]["reused"].clone()),
        (answer["digest"].clone(), true.into())
    );
    File::options().write(true).open(&path).unwrap().write_all_at(b"C", 0).unwrap();
    let line = place.refused("source -o out/three");
    assert!(line.contains(".data: its bytes are not those that its name says; remove the file"), "{line}");
}
