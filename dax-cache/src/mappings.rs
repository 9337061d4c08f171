//! The table as a guest's requests change it, one step at a time.
//!
//! A request becomes [`Next`]: finished, or a [`Step`] for the front-end; the step goes back into [`Mappings::done`]
//! with what came of it, which says what is next. So nothing is borrowed, and no lock held, while the front-end takes
//! its time, and it may take for ever: it can be waiting for this daemon (GET_VRING_BASE, or the ADD_MEM_REG that QEMU
//! sends around its answer). The device's reset then clears the table meanwhile, and the step that comes back late
//! changes nothing. A `Mapper` that is called from inside would hold the table for as long. Who has nobody beside him,
//! as tests have, uses [`Mappings::run`].
//!
//! One request at a time: the front-end answers one after the other anyway, and a second plan made while the first is
//! half done would be made on sand. Only [`Mappings::clear`] may come between, and ends what is under way.
//!
//! The table belongs to one connection. Between a step that got no answer ([`Failure::Gone`]) and the next clear,
//! what needs the front-end fails at once.

use crate::table::{Entry, State, Table};
use crate::{Capabilities, DaxError, Failure, Geometry, Mapping, Overlap, Wanted, WindowRange};

/// Who carries out steps: the front-end at the other end of the back channel.
///
/// A mapping names a node, not a descriptor: the implementation opens the file itself, `O_RDONLY` unless
/// [`Mapping::writable`]. A table that were handed descriptors would have to keep one of each kind for the case that an
/// old mapping is put back.
pub trait Mapper {
    /// `SHMEM_MAP`.
    ///
    /// # Errors
    /// [`Failure`]. After [`Failure::Refused`] nothing has been added.
    fn map(&mut self, mapping: &Mapping) -> Result<(), Failure>;

    /// `SHMEM_UNMAP` of exactly what one `SHMEM_MAP` mapped.
    ///
    /// # Errors
    /// [`Failure`].
    fn unmap(&mut self, range: WindowRange) -> Result<(), Failure>;
}

/// What to ask the front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `SHMEM_MAP`.
    Map(Mapping),
    /// `SHMEM_UNMAP` of exactly this.
    Unmap(WindowRange),
}

/// An action to be carried out once; it goes back to [`Mappings::done`], whatever came of it.
#[derive(Debug)]
#[must_use = "the request goes on when the step is done"]
pub struct Step {
    action: Action,
    /// The clear after which it was planned.
    age: u64,
}

impl Step {
    /// What to ask the front-end.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Has it carried out.
    ///
    /// # Errors
    /// Those of `mapper`.
    pub fn carry_out(&self, mapper: &mut impl Mapper) -> Result<(), Failure> {
        match self.action {
            Action::Map(mapping) => mapper.map(&mapping),
            Action::Unmap(range) => mapper.unmap(range),
        }
    }
}

/// How a request goes on.
#[derive(Debug)]
#[must_use = "a request that is not followed to its end keeps all others waiting"]
pub enum Next {
    /// The front-end has to do this first.
    Send(Step),
    /// This is the answer.
    Finished(Result<(), DaxError>),
}

/// What a front-end has of the mappings when the table is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// All of them; it is to be told to take them out. At INIT (a guest that crashed says nothing before), at DESTROY,
    /// on a new back channel, and after a reset of the device by a front-end that drops nothing; then before anything
    /// else is mapped.
    StillMaps,
    /// None: it has taken them out by itself, as QEMU does when the device is reset, or it is not there any more.
    DroppedAll,
}

/// A request under way.
#[derive(Debug, Default)]
struct Work {
    unmaps: std::vec::IntoIter<WindowRange>,
    map: Option<Mapping>,
    /// What to put back if `map` is refused.
    restore: Option<Mapping>,
    in_flight: Option<Action>,
    /// A range that was to be taken out is still there, for all that is known.
    left_over: bool,
    /// The guest's mapping was refused.
    refused: bool,
}

/// The mappings of one window.
#[derive(Debug)]
pub struct Mappings {
    geometry: Geometry,
    overlap: Overlap,
    budget: usize,
    table: Table,
    work: Option<Work>,
    gone: bool,
    age: u64,
}

impl Mappings {
    /// An empty window. It takes as many mappings as the front-end does, and no more than `guest_mappings_max`.
    pub fn new(geometry: Geometry, capabilities: &Capabilities, guest_mappings_max: usize) -> Self {
        Self {
            geometry,
            overlap: capabilities.overlap,
            budget: capabilities.mappings_max.min(guest_mappings_max),
            table: Table::default(),
            work: None,
            gone: false,
            age: 0,
        }
    }

    /// The window's measures.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Ranges that are taken: mapped, or not known to be free. This is what the budget counts.
    pub fn taken(&self) -> usize {
        self.table.len()
    }

    /// Ranges of which it is not known whether the front-end has them mapped.
    pub fn doubtful(&self) -> impl Iterator<Item = WindowRange> {
        let doubtful = self.table.iter().filter(|entry| entry.state == State::Doubtful);
        doubtful.map(|entry| entry.mapping.range())
    }

