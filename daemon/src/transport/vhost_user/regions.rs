//! Tells which regions of the guest's memory are RAM, and which are files that can be truncated.
//!
//! QEMU describes the mappings in a DAX window like any other memory, by ADD_MEM_REG with the
//! descriptor that it got. It does so to every vhost-user device of the VM: also to those of other
//! shares, and to daemons without a window. The file of the region tells its kind:
//!
//! 1. A file that this daemon has passed on for a mapping that exists or is being made
//!    ([`Window::has_handed_out`]) is part of the window.
//! 2. A file on a mount that is internal to the kernel (memfd, shared anonymous memory, huge pages
//!    of either) is RAM: no path leads there, so no share has it.
//! 3. A file of huge pages on a mount with a path (`/dev/hugepages`) may be RAM, or a file of a
//!    share that contains such a mount. It is RAM if the front-end described memory on the same
//!    mount before the first queue was started: until then this daemon has passed on no file.
//! 4. Any other file is RAM only if the front-end has described no memory of kinds 2 and 3. A VMM
//!    that keeps its RAM in plain files is trusted.
//!
//! A region keeps its kind until it is removed.

use crate::file_id::{DeviceId, FileId};
use crate::guest_view::GuestView;
use crate::log_budget::Source;
use crate::sync::lock::Mutex;
use crate::window::Window;
use arc_swap::{ArcSwap, Guard};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{
    Address as _, FileOffset, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// The guest's memory in both views. They are published as one value: two views of different
/// moments could make a mapped file look like RAM.
#[derive(Debug)]
pub(super) struct Views {
    all: GuestMemoryMmap,
    /// `None`: all of it is RAM.
    ram: Option<GuestMemoryMmap>,
}

/// The views as one burst holds them.
pub(super) type LoadedViews = Guard<Arc<Views>>;
/// The views as a request holds them if it outlives its burst.
pub(super) type SharedViews = Arc<Views>;

impl Views {
    pub(super) fn view(&self) -> GuestView<'_> {
        GuestView { ram: self.ram.as_ref().unwrap_or(&self.all), all: &self.all }
    }
}

/// The identity of a region: address in the guest, length in bytes, address of the mapping.
type Key = (u64, u64, usize);

/// The guest's memory as the front-end has described it last, for the rings of one connection.
pub(super) struct Regions {
    window: Option<Arc<Window>>,
    /// The file systems where the kernel keeps memory files, as far as they are known.
    memory_devices: Vec<DeviceId>,
    views: ArcSwap<Views>,
    /// A queue has been started.
    has_begun: AtomicBool,
    known: Mutex<Known>,
    /// Limits log lines about regions that could not be used.
    log: Source,
}

/// The regions at the last change.
#[derive(Default)]
struct Known {
    regions: BTreeSet<Key>,
    /// There was a region of kind 2 or 3.
    certain: bool,
    /// Mounts of huge pages on which the front-end has RAM.
    huge: BTreeSet<DeviceId>,
}

