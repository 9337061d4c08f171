//! Contents of the share for the part `guest`: a tree of small files, an archive of a part of it,
//! and one big file.
//!
//! Each boot gets a new share, which is flushed to the disk. So no boot uses files of an earlier
//! boot, and no writeback disturbs the measurement. The pages of the new share stay in the page
//! cache of the host.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::bench::fresh;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome, run_quietly};

/// Number of files in the tree.
pub(in crate::bench) const FILES: u32 = 20_000;

/// Number of files in each folder of the tree.
pub(in crate::bench) const IN_FOLDER: u32 = 100;

/// Number of folders in each folder above them.
const FOLDERS: u32 = 5;

/// Number of files in the archive: those of the first folders.
pub(super) const ARCHIVED: u32 = 3_000;

/// Length of the longest file, in bytes. Most files are much shorter, as in a source tree: the mean
/// is 2 KiB.
const FILE_LEN_MAX: u64 = 8 << 10;

/// Length of the big file, in bytes. A row with random offsets reads or writes less than that, and
/// uses no page twice.
const BIG_LEN: usize = 128 << 20;

/// Length of a piece in which the big file is written, in bytes.
const PIECE_LEN: usize = 1 << 20;

/// Creates a share. Dropping the value removes the share.
pub(super) fn prepare(run_folder: &RunFolder) -> Outcome<TempDir> {
    let share = fresh::new_share(run_folder.path(), "guest")?;
    fill(share.path()).map_err(Failure::io("cannot fill the share of the guest"))?;
    archive(share.path())?;
    let folder = File::open(share.path()).map_err(Failure::io("cannot open the share of the guest"))?;
    rustix::fs::syncfs(&folder)
        .map_err(|error| Failure::new(format!("cannot flush the share of the guest: {error}")))?;
    Ok(share)
}

/// Creates the tree and the big file.
fn fill(share: &Path) -> std::io::Result<()> {
    let mut noise = fill_tree(share)?;
    let piece = noise.bytes(PIECE_LEN as u64);
    let mut big = File::create(share.join("big"))?;
    for _ in 0..BIG_LEN / PIECE_LEN {
        big.write_all(&piece)?;
    }
    Ok(())
}

/// Creates the tree.
///
/// # Errors
/// Fails if a file cannot be created.
pub(in crate::bench) fn fill_tree(share: &Path) -> std::io::Result<Noise> {
    let mut noise = Noise(0x70_696e_686f_6c65);
    let content = noise.bytes(FILE_LEN_MAX);
    for number in 0..FILES {
        let folder = share.join("tree").join(folder(number));
        if number % IN_FOLDER == 0 {
            fs::create_dir_all(&folder)?;
        }
        let length = usize::try_from(noise.small_length()).map_err(std::io::Error::other)?;
        fs::write(folder.join(format!("file-{number}.c")), content.get(..length).unwrap_or(&content))?;
    }
    Ok(noise)
}

/// Returns the folder of the file `number`.
pub(in crate::bench) fn folder(number: u32) -> String {
    let folder = number / IN_FOLDER;
    format!("part-{:03}/below-{}", folder / FOLDERS, folder % FOLDERS)
}

/// Packs whole folders of the tree with tar of the host.
fn archive(share: &Path) -> Outcome {
    let parts = ARCHIVED / IN_FOLDER / FOLDERS;
    run_quietly(
        Command::new("tar")
            .current_dir(share.join("tree"))
            .args(["--numeric-owner", "-cf", "../archive.tar"])
            .args((0..parts).map(|part| format!("part-{part:03}"))),
    )
}

/// Pseudo-random numbers from a fixed seed (xorshift64*), so that every share has the same files.
pub(in crate::bench) struct Noise(u64);

impl Noise {
    /// Returns the next number.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns bytes of the next numbers, at least `length`.
    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    /// Returns the length of a file in bytes: the smallest of three numbers, which gives many short
    /// and few long files.
    fn small_length(&mut self) -> u64 {
        [self.next(), self.next(), self.next()]
            .map(|number| (number >> 16) % FILE_LEN_MAX)
            .into_iter()
            .min()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_contains_whole_folders() {
        assert_eq!(ARCHIVED % (IN_FOLDER * FOLDERS), 0);
        assert_eq!(folder(ARCHIVED - 1), "part-005/below-4");
        assert_eq!(folder(ARCHIVED), "part-006/below-0");
    }

    #[test]
    fn mean_file_length_is_two_kibibytes() {
        let mut noise = Noise(1);
        let sum: u64 = (0..10_000).map(|_| noise.small_length()).sum();
        assert!((1900..2200).contains(&(sum / 10_000)), "{sum}");
    }
}
