//! A disk that refuses to write the blocks of one file. All other requests succeed, so that the
//! host's kernel reports only an error of writeback.
//!
//! The disk is an image in a tmpfs that has enough space for it. To refuse writes, the test punches
//! holes at the blocks of the file and lets another file use up the tmpfs. A write to a hole then
//! finds no space. A loop device reports that as an error of the disk: ENOSPC, or EIO on older
//! kernels.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use tempfile::TempDir;

use super::{FileSystem, Mounted};

/// Length of a block in bytes, on the disk and in the tmpfs.
const BLOCK_LEN: usize = 4096;

/// Space of the tmpfs in addition to the disk, in bytes.
const SPARE_LEN: u64 = 1 << 20;

/// Mounted ext4 on a disk that can fail. `drop` unmounts it and removes the disk.
#[derive(Debug)]
pub struct FailingDisk {
    // Dropped in this order.
    mounted: Mounted,
    memory: Mounted,
    _folder: TempDir,
}

impl FailingDisk {
    /// Starts a disk without faults.
    ///
    /// # Errors
    /// Fails without root, or if the part `disks` is not fetched.
    pub fn start() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("pinhole-failing-").tempdir()?;
        let kind = FileSystem::Ext4;
        let size = format!("size={}", kind.disk_len() + SPARE_LEN);
        let memory = Mounted::new("tmpfs", &size, Path::new("failing"), folder.path().to_path_buf())?;
        let disk = folder.path().join("disk");
        rustix::fs::fallocate(File::create(&disk)?, FallocateFlags::empty(), 0, kind.disk_len())?;
        // A journal would contain the data of the file a second time.
        kind.make_with(&disk, &["-O", "^has_journal"])?;
        let mounted = Mounted::new(kind.name(), "loop", &disk, folder.path().join("mnt"))?;
        Ok(Self { mounted, memory, _folder: folder })
    }

    /// Returns the mount point.
    pub fn folder(&self) -> &Path {
        self.mounted.folder()
    }

    /// Returns the path of a file in the tmpfs, such as the image "disk".
    fn path(&self, name: &str) -> PathBuf {
        self.memory.folder().join(name)
    }

    /// Creates a file of `blocks` blocks and writes it to the disk.
    ///
    /// # Errors
    /// Fails with the error of the host.
    pub fn make_file(&self, name: &str, blocks: u8) -> io::Result<()> {
        let mut file = File::create(self.folder().join(name))?;
        for number in 0..blocks {
            file.write_all(&block(name, number))?;
        }
        file.sync_all()
    }

    /// Lets the disk refuse writes to the blocks of a file of [`FailingDisk::make_file`].
    ///
    /// # Errors
    /// Fails if the blocks are not found on the disk.
    pub fn refuse(&self, name: &str, blocks: u8) -> io::Result<()> {
        let disk = File::options().read(true).write(true).open(self.path("disk"))?;
        let wanted: Vec<_> = (0..blocks).map(|number| block(name, number)).collect();
        let mut found = 0;
        let mut bytes = vec![0; BLOCK_LEN];
        let blocks_of_disk = disk.metadata()?.len() / BLOCK_LEN as u64;
        for at in (0..blocks_of_disk).map(|index| index * BLOCK_LEN as u64) {
            disk.read_exact_at(&mut bytes, at)?;
            if wanted.contains(&bytes) {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&disk, hole, at, BLOCK_LEN as u64)?;
                found += 1;
            }
        }
        if found != wanted.len() {
            return Err(io::Error::other(format!("{found} of {blocks} blocks of {name} are on the disk")));
        }
        let mut filler = File::create(self.path("filler"))?;
        loop {
            match filler.write_all(&[1; BLOCK_LEN]) {
                Ok(()) => {}
                Err(full) if full.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets the disk write again.
    ///
    /// # Errors
    /// Fails if the disk did not refuse writes.
    pub fn repair(&self) -> io::Result<()> {
        fs::remove_file(self.path("filler"))
    }
}

/// Returns the content of one block of a file. It differs from every other block.
fn block(name: &str, number: u8) -> Vec<u8> {
    let text = format!("block {number} of {name}, as it was made\n");
    text.bytes().cycle().take(BLOCK_LEN).collect()
}
