//! Plays a guest's requests to a table and a model front-end, and checks these invariants after
//! each command, with or without failures:
//!
//! 1. The front-end has every live mapping of the table, page by page, and nothing where the table
//!    has no entry. In a doubtful range, the front-end may have anything that rules 2 and 3 permit.
//! 2. A page is writable only if the guest has requested a writable mapping of that part of the
//!    file at that place.
//! 3. Neither table nor front-end has more mappings than the budget. Doubtful ranges count.
//! 4. After success, a mapping that was set up exists, and a mapping that was removed, dropped or
//!    cleared does not.
//! 5. A request that ends in EINVAL or ENOSPC sends no message to the front-end, and neither does a
//!    SETUPMAPPING of a mapping that exists, which succeeds. After the front-end has stopped
//!    replying, no request sends a message until the next clear.
//! 6. A request that a reset interrupts ends when its step is completed. After a successful clear,
//!    at most the range of that step is taken.
//! 7. The result and all pages are those of a plain array ([`super::expected`]), and no range is
//!    doubtful. This applies if no fault was injected, no reset interrupted the request, no range
//!    was doubtful before, and the front-end replies. The array also predicts mappings that the
//!    front-end cannot make.

use super::expected::ExpectedWindow;
use super::front_end::{Fault, ModelFrontEnd, Page, index};
use crate::error::{EINVAL, ENOSPC};
use crate::{Capabilities, DaxError, FrontEnd, Geometry, Mapping, Mappings, Next, Wanted, WindowRange};
use std::collections::BTreeSet;
use std::fmt;

/// An event of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// SETUPMAPPING.
    Setup(Wanted),
    /// REMOVEMAPPING: window offset and length of each entry, in bytes.
    Remove(Vec<(u64, u64)>),
    /// The daemon removes the mappings of a node.
    DropNode(u64),
    /// INIT or DESTROY.
    Clear,
    /// A reset of the device.
    Reset,
    /// The file of a node changes its length.
    Resize {
        /// Node of the file.
        node: u64,
        /// New length in bytes.
        len: u64,
    },
}

/// A reset of the device in the middle of another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Number of steps of the event before the reset.
    pub steps: usize,
    /// Whether the front-end executes the step in progress after the reset, not before it.
    pub late: bool,
}

/// An event, the faults of its steps, and the reset that interrupts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The event.
    pub event: Event,
    /// Faults of the event's steps, in order.
    pub faults: Vec<Option<Fault>>,
    /// The reset that interrupts the event, if any.
    pub interruption: Option<Interruption>,
}

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table, a front-end, and the expected state.
#[derive(Debug)]
pub struct Trial {
    mappings: Mappings,
    front_end: ModelFrontEnd,
    expected: ExpectedWindow,
    budget: usize,
    /// Page of the window, node and file offset of each page that was requested writable.
    asked_writable: BTreeSet<(usize, u64, u64)>,
}

impl Trial {
    /// Returns a trial with an empty window.
    pub fn new(geometry: Geometry, capabilities: Capabilities, guest_mappings_max: usize) -> Self {
        Self {
            mappings: Mappings::new(geometry, &capabilities, guest_mappings_max),
            front_end: ModelFrontEnd::new(&geometry, capabilities),
            expected: ExpectedWindow::new(geometry.window_len()),
            budget: capabilities.mappings_max.min(guest_mappings_max),
            asked_writable: BTreeSet::new(),
        }
    }

    /// Returns the table.
    pub const fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// Returns the front-end.
    pub const fn front_end(&self) -> &ModelFrontEnd {
        &self.front_end
    }

