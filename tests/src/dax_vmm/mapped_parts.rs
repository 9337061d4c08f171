//! The mapped parts of a window, and access to their bytes as the guest's processor has it.
//!
//! Each mapping is an `mmap` of its own at any host address. [`MappedParts`] records the place of
//! each mapping in the window. A later mapping replaces those parts of earlier ones that it covers,
//! as with `MAP_FIXED`. `read(2)` and `write(2)` move bytes between a mapping and a scratch file.
//! They return EFAULT for a page that is missing or read-only, where a load or store of the
//! processor would end the test by a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, MmapRegion, ReadVolatile as _, VolatileMemory as _, VolatileMemoryError, VolatileSlice,
    WriteVolatile as _,
};

/// `PROT_READ`, `PROT_WRITE` and `MAP_SHARED` of `mmap(2)`, the same on almost every Linux.
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
const MAP_SHARED: i32 = 1;

/// Access that a mapping allows to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    ReadAndWrite,
}

/// Part of the window that shows a mapping, or a part of one.
#[derive(Clone, Debug)]
struct MappedPart {
    /// Length in bytes.
    len: u64,
    /// Number of bytes of the mapping before this part.
    skipped: u64,
    region: Arc<MmapRegion>,
}

/// Mapped parts of the window, by their offset in the window in bytes.
#[derive(Debug, Default)]
pub(super) struct MappedParts(BTreeMap<u64, MappedPart>);

/// Maps `len` bytes of `file` from `offset`, shared.
pub(super) fn map(file: File, offset: u64, len: u64, rights: Rights) -> io::Result<MmapRegion> {
    let protection = match rights {
        Rights::Read => PROT_READ,
        Rights::ReadAndWrite => PROT_READ | PROT_WRITE,
    };
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let region = MmapRegionBuilder::new(len)
        .with_file_offset(FileOffset::new(file, offset))
        .with_mmap_prot(protection)
        .with_mmap_flags(MAP_SHARED);
    region.build().map_err(|error| {
        if let MmapRegionError::Mmap(error) = error { error } else { io::Error::other(error) }
    })
}

impl MappedParts {
    /// Returns the number of parts.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns start and length of each part.
    pub(super) fn places(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|(at, part)| (*at, part.len)).collect()
    }

    /// Returns whether anything in the range is mapped.
    pub(super) fn overlaps(&self, at: u64, len: u64) -> bool {
        let end = at.saturating_add(len);
        self.0.range(..end).next_back().is_some_and(|(start, part)| start + part.len > at)
    }

    /// Returns whether the range is exactly one mapping.
    pub(super) fn is_exact(&self, at: u64, len: u64) -> bool {
        self.0.get(&at).is_some_and(|part| part.len == len)
    }

    /// Puts a mapping at `at`. It replaces what was mapped in its range.
    pub(super) fn put(&mut self, at: u64, region: MmapRegion) {
        let len = region.size() as u64;
        self.clear(at, len);
        self.0.insert(at, MappedPart { len, skipped: 0, region: Arc::new(region) });
    }

    /// Removes all mapped parts in the range. The rest of a mapping that reaches beyond the range
    /// stays.
    pub(super) fn clear(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let reached = self.0.range(..end).rev().take_while(|(start, part)| *start + part.len > at);
        let reached: Vec<u64> = reached.map(|(start, _)| *start).collect();
        for start in reached {
            let Some(part) = self.0.remove(&start) else { continue };
            let part_end = start + part.len;
            if start < at {
                self.0.insert(start, MappedPart { len: at - start, ..part.clone() });
            }
            if part_end > end {
                let skipped = part.skipped + (end - start);
                self.0.insert(end, MappedPart { len: part_end - end, skipped, ..part });
            }
        }
    }

    /// Removes everything. Returns the removed ranges.
    pub(super) fn drop_all(&mut self) -> Vec<(u64, u64)> {
        let places = self.places();
        self.0.clear();
        places
    }

    /// Loads `len` bytes at `at`.
    pub(super) fn load(&self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut scratch = scratch()?;
        self.each(at, len, |slice| scratch.write_all_volatile(slice).map_err(errno))?;
        scratch.seek(SeekFrom::Start(0)).map_err(|error| host(&error))?;
        let mut bytes = Vec::with_capacity(len);
        scratch.read_to_end(&mut bytes).map_err(|error| host(&error))?;
        Ok(bytes)
    }

    /// Stores bytes. Like a store of the processor, it may fault after its first pages.
    pub(super) fn store(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut scratch = scratch()?;
        scratch.write_all(bytes).map_err(|error| host(&error))?;
        scratch.seek(SeekFrom::Start(0)).map_err(|error| host(&error))?;
        self.each(at, bytes.len(), |slice| {
            let mut rest = slice.offset(0).map_err(|_none| Errno::FAULT)?;
            scratch.read_exact_volatile(&mut rest).map_err(errno)
        })
    }

    /// Returns the number of the physical page at `at`, from `/proc/self/pagemap` (root only).
    pub(super) fn frame(&self, at: u64) -> Result<u64, Errno> {
        /// Bit of a page in memory, and the bits of its number (Linux, `admin-guide/mm/pagemap`).
        const PRESENT: u64 = 1 << 63;
        const NUMBER: u64 = (1 << 55) - 1;
        // Loads the page with the processor: a page that only the kernel has touched is in no page
        // table of this process.
        let mut address = 0;
        self.each(at, 1, |slice| {
            slice.copy_to(&mut [0_u8]);
            address = slice.ptr_guard().as_ptr().addr() as u64;
            Ok(())
        })?;
        let table = File::open("/proc/self/pagemap").map_err(|error| host(&error))?;
        let mut entry = [0; 8];
        table.read_exact_at(&mut entry, address / 4096 * 8).map_err(|error| host(&error))?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT != 0 && entry & NUMBER != 0 { Ok(entry & NUMBER) } else { Err(Errno::PERM) }
    }

    /// Calls `with` for the memory of each mapped part in the range, in order. Returns EFAULT at
    /// the first byte that is not mapped.
    pub(super) fn each(
        &self,
        at: u64,
        len: usize,
        mut with: impl FnMut(&VolatileSlice<'_, ()>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (mut at, mut left) = (at, len as u64);
        while left > 0 {
            let (start, part) = self.0.range(..=at).next_back().ok_or(Errno::FAULT)?;
            let within = at - start;
            let here = part.len.checked_sub(within).filter(|here| *here > 0).ok_or(Errno::FAULT)?.min(left);
            let [offset, count] = [part.skipped + within, here].map(|number| usize::try_from(number).ok());
            let (offset, count) = offset.zip(count).ok_or(Errno::FAULT)?;
            let slice = part.region.get_slice(offset, count).map_err(|_outside| Errno::FAULT)?;
            with(&slice)?;
            (at, left) = (at + here, left - here);
        }
        Ok(())
    }
}

