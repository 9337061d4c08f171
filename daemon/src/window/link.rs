//! One back channel and its front-end, with the rules for when a message may be sent.

use super::Window;
use super::state::{Channel, Peer, WindowState};
use crate::sync::clock;
use pinhole_dax_cache::{Failure, Mapping};
use std::os::fd::BorrowedFd;

/// Contents of a `SHMEM_MAP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapMessage {
    /// Offset in the window in bytes.
    pub window_offset: u64,
    /// Offset in the file in bytes.
    pub file_offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Mapped for reading and writing.
    pub writable: bool,
}

/// Messages to the front-end through a back channel. Each call waits for the reply without a time
/// limit.
pub trait ShmemFrontEnd {
    /// Sends `SHMEM_MAP`.
    ///
    /// # Errors
    /// [`Failure`].
    fn map(&self, message: &MapMessage, file: BorrowedFd<'_>) -> Result<(), Failure>;

    /// Sends `SHMEM_UNMAP` for the mapping that was made with `window_offset` and `len`.
    ///
    /// # Errors
    /// [`Failure`].
    fn unmap(&self, window_offset: u64, len: u64) -> Result<(), Failure>;
}

impl From<&Mapping> for MapMessage {
    fn from(mapping: &Mapping) -> Self {
        Self {
            window_offset: mapping.range().offset(),
            file_offset: mapping.file_offset(),
            len: mapping.range().len(),
            writable: mapping.writable(),
        }
    }
}

/// Reason why no message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The channel was replaced or is broken, so its thread ends.
    Replaced,
    /// Every queue has stopped. No message may be sent until a queue is served again.
    Halted,
}

/// A channel and its front-end. It sends a message only if that is permitted.
pub(crate) struct Link<'l, M> {
    pub(crate) window: &'l Window,
    pub(super) channel: Channel,
    pub(super) front_end: &'l M,
}

/// The result of a plan or a message, or the reason why no message was sent.
pub(super) type SendResult<E> = Result<Result<(), E>, Interrupted>;

impl<M: ShmemFrontEnd> Link<'_, M> {
    pub(crate) fn map(&self, message: &MapMessage, file: BorrowedFd<'_>) -> SendResult<Failure> {
        self.send(|front_end| front_end.map(message, file))
    }

    pub(crate) fn unmap(&self, offset: u64, len: u64) -> SendResult<Failure> {
        self.send(|front_end| front_end.unmap(offset, len))
    }

    /// Sends one message, if it may be sent, and waits for the reply.
    fn send(&self, message: impl FnOnce(&M) -> Result<(), Failure>) -> SendResult<Failure> {
        let may_send = self.state(|state| {
            state.set_sent((!state.is_halted).then(clock::now));
            !state.is_halted
        })?;
        if !may_send {
            return Err(Interrupted::Halted);
        }
        let result = message(self.front_end);
        self.state(|state| {
            state.set_sent(None);
            if result == Err(Failure::Gone) {
                // A late reply cannot be distinguished from the reply to another message.
                state.peer = Peer::Absent;
                state.work = None;
                state.give_up_jobs();
            }
            self.window.announce(state);
        })?;
        Ok(result)
    }

    /// Reads or changes the state, if the channel has not been replaced.
    pub(super) fn state<T>(&self, change: impl FnOnce(&mut WindowState) -> T) -> Result<T, Interrupted> {
        let mut state = self.window.state.lock();
        let is_present = state.peer.channel() == Some(self.channel);
        if is_present { Ok(change(&mut state)) } else { Err(Interrupted::Replaced) }
    }
}
