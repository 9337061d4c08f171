//! The state of a window: what is known of the front-end, and what it still has to do.

use super::pending::{MapFiles, Pending};
use crate::file_id::FileId;
use crate::limits::{WINDOW_GRACE, WINDOW_PATIENCE, WINDOW_REQUESTS_MAX};
use crate::sync::clock;
use pinhole_dax_cache::{Capabilities, DaxError, FrontEnd, Mappings, Next, Overlap, Wanted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Number of a back channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channel(pub(super) u64);

/// Number of a guest that has used the window: the guest of one INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestGeneration(pub(super) u64);

/// Everything of a window that changes.
#[derive(Debug, Default)]
pub(super) struct WindowState {
    pub(super) peer: Peer,
    /// Newest back channel.
    pub(super) newest: Channel,
    pub(super) work: Work,
    pub(super) jobs: VecDeque<WindowJob>,
    /// Files that the front-end has, or may soon have, by node.
    handed_out: BTreeMap<u64, FileId>,
    /// Number of INITs, DESTROYs and resets.
    pub(super) generation: GuestGeneration,
    /// Every queue has stopped, so nothing may be sent.
    pub(super) is_halted: bool,
    pub(super) draining: Option<Draining>,
    /// Counts changes that a thread may wait for.
    pub(super) events: u64,
}

/// What is known of the front-end, and what exists only then.
#[derive(Debug)]
pub(super) enum Peer {
    /// No back channel works.
    Absent(Leftovers),
    /// Nothing is known of the front-end behind this channel, or it is being probed.
    Probing(Channel, Leftovers),
    /// The front-end behind this channel cannot have a window.
    Unusable(Channel, Leftovers),
    /// A guest may map.
    Ready(Ready),
}

/// What the front-end may still have mapped, although no guest uses it.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    mappings: Option<Mappings>,
    /// A probe was interrupted and may have left a mapping in the first slot.
    probe: bool,
}

/// A front-end that can be used.
#[derive(Debug)]
pub(super) struct Ready {
    channel: Channel,
    pub(super) capabilities: Capabilities,
    pub(super) mappings: Mappings,
    /// The present guest knows that it may map.
    pub(super) is_open: bool,
}

/// What the thread of the back channel does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Work {
    #[default]
    Idle,
    Busy {
        /// Node whose mapping is being made.
        node: Option<u64>,
        /// Time at which the message was sent that has no reply yet.
        sent: Option<Instant>,
    },
}

/// Queues that are being stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    pub(super) queues: usize,
    /// Time at which the first of them began.
    pub(super) since: Instant,
}

/// Something for the thread of the back channel to do.
#[derive(Debug)]
pub(super) struct WindowJob {
    pub(super) task: WindowTask,
    pub(super) pending: Option<Arc<Pending>>,
}

#[derive(Debug)]
pub(super) enum WindowTask {
    Setup(Wanted, MapFiles),
    Remove(Vec<(u64, u64)>),
    /// Prepares the window for a guest: probes an unknown front-end, and removes the mappings of
    /// the guest before.
    Prepare,
    Clear,
}

impl Default for Peer {
    fn default() -> Self {
        Self::Absent(Leftovers::default())
    }
}

impl Peer {
    pub(super) const fn channel(&self) -> Option<Channel> {
        match self {
            Self::Absent(_) => None,
            Self::Probing(channel, _) | Self::Unusable(channel, _) | Self::Ready(Ready { channel, .. }) => {
                Some(*channel)
            }
        }
    }

    pub(super) const fn mappings(&self) -> Option<&Mappings> {
        match self {
            Self::Absent(left) | Self::Probing(_, left) | Self::Unusable(_, left) => left.mappings.as_ref(),
            Self::Ready(ready) => Some(&ready.mappings),
        }
    }

    pub(super) const fn mappings_mut(&mut self) -> Option<&mut Mappings> {
        match self {
            Self::Absent(left) | Self::Probing(_, left) | Self::Unusable(_, left) => left.mappings.as_mut(),
            Self::Ready(ready) => Some(&mut ready.mappings),
        }
    }

    pub(super) const fn ready_mut(&mut self) -> Option<&mut Ready> {
        match self {
            Self::Ready(ready) => Some(ready),
            Self::Absent(_) | Self::Probing(..) | Self::Unusable(..) => None,
        }
    }

    /// Returns the front-end if the present guest may map.
    pub(super) const fn open(&self) -> Option<&Ready> {
        match self {
            Self::Ready(ready) if ready.is_open => Some(ready),
            Self::Ready(_) | Self::Absent(_) | Self::Probing(..) | Self::Unusable(..) => None,
        }
    }

    /// Whether it could serve a guest, as far as is known.
    pub(super) const fn may_serve(&self) -> bool {
        matches!(self, Self::Probing(..) | Self::Ready(_))
    }

    /// Whether it refuses to remove only what it has not mapped.
    pub(super) const fn keeps_account(&self) -> bool {
        matches!(self, Self::Ready(ready) if matches!(ready.capabilities.overlap, Overlap::Refused))
    }

