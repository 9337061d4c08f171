//! A thread that computes the digest of a data file while the next bytes are read and written.
//!
//! The digest takes as long as the copy of the data, so on a host with two processors the thread
//! halves the time.

use crate::limits;
use crate::verity::{BLOCK_LEN, VerityDigest, VerityHasher};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};

/// The next part of the stream.
enum Part {
    Bytes(Vec<u8>),
    /// So many zero bytes.
    Zeros(u64),
}

/// The thread of one data file. Dropped, it ends without a digest.
#[derive(Debug)]
pub(crate) struct HashThread {
    parts: SyncSender<Part>,
    /// Buffers that have been hashed.
    used: Receiver<Vec<u8>>,
    thread: JoinHandle<VerityDigest>,
}

impl HashThread {
    /// Starts the thread with the empty stream.
    ///
    /// # Errors
    /// The host has no thread left.
    pub(crate) fn start() -> io::Result<Self> {
        let (parts, received) = sync_channel(limits::HASHED_PARTS_MAX);
        let (returned, used) = sync_channel(limits::HASHED_PARTS_MAX);
        let hash = move || {
            let mut hasher = VerityHasher::new();
            for part in received {
                match part {
                    Part::Zeros(len) => hasher.zeros(len),
                    Part::Bytes(bytes) => {
                        hasher.update(&bytes);
                        // A full channel or none drops the buffer.
                        returned.try_send(bytes).ok();
                    }
                }
            }
            hasher.finish()
        };
        let thread = Builder::new().name("digest".to_owned()).spawn(hash)?;
        Ok(Self { parts, used, thread })
    }

    /// Returns an empty buffer.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        match self.used.try_recv() {
            Ok(mut buffer) => {
                buffer.clear();
                buffer
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                Vec::with_capacity(limits::READ_LEN + BLOCK_LEN)
            }
        }
    }

    /// Appends bytes to the stream.
    ///
    /// # Errors
    /// The thread has ended.
    pub(crate) fn bytes(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.send(Part::Bytes(bytes))
    }

    /// Appends zero bytes to the stream.
    ///
    /// # Errors
    /// The thread has ended.
    pub(crate) fn zeros(&self, len: u64) -> io::Result<()> {
        self.send(Part::Zeros(len))
    }

    fn send(&self, part: Part) -> io::Result<()> {
        self.parts.send(part).map_err(|_ended| ended())
    }

    /// Returns the digest of the stream.
    ///
    /// # Errors
    /// The thread has ended before.
    pub(crate) fn finish(self) -> io::Result<VerityDigest> {
        drop(self.parts);
        self.thread.join().map_err(|_panic| ended())
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that computes the digest has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_the_hasher() {
        let (thread, mut hasher) = (HashThread::start().unwrap(), VerityHasher::new());
        for number in 0..20_u8 {
            let mut buffer = thread.buffer();
            assert!(buffer.is_empty());
            buffer.resize(1000 * usize::from(number), number);
            hasher.update(&buffer);
            thread.bytes(buffer).unwrap();
            hasher.zeros(5000);
            thread.zeros(5000).unwrap();
        }
        assert_eq!(thread.finish().unwrap(), hasher.finish());
    }
}