/// The kind of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Window,
    /// RAM of kind 2 or 3.
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
    pub(super) fn new(window: Option<&Arc<Window>>, memory_devices: &[DeviceId]) -> Self {
        Self {
            window: window.cloned(),
            memory_devices: memory_devices.to_vec(),
            views: ArcSwap::from_pointee(Views { all: GuestMemoryMmap::new(), ram: None }),
            has_begun: AtomicBool::new(false),
            known: Mutex::default(),
            log: Source::new(),
        }
    }

    /// Returns both views of one moment.
    pub(super) fn load(&self) -> LoadedViews {
        self.views.load()
    }

    /// Notes that the first queue is being started. Called on the thread that also describes
    /// memory.
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Takes a new description of the memory. Rings see it when the kind of each region is known.
    ///
    /// Returns the memory from before. The caller drops it when no request uses it anymore. So the
    /// caller unmaps it, and not a queue thread, whose filter forbids that.
    pub(super) fn follow(&self, all: &GuestMemoryMmap) -> SharedViews {
        let mut known = self.known.lock();
        let present: BTreeSet<Key> = all.iter().map(key).collect();
        let mut ram = self.load().view().ram.clone();
        let gone: Vec<_> = ram.iter().filter(|region| !present.contains(&key(region))).map(place).collect();
        for (start, len) in gone {
            ram = ram.remove_region(start, len).map_or(ram, |(rest, _)| rest);
        }
        let new: Vec<_> = all.iter().filter(|region| !known.regions.contains(&key(region))).collect();
        let new: Vec<_> =
            new.iter().map(|region| (place(region), self.kind(region, &mut known.huge))).collect();
        known.certain |= new.iter().any(|(_, kind)| *kind == Kind::Certain);
        for ((start, len), kind) in new {
            if kind == Kind::Window || (kind == Kind::Plain && known.certain) {
                tracing::debug!(start = start.raw_value(), len, "memory is used only for data");
                continue;
            }
            // Only a removal returns the region.
            let inserted = all.remove_region(start, len).and_then(|(_, region)| ram.insert_region(region));
            match inserted {
                Ok(more) => ram = more,
                Err(error) => {
                    if let Some(suppressed) = self.log.pass() {
                        tracing::error!(%error, suppressed, "a region of memory is not used");
                    }
                }
            }
        }
        known.regions = present;
        let is_less = ram.num_regions() < all.num_regions();
        self.views.swap(Arc::new(Views { all: all.clone(), ram: is_less.then_some(ram) }))
    }

    /// Returns the kind of a region. A region without a known file is not RAM.
    fn kind(&self, region: &GuestRegionMmap, huge: &mut BTreeSet<DeviceId>) -> Kind {
        let Some(file) = region.file_offset().map(FileOffset::file) else { return Kind::Window };
        let Ok(id) = FileId::of(file) else { return Kind::Window };
        if self.window.as_ref().is_some_and(|window| window.has_handed_out(id)) {
            return Kind::Window;
        }
        if self.memory_devices.contains(&id.device) {
            return Kind::Certain;
        }
        if has_huge_pages(file) && !self.has_begun.load(Ordering::Relaxed) {
            huge.insert(id.device);
        }
        if huge.contains(&id.device) { Kind::Certain } else { Kind::Plain }
    }
}