    /// Plays one command and returns the result of its request.
    ///
    /// # Errors
    /// [`Violation`] names the invariant that does not hold, and where.
    pub fn play(&mut self, command: &Command) -> Result<Result<(), DaxError>, Violation> {
        let predictable = command.faults.iter().all(Option::is_none)
            && command.interruption.is_none()
            && self.mappings.doubtful().next().is_none()
            && !self.mappings.is_gone();
        let was_gone = self.mappings.is_gone();
        let steps_before = self.front_end.steps;
        self.front_end.faults = command.faults.iter().copied().collect();
        if let Event::Setup(wanted) = &command.event
            && let Ok(mapping) = self.mappings.geometry().mapping(wanted)
            && mapping.writable()
        {
            let first = index(mapping.range().offset());
            let pages = (first..).zip(Page::all_of(&mapping));
            self.asked_writable.extend(pages.map(|(at, page)| (at, page.node, page.file_offset)));
        }
        let exists_already =
            matches!(&command.event, Event::Setup(wanted) if self.mappings.holds(wanted) == Ok(true));
        let result = self.run_event(&command.event, command.interruption)?;
        self.front_end.faults.clear();
        let sent = self.front_end.steps != steps_before;
        let clears = matches!(command.event, Event::Clear | Event::Reset);
        ensure(!(sent && was_gone && !clears), || {
            "a step was sent to a front-end that has stopped replying".to_owned()
        })?;
        ensure(!exists_already || (result.is_ok() && !sent), || {
            "a request for an existing mapping has failed or sent a step".to_owned()
        })?;
        if let Err(error) = result {
            let sends_nothing = matches!(error.errno(), EINVAL | ENOSPC);
            ensure(!(sends_nothing && sent), || {
                format!("a step was sent, but the request ended with: {error}")
            })?;
        } else {
            self.check_success(&command.event)?;
        }
        self.check_table()?;
        if predictable {
            self.check_expected(&command.event, result)?;
        } else {
            self.expected.adopt(&self.mappings);
        }
        Ok(result)
    }

    /// Runs the request of an event to its end, or to its interruption.
    fn run_event(
        &mut self,
        event: &Event,
        interruption: Option<Interruption>,
    ) -> Result<Result<(), DaxError>, Violation> {
        let mut next = match event {
            Event::Setup(wanted) => self.mappings.setup(wanted),
            Event::Remove(entries) => self.mappings.remove(entries.iter().copied()),
            Event::DropNode(node) => self.mappings.drop_node(*node),
            Event::Clear => self.mappings.clear(FrontEnd::StillMaps),
            Event::Reset => {
                self.front_end.reset();
                self.begin_reset()
            }
            Event::Resize { node, len } => {
                self.front_end.set_file_len(*node, *len);
                Next::Finished(Ok(()))
            }
        };
        let mut steps = 0;
        loop {
            let step = match next {
                Next::Finished(result) => return Ok(result),
                Next::Send(step) => step,
            };
            let interrupted = interruption.filter(|interruption| interruption.steps == steps);
            if interrupted.is_some_and(|interruption| interruption.late) {
                self.front_end.reset();
            }
            let result = step.execute(&mut self.front_end);
            if let Some(interruption) = interrupted {
                self.interrupt(interruption)?;
                let continued = self.mappings.complete(step, result);
                let cleared = matches!(continued, Next::Finished(Err(DaxError::Cleared)));
                ensure(cleared, || format!("a request continued after a reset: {continued:?}"))?;
                return Ok(Err(DaxError::Cleared));
            }
            next = self.mappings.complete(step, result);
            steps = steps.saturating_add(1);
        }
    }

    /// Resets the device while a step is in flight.
    fn interrupt(&mut self, interruption: Interruption) -> Result<(), Violation> {
        if !interruption.late {
            self.front_end.reset();
        }
        let next = self.begin_reset();
        let cleared = self.mappings.run(next, &mut self.front_end).is_ok();
        // A map that was in progress may still be executed.
        let taken = self.mappings.taken();
        ensure(!cleared || taken <= 1, || format!("{taken} ranges are left after a clear"))
    }

    /// Starts the clear of the table that follows a reset of the device.
    fn begin_reset(&mut self) -> Next {
        let dropped = self.front_end.capabilities().drops_on_reset;
        self.mappings.clear(if dropped { FrontEnd::DroppedAll } else { FrontEnd::StillMaps })
    }

    /// Checks invariant 4.
    fn check_success(&self, event: &Event) -> Result<(), Violation> {
        let pages = self.front_end.pages();
        match event {
            Event::Setup(wanted) => {
                let mapping = self.mapping(wanted)?;
                let actual = pages.iter().skip(index(mapping.range().offset()));
                let serves = |(wanted, actual): (Page, &Option<Page>)| {
                    actual.is_some_and(|page| page == Page { writable: page.writable, ..wanted })
                        && actual.is_some_and(|page| page.writable || !wanted.writable)
                };
                let exists = Page::all_of(&mapping).zip(actual).all(serves);
                ensure(exists, || format!("a mapping was set up, but does not exist: {wanted:?}"))
            }
            Event::Remove(entries) => {
                for range in self.ranges(entries)? {
                    let mut in_range = pages.iter().skip(index(range.offset())).take(index(range.len()));
                    let empty = in_range.all(Option::is_none);
                    ensure(empty, || format!("a range was removed, but is mapped: {range:?}"))?;
                }
                Ok(())
            }
            Event::DropNode(node) => {
                let is_mapped = pages.iter().flatten().any(|page| page.node == *node);
                ensure(!is_mapped, || format!("node {node} was dropped, but is mapped"))?;
                ensure(self.mappings.of_node(*node).next().is_none(), || {
                    format!("node {node} was dropped, but is in the table")
                })
            }
            Event::Clear | Event::Reset => {
                let empty = pages.iter().all(Option::is_none) && self.mappings.taken() == 0;
                ensure(empty, || "the window was cleared, but is not empty".to_owned())
            }
            Event::Resize { .. } => Ok(()),
        }
    }

