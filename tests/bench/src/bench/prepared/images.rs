//! Makes images with `pinhole prepare`; rows of their size, and of the time that it takes beside
//! `mkfs.erofs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pinhole_tests::disk_faults::fetched_program;
use pinhole_tests::guest::Parts;
use serde_json::Value;

use crate::bench::cost::number;
use crate::bench::rows::Rows;
use crate::step::{Failure, Outcome, run_quietly};

/// Row of the size of the metadata.
pub(super) const METADATA: &str = "prepare: metadata of the userland, bytes per inode";

/// Row of the time of `pinhole prepare`.
pub(super) const TIME: &str = "prepare: userland, s";

/// Row of the time in relation to that of `mkfs.erofs`.
pub(super) const TIME_RATIO: &str = "prepare: userland, of mkfs.erofs";

/// Options of `mkfs.erofs` for the same work: inodes with all fields, and no data beside them. It
/// compresses nothing without an option.
pub(super) const MKFS_OPTIONS: &str = "-Eforce-inode-extended,noinline_data";

/// What `pinhole prepare` has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MadeImage {
    pub(super) inodes: u64,
    pub(super) metadata_bytes: u64,
    pub(super) data_files: Vec<PathBuf>,
}

impl MadeImage {
    /// Reads the answer of `pinhole prepare --json`.
    fn parse(answer: &str) -> Option<Self> {
        let answer: Value = serde_json::from_str(answer).ok()?;
        let files = answer.get("data_files")?.as_array()?.iter();
        Some(Self {
            inodes: answer.get("inodes")?.as_u64()?,
            metadata_bytes: answer.get("metadata_bytes")?.as_u64()?,
            data_files: files.map(|file| Some(file.get("path")?.as_str()?.into())).collect::<Option<_>>()?,
        })
    }
}

/// Makes an image of a directory.
pub(super) fn prepare(program: &Path, source: &Path, image: &Path) -> Outcome<MadeImage> {
    prepare_from(program, &source.to_string_lossy(), image, &mut |_stdin| Ok(()))
}

/// Makes an image of the tar stream that `write` writes.
pub(super) fn prepare_tar(
    program: &Path,
    image: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Outcome<MadeImage> {
    prepare_from(program, "-", image, write)
}

fn prepare_from(
    program: &Path,
    source: &str,
    image: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Outcome<MadeImage> {
    let mut child = Command::new(program)
        .args(["prepare", source, "--json", "--output"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::io("cannot start pinhole prepare"))?;
    let written = child.stdin.take().map_or(Ok(()), |stdin| {
        let mut stdin = io::BufWriter::with_capacity(1 << 20, stdin);
        write(&mut stdin).and_then(|()| stdin.flush())
    });
    let output = child.wait_with_output().map_err(Failure::io("cannot wait for pinhole prepare"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("pinhole prepare failed: {}", errors.trim_end())));
    }
    written.map_err(Failure::io("cannot write the tar file"))?;
    MadeImage::parse(&said).ok_or_else(|| wrong_answer(program, &said))
}

/// Makes the image of the Debian userland of the test guests. Returns its path.
pub(super) fn userland(program: &Path, folder: &Path) -> Outcome<PathBuf> {
    let image = folder.join("userland.erofs");
    prepare(program, &userland_folder()?, &image)?;
    Ok(image)
}

/// Returns the Debian userland of the test guests.
fn userland_folder() -> Outcome<PathBuf> {
    Parts::locate().userland().map_err(|error| Failure::new(error.to_string()))
}

/// Measures size and time with the Debian userland of the test guests.
pub(super) fn measure(program: &Path, folder: &Path, turns: usize, rows: &mut Rows) -> Outcome {
    let userland = userland_folder()?;
    let (own, other) = (folder.join("userland.erofs"), folder.join("mkfs.erofs"));
    let prepare = || prepare(program, &userland, &own);
    let mkfs = || -> Outcome {
        let mkfs = fetched_program("usr/bin/mkfs.erofs");
        let mut mkfs = mkfs.map_err(Failure::io("cannot find mkfs.erofs"))?;
        run_quietly(mkfs.arg("--quiet").arg(MKFS_OPTIONS).arg(&other).arg(&userland))
    };
    // The first run reads the userland into the page cache.
    let made = prepare()?;
    rows.add(METADATA, number(made.metadata_bytes)? / number(made.inodes)?);
    let remove =
        |path: &Path| fs::remove_file(path).map_err(Failure::io(format!("cannot remove {}", path.display())));
    let remove_own = || made.data_files.iter().chain([&own]).try_for_each(|path| remove(path));
    remove_own()?;
    for turn in 0..turns {
        let mut times = [Duration::ZERO; 3];
        for step in 0..2 {
            flush(folder)?;
            let begin = Instant::now();
            if (turn + step) % 2 == 0 {
                prepare()?;
                times[0] = begin.elapsed();
                remove_own()?;
            } else {
                mkfs()?;
                times[1] = begin.elapsed();
                sync(&other)?;
                times[2] = begin.elapsed();
                remove(&other)?;
            }
        }
        let [own, mkfs, synced] = times.map(|time| time.as_secs_f64());
        rows.add(TIME, own);
        rows.add("prepare: userland by mkfs.erofs, s", mkfs);
        rows.add("prepare: userland by mkfs.erofs and fsync, s", synced);
        rows.add(TIME_RATIO, own / mkfs);
        rows.add("prepare: userland, of mkfs.erofs and fsync", own / synced);
    }
    Ok(())
}

/// Waits until all files of the file system of `folder` are on the disk, so that no program waits
/// for the data of another.
fn flush(folder: &Path) -> Outcome {
    let opened = File::open(folder).map_err(Failure::io("cannot open the folder of the images"))?;
    rustix::fs::syncfs(&opened).map_err(|error| Failure::new(format!("cannot flush the images: {error}")))
}

/// Waits until a file is on the disk.
fn sync(path: &Path) -> Outcome {
    let failed = || Failure::io(format!("cannot sync {}", path.display()));
    File::open(path).map_err(failed())?.sync_all().map_err(failed())
}

/// Returns the error of a missing or wrong answer of a program.
fn wrong_answer(program: &Path, answer: &str) -> Failure {
    Failure::new(format!("{} answered what the benchmark cannot read:\n{answer}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_prepare_is_read() {
        let answer = r#"{"inodes": 3, "metadata_bytes": 4096, "data_files": [{"path": "a.data"}]}"#;
        let made = MadeImage { inodes: 3, metadata_bytes: 4096, data_files: vec!["a.data".into()] };
        assert_eq!(MadeImage::parse(answer), Some(made));
        for wrong in ["", "{}", r#"{"inodes": 3, "metadata_bytes": 4096, "data_files": [{}]}"#] {
            assert_eq!(MadeImage::parse(wrong), None, "{wrong}");
        }
    }
}