    /// A new channel leads to it. The front-end behind a broken channel is probed anew.
    pub(super) fn connect(&mut self, channel: Channel) {
        *self = match std::mem::take(self) {
            Self::Ready(ready) => Self::Ready(Ready { channel, ..ready }),
            Self::Absent(left) | Self::Probing(_, left) | Self::Unusable(_, left) => {
                Self::Probing(channel, left)
            }
        };
    }

    /// Its channel works no longer. What it has mapped is removed through the next one.
    pub(super) fn lose_channel(&mut self) {
        *self = Self::Absent(self.take_leftovers());
    }

    /// Begins a probe. Returns whether an earlier one was interrupted.
    pub(super) const fn begin_probe(&mut self) -> bool {
        match self {
            Self::Probing(_, left) => std::mem::replace(&mut left.probe, true),
            Self::Absent(_) | Self::Unusable(..) | Self::Ready(_) => false,
        }
    }

    /// Ends a probe of the front-end behind `channel`. `found`: its capabilities and an empty table
    /// of mappings, if it can be used.
    pub(super) fn end_probe(&mut self, channel: Channel, found: Option<(Capabilities, Mappings)>) {
        *self = match found {
            Some((capabilities, mappings)) => {
                Self::Ready(Ready { channel, capabilities, mappings, is_open: false })
            }
            None => Self::Unusable(channel, Leftovers { probe: false, ..self.take_leftovers() }),
        };
    }

    fn take_leftovers(&mut self) -> Leftovers {
        match std::mem::take(self) {
            Self::Absent(left) | Self::Probing(_, left) | Self::Unusable(_, left) => left,
            Self::Ready(ready) => Leftovers { mappings: Some(ready.mappings), probe: false },
        }
    }
}

impl Work {
    pub(super) const fn sent(self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Busy { sent, .. } => sent,
        }
    }

    pub(super) const fn set_sent(&mut self, at: Option<Instant>) {
        if let Self::Busy { sent, .. } = self {
            *sent = at;
        }
    }

    const fn node(self) -> Option<u64> {
        match self {
            Self::Idle => None,
            Self::Busy { node, .. } => node,
        }
    }
}

impl WindowTask {
    /// Returns the node of a mapping that is to be made.
    pub(super) const fn node(&self) -> Option<u64> {
        match self {
            Self::Setup(wanted, _) => Some(wanted.node),
            Self::Remove(_) | Self::Prepare | Self::Clear => None,
        }
    }
}

impl WindowState {
    /// Forgets everything but the counters.
    pub(super) fn forget_front_end(&mut self) {
        let Self { newest, generation, events, .. } = *self;
        *self = Self { newest, generation, events, ..Self::default() };
    }

    /// Whether nothing is to be done.
    pub(super) fn is_at_rest(&self) -> bool {
        self.work == Work::Idle && self.jobs.is_empty()
    }

    /// Returns when the time of a request with this deadline is over, as things are now. While no
    /// message is under way, one may be sent at any moment.
    pub(super) fn until(&self, deadline: Instant) -> Instant {
        let later = |since: Instant, patience| since.checked_add(patience).unwrap_or(deadline);
        let reply = later(self.work.sent().unwrap_or_else(clock::now), WINDOW_PATIENCE);
        let drained = self.draining.map_or(deadline, |draining| later(draining.since, WINDOW_GRACE));
        deadline.min(reply).min(drained)
    }

    /// Whether a message has been under way for longer than any request waits.
    pub(super) fn is_overdue(&self) -> bool {
        self.work.sent().is_some_and(|sent| clock::elapsed(sent) >= WINDOW_PATIENCE)
    }

    /// Ends the jobs that have not begun.
    pub(super) fn give_up_jobs(&mut self) {
        for job in self.jobs.drain(..) {
            if let Some(pending) = job.pending {
                pending.settle(Err(DaxError::Cleared));
            }
        }
    }

    /// Whether the front-end has this file, or may soon have it.
    pub(super) fn has_handed_out(&self, file: FileId) -> bool {
        self.handed_out.values().any(|known| *known == file)
    }

    /// Notes a file before its descriptor can be handed out. If there are many, forgets those whose
    /// mappings are gone.
    pub(super) fn hand_out(&mut self, node: u64, file: FileId) {
        let mappings = self.peer.mappings();
        let held = mappings.map_or(0, Mappings::taken).saturating_add(WINDOW_REQUESTS_MAX);
        if self.handed_out.len() >= held.saturating_mul(2) {
            let jobs = self.jobs.iter().filter_map(|job| job.task.node());
            let wanted: BTreeSet<u64> = jobs.chain(self.work.node()).collect();
            let is_mapped = |node: u64| mappings.is_some_and(|mappings| mappings.may_hold(node));
            self.handed_out.retain(|node, _| wanted.contains(node) || is_mapped(*node));
        }
        self.handed_out.insert(node, file);
    }

    pub(super) fn clear(&mut self) -> Option<Next> {
        self.peer.mappings_mut().map(|mappings| mappings.clear(FrontEnd::StillMaps))
    }
}
