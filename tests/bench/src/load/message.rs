//! A FUSE message in the making, in memory that is used again.

/// A message; what is appended stays behind what is there.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    unique: u64,
    /// Bytes of data that follow from elsewhere, counted in the length.
    payload_len: usize,
}

/// Bytes of `fuse_in_header`.
pub(super) const HEADER_LEN: usize = 40;

impl Message {
    pub(super) fn new(len_max: usize) -> Self {
        Self { bytes: Vec::with_capacity(len_max), unique: 0, payload_len: 0 }
    }

    /// A new message from the guest's root.
    pub(super) fn start(&mut self, opcode: u32, node: u64) -> &mut Self {
        self.bytes.clear();
        self.payload_len = 0;
        // Linux counts by two.
        self.unique += 2;
        let unique = self.unique;
        // len, opcode, unique, node, uid, gid, pid, total_extlen and padding.
        self.u32(0).u32(opcode).u64(unique).u64(node).u32(0).u32(0).u32(1).u32(0)
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// A name and the NUL that ends it.
    pub(super) fn name(&mut self, name: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self
    }

    /// Followed by `len` bytes of data.
    pub(super) fn payload(&mut self, len: usize) -> &mut Self {
        self.payload_len = len;
        self
    }

    /// The whole message, its length filled in.
    pub(super) fn finish(&mut self) -> &[u8] {
        let len = u32::try_from(self.bytes.len() + self.payload_len).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = len.to_le_bytes();
        }
        &self.bytes
    }
}
