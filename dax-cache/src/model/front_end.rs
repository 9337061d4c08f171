//! A front-end without memory: page by page, what the guest would find.

use crate::{Capabilities, Failure, Geometry, Mapper, Mapping, Overlap, WindowRange};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a page of the model.
pub const PAGE_LEN: u64 = 1 << crate::ALIGNMENT_SHIFT_MIN;

/// What the guest finds at one page of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Whose file.
    pub node: u64,
    /// Bytes from the file's start.
    pub file_offset: u64,
    /// Stores arrive in the file.
    pub writable: bool,
}

impl Page {
    /// The pages of a mapping, in order.
    pub fn all_of(mapping: &Mapping) -> impl Iterator<Item = Self> + use<> {
        let (node, file_offset, writable) = (mapping.node(), mapping.file_offset(), mapping.writable());
        let offsets = (0..mapping.range().len()).step_by(usize::try_from(PAGE_LEN).unwrap_or(usize::MAX));
        offsets.map(move |at| Self { node, file_offset: file_offset.saturating_add(at), writable })
    }
}

/// Something that goes wrong with one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused, and nothing changes.
    Refuse,
    /// It is refused, and what was in the range is gone all the same, as after a failed `mmap(MAP_FIXED)`. An unmap is
    /// refused as with [`Fault::Refuse`].
    Tear,
    /// It is not done and not answered.
    GoneBefore,
    /// It is done and not answered.
    GoneAfter,
}

/// A front-end as its capabilities say. Nodes have a length of their own, 0 for those not told.
#[derive(Debug)]
pub struct ModelFrontEnd {
    capabilities: Capabilities,
    pages: Vec<Option<Page>>,
    /// Window offset and length in bytes of what was mapped, in the order in which it was.
    mapped: Vec<(u64, u64)>,
    file_lens: BTreeMap<u64, u64>,
    /// What happens to the steps to come; beyond its end nothing.
    pub faults: VecDeque<Option<Fault>>,
    /// Steps so far.
    pub steps: usize,
}

impl ModelFrontEnd {
    /// An empty window.
    pub fn new(geometry: &Geometry, capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            pages: vec![None; index(geometry.window_len())],
            mapped: Vec::new(),
            file_lens: BTreeMap::new(),
            faults: VecDeque::new(),
            steps: 0,
        }
    }

    /// What it can do.
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Gives a node's file a length in bytes.
    pub fn set_file_len(&mut self, node: u64, len: u64) {
        self.file_lens.insert(node, len);
    }

    /// What the guest finds, page by page.
    pub fn pages(&self) -> &[Option<Page>] {
        &self.pages
    }

    /// Mappings at once; a front-end that replaces counts what is left of each as one.
    pub fn mapped(&self) -> usize {
        self.mapped.len()
    }

    /// A reset of the device, which takes everything out or does not.
    pub fn reset(&mut self) {
        if self.capabilities.drops_on_reset {
            self.pages.fill(None);
            self.mapped.clear();
        }
    }

    /// Whether the file behind it can be mapped so: what does not depend on what else is in the window.
    pub fn takes(&self, mapping: &Mapping) -> bool {
        let file_len = self.file_lens.get(&mapping.node()).copied().unwrap_or(0);
        let end = mapping.file_offset().saturating_add(mapping.range().len());
        (mapping.writable() || self.capabilities.read_only_descriptors)
            && (end <= file_len || self.capabilities.past_end_of_file)
    }

    fn replaces(&self) -> bool {
        self.capabilities.overlap == Overlap::Replaced
    }

    fn step(&mut self) -> Option<Fault> {
        self.steps = self.steps.saturating_add(1);
        self.faults.pop_front().flatten()
    }

    fn try_map(&mut self, mapping: &Mapping) -> Result<(), Failure> {
        let range = mapping.range();
        let overlaps = self.of(range).any(Option::is_some);
        let full = self.mapped.len() >= self.capabilities.mappings_max && !overlaps;
        let refused = overlaps && self.capabilities.overlap == Overlap::Refused;
        if full || refused || !self.takes(mapping) {
            return Err(Failure::Refused);
        }
        if self.replaces() {
            self.empty(range);
        }
        self.mapped.push((range.offset(), range.len()));
        let first = index(range.offset());
        for (place, page) in self.pages.iter_mut().skip(first).zip(Page::all_of(mapping)) {
            // Where nobody knows what comes of an overlap, the worst does: what was there hides the new.
            place.get_or_insert(page);
        }
        Ok(())
    }

    fn try_unmap(&mut self, range: WindowRange) -> Result<(), Failure> {
        if !self.replaces() && !self.mapped.contains(&(range.offset(), range.len())) {
            return Err(Failure::Refused);
        }
        self.empty(range);
        Ok(())
    }

    fn of(&self, range: WindowRange) -> impl Iterator<Item = &Option<Page>> {
        self.pages.iter().skip(index(range.offset())).take(index(range.len()))
    }

    fn empty(&mut self, range: WindowRange) {
        let pages = self.pages.iter_mut().skip(index(range.offset())).take(index(range.len()));
        pages.for_each(|page| *page = None);
        let covered = |(offset, len): &(u64, u64)| {
            range.offset() <= *offset && offset.saturating_add(*len) <= range.end()
        };
        self.mapped.retain(|mapped| !covered(mapped));
    }
}

