//! The content of a small disk in memory, and the disks that `mkfs` makes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use pinhole_tests::disk_faults::{FileSystem, fetched_program};
use rustix::fs::FallocateFlags;

use super::log::Entry;
use super::mounts::run;

/// Unit in which an image is compared with zero and copied, in bytes.
const BLOCK_LEN: usize = 4096;

/// Content of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    /// For each block, whether it may contain a byte other than zero.
    used: Vec<bool>,
}

impl Image {
    /// Reads a file.
    fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let used = bytes.chunks(BLOCK_LEN).map(|block| block.iter().any(|byte| *byte != 0)).collect();
        Ok(Self { bytes, used })
    }

    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the bytes from an offset, as many as there are up to `len`.
    pub(crate) fn get(&self, at: u64, len: usize) -> &[u8] {
        let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        rest.get(..len).unwrap_or(rest)
    }

    /// Applies an entry of a log. Bytes beyond the end have no effect.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Write { at, bytes } => self.write(*at, bytes),
            Entry::Flush => {}
        }
    }

    /// Writes bytes at an offset.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let Ok(at) = usize::try_from(at) else { return };
        for (place, byte) in self.bytes.get_mut(at..).unwrap_or_default().iter_mut().zip(bytes) {
            *place = *byte;
        }
        let end = (at + bytes.len()).div_ceil(BLOCK_LEN).min(self.used.len());
        for used in self.used.get_mut(at / BLOCK_LEN..end).unwrap_or_default() {
            *used = true;
        }
    }

    /// Makes `file` contain the image. The file has its length, and any content.
    pub(crate) fn store(&self, file: &File) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, hole, 0, self.len())?;
        let mut block = 0;
        while block < self.used.len() {
            let is_used = |at: &usize| self.used.get(*at).copied().unwrap_or_default();
            let blocks = (block..self.used.len()).take_while(is_used).count();
            let at = (block * BLOCK_LEN) as u64;
            file.write_all_at(self.get(at, blocks * BLOCK_LEN), at)?;
            block += blocks.max(1);
        }
        Ok(())
    }
}

/// Returns the length in bytes of a disk with this file system, near the least that it accepts.
const fn disk_len(kind: FileSystem) -> u64 {
    match kind {
        FileSystem::Ext4 => 16 << 20,
        FileSystem::Xfs => 32 << 20,
        FileSystem::Btrfs => 112 << 20,
    }
}

/// Makes a disk with an empty file system, in the folder `work`.
///
/// # Errors
/// Fails if the part `disks` is not fetched, or with the output of `mkfs`.
pub(crate) fn make(kind: FileSystem, work: &Path) -> io::Result<Image> {
    let path = work.join("new");
    File::create(&path)?.set_len(disk_len(kind))?;
    let mut command = fetched_program(&format!("usr/sbin/mkfs.{}", kind.name()))?;
    run(arguments(kind, &mut command).arg(&path))?;
    let image = Image::read(&path)?;
    fs::remove_file(&path)?;
    Ok(image)
}

/// Adds the arguments of `mkfs` for a disk that is small, so that a crash state is built and
/// mounted quickly. Features are those of the defaults.
fn arguments(kind: FileSystem, command: &mut Command) -> &mut Command {
    match kind {
        FileSystem::Ext4 => command.args(["-q", "-F", "-b", "4096", "-N", "4096", "-J", "size=4"]).args([
            "-O",
            "^resize_inode",
            "-E",
            "nodiscard,lazy_itable_init=0",
        ]),
        // Without --unsupported, mkfs.xfs makes no disk below 300 MiB.
        FileSystem::Xfs => command.args(["--unsupported", "-q", "-f", "-K", "-d", "agcount=1"]),
        FileSystem::Btrfs => command.args(["--quiet", "--force", "--nodiscard"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_image_replaces_all_earlier_content() {
        let mut image = Image { bytes: vec![0; 4 * BLOCK_LEN], used: vec![false; 4] };
        image.apply(&Entry::Write { at: 5000, bytes: Box::from([7; 8000]) });
        image.apply(&Entry::Write { at: 4 * 4096 - 1, bytes: Box::from([8; 100]) });
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[9; 4 * BLOCK_LEN], 0).unwrap();
        image.store(&file).unwrap();
        let mut bytes = vec![0; 4 * BLOCK_LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, image.bytes);
        assert_eq!(bytes[4999..13_001].iter().position(|byte| *byte == 7), Some(1));
        assert_eq!((bytes[12_999], bytes[13_000], bytes.last()), (7, 0, Some(&8)));
    }
}
