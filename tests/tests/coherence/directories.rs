//! Does a guest find a directory that another guest or the host removed and created again, while
//! the guest's cache still has the old one?
//!
//! One directory is mounted twice over /dev/fuse. Each mount stands for a guest, with caches of its
//! own. The tests also change the shared directory itself, as a process of the host. A removed
//! directory that the guest has open must behave as on a local file system.
//!
//! Needs root, /dev/fuse and overlayfs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_tests::mounted::Mounts;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Arguments with which the kernel caches names and attributes for 60 seconds, longer than any test
/// takes.
const TRUSTING: [&str; 3] = ["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"];

/// Arguments that select how a daemon finds an inode again: by its inode handle, or by its name.
const FOUND_BY: [&str; 2] = ["--inode-file-handles=mandatory", "--inode-file-handles=never"];

fn arguments(found_by: &'static str) -> Vec<&'static str> {
    TRUSTING.into_iter().chain([found_by]).collect()
}

/// Calls `check` with a folder in which to change the directory, and the same folder in a mount
/// whose cache has the old directory. The change is made on the host or in the other mount.
fn for_each_pair(check: impl Fn(&Path, &Path)) {
    for found_by in FOUND_BY {
        let arguments = arguments(found_by);
        let mounts = Mounts::new(&[&arguments, &arguments]).unwrap();
        let places: Vec<PathBuf> = mounts.places().map(PathBuf::from).collect();
        for (number, (changer, reader)) in
            [(mounts.host(), places[0].clone()), (places[1].clone(), places[0].clone())]
                .into_iter()
                .enumerate()
        {
            let folder = format!("pair{number}");
            fs::create_dir(mounts.host().join(&folder)).unwrap();
            check(&changer.join(&folder), &reader.join(&folder));
        }
    }
}

/// Creates `d` with a file. Reads the file through the mount `reader`, so that its kernel caches
/// the names.
fn create_and_cache(changer: &Path, reader: &Path) {
    fs::create_dir(changer.join("d")).unwrap();
    fs::write(changer.join("d/old"), "old").unwrap();
    assert_eq!(fs::read_to_string(reader.join("d/old")).unwrap(), "old");
}

/// Removes `d` and creates it again with other content.
fn replace_directory(changer: &Path) {
    fs::remove_dir_all(changer.join("d")).unwrap();
    fs::create_dir(changer.join("d")).unwrap();
    fs::write(changer.join("d/new"), "new").unwrap();
    fs::create_dir(changer.join("d/sub")).unwrap();
    fs::write(changer.join("d/sub/file"), "below").unwrap();
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Name of an operation, and the operation. It is the first that a reader makes after `d` was
/// created again.
type Step = (&'static str, fn(&Path));

/// First operations after `d` was created again. Each once failed with ENOENT or listed nothing.
const STEPS: [Step; 16] = [
    ("list", |at| assert_eq!(names(&at.join("d")), ["new", "sub"])),
    ("list below", |at| assert_eq!(names(&at.join("d/sub")), ["file"])),
    ("read", |at| assert_eq!(fs::read_to_string(at.join("d/new")).unwrap(), "new")),
    ("read below", |at| assert_eq!(fs::read_to_string(at.join("d/sub/file")).unwrap(), "below")),
    ("stat", |at| assert_eq!(at.join("d/new").metadata().unwrap().len(), 3)),
    ("create", |at| fs::write(at.join("d/made"), "made").unwrap()),
    ("create exclusively", |at| drop(File::create_new(at.join("d/made")).unwrap())),
    ("mkdir", |at| fs::create_dir(at.join("d/made")).unwrap()),
    ("mkfifo", |at| {
        rustix::fs::mknodat(CWD, at.join("d/made"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    }),
    ("symlink", |at| symlink("new", at.join("d/made")).unwrap()),
    ("link into", |at| fs::hard_link(at.join("other"), at.join("d/made")).unwrap()),
    ("link out of", |at| fs::hard_link(at.join("d/new"), at.join("made")).unwrap()),
    ("rename into", |at| fs::rename(at.join("other"), at.join("d/made")).unwrap()),
    ("rename out of", |at| fs::rename(at.join("d/new"), at.join("made")).unwrap()),
    ("unlink", |at| fs::remove_file(at.join("d/new")).unwrap()),
    ("rmdir", |at| {
        fs::remove_file(at.join("d/sub/file")).unwrap();
        fs::remove_dir(at.join("d/sub")).unwrap();
    }),
];

#[test]
fn auto_finds_a_directory_that_was_created_again() {
    for_each_pair(|changer, reader| {
        for (what, step) in STEPS {
            println!("{what}");
            fs::write(changer.join("other"), "other").unwrap();
            create_and_cache(changer, reader);
            replace_directory(changer);
            step(reader);
            fs::remove_dir_all(changer.join("d")).unwrap();
            for name in ["other", "made"] {
                drop(fs::remove_file(changer.join(name)));
            }
        }
    });
}

#[test]
fn directory_is_found_after_each_of_several_replacements() {
    for_each_pair(|changer, reader| {
        create_and_cache(changer, reader);
        for name in ["first", "second", "third"] {
            replace_directory(changer);
            fs::write(changer.join("d").join(name), name).unwrap();
            assert_eq!(reader.join("d").join(name).metadata().unwrap().len(), name.len() as u64);
        }
    });
}

#[test]
fn names_missing_from_a_replaced_directory_are_enoent() {
    for_each_pair(|changer, reader| {
        create_and_cache(changer, reader);
        replace_directory(changer);
        assert_eq!(errno(reader.join("d/absent").metadata()), Errno::NOENT);
        fs::remove_dir_all(changer.join("d")).unwrap();
        create_and_cache(changer, reader);
        fs::remove_dir_all(changer.join("d")).unwrap();
        // The directory is not created again. An operation that creates a name in it must fail with
        // ENOENT: some programs then create the parent and try again.
        assert_eq!(errno(fs::create_dir(reader.join("d/made"))), Errno::NOENT);
        assert_eq!(errno(fs::write(reader.join("d/made"), "")), Errno::NOENT);
        assert_eq!(errno(symlink("x", reader.join("d/made"))), Errno::NOENT);
    });
}

fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Errno {
    Errno::from_io_error(&answer.unwrap_err()).unwrap()
}

/// Runs a shell script in a directory. It must succeed.
fn run(directory: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Tests `cp`, `tar` and a mirror script. The script deletes names that its source lacks. If it saw
/// an empty directory instead of the new one, it would delete everything.
#[test]
fn copies_of_a_replaced_directory_have_its_content() {
    for_each_pair(|changer, reader| {
        for copy in ["cp -r d copy", "mkdir copy && tar -cf - -C d . | tar -xf - -C copy", MIRROR] {
            create_and_cache(changer, reader);
            replace_directory(changer);
            run(reader, copy);
            assert_eq!(names(&changer.join("copy")), ["new", "sub"], "{copy}");
            assert_eq!(fs::read_to_string(changer.join("copy/sub/file")).unwrap(), "below");
            run(changer, "rm -r d copy");
        }
    });
}

/// Does the work of `rsync -a --delete d/ copy/`.
const MIRROR: &str = "mkdir copy; touch copy/new copy/extra
    for name in $(ls d); do cp -r d/$name copy/; done
    for name in $(ls copy); do [ -e d/$name ] || rm -r copy/$name; done";

/// The directory that is created again is the first part of a longer path. The reader has cached
/// each name of the path.
#[test]
fn replaced_directory_is_found_anywhere_in_the_path() {
    for_each_pair(|changer, reader| {
        fs::create_dir_all(changer.join("d/b/c")).unwrap();
        fs::write(changer.join("d/b/c/old"), "old").unwrap();
        assert_eq!(fs::read_to_string(reader.join("d/b/c/old")).unwrap(), "old");
        fs::remove_dir_all(changer.join("d")).unwrap();
        fs::create_dir_all(changer.join("d/b/c")).unwrap();
        fs::write(changer.join("d/b/c/new"), "new").unwrap();
        assert_eq!(names(&reader.join("d/b/c")), ["new"]);
        assert_eq!(names(&reader.join("d")), ["b"]);
        fs::remove_dir_all(changer.join("d")).unwrap();
        // The reader also finds a symbolic link that replaces the directory.
        fs::create_dir_all(changer.join("e/c")).unwrap();
        fs::write(changer.join("e/c/file"), "by the link").unwrap();
        fs::create_dir_all(changer.join("d/c")).unwrap();
        fs::write(changer.join("d/c/file"), "by the directory").unwrap();
        assert_eq!(fs::read_to_string(reader.join("d/c/file")).unwrap(), "by the directory");
        fs::remove_dir_all(changer.join("d")).unwrap();
        symlink("e", changer.join("d")).unwrap();
        assert_eq!(fs::read_to_string(reader.join("d/c/file")).unwrap(), "by the link");
    });
}

/// Follows a replaced link to its new target, even if the old target is gone.
#[test]
fn a_replaced_link_leads_to_its_new_target() {
    for_each_pair(|changer, reader| {
        for (target, text) in [("one", "1"), ("two", "2")] {
            fs::create_dir(changer.join(target)).unwrap();
            fs::write(changer.join(target).join("file"), text).unwrap();
        }
        symlink("one", changer.join("link")).unwrap();
        assert_eq!(fs::read_to_string(reader.join("link/file")).unwrap(), "1");
        symlink("two", changer.join("new")).unwrap();
        fs::rename(changer.join("new"), changer.join("link")).unwrap();
        assert_eq!(fs::read_to_string(reader.join("link/file")).unwrap(), "2");
        symlink("one", changer.join("new")).unwrap();
        fs::rename(changer.join("new"), changer.join("link")).unwrap();
        fs::remove_dir_all(changer.join("two")).unwrap();
        fs::create_dir(reader.join("link/made")).unwrap();
        assert!(changer.join("one/made").is_dir());
    });
}

/// A process that has the removed directory open, or works in it, keeps the removed directory. It
/// is empty, and no name can be created in it.
#[test]
fn open_directory_stays_empty_after_its_removal() {
    for_each_pair(|changer, reader| {
        create_and_cache(changer, reader);
        let held = rustix::fs::open(reader.join("d"), OFlags::DIRECTORY, Mode::empty()).unwrap();
        replace_directory(changer);
        for _ in 0..3 {
            let at = |flags: OFlags| rustix::fs::openat(&held, "new", flags, Mode::RUSR);
            assert_eq!(at(OFlags::RDONLY).unwrap_err(), Errno::NOENT);
            assert_eq!(at(OFlags::CREATE | OFlags::RDWR).unwrap_err(), Errno::NOENT);
            assert_eq!(rustix::fs::statat(&held, "new", AtFlags::empty()).unwrap_err(), Errno::NOENT);
            assert_eq!(rustix::fs::mkdirat(&held, "made", Mode::RWXU).unwrap_err(), Errno::NOENT);
            assert_eq!(rustix::fs::symlinkat("x", &held, "made").unwrap_err(), Errno::NOENT);
            assert_eq!(rustix::fs::unlinkat(&held, "old", AtFlags::empty()).unwrap_err(), Errno::NOENT);
            assert_eq!(rustix::fs::renameat(&held, "old", CWD, reader.join("x")).unwrap_err(), Errno::NOENT);
            let stream = rustix::fs::openat(&held, ".", OFlags::DIRECTORY, Mode::empty()).unwrap();
            let listed: Vec<_> = rustix::fs::Dir::new(stream).unwrap().collect();
            assert!(listed.is_empty(), "{listed:?}");
        }
        let listed: Vec<_> = rustix::fs::Dir::read_from(&held).unwrap().collect();
        assert!(listed.is_empty(), "{listed:?}");
        assert_eq!(names(&reader.join("d")), ["new", "sub"]);
        assert_ne!(rustix::fs::fstat(&held).unwrap().st_ino, reader.join("d").metadata().unwrap().ino());
        // A program whose working directory is removed also finds it empty.
        run(
            reader,
            "mkdir w && touch w/file && cd w && rm -r \"$OLDPWD\"/w && mkdir \"$OLDPWD\"/w &&
            test -z \"$(ls .)\" && ! touch here && ! mkdir here && ! test -e file",
        );
    });
}

/// Another client removes the directory and creates it again without pause. The reader finds the
/// content or gets ENOENT, but never ESTALE.
#[test]
fn path_is_never_stale_while_its_directory_is_replaced() {
    for_each_pair(|changer, reader| {
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..400 {
                    fs::create_dir(changer.join("d")).unwrap();
                    fs::write(changer.join("d/new"), "new").unwrap();
                    fs::remove_dir_all(changer.join("d")).unwrap();
                }
                ended.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let said = [
                    ("read", fs::read(reader.join("d/new")).map(drop)),
                    ("stat", reader.join("d/new").metadata().map(drop)),
                    ("open the directory", fs::read_dir(reader.join("d")).map(drop)),
                ];
                for (what, said) in said {
                    let refused = said.err().map(|error| Errno::from_io_error(&error).unwrap());
                    assert!(refused.is_none_or(|errno| errno == Errno::NOENT), "{what}: {refused:?}");
                }
            }
        });
    });
}

/// Mounted overlayfs. `drop` unmounts it.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts an overlayfs at `place`, with the lower layer `lower`. Creates the upper layer and
    /// the work directory in the folder `above`.
    fn new(lower: &Path, above: &Path, place: &Path) -> Self {
        let (upper, work) = (above.join("upper"), above.join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .expect("overlayfs is needed: run as root on a kernel that has it");
        Self(place.to_path_buf())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Ignore the result: the overlayfs may already be unmounted.
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// On overlayfs, a directory that was merged with one of the lower layer keeps its link count when
/// it is removed. So the link count does not show the removal.
#[test]
fn replaced_directory_is_found_on_overlayfs() {
    let layers = tempfile::tempdir().unwrap();
    let mounts = Mounts::prepared(&[&TRUSTING], |share| {
        let lower = layers.path().join("lower");
        fs::create_dir_all(lower.join("merged")).unwrap();
        fs::write(lower.join("merged/old"), "old").unwrap();
        fs::create_dir_all(lower.join("lower/d")).unwrap();
        fs::write(lower.join("lower/d/old"), "old").unwrap();
        Overlay::new(&lower, layers.path(), share)
    })
    .unwrap();
    let reader = mounts.places().next().unwrap().to_path_buf();
    for (number, place) in ["merged/d", "lower/d", "new/d"].into_iter().enumerate() {
        let (changer, reader) = (mounts.host().join(place), reader.join(place));
        fs::create_dir_all(&changer).unwrap();
        fs::write(changer.join("known"), "known").unwrap();
        assert_eq!(fs::read_to_string(reader.join("known")).unwrap(), "known");
        fs::remove_dir_all(&changer).unwrap();
        fs::create_dir(&changer).unwrap();
        fs::write(changer.join("new"), "new").unwrap();
        if number == 0 {
            assert_eq!(fs::read_to_string(reader.join("new")).unwrap(), "new");
        }
        assert_eq!(names(&reader), ["new"], "{place}");
        fs::create_dir(reader.join("made")).unwrap();
    }
    // Now the whole directory of the lower layer is removed and created again.
    let (changer, reader) = (mounts.host().join("merged"), reader.join("merged"));
    assert_eq!(names(&reader), ["d", "old"]);
    fs::remove_dir_all(&changer).unwrap();
    fs::create_dir(&changer).unwrap();
    fs::create_dir(reader.join("made")).unwrap();
    assert_eq!(names(&reader), ["made"]);
}
