//! Which regions of the guest's memory are the guest's RAM, and which are files of the share in its DAX window.
//!
//! QEMU describes what it has mapped into the window like any other memory, by ADD_MEM_REG with the descriptor that it was
//! given. Such a region is told by its file: it is one that was handed out for a mapping that there is, or is being made
//! ([`Window::has_handed_out`]). What a region was when it came it stays until it goes; the file is handed out before the
//! front-end can name it.

use super::vring::Memory;
use crate::guest_view::GuestView;
use crate::session::{FileId, Window};
use rustix::fs::{AtFlags, StatxFlags};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{
    Address as _, GuestAddressSpace as _, GuestMemoryBackend as _, GuestMemoryLoadGuard, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap,
};

/// The guest's memory in both views, as one burst or one request holds it.
#[derive(Debug)]
pub(super) struct Held<G> {
    all: G,
    /// `None`: it is the same.
    ram: Option<G>,
}

pub(super) type Loaded = Held<GuestMemoryLoadGuard<GuestMemoryMmap>>;
pub(super) type Shared = Held<Arc<GuestMemoryMmap>>;

impl<G: std::ops::Deref<Target = GuestMemoryMmap>> Held<G> {
    pub(super) fn view(&self) -> GuestView<'_> {
        let all = &*self.all;
        GuestView { ram: self.ram.as_deref().unwrap_or(all), all }
    }
}

impl Loaded {
    /// All of the memory before the part of it that is RAM: what is in the part was in all of it then.
    pub(super) fn load(all: &Memory, ram: Option<&Memory>) -> Self {
        Self { all: all.memory(), ram: ram.map(vm_memory::GuestAddressSpace::memory) }
    }

    /// The same, for longer.
    pub(super) fn share(&self) -> Shared {
        let share = |guard: &GuestMemoryLoadGuard<GuestMemoryMmap>| guard.clone().into_inner();
        Held { all: share(&self.all), ram: self.ram.as_ref().map(share) }
    }
}

/// A region: where it is for the guest, how long, and where it is mapped.
type Key = (u64, u64, usize);

/// The part of the guest's memory that is RAM, where there is a window.
pub(super) struct Ram {
    window: Arc<Window>,
    memory: Memory,
    /// The regions that there were at the last change.
    known: Mutex<BTreeSet<Key>>,
}

impl Ram {
    pub(super) fn new(window: &Arc<Window>) -> Self {
        let memory = Memory::new(GuestMemoryMmap::new());
        Self { window: Arc::clone(window), memory, known: Mutex::default() }
    }

    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The front-end has described the memory anew.
    pub(super) fn follow(&self, all: &GuestMemoryMmap) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<Key> = all.iter().map(key).collect();
        let mut ram = (*self.memory.memory()).clone();
        let gone: Vec<_> = ram.iter().filter(|region| !present.contains(&key(region))).map(place).collect();
        for (start, len) in gone {
            ram = ram.remove_region(start, len).map_or(ram, |(rest, _)| rest);
        }
        for region in all.iter().filter(|region| !known.contains(&key(region))) {
            if self.is_of_window(region) {
                tracing::debug!(
                    start = region.start_addr().raw_value(),
                    len = region.len(),
                    "memory of the window"
                );
                continue;
            }
            let (start, len) = place(region);
            // Only the collection gives out what it holds.
            let inserted = all.remove_region(start, len).and_then(|(_, region)| ram.insert_region(region));
            match inserted {
                Ok(more) => ram = more,
                Err(error) => tracing::error!(%error, "a region of memory is not used"),
            }
        }
        *known = present;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(ram);
    }

    /// One of which nothing can be known may be anything.
    fn is_of_window(&self, region: &GuestRegionMmap) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let Some(file) = region.file_offset() else { return true };
        rustix::fs::statx(file.file(), c"", flags, StatxFlags::INO).map_or(true, |stat| {
            let device = (stat.stx_dev_major, stat.stx_dev_minor);
            self.window.has_handed_out(FileId { device, inode: stat.stx_ino })
        })
    }
}

fn place(region: &GuestRegionMmap) -> (vm_memory::GuestAddress, u64) {
    (region.start_addr(), region.len())
}

fn key(region: &GuestRegionMmap) -> Key {
    (region.start_addr().raw_value(), region.len(), region.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vm_memory::{FileOffset, GuestAddress};

    fn memory(regions: &[(u64, &File)]) -> GuestMemoryMmap {
        let file = |file: &File| Some(FileOffset::new(file.try_clone().unwrap(), 0));
        let ranges = regions.iter().map(|(start, of)| (GuestAddress(*start), 0x1000, file(of)));
        GuestMemoryMmap::from_ranges_with_files(ranges).unwrap()
    }

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x1000).unwrap();
        file
    }

    fn starts(ram: &Ram) -> Vec<u64> {
        ram.memory().memory().iter().map(|region| region.start_addr().raw_value()).collect()
    }

    fn id(file: &File) -> FileId {
        let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).unwrap();
        FileId { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
    }

    #[test]
    fn a_region_is_of_the_window_if_its_file_was_handed_out_when_it_came() {
        let (first, second, mapped) = (file(), file(), file());
        let window = crate::session::window_for_tests();
        let ram = Ram::new(&window);
        let before = memory(&[(0, &first)]);
        ram.follow(&before);
        assert_eq!(starts(&ram), [0]);
        window.note_handed_out(9, id(&mapped));
        let with = |all: &GuestMemoryMmap, start, file: &File| {
            let more = memory(&[(start, file)]);
            let (_, region) = more.remove_region(GuestAddress(start), 0x1000).unwrap();
            all.insert_region(region).unwrap()
        };
        let all = with(&with(&before, 0x10_000, &mapped), 0x20_000, &second);
        ram.follow(&all);
        assert_eq!(starts(&ram), [0, 0x20_000]);
        // The mapping is taken out before the region is: it stays what it was.
        window.disconnect();
        ram.follow(&all);
        assert_eq!(starts(&ram), [0, 0x20_000]);
        let (less, _) = all.remove_region(GuestAddress(0x20_000), 0x1000).unwrap();
        ram.follow(&less);
        assert_eq!(starts(&ram), [0]);
        // Another machine's table.
        ram.follow(&memory(&[(0, &first), (0x5000, &second)]));
        assert_eq!(starts(&ram), [0, 0x5000]);
    }
}