    /// All that is mapped for sure, by window offset.
    pub fn iter(&self) -> impl Iterator<Item = Mapping> {
        self.table.iter().filter(|entry| entry.state == State::Live).map(|entry| entry.mapping)
    }

    /// The same of one node.
    pub fn of_node(&self, node: u64) -> impl Iterator<Item = Mapping> {
        self.table.of_node(node).filter(|entry| entry.state == State::Live).map(|entry| entry.mapping)
    }

    /// Whether the front-end has something of a node mapped, or may have.
    pub fn may_hold(&self, node: u64) -> bool {
        self.table.of_node(node).next().is_some()
    }

    /// Whether the front-end does not answer any more.
    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether this is mapped already, with these rights or more: then SETUPMAPPING needs no front-end. It takes one
    /// look into the table and allocates nothing.
    ///
    /// # Errors
    /// [`DaxError`] for numbers that no mapping can have.
    pub fn holds(&self, wanted: &Wanted) -> Result<bool, DaxError> {
        self.geometry.mapping(wanted).map(|mapping| self.serves(&mapping))
    }

    fn serves(&self, wanted: &Mapping) -> bool {
        let entry = self.table.at(wanted.range().offset());
        entry.is_some_and(|entry| entry.state == State::Live && entry.mapping.serves(wanted))
    }

