//! The expected content of a window: a plain array of pages, each with the number of the mapping
//! that made it.
//!
//! The prediction is valid as long as no step fails, except that the front-end refuses mappings
//! that it cannot make.

use super::front_end::{Page, index};
use crate::{DaxError, Mapping, Mappings, WindowRange};

/// The number of a mapping, and a page that it maps. `None` is an empty page of the window.
type Place = Option<(u64, Page)>;

/// The expected pages of the window.
#[derive(Debug)]
pub(super) struct ExpectedWindow {
    places: Vec<Place>,
    /// Number of the last mapping that was made.
    last_number: u64,
}

impl ExpectedWindow {
    /// Returns an empty window of `window_len` bytes.
    pub(super) fn new(window_len: u64) -> Self {
        Self { places: vec![None; index(window_len)], last_number: 0 }
    }

    /// Returns the expected pages, in order.
    pub(super) fn pages(&self) -> impl Iterator<Item = Option<Page>> {
        self.places.iter().map(|place| place.map(|(_, page)| page))
    }

    /// Takes over the state of the table after a failure.
    pub(super) fn adopt(&mut self, mappings: &Mappings) {
        self.places.fill(None);
        for mapping in mappings.iter() {
            self.put(&mapping);
        }
    }

    /// Predicts INIT, DESTROY or a reset.
    pub(super) fn clear(&mut self) {
        self.places.fill(None);
    }

    /// Predicts a SETUPMAPPING. `accepts` returns whether the front-end can make a mapping if the
    /// window has no other mapping.
    pub(super) fn setup(
        &mut self,
        wanted: &Mapping,
        budget: usize,
        accepts: impl Fn(&Mapping) -> bool,
    ) -> Result<(), DaxError> {
        let range = wanted.range();
        let old: Vec<Place> = self.places_in(range).copied().collect();
        let numbers = numbers(&old);
        let single = numbers.len() == 1 && old.iter().all(Option::is_some) && !self.has_partial(range);
        let content = |place: &Place| place.map(|(_, page)| (page.node, page.file_offset));
        let same = Page::all_of(wanted).map(|page| Some((page.node, page.file_offset)));
        let same = single && old.iter().map(content).eq(same);
        let writable = old.iter().flatten().all(|(_, page)| page.writable);
        if same && (writable || !wanted.writable()) {
            return Ok(());
        }
        if self.has_partial(range) {
            return Err(DaxError::Partial { offset: 0, len: 0 });
        }
        let all = numbers_of_places(self.places.iter()).len();
        if all.saturating_sub(numbers.len()) >= budget {
            return Err(DaxError::BudgetSpent { max: budget });
        }
        if accepts(wanted) {
            self.put(wanted);
            return Ok(());
        }
        if !(same && accepts(&wanted.read_only())) {
            self.fill(range, None);
        }
        Err(DaxError::Refused)
    }

    /// Predicts a REMOVEMAPPING.
    pub(super) fn remove(&mut self, ranges: &[WindowRange]) -> Result<(), DaxError> {
        if ranges.iter().any(|range| self.has_partial(*range)) {
            return Err(DaxError::Partial { offset: 0, len: 0 });
        }
        for range in ranges {
            self.fill(*range, None);
        }
        Ok(())
    }

    /// Predicts the removal of a node's mappings.
    pub(super) fn drop_node(&mut self, node: u64) {
        let of_node = |place: &&mut Place| place.is_some_and(|(_, page)| page.node == node);
        self.places.iter_mut().filter(of_node).for_each(|place| *place = None);
    }

    fn places_in(&self, range: WindowRange) -> impl Iterator<Item = &Place> {
        self.places.iter().skip(index(range.offset())).take(index(range.len()))
    }

    /// Sets every page of a range.
    fn fill(&mut self, range: WindowRange, with: Place) {
        let places = self.places.iter_mut().skip(index(range.offset())).take(index(range.len()));
        places.for_each(|place| *place = with);
    }

    /// Makes a mapping under a new number.
    fn put(&mut self, mapping: &Mapping) {
        self.last_number = self.last_number.wrapping_add(1);
        let places = self.places.iter_mut().skip(index(mapping.range().offset()));
        for (place, page) in places.zip(Page::all_of(mapping)) {
            *place = Some((self.last_number, page));
        }
    }

    /// Returns whether a mapping has pages inside and outside the range.
    fn has_partial(&self, range: WindowRange) -> bool {
        let inside = numbers_of_places(self.places_in(range));
        let before = self.places.iter().take(index(range.offset()));
        let after = self.places.iter().skip(index(range.end()));
        before.chain(after).flatten().any(|(id, _)| inside.contains(id))
    }
}

/// Returns the numbers of all mappings with a page among `places`.
fn numbers(places: &[Place]) -> Vec<u64> {
    numbers_of_places(places.iter())
}

fn numbers_of_places<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<u64> {
    let mut numbers: Vec<u64> = places.flatten().map(|(id, _)| *id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
