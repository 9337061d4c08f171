//! A guest's traffic played to a table and a model front-end. After each command, and whatever went wrong:
//!
//! 1. what the table says is mapped, the front-end has, page by page; what it says is free, the front-end has not;
//! 2. nothing is writable that was not asked for writable, at that place, of that file;
//! 3. neither table nor front-end has more mappings than the budget;
//! 4. success means that it is so: what was set up is there, what was removed, dropped or cleared is not;
//! 5. EINVAL and ENOSPC mean that the front-end was not bothered, nor is it after it has ceased to answer;
//! 6. where nothing went wrong that the front-end does not always refuse, the answer and every page are those of a plain
//!    array ([`super::plain`]).

use super::front_end::{Fault, ModelFrontEnd, Page, index};
use super::plain::Plain;
use crate::{Capabilities, DaxError, FrontEnd, Geometry, Mapping, Mappings, Next, Wanted, WindowRange};
use std::collections::BTreeSet;
use std::fmt;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// SETUPMAPPING.
    Setup(Wanted),
    /// REMOVEMAPPING: window offset and length of each entry, in bytes.
    Remove(Vec<(u64, u64)>),
    /// The daemon takes a node's mappings out.
    DropNode(u64),
    /// INIT or DESTROY.
    Clear,
    /// A reset of the device.
    Reset,
    /// A node's file has another length, in bytes.
    Resize {
        /// The node.
        node: u64,
        /// Bytes.
        len: u64,
    },
}

/// A reset in the middle of another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// After so many steps of it.
    pub steps: usize,
    /// The front-end carries the step that is under way out after it has been reset, not before.
    pub late: bool,
}

/// An event, and what goes wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What happens.
    pub event: Event,
    /// What goes wrong with its steps.
    pub faults: Vec<Option<Fault>>,
    /// Whether it is interrupted.
    pub interruption: Option<Interruption>,
}

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Disagreement(String);

impl fmt::Debug for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table, a front-end, and what should be so.
#[derive(Debug)]
pub struct Trial {
    mappings: Mappings,
    front_end: ModelFrontEnd,
    plain: Plain,
    budget: usize,
    /// Page of the window, node and file offset that were asked for writable.
    asked_writable: BTreeSet<(usize, u64, u64)>,
}

impl Trial {
    /// An empty window.
    pub fn new(geometry: Geometry, capabilities: Capabilities, guest_mappings_max: usize) -> Self {
        Self {
            mappings: Mappings::new(geometry, &capabilities, guest_mappings_max),
            front_end: ModelFrontEnd::new(&geometry, capabilities),
            plain: Plain::new(geometry.window_len()),
            budget: capabilities.mappings_max.min(guest_mappings_max),
            asked_writable: BTreeSet::new(),
        }
    }

    /// The table.
    pub const fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// The front-end.
    pub const fn front_end(&self) -> &ModelFrontEnd {
        &self.front_end
    }

    /// Plays one command.
    ///
    /// # Errors
    /// [`Disagreement`] says which invariant does not hold, and where.
    pub fn play(&mut self, command: &Command) -> Result<Result<(), DaxError>, Disagreement> {
        let plain = command.faults.iter().all(Option::is_none)
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
        let held = matches!(&command.event, Event::Setup(wanted) if self.mappings.holds(wanted) == Ok(true));
        let result = self.carry_out(&command.event, command.interruption)?;
        self.front_end.faults.clear();
        let sent = self.front_end.steps != steps_before;
        let told = matches!(command.event, Event::Clear | Event::Reset);
        ensure(!(sent && was_gone && !told), || "a step was sent to a front-end that is gone".to_owned())?;
        ensure(!held || (result.is_ok() && !sent), || "what is there was asked for again".to_owned())?;
        if let Err(error) = result {
            let quiet = matches!(error.errno(), 22 | 28);
            ensure(!(quiet && sent), || format!("{error}, and yet a step was sent"))?;
        } else {
            self.check_success(&command.event)?;
        }
        self.check_beliefs()?;
        if plain {
            self.check_plain(&command.event, result)?;
        } else {
            self.plain.adopt(&self.mappings);
        }
        Ok(result)
    }

