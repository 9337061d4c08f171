//! A front-end without memory. It records, page by page, what the guest would find in the window.

use crate::{Capabilities, Failure, Geometry, Mapper, Mapping, Overlap, WindowRange};
use std::collections::{BTreeMap, VecDeque};

/// Length of a page of the model in bytes.
pub const PAGE_LEN: u64 = 1 << crate::ALIGNMENT_SHIFT_MIN;

/// The content of one page of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Node of the mapped file.
    pub node: u64,
    /// Offset from the start of the file, in bytes.
    pub file_offset: u64,
    /// Whether the guest can write to the file through the page.
    pub writable: bool,
}

impl Page {
    /// Returns the pages of a mapping, in order.
    pub fn all_of(mapping: &Mapping) -> impl Iterator<Item = Self> + use<> {
        let (node, file_offset, writable) = (mapping.node(), mapping.file_offset(), mapping.writable());
        let offsets = (0..mapping.range().len()).step_by(usize::try_from(PAGE_LEN).unwrap_or(usize::MAX));
        offsets.map(move |at| Self { node, file_offset: file_offset.saturating_add(at), writable })
    }
}

/// A fault to inject into one step, and the [`Failure`] that the table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step is refused, and nothing changes.
    Refuse,
    /// A map is refused, but the range is empty afterwards, as after a failed `mmap(MAP_FIXED)`.
    /// Only a front-end that replaces mappings empties the range. For any other front-end, and for
    /// an unmap, this fault equals [`Fault::Refuse`].
    RefuseAndEmpty,
    /// The step is not done and gets no reply.
    GoneBefore,
    /// The step is done but gets no reply.
    GoneAfter,
}

/// A front-end that behaves as its capabilities say. The file of a node has length 0 until
/// [`ModelFrontEnd::set_file_len`].
#[derive(Debug)]
pub struct ModelFrontEnd {
    capabilities: Capabilities,
    pages: Vec<Option<Page>>,
    /// Window offset and length in bytes of each mapping, in the order in which they were made.
    mapped: Vec<(u64, u64)>,
    file_lens: BTreeMap<u64, u64>,
    /// Faults of the next steps, in order. Later steps have none.
    pub faults: VecDeque<Option<Fault>>,
    /// Number of steps so far.
    pub steps: usize,
}

impl ModelFrontEnd {
    /// Returns a front-end with an empty window.
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

    /// Returns the abilities of the front-end.
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Sets the length of a node's file in bytes.
    pub fn set_file_len(&mut self, node: u64, len: u64) {
        self.file_lens.insert(node, len);
    }

    /// Returns the content of the window, page by page.
    pub fn pages(&self) -> &[Option<Page>] {
        &self.pages
    }

    /// Returns the number of mappings. A mapping that was partly replaced still counts as one.
    pub fn mapped(&self) -> usize {
        self.mapped.len()
    }

    /// Resets the device. Whether this removes all mappings depends on the capabilities.
    pub fn reset(&mut self) {
        if self.capabilities.drops_on_reset {
            self.pages.fill(None);
            self.mapped.clear();
        }
    }

    /// Returns whether the front-end can make this mapping, if the window has no other mapping.
    pub fn accepts(&self, mapping: &Mapping) -> bool {
        let file_len = self.file_lens.get(&mapping.node()).copied().unwrap_or(0);
        let end = mapping.file_offset().saturating_add(mapping.range().len());
        (mapping.writable() || self.capabilities.read_only_descriptors)
            && (end <= file_len || self.capabilities.past_end_of_file)
    }

    /// Returns whether a new mapping replaces existing ones.
    fn replaces(&self) -> bool {
        self.capabilities.overlap == Overlap::Replaced
    }

    /// Counts a step, and returns its fault.
    fn step(&mut self) -> Option<Fault> {
        self.steps = self.steps.saturating_add(1);
        self.faults.pop_front().flatten()
    }

    /// Makes a mapping, if the capabilities and the existing mappings permit it.
    fn try_map(&mut self, mapping: &Mapping) -> Result<(), Failure> {
        let range = mapping.range();
        let overlaps = self.pages_in(range).any(Option::is_some);
        let full = self.mapped.len() >= self.capabilities.mappings_max && !overlaps;
        let refused = overlaps && self.capabilities.overlap == Overlap::Refused;
        if full || refused || !self.accepts(mapping) {
            return Err(Failure::Refused);
        }
        if self.replaces() {
            self.clear_range(range);
        }
        self.mapped.push((range.offset(), range.len()));
        let first = index(range.offset());
        for (place, page) in self.pages.iter_mut().skip(first).zip(Page::all_of(mapping)) {
            // If the effect of an overlap is unknown, assume the worst: the old page hides the new
            // one.
            place.get_or_insert(page);
        }
        Ok(())
    }

    /// Removes a mapping. A front-end that replaces mappings empties any range.
    fn try_unmap(&mut self, range: WindowRange) -> Result<(), Failure> {
        if !self.replaces() && !self.mapped.contains(&(range.offset(), range.len())) {
            return Err(Failure::Refused);
        }
        self.clear_range(range);
        Ok(())
    }

    fn pages_in(&self, range: WindowRange) -> impl Iterator<Item = &Option<Page>> {
        self.pages.iter().skip(index(range.offset())).take(index(range.len()))
    }

    /// Empties a range, and drops the mappings that lie in it completely.
    fn clear_range(&mut self, range: WindowRange) {
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
            Some(Fault::RefuseAndEmpty) => {
                if self.replaces() {
                    self.clear_range(mapping.range());
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
            Some(Fault::Refuse | Fault::RefuseAndEmpty) => Err(Failure::Refused),
            Some(Fault::GoneBefore) => Err(Failure::Gone),
            Some(Fault::GoneAfter) => self.try_unmap(range).and(Err(Failure::Gone)),
        }
    }
}

/// Converts a length in bytes to a number of pages, and an offset to the index of its page.
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
    fn the_strict_model_refuses_what_qemu_refuses() {
        let mut strict = ModelFrontEnd::new(&geometry(), Capabilities::qemu());
        strict.set_file_len(1, 4 * PAGE_LEN);
        assert_eq!(strict.map(&mapping(0, 4, false)), Err(Failure::Refused), "a read-only descriptor");
        assert_eq!(strict.map(&mapping(0, 5, true)), Err(Failure::Refused), "past the end of the file");
        assert_eq!(strict.map(&mapping(0, 4, true)), Ok(()));
        assert_eq!(strict.map(&mapping(3, 1, true)), Err(Failure::Refused), "overlap");
        for (page, count) in [(0, 3), (0, 5), (1, 3), (8, 1)] {
            let other = mapping(page, count, true).range();
            assert_eq!(strict.unmap(other), Err(Failure::Refused), "not the range of a mapping");
        }
        assert_eq!((strict.mapped(), strict.unmap(mapping(0, 4, true).range())), (1, Ok(())));
        assert!(strict.pages().iter().all(Option::is_none));
    }

    #[test]
    fn the_strict_model_limits_mappings_and_drops_them_on_reset() {
        let capabilities = Capabilities { mappings_max: 2, ..Capabilities::qemu() };
        let mut strict = ModelFrontEnd::new(&geometry(), capabilities);
        strict.set_file_len(1, PAGE_LEN);
        assert_eq!([0, 1, 2].map(|page| strict.map(&mapping(page, 1, true)).is_ok()), [true, true, false]);
        strict.reset();
        assert_eq!((strict.mapped(), strict.pages().iter().flatten().count()), (0, 0));
    }

    #[test]
    fn the_replacing_model_maps_over_mappings_and_drops_none() {
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