/// Makes an empty file in memory.
fn scratch() -> Result<File, Errno> {
    rustix::fs::memfd_create("scratch", MemfdFlags::CLOEXEC).map(File::from)
}

/// Returns the errno of an error of the host.
fn host(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Returns the errno of a copy that failed.
fn errno(error: VolatileMemoryError) -> Errno {
    match error {
        VolatileMemoryError::IOError(error) => host(&error),
        VolatileMemoryError::OutOfBounds { .. }
        | VolatileMemoryError::Overflow { .. }
        | VolatileMemoryError::TooBig { .. }
        | VolatileMemoryError::Misaligned { .. }
        | VolatileMemoryError::PartialBuffer { .. } => Errno::FAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    /// Returns a file of three pages full of 1, 2 and 3.
    fn file() -> File {
        let mut file = scratch().unwrap();
        for byte in 1..=3 {
            file.write_all(&[byte; 4096]).unwrap();
        }
        file
    }

    /// Returns a file, and a window that maps its three pages from the second page on.
    fn whole() -> (File, MappedParts) {
        let (file, mut parts) = (file(), MappedParts::default());
        parts.put(PAGE, map(file.try_clone().unwrap(), 0, 3 * PAGE, Rights::ReadAndWrite).unwrap());
        (file, parts)
    }

    #[test]
    fn load_and_store_access_the_mapped_file() {
        let (file, parts) = whole();
        assert_eq!(parts.load(2 * PAGE - 1, 2).unwrap(), [1, 2]);
        parts.store(2 * PAGE - 1, &[8, 9]).unwrap();
        let mut seen = [0; 2];
        file.read_exact_at(&mut seen, PAGE - 1).unwrap();
        assert_eq!(seen, [8, 9]);
        file.write_all_at(&[7], PAGE).unwrap();
        assert_eq!(parts.load(2 * PAGE, 1).unwrap(), [7]);
    }

    #[test]
    fn inaccessible_page_is_efault_and_no_signal() {
        let (file, mut parts) = whole();
        assert_eq!(parts.load(0, 1), Err(Errno::FAULT), "nothing mapped");
        assert_eq!(parts.load(4 * PAGE - 1, 2), Err(Errno::FAULT), "beyond the last mapping");
        file.set_len(PAGE).unwrap();
        assert_eq!(parts.load(3 * PAGE, 1), Err(Errno::FAULT), "the file has been truncated");
        assert_eq!(parts.store(3 * PAGE, &[1]), Err(Errno::FAULT));
        assert_eq!(parts.load(PAGE, 1).unwrap(), [1]);
        parts.put(PAGE, map(file, 0, PAGE, Rights::Read).unwrap());
        assert_eq!(parts.store(PAGE, &[5]), Err(Errno::FAULT), "mapped for reading");
        assert_eq!(parts.load(PAGE, 1).unwrap(), [1]);
    }

    #[test]
    fn mapping_over_a_mapping_keeps_the_rest_of_it() {
        let (_file, mut parts) = whole();
        let other = file();
        parts.put(2 * PAGE, map(other, 2 * PAGE, PAGE, Rights::Read).unwrap());
        assert_eq!(parts.places(), [(PAGE, PAGE), (2 * PAGE, PAGE), (3 * PAGE, PAGE)]);
        let firsts = [1, 2, 3].map(|page| parts.load(page * PAGE, 1).unwrap()[0]);
        assert_eq!(firsts, [1, 3, 3]);
        parts.clear(2 * PAGE, PAGE);
        assert!(!parts.overlaps(2 * PAGE, PAGE) && parts.overlaps(PAGE, 2 * PAGE));
        assert!(parts.is_exact(PAGE, PAGE) && !parts.is_exact(PAGE, 2 * PAGE));
        assert_eq!(parts.drop_all().len(), 2);
        assert_eq!(parts.count(), 0);
    }
}
