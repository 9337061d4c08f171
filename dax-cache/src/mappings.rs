//! The mappings of a window, changed by a guest's requests one step at a time.
//!
//! A request returns [`Next`]: its result, or a [`Step`] for the front-end. The caller executes the
//! step and passes it with its result to [`Mappings::complete`], which returns how to continue.
//!
//! So the caller holds no borrow and no lock while the front-end works. The front-end may take
//! forever, because it can be waiting for this daemon: for the reply to GET_VRING_BASE, or for the
//! reply to the ADD_MEM_REG that QEMU sends before its own reply. The reset of the device then
//! clears the table, and the result of the step, which comes after that, changes nothing. If the
//! table called a [`Mapper`] itself, the table would be locked for all that time. A caller without
//! other threads, such as a test, uses [`Mappings::run`].
//!
//! Only one request is in progress at a time. The front-end replies to one message after another
//! anyway, and a plan for a second request would start from an uncertain state. Only
//! [`Mappings::clear`] may interrupt a request; it ends the request.
//!
//! The table belongs to one connection. After a step without a reply ([`Failure::Gone`]), requests
//! that need the front-end fail at once until the next clear.

use crate::table::{Entry, State, Table};
use crate::{Capabilities, DaxError, Failure, Geometry, Mapping, Overlap, Wanted, WindowRange};

/// Executes steps: the front-end at the other end of the back channel.
///
/// A mapping names a node, not a descriptor. The implementation opens the file itself, `O_RDONLY`
/// unless [`Mapping::writable`]. A table of descriptors would have to keep a read-only and a
/// writable one for each mapping. The reason is a read-only mapping that the guest asks to make
/// writable. The front-end may remove the read-only mapping and then refuse the writable one. Then
/// the table asks for the read-only mapping again.
pub trait Mapper {
    /// Sends `SHMEM_MAP`.
    ///
    /// # Errors
    /// [`Failure`]. After [`Failure::Refused`] no mapping was added.
    fn map(&mut self, mapping: &Mapping) -> Result<(), Failure>;

    /// Sends `SHMEM_UNMAP` for exactly the range of one `SHMEM_MAP`.
    ///
    /// # Errors
    /// [`Failure`].
    fn unmap(&mut self, range: WindowRange) -> Result<(), Failure>;
}

/// A message to the front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `SHMEM_MAP` of this mapping.
    Map(Mapping),
    /// `SHMEM_UNMAP` of exactly this range.
    Unmap(WindowRange),
}

/// An action to execute once. The caller passes the step to [`Mappings::complete`] with the result,
/// success or failure.
#[derive(Debug)]
#[must_use = "the request continues only when the step is completed"]
pub struct Step {
    action: Action,
    /// The table's epoch at the time of planning. Each clear starts a new epoch.
    epoch: u64,
}

impl Step {
    /// Returns the message to the front-end.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Executes the step with `mapper`.
    ///
    /// # Errors
    /// The [`Failure`] of `mapper`.
    pub fn execute(&self, mapper: &mut impl Mapper) -> Result<(), Failure> {
        match self.action {
            Action::Map(mapping) => mapper.map(&mapping),
            Action::Unmap(range) => mapper.unmap(range),
        }
    }
}

/// How a request continues.
#[derive(Debug)]
#[must_use = "an unfinished request blocks all later requests"]
pub enum Next {
    /// The front-end must execute this step.
    Send(Step),
    /// The request has ended with this result.
    Finished(Result<(), DaxError>),
}

/// Which mappings the front-end has when the table is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// The front-end still has all mappings. It must remove them before a new mapping is made.
    ///
    /// This is the case at INIT (a guest that has crashed sent no DESTROY before), at DESTROY, on
    /// a new back channel, and after a reset of the device if the front-end drops nothing then.
    StillMaps,
    /// The front-end has no mapping: it has removed all of them itself, as QEMU does when the
    /// device is reset, or it no longer exists.
    DroppedAll,
}

/// The remaining plan of the request in progress.
#[derive(Debug, Default)]
struct Plan {
    /// Ranges to unmap first.
    unmaps: std::vec::IntoIter<WindowRange>,
    /// The mapping to make after that.
    map: Option<Mapping>,
    /// The read-only mapping of the same range and content, to make again if the front-end refuses
    /// the writable `map`.
    restore: Option<Mapping>,
    /// The step that is not completed yet.
    in_flight: Option<Action>,
    /// Whether the front-end has refused to unmap a range.
    unmap_refused: bool,
    /// Whether the front-end has refused the guest's mapping.
    map_refused: bool,
}

