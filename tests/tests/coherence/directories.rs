//! Does a guest find a directory that another process removed and created again, while the guest
//! still trusts the old name?
//!
//! One directory is mounted twice over /dev/fuse. Each mount has its own caches, as a guest does,
//! and the host works on the directory itself. A removed directory that the guest holds open must
//! behave as on a local file system.
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

/// Arguments with which names and attributes are valid for longer than any test takes.
const TRUSTING: [&str; 3] = ["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"];

/// Arguments that select how a daemon finds an inode again: by its inode handle, or by its name.
const FOUND_BY: [&str; 2] = ["--inode-file-handles=mandatory", "--inode-file-handles=never"];

fn arguments(found_by: &'static str) -> Vec<&'static str> {
    TRUSTING.into_iter().chain([found_by]).collect()
}

/// Runs `judge` for each pair of a folder in which the directory is changed, and a mount that
/// trusts its old name.
fn for_each_pair(judge: impl Fn(&Path, &Path)) {
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
            judge(&changer.join(&folder), &reader.join(&folder));
        }
    }
}

/// Makes `d` with a file and reads it through the other mount.
fn make_known(changer: &Path, reader: &Path) {
    fs::create_dir(changer.join("d")).unwrap();
    fs::write(changer.join("d/old"), "old").unwrap();
    assert_eq!(fs::read_to_string(reader.join("d/old")).unwrap(), "old");
}

/// Removes `d` and makes it again with other content.
fn remake(changer: &Path) {
    fs::remove_dir_all(changer.join("d")).unwrap();
    fs::create_dir(changer.join("d")).unwrap();
    fs::write(changer.join("d/new"), "new").unwrap();
    fs::create_dir(changer.join("d/sub")).unwrap();
    fs::write(changer.join("d/sub/file"), "below").unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// First operation of a reader in a remade directory `d`, with its name.
type Step = (&'static str, fn(&Path));

/// First operations in a remade directory. Each used to end with ENOENT or an empty listing.
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
fn auto_works_in_a_directory_that_another_made_again() {
    for_each_pair(|changer, reader| {
        for (what, step) in STEPS {
            println!("{what}");
            fs::write(changer.join("other"), "other").unwrap();
            make_known(changer, reader);
            remake(changer);
            step(reader);
            fs::remove_dir_all(changer.join("d")).unwrap();
            for name in ["other", "made"] {
                drop(fs::remove_file(changer.join(name)));
            }
        }
    });
}

/// A second thread only looks up names, so the test depends on its look-ups alone.
#[test]
fn a_directory_that_is_made_again_twice_is_found_twice() {
    for_each_pair(|changer, reader| {
        make_known(changer, reader);
        for name in ["first", "second", "third"] {
            remake(changer);
            fs::write(changer.join("d").join(name), name).unwrap();
            assert_eq!(reader.join("d").join(name).metadata().unwrap().len(), name.len() as u64);
        }
    });
}

/// Creates names that already exist in the remade directory. The errno is that of the new
/// directory.
#[test]
fn names_missing_from_a_remade_directory_are_enoent() {
    for_each_pair(|changer, reader| {
        make_known(changer, reader);
        remake(changer);
        assert_eq!(errno(reader.join("d/absent").metadata()), Errno::NOENT);
        fs::remove_dir_all(changer.join("d")).unwrap();
        make_known(changer, reader);
        fs::remove_dir_all(changer.join("d")).unwrap();
        // Not made again: the operation that creates a name in it reports ENOENT, which programs
        // that make the parent then rely on.
        assert_eq!(errno(fs::create_dir(reader.join("d/made"))), Errno::NOENT);
        assert_eq!(errno(fs::write(reader.join("d/made"), "")), Errno::NOENT);
        assert_eq!(errno(symlink("x", reader.join("d/made"))), Errno::NOENT);
    });
}

fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Errno {
    Errno::from_io_error(&answer.unwrap_err()).unwrap()
}

fn run(directory: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Tests `cp`, `tar` and a mirror that deletes names which its source lacks. If the mirror took a
/// remade directory for an empty one, it would delete everything.
#[test]
fn copies_of_a_remade_directory_have_its_content() {
    for_each_pair(|changer, reader| {
        for copy in ["cp -r d copy", "mkdir copy && tar -cf - -C d . | tar -xf - -C copy", MIRROR] {
            make_known(changer, reader);
            remake(changer);
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

/// The reader has cached each name of the path below the directory that is made again.
#[test]
fn remade_directory_is_found_anywhere_in_the_path() {
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
        // A link or a file that replaces the directory is found as well.
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

/// A directory that a process holds open or works in is the removed one. It is empty, and no name
/// can be created in it.
#[test]
fn an_open_directory_that_another_removed_stays_empty() {
    for_each_pair(|changer, reader| {
        make_known(changer, reader);
        let held = rustix::fs::open(reader.join("d"), OFlags::DIRECTORY, Mode::empty()).unwrap();
        remake(changer);
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
        // A program whose working directory is removed sees the same.
        run(
            reader,
            "mkdir w && touch w/file && cd w && rm -r \"$OLDPWD\"/w && mkdir \"$OLDPWD\"/w &&
            test -z \"$(ls .)\" && ! touch here && ! mkdir here && ! test -e file",
        );
    });
}

/// While a directory is removed and made again all the time, its content is found or missing, but
/// never stale.
#[test]
fn a_path_is_never_stale_while_another_remakes_its_directory() {
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

/// Mounted overlayfs. Dropping it unmounts it.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts an overlayfs with the lower layer `lower`, whose directories are merged with those of
    /// the upper layer.
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
        // Ignore the result: it may already be unmounted.
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// On overlayfs a removed directory keeps its link count if it was merged with a lower one.
#[test]
fn a_remade_directory_is_found_on_overlayfs() {
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
    // Removes the complete lower layer.
    let (changer, reader) = (mounts.host().join("merged"), reader.join("merged"));
    assert_eq!(names(&reader), ["d", "old"]);
    fs::remove_dir_all(&changer).unwrap();
    fs::create_dir(&changer).unwrap();
    fs::create_dir(reader.join("made")).unwrap();
    assert_eq!(names(&reader), ["made"]);
}
