//! Runs `pinhole prepare` and `pinhole inspect`, and compares images with trees of the host.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinhole_tests::program::{Ended, pinhole, run};
use serde_json::Value;
use tempfile::TempDir;

use crate::facts;
use crate::kernel_mount::KernelMount;

/// Folder with a source and a folder for the output.
#[derive(Debug)]
pub(crate) struct Workplace {
    folder: TempDir,
}

impl Workplace {
    /// Makes the folders `source` and `out`.
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("source")).unwrap();
        fs::create_dir(place.path("out")).unwrap();
        place
    }

    /// Returns the path of a name in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `pinhole` with these words in the folder.
    pub(crate) fn pinhole(&self, words: &str) -> Ended {
        run(pinhole(words.split_whitespace()).unwrap().current_dir(self.folder.path())).unwrap()
    }

    /// Prepares an image, and returns the answer as JSON.
    pub(crate) fn prepared(&self, words: &str) -> Value {
        answer(&self.pinhole(&format!("prepare {words} --json")))
    }

    /// Returns the one line of an error of `pinhole prepare`. The folder `out` must be as before.
    pub(crate) fn refused(&self, words: &str) -> String {
        let before = names(&self.path("out"));
        let ended = self.pinhole(&format!("prepare {words}"));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{words}: {}", ended.stderr);
        assert_eq!(names(&self.path("out")), before, "{words} left files");
        let line = ended.stderr.trim_end();
        assert!(line.starts_with("pinhole: ") && !line.contains('\n'), "{words}: {line}");
        line.to_owned()
    }

    /// Mounts an image of [`Self::prepared`] by the host's kernel.
    pub(crate) fn mounted(&self, answer: &Value) -> KernelMount {
        let image = self.path(answer["image"].as_str().unwrap());
        let files: Vec<_> = data_files(answer).iter().map(|file| self.path(file)).collect();
        let point = self.path(&format!("mnt-{}", image.file_name().unwrap().to_str().unwrap()));
        KernelMount::new(&image, &files, point).unwrap()
    }

    /// Runs a program of the host in the folder, which must succeed.
    pub(crate) fn host(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let status = command.args(arguments).current_dir(self.folder.path()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }
}

/// Returns the answer of a command that has succeeded.
pub(crate) fn answer(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Returns the paths of the data files of an answer.
pub(crate) fn data_files(answer: &Value) -> Vec<String> {
    let files = answer["data_files"].as_array().unwrap().iter();
    files.map(|file| file["path"].as_str().unwrap().to_owned()).collect()
}

/// Returns the sorted names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Asserts that a mounted image has the tree of a folder of the host. Inode numbers differ, and so
/// do sizes and the order of directories.
pub(crate) fn assert_same_tree(mounted: &KernelMount, folder: &Path) {
    facts::assert_equal(&comparable(mounted.folder()), &comparable(folder));
}

/// Returns the facts that an image keeps.
pub(crate) fn comparable(folder: &Path) -> facts::Tree {
    let mut tree = facts::of_mount(folder).unwrap();
    for facts in tree.values_mut() {
        facts.inode = 0;
        if !facts.entries.is_empty() {
            facts.size = 0;
            facts.entries.clear();
        }
    }
    tree
}

/// Returns a name of 255 bytes that is not UTF-8.
pub(crate) fn longest_name() -> OsString {
    let mut name = vec![b'n'; 255];
    name[100..104].copy_from_slice(b"\xff\n\x01\xfe");
    OsStr::from_bytes(&name).to_owned()
}