    /// Checks invariants 1 to 3, and the index by node.
    fn check_table(&self) -> Result<(), Violation> {
        let mut free = vec![true; self.front_end.pages().len()];
        for range in self.mappings.doubtful() {
            mark(&mut free, range);
        }
        for mapping in self.mappings.iter() {
            mark(&mut free, mapping.range());
            let actual = self.front_end.pages().iter().skip(index(mapping.range().offset()));
            let equal = Page::all_of(&mapping).map(Some).zip(actual).all(|(page, actual)| page == *actual);
            ensure(equal, || format!("the front-end differs from the table: {mapping:?}"))?;
            let listed = self.mappings.of_node(mapping.node()).any(|other| other == mapping);
            ensure(listed, || format!("the node index lacks {mapping:?}"))?;
        }
        let asked = |at: usize, page: &Page| self.asked_writable.contains(&(at, page.node, page.file_offset));
        for (at, (page, free)) in self.front_end.pages().iter().zip(free).enumerate() {
            let Some(page) = page else { continue };
            ensure(!free, || format!("page {at} is free in the table, but mapped: {page:?}"))?;
            ensure(!page.writable || asked(at, page), || {
                format!("page {at} is writable without a request: {page:?}")
            })?;
        }
        let counts = (self.mappings.taken(), self.front_end.mapped());
        ensure(counts.0 <= self.budget && counts.1 <= self.budget, || {
            format!("table and front-end have {counts:?} mappings, more than {}", self.budget)
        })
    }

    /// Checks invariant 7.
    fn check_expected(&mut self, event: &Event, result: Result<(), DaxError>) -> Result<(), Violation> {
        let expected = match event {
            Event::Setup(wanted) => self.mappings.geometry().mapping(wanted).and_then(|mapping| {
                self.expected.setup(&mapping, self.budget, |mapping| self.front_end.accepts(mapping))
            }),
            Event::Remove(entries) => {
                let ranges =
                    entries.iter().map(|(offset, len)| self.mappings.geometry().range(*offset, *len));
                ranges.collect::<Result<Vec<_>, _>>().and_then(|ranges| self.expected.remove(&ranges))
            }
            Event::DropNode(node) => {
                self.expected.drop_node(*node);
                Ok(())
            }
            Event::Clear | Event::Reset => {
                self.expected.clear();
                Ok(())
            }
            Event::Resize { .. } => Ok(()),
        };
        let (actual, expected) = (result.map_err(DaxError::errno), expected.map_err(DaxError::errno));
        ensure(actual == expected, || format!("the result is {actual:?}, not {expected:?}"))?;
        ensure(self.mappings.doubtful().next().is_none(), || {
            "a range is doubtful without a failure".to_owned()
        })?;
        let same = self.expected.pages().eq(self.front_end.pages().iter().copied());
        ensure(same, || "the pages of the front-end differ from the plain array".to_owned())
    }

    /// Checks the numbers of a SETUPMAPPING that has succeeded.
    fn mapping(&self, wanted: &Wanted) -> Result<Mapping, Violation> {
        self.mappings.geometry().mapping(wanted).map_err(|error| Violation(error.to_string()))
    }

    /// Checks the numbers of a REMOVEMAPPING that has succeeded.
    fn ranges(&self, entries: &[(u64, u64)]) -> Result<Vec<WindowRange>, Violation> {
        let range = |(offset, len): &(u64, u64)| self.mappings.geometry().range(*offset, *len);
        let ranges: Result<Vec<_>, _> = entries.iter().map(range).collect();
        ranges.map_err(|error| Violation(error.to_string()))
    }
}

/// Marks the pages of a range as not free.
fn mark(free: &mut [bool], range: WindowRange) {
    let pages = free.iter_mut().skip(index(range.offset())).take(index(range.len()));
    pages.for_each(|page| *page = false);
}

/// Returns a violation with this message unless the condition holds.
fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(message())) }
}