fn has_huge_pages(file: &File) -> bool {
    /// `HUGETLBFS_MAGIC` of `linux/magic.h`.
    const HUGE_PAGES: i64 = 0x9584_58f6;
    rustix::fs::fstatfs(file).is_ok_and(|figures| figures.f_type == HUGE_PAGES)
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
    use rustix::fs::{MemfdFlags, Mode, OFlags};
    use std::ffi::CStr;
    use std::os::fd::AsFd;
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
        let file = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x1000).unwrap();
        file.into()
    }

    fn starts(regions: &Regions) -> Vec<u64> {
        let loaded = regions.load();
        loaded.view().ram.iter().map(|region| region.start_addr().raw_value()).collect()
    }

    fn id(file: &File) -> FileId {
        FileId::of(file).unwrap()
    }

    fn with(all: &GuestMemoryMmap, start: u64, file: &File) -> GuestMemoryMmap {
        let more = memory(&[(start, file)]);
        let (_, region) = more.remove_region(GuestAddress(start), 0x1000).unwrap();
        all.insert_region(region).unwrap()
    }

    #[test]
    fn region_of_a_handed_out_file_is_of_the_window() {
        let (first, second, mapped) = (file(), file(), file());
        let window = crate::window::window_for_tests();
        let regions = Regions::new(Some(&window), &[]);
        let before = memory(&[(0, &first)]);
        regions.follow(&before);
        assert_eq!(starts(&regions), [0]);
        window.note_handed_out(9, id(&mapped));
        let all = with(&with(&before, 0x10_000, &mapped), 0x20_000, &second);
        regions.follow(&all);
        assert_eq!(starts(&regions), [0, 0x20_000]);
        // The mapping is removed before the region, and the region keeps its kind.
        window.disconnect();
        regions.follow(&all);
        assert_eq!(starts(&regions), [0, 0x20_000]);
        assert_eq!(regions.load().view().all.num_regions(), 3);
        let (less, _) = all.remove_region(GuestAddress(0x20_000), 0x1000).unwrap();
        regions.follow(&less);
        assert_eq!(starts(&regions), [0]);
        // The front-end describes the memory of another VM.
        regions.follow(&memory(&[(0, &first), (0x5000, &second)]));
        assert_eq!(starts(&regions), [0, 0x5000]);
    }

    #[test]
    fn plain_file_beside_memory_files_is_not_ram() {
        let (ram, more, other) = (memory_file(), memory_file(), file());
        let regions = Regions::new(None, &[id(&ram).device]);
        let all = memory(&[(0, &ram), (0x10_000, &other)]);
        regions.follow(&all);
        assert_eq!(starts(&regions), [0]);
        regions.follow(&with(&with(&all, 0x20_000, &other), 0x30_000, &more));
        assert_eq!(starts(&regions), [0, 0x30_000]);
        let believed = Regions::new(None, &[id(&ram).device]);
        believed.follow(&memory(&[(0x10_000, &other)]));
        assert_eq!(starts(&believed), [0x10_000]);
    }

    /// Adds a mapped file and takes it away again while other threads load the memory, as the queue
    /// threads do.
    #[test]
    fn no_view_ever_counts_a_mapped_file_as_ram() {
        const ROUNDS: usize = 20_000;
        const FILE_AT: u64 = 0x10_000;
        let (ram, mapped) = (memory_file(), file());
        let regions = Regions::new(None, &[id(&ram).device]);
        let without = memory(&[(0, &ram)]);
        let with = with(&without, FILE_AT, &mapped);
        regions.follow(&without);
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let load = || {
                let mut wrong = 0;
                while !over.load(Ordering::Relaxed) {
                    let loaded = regions.load();
                    let view = loaded.view();
                    assert!(view.ram.num_regions() > 0);
                    wrong += usize::from(view.ram.find_region(GuestAddress(FILE_AT)).is_some());
                }
                wrong
            };
            let loaders = [threads.spawn(load), threads.spawn(load)];
            for _ in 0..ROUNDS {
                regions.follow(&with);
                regions.follow(&without);
            }
            over.store(true, Ordering::Relaxed);
            let wrong = loaders.map(|thread| thread.join().unwrap());
            assert_eq!(wrong, [0, 0], "views with the file as RAM, by thread, in {ROUNDS} rounds");
        });
    }

    const HUGE_PAGE: usize = 2 << 20;

    /// Makes a file of one huge page on its own mount. The mount has no path, and the daemon cannot
    /// see that.
    fn huge_file() -> File {
        let context = rustix::mount::fsopen("hugetlbfs", rustix::mount::FsOpenFlags::empty()).unwrap();
        rustix::mount::fsconfig_create(context.as_fd()).unwrap();
        let flags = rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC;
        let attributes = rustix::mount::MountAttrFlags::empty();
        let mount = rustix::mount::fsmount(context.as_fd(), flags, attributes).unwrap();
        another_file(&mount, c"file")
    }

    fn another_file(mount: &impl AsFd, name: &CStr) -> File {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(mount, name, flags, Mode::from(0o600)).unwrap());
        file.set_len(u64::try_from(HUGE_PAGE).unwrap()).unwrap();
        file
    }

    fn huge_memory_file() -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let file = File::from(rustix::fs::memfd_create(c"test", flags).unwrap());
        file.set_len(u64::try_from(HUGE_PAGE).unwrap()).unwrap();
        file
    }

    /// Makes memory of huge pages. No page is ever touched, so the host needs none.
    fn huge_memory(regions: &[(u64, &File)]) -> GuestMemoryMmap {
        let file = |file: &File| Some(FileOffset::new(file.try_clone().unwrap(), 0));
        let ranges = regions.iter().map(|(start, of)| (GuestAddress(*start), HUGE_PAGE, file(of)));
        GuestMemoryMmap::from_ranges_with_files(ranges).unwrap()
    }

    #[test]
    fn huge_pages_of_a_mount_described_later_are_not_ram() {
        const SECOND: u64 = 2 << 20;
        let (ram, of_a_share) = (huge_file(), huge_file());
        assert_ne!(id(&ram).device, id(&of_a_share).device);
        let regions = Regions::new(None, &[]);
        let before = huge_memory(&[(0, &ram)]);
        regions.follow(&before);
        assert_eq!(starts(&regions), [0]);
        regions.begin();
        regions.follow(&huge_memory(&[(0, &ram), (SECOND, &of_a_share)]));
        assert_eq!(starts(&regions), [0]);
        // Memory that is plugged in later is on the same mount.
        regions.follow(&huge_memory(&[(0, &ram), (SECOND, &ram)]));
        assert_eq!(starts(&regions), [0, SECOND]);
    }

    #[test]
    fn huge_pages_of_the_kernels_own_mount_are_ram() {
        let (ram, other) = (huge_memory_file(), huge_file());
        let regions = Regions::new(None, &[id(&ram).device]);
        regions.begin();
        regions.follow(&huge_memory(&[(0, &ram), (2 << 20, &other)]));
        assert_eq!(starts(&regions), [0]);
    }
}