/// The mappings of one window.
#[derive(Debug)]
pub struct Mappings {
    geometry: Geometry,
    overlap: Overlap,
    /// Maximum number of entries of the table.
    budget: usize,
    table: Table,
    /// The request in progress.
    plan: Option<Plan>,
    /// Whether the front-end has stopped replying.
    gone: bool,
    /// Number of clears so far.
    epoch: u64,
}

impl Mappings {
    /// Returns the table of an empty window.
    ///
    /// Its budget is the limit of the front-end or `guest_mappings_max`, whichever is smaller.
    pub fn new(geometry: Geometry, capabilities: &Capabilities, guest_mappings_max: usize) -> Self {
        Self {
            geometry,
            overlap: capabilities.overlap,
            budget: capabilities.mappings_max.min(guest_mappings_max),
            table: Table::default(),
            plan: None,
            gone: false,
            epoch: 0,
        }
    }

    /// Returns the length and alignment of the window.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the number of taken ranges: mapped, or not known to be free.
    ///
    /// The budget limits this number.
    pub fn taken(&self) -> usize {
        self.table.len()
    }

    /// Returns the ranges that the front-end may or may not have mapped.
    pub fn doubtful(&self) -> impl Iterator<Item = WindowRange> {
        let doubtful = self.table.iter().filter(|entry| entry.state == State::Doubtful);
        doubtful.map(|entry| entry.mapping.range())
    }

    /// Returns all mappings that are known to exist, ordered by window offset.
    pub fn iter(&self) -> impl Iterator<Item = Mapping> {
        self.table.iter().filter(|entry| entry.state == State::Live).map(|entry| entry.mapping)
    }

    /// Returns the mappings of one node that are known to exist.
    pub fn of_node(&self, node: u64) -> impl Iterator<Item = Mapping> {
        self.table.of_node(node).filter(|entry| entry.state == State::Live).map(|entry| entry.mapping)
    }

    /// Returns whether the front-end has, or may have, a mapping of the node.
    pub fn may_hold(&self, node: u64) -> bool {
        self.table.of_node(node).next().is_some()
    }

    /// Returns whether the front-end has stopped replying.
    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Returns whether this mapping exists already, with at least these rights.
    ///
    /// If so, SETUPMAPPING needs no message to the front-end. The call looks up one entry and
    /// allocates nothing.
    ///
    /// # Errors
    /// [`DaxError`] if the numbers are not valid for a mapping.
    pub fn holds(&self, wanted: &Wanted) -> Result<bool, DaxError> {
        self.geometry.mapping(wanted).map(|mapping| self.has(&mapping))
    }

    /// Returns whether a live mapping satisfies a request for `wanted`.
    fn has(&self, wanted: &Mapping) -> bool {
        let entry = self.table.at(wanted.range().offset());
        entry.is_some_and(|entry| entry.state == State::Live && entry.mapping.satisfies(wanted))
    }

