//! What the pass over a tree found.

/// Counts of one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kinds of files")]
pub struct TreeSummary {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub character_devices: u64,
    pub block_devices: u64,
    pub fifos: u64,
    pub sockets: u64,
    /// Names in directories, without `.` and `..`.
    pub names: u64,
    /// Bytes of all files, with their holes.
    pub file_bytes: u64,
    /// Files that a DAX window can map, and their bytes.
    pub mappable_files: u64,
    pub mappable_bytes: u64,
}

impl TreeSummary {
    /// Returns the number of inodes.
    pub const fn inodes(&self) -> u64 {
        self.files
            .saturating_add(self.directories)
            .saturating_add(self.symlinks)
            .saturating_add(self.character_devices)
            .saturating_add(self.block_devices)
            .saturating_add(self.fifos)
            .saturating_add(self.sockets)
    }
}