impl Mapper for ModelFrontEnd {
    fn map(&mut self, mapping: &Mapping) -> Result<(), Failure> {
        match self.step() {
            None => self.try_map(mapping),
            Some(Fault::Refuse) => Err(Failure::Refused),
            Some(Fault::Tear) => {
                if self.replaces() {
                    self.empty(mapping.range());
                }
                Err(Failure::Refused)
            }
            Some(Fault::GoneBefore) => Err(Failure::Gone),
            Some(Fault::GoneAfter) => self.try_map(mapping).and(Err(Failure::Gone)),
        }
    }

    fn unmap(&mut self, range: WindowRange) -> Result<(), Failure> {
        match self.step() {
            None => self.try_unmap(range),
            Some(Fault::Refuse | Fault::Tear) => Err(Failure::Refused),
            Some(Fault::GoneBefore) => Err(Failure::Gone),
            Some(Fault::GoneAfter) => self.try_unmap(range).and(Err(Failure::Gone)),
        }
    }
}

/// How many pages so many bytes are, and which page lies there.
pub(super) fn index(bytes: u64) -> usize {
    let pages = bytes.checked_div(PAGE_LEN).unwrap_or_default();
    usize::try_from(pages).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SLOT_LEN, Wanted};

    fn geometry() -> Geometry {
        Geometry::new(SLOT_LEN, 12).unwrap()
    }

    fn mapping(page: u64, count: u64, writable: bool) -> Mapping {
        let (window_offset, len) = (page * PAGE_LEN, count * PAGE_LEN);
        geometry().mapping(&Wanted { node: 1, file_offset: 0, window_offset, len, writable }).unwrap()
    }

    #[test]
    fn the_strict_one_refuses_what_qemu_refuses() {
        let mut strict = ModelFrontEnd::new(&geometry(), Capabilities::qemu());
        strict.set_file_len(1, 4 * PAGE_LEN);
        assert_eq!(strict.map(&mapping(0, 4, false)), Err(Failure::Refused), "a read-only descriptor");
        assert_eq!(strict.map(&mapping(0, 5, true)), Err(Failure::Refused), "past the end of the file");
        assert_eq!(strict.map(&mapping(0, 4, true)), Ok(()));
        assert_eq!(strict.map(&mapping(3, 1, true)), Err(Failure::Refused), "overlap");
        for (page, count) in [(0, 3), (0, 5), (1, 3), (8, 1)] {
            let other = mapping(page, count, true).range();
            assert_eq!(strict.unmap(other), Err(Failure::Refused), "not as it was mapped");
        }
        assert_eq!((strict.mapped(), strict.unmap(mapping(0, 4, true).range())), (1, Ok(())));
        assert!(strict.pages().iter().all(Option::is_none));
    }

    #[test]
    fn the_strict_one_holds_so_many_and_drops_all_on_reset() {
        let capabilities = Capabilities { mappings_max: 2, ..Capabilities::qemu() };
        let mut strict = ModelFrontEnd::new(&geometry(), capabilities);
        strict.set_file_len(1, PAGE_LEN);
        assert_eq!([0, 1, 2].map(|page| strict.map(&mapping(page, 1, true)).is_ok()), [true, true, false]);
        strict.reset();
        assert_eq!((strict.mapped(), strict.pages().iter().flatten().count()), (0, 0));
    }

    #[test]
    fn the_replacing_one_maps_over_anything_and_drops_nothing() {
        let mut replacing = ModelFrontEnd::new(&geometry(), Capabilities::replacing());
        assert_eq!(replacing.map(&mapping(0, 4, false)), Ok(()));
        assert_eq!(replacing.map(&mapping(2, 4, true)), Ok(()));
        let writable: Vec<_> = replacing.pages().iter().flatten().map(|page| page.writable).collect();
        assert_eq!(writable, [false, false, true, true, true, true]);
        replacing.reset();
        assert_eq!(replacing.unmap(mapping(1, 4, false).range()), Ok(()));
        assert_eq!(replacing.pages().iter().flatten().count(), 2);
    }
}
