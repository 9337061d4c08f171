//! Which regions of the guest's memory are the guest's RAM, and which are files that somebody may cut.
//!
//! QEMU describes what is mapped into a DAX window like any other memory, by ADD_MEM_REG with the descriptor that it was given,
//! and it does so to every vhost-user device of the machine: to those of other shares too, and to daemons without a window.
//! What a region is, its file says:
//!
//! 1. One that this daemon has handed out for a mapping that there is, or is being made ([`Window::has_handed_out`]), is of the
//!    window.
//! 2. One that lies where the kernel keeps memory files (memfd, shared anonymous memory; huge pages) is RAM: no path leads
//!    there, so no share has it.
//! 3. Any other is RAM only where the front-end has described nothing of the second kind. A VMM whose RAM is in plain files
//!    is believed.
//!
//! What a region was when it came it stays until it goes.

use super::vring::Memory;
use crate::guest_view::GuestView;
use crate::session::{FileId, Window};
use rustix::fs::{AtFlags, StatxFlags};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{
    Address as _, FileOffset, GuestAddressSpace as _, GuestMemoryBackend as _, GuestMemoryLoadGuard,
    GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
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
    /// The same, for longer.
    pub(super) fn share(&self) -> Shared {
        let share = |guard: &GuestMemoryLoadGuard<GuestMemoryMmap>| guard.clone().into_inner();
        Held { all: share(&self.all), ram: self.ram.as_ref().map(share) }
    }
}

/// A region: where it is for the guest, how long, and where it is mapped.
type Key = (u64, u64, usize);

/// The guest's memory as the front-end has described it last, for the rings of one connection.
pub(super) struct Regions {
    window: Option<Arc<Window>>,
    /// Where the kernel keeps memory files, if that is known.
    memory_device: Option<(u32, u32)>,
    all: Memory,
    ram: Memory,
    /// Whether that is less than all.
    is_less: AtomicBool,
    known: Mutex<Known>,
}

/// The regions that there were at the last change.
#[derive(Default)]
struct Known {
    regions: BTreeSet<Key>,
    /// There has been RAM of which no doubt is possible.
    certain: bool,
}

/// What a region's file says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Window,
    /// RAM without a doubt.
    Certain,
    /// A plain file.
    Plain,
}

impl fmt::Debug for Regions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Regions").finish_non_exhaustive()
    }
}

impl Regions {
    pub(super) fn new(window: Option<&Arc<Window>>, memory_device: Option<(u32, u32)>) -> Self {
        let empty = || Memory::new(GuestMemoryMmap::new());
        Self {
            window: window.cloned(),
            memory_device,
            all: empty(),
            ram: empty(),
            is_less: AtomicBool::new(false),
            known: Mutex::default(),
        }
    }

    /// All of the memory before the part of it that is RAM: what came into the one was judged before.
    pub(super) fn load(&self) -> Loaded {
        let all = self.all.memory();
        Held { all, ram: self.is_less.load(Ordering::Acquire).then(|| self.ram.memory()) }
    }

