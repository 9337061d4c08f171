//! How far the source has been read.

/// Learns how far the source has been read.
pub trait Progress {
    /// The source has this many bytes. Not called for a directory or a pipe.
    fn expect(&mut self, bytes: u64);
    /// So many more bytes were read.
    fn advance(&mut self, bytes: u64);
}
