//! What images are made of: a directory with files for all rows, and a tar stream with many files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::bench::guest::tree;
use crate::load;
use crate::step::{Failure, Outcome};

/// Folder that the guest walks.
pub(super) const WALK: &str = "walk";

/// Number of empty files in [`WALK`].
pub(super) const WALK_FILES: u32 = 100_000;

/// Folder whose small files the guest reads, with [`READ_FILES`] files.
pub(super) const READ: &str = "tree";

/// Number of files in [`READ`].
pub(super) const READ_FILES: u32 = tree::FILES;

/// Number of files in each folder of the tar stream.
const TAR_IN_FOLDER: u32 = 1_000;

/// Length of a block of a tar file, in bytes.
const TAR_BLOCK: usize = 512;

/// Creates the directory in `folder`.
pub(super) fn create(folder: &Path) -> Outcome<PathBuf> {
    let source = folder.join("source");
    let failed = || Failure::io(format!("cannot fill {}", source.display()));
    fs::create_dir(&source).map_err(failed())?;
    tree::fill_tree(&source).map_err(failed())?;
    for number in 0..WALK_FILES {
        let parent = source.join(WALK).join(tree::folder(number));
        if number % tree::IN_FOLDER == 0 {
            fs::create_dir_all(&parent).map_err(failed())?;
        }
        File::create(parent.join(format!("file-{number}.c"))).map_err(failed())?;
    }
    load::create_files(source.clone(), &super::wire::rows())
        .map_err(|error| Failure::new(error.to_string()))?;
    Ok(source)
}

/// Writes a tar file with this number of folders and empty files, the root not counted.
pub(super) fn write_tar(count: u32, out: &mut dyn Write) -> io::Result<()> {
    let mut folder = String::new();
    for number in 0..count {
        if number % TAR_IN_FOLDER == 0 {
            folder = format!("folder-{number:07}/");
            out.write_all(&tar_header(&folder, b'5')?)?;
        } else {
            out.write_all(&tar_header(&format!("{folder}file-{number:07}.c"), b'0')?)?;
        }
    }
    out.write_all(&[0; 2 * TAR_BLOCK])
}

/// Returns the ustar header of an empty file (kind `0`) or a folder (kind `5`).
fn tar_header(name: &str, kind: u8) -> io::Result<[u8; TAR_BLOCK]> {
    let mut header = [0; TAR_BLOCK];
    let mode: &[u8] = if kind == b'5' { b"0000755\0" } else { b"0000644\0" };
    let fields: [(usize, &[u8]); 9] = [
        (0, name.as_bytes()),
        (100, mode),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, b"00000000000\0"),
        (136, b"14000000000\0"),
        // The sum counts its own field as spaces.
        (148, b"        "),
        (156, &[kind]),
        (257, b"ustar\x0000"),
    ];
    for (at, bytes) in fields {
        let place = header.get_mut(at..at + bytes.len());
        place.ok_or_else(|| io::Error::other("a name is too long for a tar header"))?.copy_from_slice(bytes);
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(place) = header.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_reads_the_stream_with_all_names() {
        let mut child = Command::new("tar")
            .arg("-tf")
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        write_tar(1_003, &mut child.stdin.take().unwrap()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names: Vec<_> = text.lines().collect();
        assert!(output.status.success());
        assert_eq!(names.len(), 1_003);
        assert_eq!(names[..2], ["folder-0000000/", "folder-0000000/file-0000001.c"]);
        assert_eq!(names[1_002], "folder-0001000/file-0001002.c");
    }
}
