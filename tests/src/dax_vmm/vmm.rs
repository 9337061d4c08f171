//! The VMM's thread, which handles the daemon's messages.

use super::channel::{ChannelMessage, Range, SHMEM_MAP, SHMEM_UNMAP};
use super::mapped_parts::{self, MappedParts, Rights};
use super::rules::{Overlap, Protection, Rules};
use crate::frontend::FrontendError;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::{Frontend as Connection, VhostUserFrontend as _};

/// Physical address of the window in the guest's memory.
pub const WINDOW_START: u64 = 1 << 40;

/// One message of the daemon and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedMessage {
    /// Whether it was SHMEM_MAP; otherwise SHMEM_UNMAP.
    pub map: bool,
    /// Range of the message.
    pub range: Range,
    /// Whether the descriptor of the message was open for writing.
    pub writable_descriptor: bool,
    /// Whether the VMM carried out the message.
    pub accepted: bool,
}

/// Numbers of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// SHMEM_MAP messages that succeeded.
    pub mapped: u64,
    /// SHMEM_UNMAP messages that succeeded.
    pub unmapped: u64,
    /// Messages that were refused.
    pub refused: u64,
    /// Messages that arrived, answered or not.
    pub received: u64,
}

/// Address of the window in the VMM.
const VMM_WINDOW: u64 = 0x6000_0000_0000;

/// Smallest page of any host.
const PAGE: u64 = 4096;

/// Largest number of recorded messages. Later ones are only counted.
const RECORDED_MAX: usize = 10_000;

/// Way in which the VMM replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyMode {
    /// As its [`Rules`] say.
    ByTheRules,
    /// Not at all, until the mode changes.
    Silent,
    /// With an error to every message.
    Refusing,
    /// With an error to every writable mapping.
    RefusingWritable,
    /// As its rules say, after this time.
    Slow(Duration),
    /// With bytes that are not a valid reply.
    Invalid,
}

/// State that the tests and the VMM's thread change.
#[derive(Debug)]
pub(super) struct State {
    pub(super) parts: MappedParts,
    pub(super) counts: Counts,
    /// Messages that [`Window::take_messages`](super::Window::take_messages) has not returned yet.
    pub(super) messages: Vec<RecordedMessage>,
    /// Descriptions of the messages that no daemon may send.
    pub(super) faults: Vec<String>,
    pub(super) mode: ReplyMode,
    /// Whether all queues are stopped, so that any message is a fault.
    pub(super) stopped: bool,
}