    /// SETUPMAPPING.
    ///
    /// Ends in a [`DaxError`] if the numbers are wrong, a mapping sticks out of the range, the budget is spent, or the
    /// front-end does not do it.
    pub fn setup(&mut self, wanted: &Wanted) -> Next {
        match self.plan_setup(wanted) {
            Ok(Some(work)) => self.begin(work),
            Ok(None) => Next::Finished(Ok(())),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    fn plan_setup(&mut self, wanted: &Wanted) -> Result<Option<Work>, DaxError> {
        let wanted = self.geometry.mapping(wanted)?;
        if self.serves(&wanted) {
            return Ok(None);
        }
        self.is_idle()?;
        self.is_whole(wanted.range())?;
        let replaced: Vec<_> =
            self.table.overlapping(wanted.range()).map(|entry| entry.mapping.range()).collect();
        let taken = self.table.len().saturating_sub(replaced.len()).saturating_add(1);
        if taken > self.budget {
            return Err(DaxError::BudgetSpent { max: self.budget });
        }
        self.is_there()?;
        let before = self.table.at(wanted.range().offset());
        let same = |entry: &&Entry| entry.state == State::Live && entry.mapping.same_content(&wanted);
        let restore = before.filter(same).map(|entry| entry.mapping);
        self.doubt(&replaced);
        let in_place = restore.is_some() && self.overlap == Overlap::Replaced;
        let unmaps = if in_place { Vec::new() } else { replaced };
        Ok(Some(Work { unmaps: unmaps.into_iter(), map: Some(wanted), restore, ..Work::default() }))
    }

    /// REMOVEMAPPING: window offset and length of each entry.
    ///
    /// Ends in a [`DaxError`] if an entry's numbers are wrong or a mapping sticks out of it, before anything is removed,
    /// or if the front-end fails to take out one of them, after all others have been.
    pub fn remove(&mut self, entries: impl Iterator<Item = (u64, u64)>) -> Next {
        match self.plan_remove(entries) {
            Ok(unmaps) => self.take_out(unmaps),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    fn plan_remove(
        &mut self,
        entries: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Vec<WindowRange>, DaxError> {
        self.is_idle()?;
        let ranges: Result<Vec<_>, _> =
            entries.map(|(offset, len)| self.geometry.range(offset, len)).collect();
        let mut ranges = ranges?;
        ranges.iter().try_for_each(|range| self.is_whole(*range))?;
        // A guest may name a range twice, or all of the window with each entry.
        ranges.sort_unstable_by_key(WindowRange::offset);
        let mut unmaps = Vec::new();
        let mut seen = 0;
        for range in ranges {
            unmaps.extend(self.table.beginning_in(range, seen).map(|entry| entry.mapping.range()));
            seen = seen.max(range.end());
        }
        self.doubt(&unmaps);
        Ok(unmaps)
    }

    /// Takes out what is mapped, or may be, of a node. The guest is not asked, and finds nothing there when it looks: this is for a
    /// node that it has forgotten, or must not reach any longer.
    ///
    /// Ends in a [`DaxError`] if the front-end fails to take out one of them, after all others have been.
    pub fn drop_node(&mut self, node: u64) -> Next {
        if let Err(error) = self.is_idle() {
            return Next::Finished(Err(error));
        }
        let unmaps: Vec<_> = self.table.of_node(node).map(|entry| entry.mapping.range()).collect();
        self.doubt(&unmaps);
        self.take_out(unmaps)
    }

    /// Takes out everything. A request that is under way ends with [`DaxError::Cleared`] when its step is done; if that
    /// step is a map, the front-end may carry it out after the clear, so that its range stays doubtful.
    ///
    /// Ends in a [`DaxError`] if the front-end fails to take out one of them, after all others have been.
    pub fn clear(&mut self, front_end: FrontEnd) -> Next {
        self.age = self.age.wrapping_add(1);
        self.gone = false;
        let late = match self.work.take().and_then(|work| work.in_flight) {
            Some(Action::Map(mapping)) => Some(mapping),
            Some(Action::Unmap(_)) | None => None,
        };
        if front_end == FrontEnd::DroppedAll {
            self.table.clear();
        }
        if let Some(mapping) = late {
            self.table.insert_doubtful(mapping);
        }
        match front_end {
            FrontEnd::DroppedAll => Next::Finished(Ok(())),
            FrontEnd::StillMaps => {
                let unmaps: Vec<_> = self.table.iter().map(|entry| entry.mapping.range()).collect();
                self.doubt(&unmaps);
                self.take_out(unmaps)
            }
        }
    }

    /// Takes a step back, with what came of it.
    #[expect(clippy::needless_pass_by_value, reason = "a step is done once")]
    pub fn done(&mut self, step: Step, result: Result<(), Failure>) -> Next {
        if step.age != self.age {
            return Next::Finished(Err(DaxError::Cleared));
        }
        let Some(work) = &mut self.work else { return Next::Finished(Err(DaxError::Cleared)) };
        work.in_flight = None;
        match (step.action, result) {
            (Action::Unmap(range), Ok(())) => self.table.remove(range),
            (Action::Unmap(_), Err(Failure::Refused)) => work.left_over = true,
            (Action::Map(mapping), Ok(())) => {
                self.table.insert(mapping);
                // It is the guest's mapping, or the one that was put back instead.
                let result = if work.refused { Err(DaxError::Refused) } else { Ok(()) };
                return self.finish(result);
            }
            (Action::Map(mapping), Err(Failure::Refused)) => {
                work.refused = true;
                work.map = work.restore.take();
                if work.map.is_none() && self.table.overlapping(mapping.range()).next().is_some() {
                    // It was to replace something of which it is not known now whether it is there.
                    work.unmaps = vec![mapping.range()].into_iter();
                }
            }
            (action, Err(Failure::Gone)) => {
                if let Action::Map(mapping) = action {
                    self.table.insert_doubtful(mapping);
                }
                self.gone = true;
                return self.finish(Err(DaxError::Gone));
            }
        }
        self.advance()
    }

    /// Follows a request to its end.
    ///
    /// # Errors
    /// The request's.
    pub fn run(&mut self, mut next: Next, mapper: &mut impl Mapper) -> Result<(), DaxError> {
        loop {
            match next {
                Next::Finished(result) => return result,
                Next::Send(step) => {
                    let result = step.carry_out(mapper);
                    next = self.done(step, result);
                }
            }
        }
    }

    fn take_out(&mut self, unmaps: Vec<WindowRange>) -> Next {
        if unmaps.is_empty() {
            return Next::Finished(Ok(()));
        }
        match self.is_there() {
            Ok(()) => self.begin(Work { unmaps: unmaps.into_iter(), ..Work::default() }),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    fn begin(&mut self, work: Work) -> Next {
        self.work = Some(work);
        self.advance()
    }

    fn advance(&mut self) -> Next {
        let Some(work) = &mut self.work else { return Next::Finished(Err(DaxError::Cleared)) };
        if let Some(range) = work.unmaps.next() {
            return self.send(Action::Unmap(range));
        }
        let failed = work.left_over || work.refused;
        match work.map.take() {
            Some(mapping) if self.is_free_for(mapping.range()) => self.send(Action::Map(mapping)),
            Some(_) => self.finish(Err(DaxError::Refused)),
            None => self.finish(if failed { Err(DaxError::Refused) } else { Ok(()) }),
        }
    }

    fn send(&mut self, action: Action) -> Next {
        if let Some(work) = &mut self.work {
            work.in_flight = Some(action);
        }
        Next::Send(Step { action, age: self.age })
    }

    fn finish(&mut self, result: Result<(), DaxError>) -> Next {
        self.work = None;
        Next::Finished(result)
    }

    /// Whether a mapping of this range, if the front-end accepts it, is all that is there then.
    fn is_free_for(&self, range: WindowRange) -> bool {
        let mut taken = self.table.overlapping(range);
        match (taken.next(), taken.next()) {
            (None, _) => true,
            (Some(only), None) => only.mapping.range() == range && self.overlap != Overlap::Unknown,
            (Some(_), Some(_)) => false,
        }
    }

    fn is_whole(&self, range: WindowRange) -> Result<(), DaxError> {
        let sticking_out = self.table.sticking_out(range).map(|entry| entry.mapping.range());
        sticking_out
            .map_or(Ok(()), |taken| Err(DaxError::Partial { offset: taken.offset(), len: taken.len() }))
    }

    fn doubt(&mut self, ranges: &[WindowRange]) {
        for range in ranges {
            self.table.doubt(*range);
        }
    }

    const fn is_idle(&self) -> Result<(), DaxError> {
        if self.work.is_some() { Err(DaxError::Busy) } else { Ok(()) }
    }

    const fn is_there(&self) -> Result<(), DaxError> {
        if self.gone { Err(DaxError::Gone) } else { Ok(()) }
    }
}