    /// Starts a SETUPMAPPING.
    ///
    /// The request ends in a [`DaxError`] if the numbers are not valid, another request is in
    /// progress, a mapping is partly outside the range, the budget is spent, or the front-end
    /// fails.
    pub fn setup(&mut self, wanted: &Wanted) -> Next {
        match self.plan_setup(wanted) {
            Ok(Some(plan)) => self.begin(plan),
            Ok(None) => Next::Finished(Ok(())),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    /// Checks a SETUPMAPPING and plans its steps. Returns `None` if the mapping exists already.
    fn plan_setup(&mut self, wanted: &Wanted) -> Result<Option<Plan>, DaxError> {
        let wanted = self.geometry.mapping(wanted)?;
        if self.has(&wanted) {
            return Ok(None);
        }
        self.check_idle()?;
        self.check_no_partial(wanted.range())?;
        let replaced: Vec<_> =
            self.table.overlapping(wanted.range()).map(|entry| entry.mapping.range()).collect();
        let taken = self.table.len().saturating_sub(replaced.len()).saturating_add(1);
        if taken > self.budget {
            return Err(DaxError::BudgetSpent { max: self.budget });
        }
        self.check_replying()?;
        let before = self.table.at(wanted.range().offset());
        let same = |entry: &&Entry| entry.state == State::Live && entry.mapping.same_content(&wanted);
        let restore = before.filter(same).map(|entry| entry.mapping);
        self.mark_doubtful(&replaced);
        let in_place = restore.is_some() && self.overlap == Overlap::Replaced;
        let unmaps = if in_place { Vec::new() } else { replaced };
        Ok(Some(Plan { unmaps: unmaps.into_iter(), map: Some(wanted), restore, ..Plan::default() }))
    }

    /// Starts a REMOVEMAPPING with the window offset and length of each entry.
    ///
    /// The request ends in a [`DaxError`], and nothing is removed, if the numbers of an entry are
    /// not valid, another request is in progress, or a mapping is partly outside an entry. If the
    /// front-end refuses to remove a mapping, the request removes all others and then ends in a
    /// [`DaxError`]. If the front-end does not reply, the request ends at once.
    pub fn remove(&mut self, entries: impl Iterator<Item = (u64, u64)>) -> Next {
        match self.plan_remove(entries) {
            Ok(unmaps) => self.unmap_all(unmaps),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    /// Checks a REMOVEMAPPING. Returns the ranges to unmap, each once.
    fn plan_remove(
        &mut self,
        entries: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Vec<WindowRange>, DaxError> {
        self.check_idle()?;
        let ranges: Result<Vec<_>, _> =
            entries.map(|(offset, len)| self.geometry.range(offset, len)).collect();
        let mut ranges = ranges?;
        ranges.iter().try_for_each(|range| self.check_no_partial(*range))?;
        // A guest may name a range twice, or the whole window in each entry. Each mapping counts
        // once.
        ranges.sort_unstable_by_key(WindowRange::offset);
        let mut unmaps = Vec::new();
        let mut seen = 0;
        for range in ranges {
            unmaps.extend(self.table.starting_in(range, seen).map(|entry| entry.mapping.range()));
            seen = seen.max(range.end());
        }
        self.mark_doubtful(&unmaps);
        Ok(unmaps)
    }

    /// Starts the removal of all mappings that are, or may be, of a node.
    ///
    /// The guest has not requested this, and finds no mapping in the ranges afterwards. The call is
    /// for a node that the guest has forgotten or must no longer reach. The removal ends in a
    /// [`DaxError`] in the same cases as [`Mappings::remove`].
    pub fn drop_node(&mut self, node: u64) -> Next {
        if let Err(error) = self.check_idle() {
            return Next::Finished(Err(error));
        }
        let unmaps: Vec<_> = self.table.of_node(node).map(|entry| entry.mapping.range()).collect();
        self.mark_doubtful(&unmaps);
        self.unmap_all(unmaps)
    }

    /// Starts the removal of all mappings.
    ///
    /// A request in progress ends with [`DaxError::Cleared`] when its step is completed. If that
    /// step is a map, the front-end may execute it after the clear, so its range stays doubtful.
    /// The clear ends in a [`DaxError`] as [`Mappings::remove`] does.
    pub fn clear(&mut self, front_end: FrontEnd) -> Next {
        self.epoch = self.epoch.wrapping_add(1);
        self.gone = false;
        let map_in_flight = match self.plan.take().and_then(|plan| plan.in_flight) {
            Some(Action::Map(mapping)) => Some(mapping),
            Some(Action::Unmap(_)) | None => None,
        };
        if front_end == FrontEnd::DroppedAll {
            self.table.clear();
        }
        if let Some(mapping) = map_in_flight {
            self.table.insert_doubtful(mapping);
        }
        match front_end {
            FrontEnd::DroppedAll => Next::Finished(Ok(())),
            FrontEnd::StillMaps => {
                let unmaps: Vec<_> = self.table.iter().map(|entry| entry.mapping.range()).collect();
                self.mark_doubtful(&unmaps);
                self.unmap_all(unmaps)
            }
        }
    }

    /// Takes the result of a step, and returns how the request continues.
    #[expect(clippy::needless_pass_by_value, reason = "a step is completed only once")]
    pub fn complete(&mut self, step: Step, result: Result<(), Failure>) -> Next {
        if step.epoch != self.epoch {
            return Next::Finished(Err(DaxError::Cleared));
        }
        let Some(plan) = &mut self.plan else { return Next::Finished(Err(DaxError::Cleared)) };
        plan.in_flight = None;
        match (step.action, result) {
            (Action::Unmap(range), Ok(())) => self.table.remove(range),
            (Action::Unmap(_), Err(Failure::Refused)) => plan.unmap_refused = true,
            (Action::Map(mapping), Ok(())) => {
                self.table.insert(mapping);
                // The front-end has made the guest's mapping. Or it refused that one, and has now
                // made the old mapping again.
                let result = if plan.map_refused { Err(DaxError::Refused) } else { Ok(()) };
                return self.finish(result);
            }
            (Action::Map(mapping), Err(Failure::Refused)) => {
                plan.map_refused = true;
                plan.map = plan.restore.take();
                if plan.map.is_none() && self.table.overlapping(mapping.range()).next().is_some() {
                    // The refused map was meant to replace another mapping, which may still exist.
                    plan.unmaps = vec![mapping.range()].into_iter();
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

    /// Runs a request to its end.
    ///
    /// # Errors
    /// The error of the request.
    pub fn run(&mut self, mut next: Next, mapper: &mut impl Mapper) -> Result<(), DaxError> {
        loop {
            match next {
                Next::Finished(result) => return result,
                Next::Send(step) => {
                    let result = step.execute(mapper);
                    next = self.complete(step, result);
                }
            }
        }
    }

    /// Starts a request that unmaps these ranges.
    fn unmap_all(&mut self, unmaps: Vec<WindowRange>) -> Next {
        if unmaps.is_empty() {
            return Next::Finished(Ok(()));
        }
        match self.check_replying() {
            Ok(()) => self.begin(Plan { unmaps: unmaps.into_iter(), ..Plan::default() }),
            Err(error) => Next::Finished(Err(error)),
        }
    }

    /// Starts a request with this plan.
    fn begin(&mut self, plan: Plan) -> Next {
        self.plan = Some(plan);
        self.advance()
    }

    /// Returns the next step of the plan, or ends the request.
    fn advance(&mut self) -> Next {
        let Some(plan) = &mut self.plan else { return Next::Finished(Err(DaxError::Cleared)) };
        if let Some(range) = plan.unmaps.next() {
            return self.send(Action::Unmap(range));
        }
        let failed = plan.unmap_refused || plan.map_refused;
        match plan.map.take() {
            Some(mapping) if self.would_be_only_mapping(mapping.range()) => self.send(Action::Map(mapping)),
            Some(_) => self.finish(Err(DaxError::Refused)),
            None => self.finish(if failed { Err(DaxError::Refused) } else { Ok(()) }),
        }
    }

    /// Returns a step, and records that it is in flight.
    fn send(&mut self, action: Action) -> Next {
        if let Some(plan) = &mut self.plan {
            plan.in_flight = Some(action);
        }
        Next::Send(Step { action, epoch: self.epoch })
    }

    /// Ends the request.
    fn finish(&mut self, result: Result<(), DaxError>) -> Next {
        self.plan = None;
        Next::Finished(result)
    }

    /// Returns whether a new mapping of this range would be the only one in it, once the front-end
    /// has accepted the new mapping.
    ///
    /// This is certain if the table has no entry in the range. It is also certain if the table has
    /// one entry, of exactly this range, and the front-end is known to refuse or replace existing
    /// mappings ([`Overlap`]).
    fn would_be_only_mapping(&self, range: WindowRange) -> bool {
        let mut taken = self.table.overlapping(range);
        match (taken.next(), taken.next()) {
            (None, _) => true,
            (Some(only), None) => only.mapping.range() == range && self.overlap != Overlap::Unknown,
            (Some(_), Some(_)) => false,
        }
    }

    /// Checks that no mapping is partly outside the range.
    fn check_no_partial(&self, range: WindowRange) -> Result<(), DaxError> {
        let partial = self.table.partly_outside(range).map(|entry| entry.mapping.range());
        partial.map_or(Ok(()), |taken| Err(DaxError::Partial { offset: taken.offset(), len: taken.len() }))
    }

    /// Sets the state of the entries with these ranges to doubtful.
    fn mark_doubtful(&mut self, ranges: &[WindowRange]) {
        for range in ranges {
            self.table.mark_doubtful(*range);
        }
    }

    /// Checks that no request is in progress.
    const fn check_idle(&self) -> Result<(), DaxError> {
        if self.plan.is_some() { Err(DaxError::Busy) } else { Ok(()) }
    }

    /// Checks that the front-end still replies.
    const fn check_replying(&self) -> Result<(), DaxError> {
        if self.gone { Err(DaxError::Gone) } else { Ok(()) }
    }
}