    fn carry_out(
        &mut self,
        event: &Event,
        interruption: Option<Interruption>,
    ) -> Result<Result<(), DaxError>, Disagreement> {
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
            let result = step.carry_out(&mut self.front_end);
            if let Some(interruption) = interrupted {
                self.interrupt(interruption)?;
                let late = self.mappings.done(step, result);
                let cleared = matches!(late, Next::Finished(Err(DaxError::Cleared)));
                ensure(cleared, || format!("a step that comes late goes on: {late:?}"))?;
                return Ok(Err(DaxError::Cleared));
            }
            next = self.mappings.done(step, result);
            steps = steps.saturating_add(1);
        }
    }

    fn interrupt(&mut self, interruption: Interruption) -> Result<(), Disagreement> {
        if !interruption.late {
            self.front_end.reset();
        }
        let next = self.begin_reset();
        let cleared = self.mappings.run(next, &mut self.front_end).is_ok();
        // A map that was under way may come to be there yet.
        let left = self.mappings.taken();
        ensure(!cleared || left <= 1, || format!("{left} are left of a clear"))
    }

    fn begin_reset(&mut self) -> Next {
        let dropped = self.front_end.capabilities().drops_on_reset;
        self.mappings.clear(if dropped { FrontEnd::DroppedAll } else { FrontEnd::StillMaps })
    }

    fn check_success(&self, event: &Event) -> Result<(), Disagreement> {
        let pages = self.front_end.pages();
        match event {
            Event::Setup(wanted) => {
                let mapping = self.mapping(wanted)?;
                let found = pages.iter().skip(index(mapping.range().offset()));
                let serves = |(wanted, found): (Page, &Option<Page>)| {
                    found.is_some_and(|page| page == Page { writable: page.writable, ..wanted })
                        && found.is_some_and(|page| page.writable || !wanted.writable)
                };
                let right = Page::all_of(&mapping).zip(found).all(serves);
                ensure(right, || format!("it was set up, but is not there: {wanted:?}"))
            }
            Event::Remove(entries) => {
                for range in self.ranges(entries)? {
                    let mut found = pages.iter().skip(index(range.offset())).take(index(range.len()));
                    let empty = found.all(Option::is_none);
                    ensure(empty, || format!("it was removed, but is there: {range:?}"))?;
                }
                Ok(())
            }
            Event::DropNode(node) => {
                let there = pages.iter().flatten().any(|page| page.node == *node);
                ensure(!there, || format!("node {node} was dropped, but is there"))?;
                ensure(self.mappings.of_node(*node).next().is_none(), || "still listed".to_owned())
            }
            Event::Clear | Event::Reset => {
                let empty = pages.iter().all(Option::is_none) && self.mappings.taken() == 0;
                ensure(empty, || "it was cleared, but is not empty".to_owned())
            }
            Event::Resize { .. } => Ok(()),
        }
    }

    fn check_beliefs(&self) -> Result<(), Disagreement> {
        let mut free = vec![true; self.front_end.pages().len()];
        for range in self.mappings.doubtful() {
            mark(&mut free, range);
        }
        for mapping in self.mappings.iter() {
            mark(&mut free, mapping.range());
            let found = self.front_end.pages().iter().skip(index(mapping.range().offset()));
            let right = Page::all_of(&mapping).map(Some).zip(found).all(|(mapped, found)| mapped == *found);
            ensure(right, || format!("the front-end has something else: {mapping:?}"))?;
            let listed = self.mappings.of_node(mapping.node()).any(|other| other == mapping);
            ensure(listed, || format!("not listed with its node: {mapping:?}"))?;
        }
        let asked = |at: usize, page: &Page| self.asked_writable.contains(&(at, page.node, page.file_offset));
        for (at, (found, free)) in self.front_end.pages().iter().zip(free).enumerate() {
            let Some(page) = found else { continue };
            ensure(!free, || format!("page {at} is free, says the table: {page:?}"))?;
            ensure(!page.writable || asked(at, page), || format!("page {at} is writable: {page:?}"))?;
        }
        let counts = (self.mappings.taken(), self.front_end.mapped());
        ensure(counts.0 <= self.budget && counts.1 <= self.budget, || {
            format!("{counts:?} mappings, {} allowed", self.budget)
        })
    }

    fn check_plain(&mut self, event: &Event, result: Result<(), DaxError>) -> Result<(), Disagreement> {
        let expected = match event {
            Event::Setup(wanted) => self.mappings.geometry().mapping(wanted).and_then(|mapping| {
                self.plain.setup(&mapping, self.budget, |mapping| self.front_end.takes(mapping))
            }),
            Event::Remove(entries) => {
                let ranges =
                    entries.iter().map(|(offset, len)| self.mappings.geometry().range(*offset, *len));
                ranges.collect::<Result<Vec<_>, _>>().and_then(|ranges| self.plain.remove(&ranges))
            }
            Event::DropNode(node) => {
                self.plain.drop_node(*node);
                Ok(())
            }
            Event::Clear | Event::Reset => {
                self.plain.clear();
                Ok(())
            }
            Event::Resize { .. } => Ok(()),
        };
        let (said, expected) = (result.map_err(DaxError::errno), expected.map_err(DaxError::errno));
        ensure(said == expected, || format!("answered {said:?}, not {expected:?}"))?;
        ensure(self.mappings.doubtful().next().is_none(), || "doubt without a reason".to_owned())?;
        let same = self.plain.pages().eq(self.front_end.pages().iter().copied());
        ensure(same, || "the front-end has other pages than a plain array".to_owned())
    }

    fn mapping(&self, wanted: &Wanted) -> Result<Mapping, Disagreement> {
        self.mappings.geometry().mapping(wanted).map_err(|error| Disagreement(error.to_string()))
    }

    fn ranges(&self, entries: &[(u64, u64)]) -> Result<Vec<WindowRange>, Disagreement> {
        let range = |(offset, len): &(u64, u64)| self.mappings.geometry().range(*offset, *len);
        let ranges: Result<Vec<_>, _> = entries.iter().map(range).collect();
        ranges.map_err(|error| Disagreement(error.to_string()))
    }
}

fn mark(free: &mut [bool], range: WindowRange) {
    let pages = free.iter_mut().skip(index(range.offset())).take(index(range.len()));
    pages.for_each(|page| *page = false);
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Disagreement> {
    if holds { Ok(()) } else { Err(Disagreement(what())) }
}
