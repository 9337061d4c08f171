//! Does `pinhole mount --prepared` show the tree that the host's kernel finds in the same image?
//!
//! The host's kernel is the guest here: it caches, and checks permissions and access control lists.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pinhole_erofs::write::write;
use pinhole_tests::disk_faults::leave_the_hosts_mounts;
use pinhole_tests::mounted::unmount_when_unused;
use pinhole_tests::program::{Program, pinhole, run};

use crate::facts;
use crate::kernel_mount::{KernelMount, make};
use crate::random_tree::{Purpose, RandomTree};

/// Image that `pinhole mount` serves. `drop` unmounts it.
struct Mount {
    point: PathBuf,
    program: Program,
}

impl Mount {
    /// Serves an image on a new folder, in the mount namespace of the calling thread. The policy
    /// grants `trusted.*` too, so that no attribute is left out.
    fn new(image: &Path, data_files: &[PathBuf], folder: &Path) -> Self {
        leave_the_hosts_mounts().unwrap();
        let point = folder.join("prepared");
        fs::create_dir_all(&point).unwrap();
        let policy = folder.join("policy.toml");
        fs::write(&policy, "profile = \"rootfs\"\nallow = [\"xattr-read-trusted\"]\n").unwrap();
        let mut command = pinhole(["mount", "--posix-acl", "--prepared"]).unwrap();
        command.arg(image).arg(&point).arg("--policy").arg(policy);
        for file in data_files {
            command.arg("--data").arg(file);
        }
        let mut program = Program::start(&mut command).unwrap();
        program.wait_for("Mounted ").unwrap();
        Self { point, program }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Ignore the result: a failed test may still use a file of it.
        drop(unmount_when_unused(&self.point));
    }
}

/// Compares the mount of an image with the kernel's.
fn compare(image: &Path, data_files: &[PathBuf], folder: &Path) {
    let served = Mount::new(image, data_files, folder);
    let kernel = KernelMount::new(image, data_files, folder.join("kernel")).unwrap();
    let found = facts::of_mount(&served.point).unwrap();
    facts::assert_equal(&found, &facts::of_mount(kernel.folder()).unwrap());
    let log = served.program.stderr();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn images_of_the_writer_are_what_linux_finds() {
    for seed in 100..106 {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        let random = RandomTree::new(seed, Purpose::Image);
        let image = folder.path().join("image");
        let mut bytes = Vec::new();
        write(&random.tree, [1; 16], &mut bytes).unwrap();
        fs::write(&image, bytes).unwrap();
        let data_files = random.write_data_files(folder.path()).unwrap();
        compare(&image, &data_files, folder.path());
    }
}

#[test]
fn images_of_other_programs_are_what_linux_finds() {
    let forms: [&[&str]; 7] = [
        &[],
        &["-Enoinline_data"],
        &["-Eforce-inode-compact", "--all-root", "-T1000000000", "--all-time"],
        &["--chunksize=4096"],
        &["-E48bit"],
        &["--xattr-prefix=trusted.overlay.", "-Eplain-xattr-prefixes"],
        &["--chunksize=16384", "--blobdev=DATA"],
    ];
    for (seed, form) in (200..).zip(forms) {
        println!("seed {seed}, mkfs.erofs {form:?}");
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        RandomTree::new(seed, Purpose::Files).make_files(&source).unwrap();
        let (image, data) = (folder.path().join("image"), folder.path().join("data"));
        let arguments: Vec<_> =
            form.iter().map(|word| word.replace("DATA", data.to_str().unwrap())).collect();
        make(&image, &arguments, std::slice::from_ref(&source)).unwrap();
        let data_files: Vec<_> = data.exists().then_some(data).into_iter().collect();
        compare(&image, &data_files, folder.path());
    }
}

#[test]
fn directory_comes_back_from_its_image() {
    for seed in 300..304 {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        RandomTree::new(seed, Purpose::Files).make_files(&source).unwrap();
        let image = folder.path().join("image");
        let mut prepare = pinhole([OsStr::new("prepare"), source.as_os_str(), OsStr::new("-o")]).unwrap();
        let ended = run(prepare.arg(&image)).unwrap();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let served = Mount::new(&image, &[], folder.path());
        let found = comparable(facts::of_mount(&served.point).unwrap());
        facts::assert_equal(&found, &comparable(facts::of_mount(&source).unwrap()));
    }
}

/// Removes what differs between file systems: inode numbers, length and order of directories, and
/// holes that are no whole block.
fn comparable(mut tree: facts::Tree) -> facts::Tree {
    for facts in tree.values_mut() {
        facts.inode = 0;
        facts.data = facts.data.iter().flat_map(|(at, bytes)| without_zeros(*at, bytes)).collect();
        if facts.entries.is_empty() {
            continue;
        }
        facts.size = 0;
        for (_, inode, _) in &mut facts.entries {
            *inode = 0;
        }
        facts.entries.sort();
    }
    tree
}

/// Returns the blocks of a range of data that are not zero, without the zeros at their ends.
fn without_zeros(at: u64, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    let mut offset = at;
    while !rest.is_empty() {
        let len = usize::try_from(4096 - offset % 4096).unwrap().min(rest.len());
        let (block, after) = rest.split_at(len);
        if let (Some(first), Some(last)) =
            (block.iter().position(|byte| *byte != 0), block.iter().rposition(|byte| *byte != 0))
        {
            pieces.push((offset + first as u64, block[first..=last].to_vec()));
        }
        rest = after;
        offset += len as u64;
    }
    pieces
}

#[test]
fn nothing_can_be_changed_even_by_root() {
    let folder = tempfile::tempdir().unwrap();
    let random = RandomTree::new(7, Purpose::Image);
    let image = folder.path().join("image");
    let mut bytes = Vec::new();
    write(&random.tree, [1; 16], &mut bytes).unwrap();
    fs::write(&image, bytes).unwrap();
    let data_files = random.write_data_files(folder.path()).unwrap();
    let served = Mount::new(&image, &data_files, folder.path());
    let file = find(&served.point, &|path| path.symlink_metadata().unwrap().is_file());
    for outcome in [
        fs::OpenOptions::new().write(true).open(&file).map(drop),
        fs::write(served.point.join("new"), "x"),
        fs::remove_file(&file),
        fs::create_dir(served.point.join("directory")),
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}

/// Returns a file of a tree for which `is_wanted` is true.
fn find(folder: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> PathBuf {
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if is_wanted(&path) {
                return path;
            }
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path);
            }
        }
    }
    panic!("no such file");
}
