//! FORGETs on the hiprio queue, in batches. A FORGET has no reply. The sender waits only if the
//! ring is full.

use vm_memory::{Bytes as _, VolatileSlice};

use super::error::LoadError;
use super::message::Message;
use super::ring::{Ring, SLOTS_AT};
use pinhole_tests::frontend::frame::opcode;

/// Largest number of messages in flight.
const MESSAGES_MAX: u16 = 256;

/// Buffer length of each message, in bytes.
const MESSAGE_LEN: usize = 4096;

/// Largest number of node ids in one message.
const BATCH_MAX: usize = 240;

/// Buffers for FORGETs, and the message under construction.
#[derive(Debug)]
pub(super) struct Hiprio {
    /// Numbers of the free buffers, which are also their descriptors.
    free: Vec<u16>,
    message: Message,
}

impl Hiprio {
    /// Returns all buffers free.
    pub(super) fn new() -> Self {
        Self { free: (0..MESSAGES_MAX).collect(), message: Message::new(MESSAGE_LEN) }
    }

    /// Sends FORGETs for `nodes`, each with its count of lookups, and empties the list.
    pub(super) fn forget(
        &mut self,
        ring: &mut Ring<'_>,
        memory: &VolatileSlice<'_>,
        base: u64,
        nodes: &mut Vec<(u64, u64)>,
    ) -> Result<(), LoadError> {
        for batch in nodes.chunks(BATCH_MAX) {
            if let [(node, count)] = batch {
                self.message.start(opcode::FORGET, *node).u64(*count);
            } else {
                let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                let message = self.message.start(opcode::BATCH_FORGET, 0).u32(count).u32(0);
                batch.iter().fold(message, |message, (node, count)| message.u64(*node).u64(*count));
            }
            self.send(ring, memory, base)?;
        }
        nodes.clear();
        Ok(())
    }

    /// Copies the message into a free buffer and sends it.
    fn send(&mut self, ring: &mut Ring<'_>, memory: &VolatileSlice<'_>, base: u64) -> Result<(), LoadError> {
        while let Some(used) = ring.take()? {
            self.give_back(used.head);
        }
        while self.free.is_empty() {
            let used = ring.wait()?;
            self.give_back(used.head);
        }
        let Some(place) = self.free.pop() else { return Ok(()) };
        let at = SLOTS_AT + usize::from(place) * MESSAGE_LEN;
        let bytes = self.message.finish();
        memory.write_slice(bytes, at).map_err(LoadError::memory)?;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        ring.describe(place, base + at as u64, len, 0)?;
        ring.offer(place)?;
        ring.publish()
    }

    /// Marks the buffer of descriptor `head` as free.
    fn give_back(&mut self, head: usize) {
        if let Ok(place) = u16::try_from(head) {
            self.free.push(place);
        }
    }
}
