//! A share, a daemon with a window, and a guest that maps files.

use super::{Rules, Window, connect};
use crate::frontend::frame::opcode::{LOOKUP, OPEN_FILE, RELEASE, REMOVEMAPPING, SETUPMAPPING};
use crate::frontend::frame::{Frame, u32_at, u64_at};
use crate::frontend::{Bench, FrontendError, Setup};
use crate::linux::ENTRY_LEN;
use std::io::Write as _;

/// Offsets of node, size and flags in the reply to LOOKUP.
const NODE_AT: usize = 0;
const SIZE_AT: usize = 48;
const FLAGS_AT: usize = 124;

/// `FUSE_ATTR_DAX`.
pub const ATTR_DAX: u32 = 1 << 1;
/// `FUSE_SETUPMAPPING_FLAG_WRITE` and `_READ`.
const WRITE: u64 = 1;
const READ: u64 = 2;

/// Reply to a LOOKUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Node of the file.
    pub node: u64,
    /// Size in bytes.
    pub size: u64,
    /// Whether the guest should map the file.
    pub dax: bool,
}

/// Share, daemon, guest and window of one test.
#[derive(Debug)]
pub struct Dax {
    /// The VMM's side of the window.
    pub window: Window,
    /// The share, the daemon and the guest.
    pub bench: Bench,
}

impl Dax {
    /// Starts a share whose guest has sent INIT, behind a VMM with these rules.
    ///
    /// # Errors
    /// Fails if the daemon does not start or refuses the guest.
    pub fn new(rules: Rules, arguments: &[&str]) -> Result<Self, FrontendError> {
        let mut dax = Self::before_init(rules, arguments)?;
        dax.bench.guest.init()?;
        Ok(dax)
    }

    /// As [`Dax::new`], before INIT.
    ///
    /// # Errors
    /// Fails if the daemon does not start.
    pub fn before_init(rules: Rules, arguments: &[&str]) -> Result<Self, FrontendError> {
        let (folder, daemon) = Bench::serve(arguments)?;
        let (guest, window) = connect(daemon.socket(), Setup::default(), rules)?;
        Ok(Self { window, bench: Bench::of(guest, daemon, folder) })
    }

    /// Creates a file of `len` bytes on the host. Each page begins with its number.
    ///
    /// # Errors
    /// Fails if the host has no space.
    pub fn file(&self, name: &str, len: u64) -> Result<(), FrontendError> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(self.bench.host(name))?);
        let mut page = [0; 4096];
        for number in 0..len.div_ceil(4096) {
            for (place, byte) in page.iter_mut().zip(number.to_le_bytes()) {
                *place = byte;
            }
            let here = usize::try_from(len - number * 4096).unwrap_or(usize::MAX).min(page.len());
            file.write_all(page.get(..here).unwrap_or_default())?;
        }
        file.flush()?;
        Ok(())
    }

    /// Sends LOOKUP in the share's root.
    ///
    /// # Errors
    /// Fails if the name does not exist.
    pub fn look_up(&mut self, name: &str) -> Result<Found, FrontendError> {
        let body = self.bench.body(Frame::new(LOOKUP, 1).name(name), ENTRY_LEN)?;
        Ok(Found {
            node: u64_at(&body, NODE_AT)?,
            size: u64_at(&body, SIZE_AT)?,
            dax: u32_at(&body, FLAGS_AT)? & ATTR_DAX != 0,
        })
    }

    /// Sends LOOKUP and OPEN of a file, as every guest does before it maps. Returns node and file
    /// handle.
    ///
    /// # Errors
    /// Fails if the open is refused.
    pub fn open(&mut self, name: &str, flags: u32) -> Result<(u64, u64), FrontendError> {
        let node = self.look_up(name)?.node;
        let body = self.bench.body(Frame::new(OPEN_FILE, node).u32(flags).u32(0), 16)?;
        Ok((node, u64_at(&body, 0)?))
    }

    /// Sends RELEASE.
    ///
    /// # Errors
    /// Fails if it is refused.
    pub fn release(&mut self, node: u64, handle: u64) -> Result<(), FrontendError> {
        self.bench.body(Frame::new(RELEASE, node).u64(handle).u32(0).u32(0).u64(0), 0)?;
        Ok(())
    }

    /// Sends SETUPMAPPING for reading and returns the errno; 0 is success. Maps `len` bytes of the
    /// file from its offset `from` to the offset `at` of the window.
    ///
    /// # Errors
    /// Fails if there is no reply.
    pub fn map(&mut self, node: u64, from: u64, at: u64, len: u64) -> Result<i32, FrontendError> {
        self.bench.errno(setup_mapping(node, [from, len, READ, at]), 0)
    }

    /// As [`Dax::map`], for reading and writing.
    ///
    /// # Errors
    /// Fails if there is no reply.
    pub fn map_writable(&mut self, node: u64, from: u64, at: u64, len: u64) -> Result<i32, FrontendError> {
        self.bench.errno(setup_mapping(node, [from, len, READ | WRITE, at]), 0)
    }

    /// Sends REMOVEMAPPING of all these ranges (offset in the window, length) in one message and
    /// returns the errno; 0 is success.
    ///
    /// # Errors
    /// Fails if there is no reply.
    pub fn unmap(&mut self, node: u64, ranges: &[(u64, u64)]) -> Result<i32, FrontendError> {
        self.bench.errno(remove_mapping(node, ranges), 0)
    }
}

/// Returns a SETUPMAPPING as Linux sends it, without a file handle: file offset, length, flags,
/// window offset.
pub fn setup_mapping(node: u64, [from, len, flags, at]: [u64; 4]) -> Frame {
    Frame::new(SETUPMAPPING, node).u64(u64::MAX).u64(from).u64(len).u64(flags).u64(at)
}

/// Returns a REMOVEMAPPING of these ranges: offset in the window, length.
pub fn remove_mapping(node: u64, ranges: &[(u64, u64)]) -> Frame {
    let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let frame = Frame::new(REMOVEMAPPING, node).u32(count);
    ranges.iter().fold(frame, |frame, (at, len)| frame.u64(*at).u64(*len))
}
