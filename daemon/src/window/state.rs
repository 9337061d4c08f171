//! The state of a window: the front-end, its mappings and its jobs.

use super::pending::{MapFiles, Pending};
use crate::file_id::FileId;
use crate::limits::{WINDOW_GRACE, WINDOW_PATIENCE, WINDOW_REQUESTS_MAX};
use crate::sync::clock;
use pinhole_dax_cache::{Capabilities, DaxError, Mappings, Wanted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Number of a back channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channel(pub(super) u64);

/// Number of a guest that has used the window: the guest of one INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestGeneration(pub(super) u64);

/// The variable part of a window.
#[derive(Debug, Default)]
pub(super) struct WindowState {
    pub(super) peer: Peer,
    /// Mappings that the front-end may have. Those that no guest uses are removed when there is a
    /// back channel. `None` before the first successful probe.
    pub(super) mappings: Option<Mappings>,
    /// A probe was interrupted and may have left a mapping in the first slot.
    pub(super) has_probe_mapping: bool,
    /// Newest back channel.
    pub(super) newest: Channel,
    /// Job that the thread of the back channel carries out. `None`: it is idle.
    pub(super) work: Option<Work>,
    pub(super) jobs: VecDeque<WindowJob>,
    /// Files whose descriptors the front-end has, or may soon have, by node.
    handed_out: BTreeMap<u64, FileId>,
    /// Number of INITs, DESTROYs and resets.
    pub(super) generation: GuestGeneration,
    /// Every queue has stopped, so no message may be sent.
    pub(super) is_halted: bool,
    pub(super) draining: Option<Draining>,
}

/// The front-end, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Peer {
    /// No back channel works.
    #[default]
    Absent,
    /// The front-end behind this channel is unknown, or is being probed.
    Probing(Channel),
    /// The front-end behind this channel cannot have a window.
    Unusable(Channel),
    /// The front-end behind this channel can be used.
    Ready(Channel, Ready),
}

/// The properties of a front-end that can be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) capabilities: Capabilities,
    /// The present guest knows that it may map.
    pub(super) is_open: bool,
}

/// A job that the thread of the back channel carries out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Node whose mapping is being made.
    pub(super) node: Option<u64>,
    /// Time at which the message was sent that has no reply yet.
    pub(super) sent: Option<Instant>,
}

/// Queues that are being stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    pub(super) queues: usize,
    /// Time at which the first of them began.
    pub(super) since: Instant,
}

/// A job for the thread of the back channel, and the request that waits for it.
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
    /// the previous guest.
    Prepare,
    Clear,
}

impl Peer {
    pub(super) const fn channel(self) -> Option<Channel> {
        match self {
            Self::Absent => None,
            Self::Probing(channel) | Self::Unusable(channel) | Self::Ready(channel, _) => Some(channel),
        }
    }

    pub(super) const fn ready_mut(&mut self) -> Option<&mut Ready> {
        match self {
            Self::Ready(_, ready) => Some(ready),
            Self::Absent | Self::Probing(_) | Self::Unusable(_) => None,
        }
    }

    /// Returns the capabilities of the front-end if the present guest may map.
    pub(super) const fn open(self) -> Option<Capabilities> {
        match self {
            Self::Ready(_, Ready { capabilities, is_open: true }) => Some(capabilities),
            Self::Ready(..) | Self::Absent | Self::Probing(_) | Self::Unusable(_) => None,
        }
    }

    /// Returns whether it may be able to serve a guest.
    pub(super) const fn may_serve(self) -> bool {
        matches!(self, Self::Probing(_) | Self::Ready(..))
    }

    /// Notes a new channel. A front-end without a working channel before is probed.
    pub(super) const fn connect(&mut self, channel: Channel) {
        *self = match *self {
            Self::Ready(_, ready) => Self::Ready(channel, ready),
            Self::Absent | Self::Probing(_) | Self::Unusable(_) => Self::Probing(channel),
        };
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
    /// Resets all but the two counters.
    pub(super) fn forget_front_end(&mut self) {
        let Self { newest, generation, .. } = *self;
        *self = Self { newest, generation, ..Self::default() };
    }

    /// Returns whether there is no job.
    pub(super) fn is_at_rest(&self) -> bool {
        self.work.is_none() && self.jobs.is_empty()
    }

    /// Returns when the message was sent that has no reply yet.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.work?.sent
    }

    pub(super) const fn set_sent(&mut self, at: Option<Instant>) {
        if let Some(work) = &mut self.work {
            work.sent = at;
        }
    }

    /// Returns when the time of a request with this deadline is over, by the present state. If no
    /// message waits for its reply, one may be sent at any moment.
    pub(super) fn until(&self, deadline: Instant) -> Instant {
        let later = |since: Instant, patience| since.checked_add(patience).unwrap_or(deadline);
        let reply = later(self.sent().unwrap_or_else(clock::now), WINDOW_PATIENCE);
        let drained = self.draining.map_or(deadline, |draining| later(draining.since, WINDOW_GRACE));
        deadline.min(reply).min(drained)
    }

    /// Returns whether a message has waited for its reply for longer than any request waits.
    pub(super) fn is_overdue(&self) -> bool {
        self.sent().is_some_and(|sent| clock::elapsed(sent) >= WINDOW_PATIENCE)
    }

    /// Removes the jobs that have not begun, and ends their requests.
    pub(super) fn give_up_jobs(&mut self) {
        for job in self.jobs.drain(..) {
            if let Some(pending) = job.pending {
                pending.settle(Err(DaxError::Cleared));
            }
        }
    }

    /// Returns whether the front-end has a descriptor of this file, or may soon have one.
    pub(super) fn has_handed_out(&self, file: FileId) -> bool {
        self.handed_out.values().any(|known| *known == file)
    }

    /// Notes a file before its descriptor can be sent to the front-end. If many files are noted,
    /// forgets those without a mapping.
    pub(super) fn hand_out(&mut self, node: u64, file: FileId) {
        let mappings = self.mappings.as_ref();
        let held = mappings.map_or(0, Mappings::taken).saturating_add(WINDOW_REQUESTS_MAX);
        if self.handed_out.len() >= held.saturating_mul(2) {
            let jobs = self.jobs.iter().filter_map(|job| job.task.node());
            let wanted: BTreeSet<u64> = jobs.chain(self.work.and_then(|work| work.node)).collect();
            let is_mapped = |node: u64| mappings.is_some_and(|mappings| mappings.may_hold(node));
            self.handed_out.retain(|node, _| wanted.contains(node) || is_mapped(*node));
        }
        self.handed_out.insert(node, file);
    }
}
