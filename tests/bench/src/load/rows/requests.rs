//! Requests that several rows send.

use super::super::ask::{Ask, ENTRY_LEN};
use super::super::error::LoadError;
use super::super::message::Message;
use super::super::player::Player;
use pinhole_tests::frontend::frame::opcode;

/// Node id of the root of the share.
pub(super) const ROOT: u64 = 1;

/// Open flags of a program in the guest that reads (`O_LARGEFILE`).
pub(super) const READ_ONLY: u32 = 0o100_000;

/// Open flags of a program in the guest that reads and writes.
pub(super) const READ_WRITE: u32 = 0o100_002;

/// Open flags of a program in the guest that lists a directory.
pub(super) const DIRECTORY: u32 = 0o300_000;

/// Requests of the preparation, one after another.
impl Player<'_> {
    /// Looks up `name` in `parent` and returns its node id, which is forgotten when the row closes.
    pub(super) fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, LoadError> {
        self.message.start(opcode::LOOKUP, parent).name(name.as_bytes());
        let node = self.ask(Ask::body(ENTRY_LEN))?.u64(0)?;
        self.known.push((node, 1));
        Ok(node)
    }

    /// Opens `node` and returns the file handle, or 0 if the guest opens files by itself.
    pub(super) fn open(&mut self, node: u64, flags: u32) -> Result<u64, LoadError> {
        self.message.start(opcode::OPEN_FILE, node).u32(flags).u32(0);
        let reply = self.ask(Ask::opened())?;
        if reply.is_open_needless() { Ok(0) } else { reply.u64(0) }
    }

    /// Closes a file handle.
    pub(super) fn release(&mut self, node: u64, handle: u64, flags: u32) -> Result<(), LoadError> {
        release(&mut self.message, opcode::RELEASE, node, handle, flags);
        self.ask(Ask::none())?;
        Ok(())
    }
}

/// Writes a RELEASE or RELEASEDIR.
pub(super) fn release(message: &mut Message, opcode: u32, node: u64, handle: u64, flags: u32) {
    // fh, flags, release_flags, lock_owner.
    message.start(opcode, node).u64(handle).u32(flags).u32(0).u64(0);
}

/// Writes a FLUSH.
pub(super) fn flush(message: &mut Message, node: u64, handle: u64) {
    // fh, unused, padding, lock_owner.
    message.start(opcode::FLUSH, node).u64(handle).u64(0).u64(7);
}

/// Writes a READ, WRITE, READDIR or READDIRPLUS: fh, offset, size, flags, lock_owner, flags,
/// padding.
pub(super) fn transfer(
    message: &mut Message,
    opcode: u32,
    (node, handle): (u64, u64),
    offset: u64,
    size: u32,
) {
    message.start(opcode, node).u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(READ_WRITE).u32(0);
}