    /// The front-end has described the memory anew. Rings see it when it has been judged.
    pub(super) fn follow(&self, all: &GuestMemoryMmap) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<Key> = all.iter().map(key).collect();
        let mut ram = (*self.ram.memory()).clone();
        let gone: Vec<_> = ram.iter().filter(|region| !present.contains(&key(region))).map(place).collect();
        for (start, len) in gone {
            ram = ram.remove_region(start, len).map_or(ram, |(rest, _)| rest);
        }
        let new = all.iter().filter(|region| !known.regions.contains(&key(region)));
        let new: Vec<_> = new.map(|region| (place(region), self.kind(region))).collect();
        known.certain |= new.iter().any(|(_, kind)| *kind == Kind::Certain);
        for ((start, len), kind) in new {
            if kind == Kind::Window || (kind == Kind::Plain && known.certain) {
                tracing::debug!(start = start.raw_value(), len, "memory for data alone");
                continue;
            }
            // Only the collection gives out what it holds.
            let inserted = all.remove_region(start, len).and_then(|(_, region)| ram.insert_region(region));
            match inserted {
                Ok(more) => ram = more,
                Err(error) => tracing::error!(%error, "a region of memory is not used"),
            }
        }
        known.regions = present;
        let is_less = ram.num_regions() < all.num_regions();
        publish(&self.ram, ram);
        self.is_less.store(is_less, Ordering::Release);
        publish(&self.all, all.clone());
    }

    /// One of which nothing can be known may be anything.
    fn kind(&self, region: &GuestRegionMmap) -> Kind {
        /// `HUGETLBFS_MAGIC` of `linux/magic.h`.
        const HUGE_PAGES: i64 = 0x9584_58f6;
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let Some(file) = region.file_offset().map(FileOffset::file) else { return Kind::Window };
        let Ok(stat) = rustix::fs::statx(file, c"", flags, StatxFlags::INO) else { return Kind::Window };
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let id = FileId { device, inode: stat.stx_ino };
        if self.window.as_ref().is_some_and(|window| window.has_handed_out(id)) {
            return Kind::Window;
        }
        let huge = || rustix::fs::fstatfs(file).is_ok_and(|figures| figures.f_type == HUGE_PAGES);
        if self.memory_device == Some(device) || huge() { Kind::Certain } else { Kind::Plain }
    }
}

fn publish(place: &Memory, memory: GuestMemoryMmap) {
    place.lock().unwrap_or_else(PoisonError::into_inner).replace(memory);
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
    use vm_memory::GuestAddress;

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

    fn memory_file() -> File {
        let file = rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x1000).unwrap();
        file.into()
    }

    fn starts(regions: &Regions) -> Vec<u64> {
        let loaded = regions.load();
        loaded.view().ram.iter().map(|region| region.start_addr().raw_value()).collect()
    }

    fn id(file: &File) -> FileId {
        let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).unwrap();
        FileId { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
    }

    fn with(all: &GuestMemoryMmap, start: u64, file: &File) -> GuestMemoryMmap {
        let more = memory(&[(start, file)]);
        let (_, region) = more.remove_region(GuestAddress(start), 0x1000).unwrap();
        all.insert_region(region).unwrap()
    }

    #[test]
    fn a_region_is_of_the_window_if_its_file_was_handed_out_when_it_came() {
        let (first, second, mapped) = (file(), file(), file());
        let window = crate::session::window_for_tests();
        let regions = Regions::new(Some(&window), None);
        let before = memory(&[(0, &first)]);
        regions.follow(&before);
        assert_eq!(starts(&regions), [0]);
        window.note_handed_out(9, id(&mapped));
        let all = with(&with(&before, 0x10_000, &mapped), 0x20_000, &second);
        regions.follow(&all);
        assert_eq!(starts(&regions), [0, 0x20_000]);
        // The mapping is taken out before the region is: it stays what it was.
        window.disconnect();
        regions.follow(&all);
        assert_eq!(starts(&regions), [0, 0x20_000]);
        assert_eq!(regions.load().view().all.num_regions(), 3);
        let (less, _) = all.remove_region(GuestAddress(0x20_000), 0x1000).unwrap();
        regions.follow(&less);
        assert_eq!(starts(&regions), [0]);
        // Another machine's table.
        regions.follow(&memory(&[(0, &first), (0x5000, &second)]));
        assert_eq!(starts(&regions), [0, 0x5000]);
    }

    #[test]
    fn where_ram_is_in_memory_files_no_other_file_is_ram() {
        let (ram, more, other) = (memory_file(), memory_file(), file());
        let regions = Regions::new(None, Some(id(&ram).device));
        let all = memory(&[(0, &ram), (0x10_000, &other)]);
        regions.follow(&all);
        assert_eq!(starts(&regions), [0]);
        regions.follow(&with(&with(&all, 0x20_000, &other), 0x30_000, &more));
        assert_eq!(starts(&regions), [0, 0x30_000]);
        let believed = Regions::new(None, Some(id(&ram).device));
        believed.follow(&memory(&[(0x10_000, &other)]));
        assert_eq!(starts(&believed), [0x10_000]);
    }
}