/// Window of one front-end, shared by the test and the VMM's thread.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Notified when a message has arrived and when the mode has changed.
    pub(super) changed: Condvar,
    pub(super) rules: Rules,
    /// Length of the window in bytes.
    pub(super) len: u64,
    /// Connection for `ADD_MEM_REG` and `REM_MEM_REG`: a copy of the front-end's.
    /// [`Window`](super::Window) drops it at its end, so that the connection closes together with
    /// the front-end.
    pub(super) connection: Mutex<Option<Connection>>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles messages until the daemon closes the back channel or sends an invalid message.
    pub(super) fn serve(&self, stream: &UnixStream) {
        loop {
            match ChannelMessage::receive(stream) {
                Ok(Some(mut message)) => {
                    let accepted = self.take(&mut message);
                    if self.lock().mode == ReplyMode::Invalid {
                        // Ignore the result: the daemon may have closed the channel.
                        message.send_invalid(stream).unwrap_or_default();
                        continue;
                    }
                    if message.wants_reply && message.answer(stream, u64::from(!accepted)).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.lock().faults.push(error.to_string());
                    return;
                }
                Err(_gone) => return,
            }
        }
    }

    /// Carries out a message. Returns whether that succeeded.
    fn take(&self, message: &mut ChannelMessage) -> bool {
        let mut state = self.lock();
        state.counts.received += 1;
        let stopped = state.stopped;
        self.changed.notify_all();
        let silent = |state: &mut State| state.mode == ReplyMode::Silent;
        let state = self.changed.wait_while(state, silent).unwrap_or_else(PoisonError::into_inner);
        let mode = state.mode;
        drop(state);
        if let ReplyMode::Slow(time) = mode {
            std::thread::park_timeout(time);
        }
        let (map, Some(range)) = (message.code == SHMEM_MAP, message.range) else {
            self.lock().faults.push(format!("message {} is not about a range", message.code));
            return false;
        };
        let fault = if stopped {
            Some("a message after the last queue was stopped")
        } else {
            self.fault(message, range)
        };
        if let Some(fault) = fault {
            self.lock().faults.push(format!("{fault}: {message:?}"));
            return false;
        }
        let refusing = match mode {
            ReplyMode::Refusing => true,
            ReplyMode::RefusingWritable => map && range.flags == 1,
            ReplyMode::ByTheRules | ReplyMode::Silent | ReplyMode::Slow(_) | ReplyMode::Invalid => false,
        };
        let descriptor = message.descriptor.take();
        let writable_descriptor = descriptor.as_ref().is_some_and(is_writable);
        let accepted = !refusing
            && match descriptor {
                Some(descriptor) if map => self.map(descriptor, range),
                Some(_) | None => !map && self.unmap(range),
            };
        let mut state = self.lock();
        let count = match (accepted, map) {
            (true, true) => &mut state.counts.mapped,
            (true, false) => &mut state.counts.unmapped,
            (false, _) => &mut state.counts.refused,
        };
        *count += 1;
        if state.messages.len() < RECORDED_MAX {
            state.messages.push(RecordedMessage { map, range, writable_descriptor, accepted });
        }
        accepted
    }

    /// Returns the fault of a message that no daemon may send.
    fn fault(&self, message: &ChannelMessage, range: Range) -> Option<&'static str> {
        let map = message.code == SHMEM_MAP;
        if ![SHMEM_MAP, SHMEM_UNMAP].contains(&message.code) {
            Some("neither of the window's messages")
        } else if !message.wants_reply && (map || self.is_inside(range)) {
            Some("no answer wanted")
        } else if range.window != 0 || (map && !self.is_inside(range)) {
            Some("not in the window")
        } else if [range.at, range.len, range.file_offset].iter().any(|number| number % PAGE != 0) {
            Some("misaligned")
        } else if message.descriptor.is_some() != map {
            Some("a descriptor too many or too few")
        } else if range.flags > 1 {
            Some("unknown flags")
        } else {
            None
        }
    }

    /// Returns whether a range is not empty and lies in the window.
    fn is_inside(&self, range: Range) -> bool {
        range.len > 0 && range.at.checked_add(range.len).is_some_and(|end| end <= self.len)
    }

    /// Maps a range of a file, if the rules permit that. Returns whether it is mapped.
    fn map(&self, descriptor: OwnedFd, range: Range) -> bool {
        let rules = self.rules;
        let file = File::from(descriptor);
        let ends_before = file.metadata().is_ok_and(|file| file.len() < range.file_offset + range.len);
        {
            let state = self.lock();
            let taken = rules.overlap == Overlap::Refused && state.parts.overlaps(range.at, range.len);
            let full = state.parts.count() >= rules.mappings_max;
            if taken || full || (ends_before && !rules.past_end_of_file) {
                return false;
            }
        }
        let Ok(ours) = file.try_clone() else { return false };
        let with = |rights| mapped_parts::map(ours, range.file_offset, range.len, rights);
        let mapped = match rules.protection {
            Protection::AsAsked if range.flags == 0 => with(Rights::Read),
            Protection::AsDescriptor if !is_writable(&file) => with(Rights::Read),
            Protection::AsAsked | Protection::Writable | Protection::AsDescriptor => {
                with(Rights::ReadAndWrite)
            }
        };
        let Ok(region) = mapped else { return false };
        self.lock().parts.put(range.at, region);
        if rules.announces_memory && self.announce_memory(&file, range).is_err() {
            self.lock().parts.clear(range.at, range.len);
            return false;
        }
        true
    }

    /// Unmaps a range, if the rules permit that. Returns whether it is unmapped.
    fn unmap(&self, range: Range) -> bool {
        let mut state = self.lock();
        let inexact = self.rules.exact_unmap && !state.parts.is_exact(range.at, range.len);
        if !self.is_inside(range) || inexact {
            return false;
        }
        state.parts.clear(range.at, range.len);
        drop(state);
        !self.rules.announces_memory || self.forget_memory(range.at, range.len).is_ok()
    }

    /// Sends `ADD_MEM_REG` for a mapped range.
    fn announce_memory(&self, file: &File, range: Range) -> Result<(), FrontendError> {
        let region = VhostUserMemoryRegionInfo {
            mmap_offset: range.file_offset,
            mmap_handle: file.as_raw_fd(),
            ..region(range.at, range.len)
        };
        self.with_connection(|connection| connection.add_mem_region(&region).map(drop))
    }

    /// Sends `REM_MEM_REG` for a range that is no longer mapped.
    pub(super) fn forget_memory(&self, at: u64, len: u64) -> Result<(), FrontendError> {
        self.with_connection(|connection| connection.remove_mem_region(&region(at, len)))
    }

    /// Calls `what` with the front-end's connection. Fails after the end of the front-end.
    fn with_connection(
        &self,
        what: impl FnOnce(&mut Connection) -> vhost::Result<()>,
    ) -> Result<(), FrontendError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connection = connection.ok_or(FrontendError::Host(io::ErrorKind::NotConnected.into()))?;
        Ok(what(&mut connection)?)
    }
}

/// Returns a part of the window as a region of guest memory, without its file.
fn region(at: u64, len: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: WINDOW_START + at,
        memory_size: len,
        userspace_addr: VMM_WINDOW + at,
        mmap_offset: 0,
        mmap_handle: -1,
    }
}

/// Returns whether a descriptor is open for writing.
fn is_writable(descriptor: &impl AsFd) -> bool {
    let flags = rustix::fs::fcntl_getfl(descriptor).unwrap_or(OFlags::RDWR);
    flags & OFlags::ACCMODE != OFlags::RDONLY
}
