//! Builder of FUSE messages, which reuses its memory.

/// Message under construction.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    unique: u64,
    /// Length of the data outside this buffer, in bytes, which is part of the length of the
    /// message.
    payload_len: usize,
}

/// Length of `fuse_in_header`, in bytes.
pub(super) const HEADER_LEN: usize = 40;

impl Message {
    /// Reserves memory for messages of up to `len_max` bytes.
    pub(super) fn new(len_max: usize) -> Self {
        Self { bytes: Vec::with_capacity(len_max), unique: 0, payload_len: 0 }
    }

    /// Starts a new message. The caller in the guest is root.
    pub(super) fn start(&mut self, opcode: u32, node: u64) -> &mut Self {
        self.bytes.clear();
        self.payload_len = 0;
        // Linux increases the unique id by two.
        self.unique += 2;
        let unique = self.unique;
        // len, opcode, unique, node, uid, gid, pid, total_extlen and padding.
        self.u32(0).u32(opcode).u64(unique).u64(node).u32(0).u32(0).u32(1).u32(0)
    }

    /// Appends a little-endian number.
    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a little-endian number.
    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a name and its NUL.
    pub(super) fn name(&mut self, name: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self
    }

    /// Declares `len` bytes of data after the message.
    pub(super) fn payload(&mut self, len: usize) -> &mut Self {
        self.payload_len = len;
        self
    }

    /// Returns the whole message, with its length.
    pub(super) fn finish(&mut self) -> &[u8] {
        let len = u32::try_from(self.bytes.len() + self.payload_len).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = len.to_le_bytes();
        }
        &self.bytes
    }
}
