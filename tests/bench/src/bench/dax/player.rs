//! A guest that maps one file, for the benchmark. It measures its loads and stores beside those of
//! a mapping on the host, and the cost of mapping. Its memory is measured from outside, with the
//! window and without.

use std::fs::OpenOptions;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pinhole_tests::dax_vmm::{Rules, Window, connect, remove_mapping, setup_mapping};
use pinhole_tests::frontend::frame::opcode::{LOOKUP, OPEN_FILE, READ};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Frontend, FrontendError, OUT_HEADER_LEN, Setup};
use rustix::io::Errno;
use vhost::vhost_user::message::VhostUserMMap;
use vhost::vhost_user::{Backend, VhostUserFrontendReqHandler as _};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};

/// Length of a slot in bytes. Linux maps whole slots.
const SLOT_LEN: u64 = 2 << 20;
/// Length in bytes of a READ that fills a guest's cache.
const READ_LEN: u32 = 1 << 20;
/// Length of a random access in bytes.
const BLOCK_LEN: u32 = 4096;
/// Number of mappings, each with its removal, in one figure.
const PAIRS: usize = 2000;
/// Open flag of the guest for reading and writing (`fcntl.h`).
const O_RDWR: u32 = 2;

/// Guest with a window at least as large as the file.
#[derive(Debug)]
pub(crate) struct MappingPlayer {
    window: Window,
    guest: Frontend,
    path: PathBuf,
    node: u64,
    handle: u64,
    len: u64,
    /// Mapping of the file on the host, without the window.
    native: MmapRegion,
    /// Copy of the file that a guest without a window keeps.
    cache: Vec<u8>,
    /// State of the pseudo-random numbers (xorshift64).
    random: u64,
}

/// Results of two ways to do the same work, in GiB/s or operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    /// Through the window.
    pub(crate) window: f64,
    /// Without the window.
    pub(crate) without_window: f64,
}

impl MappingPlayer {
    /// Connects to `socket` and finds the file `name`, which is `path` on the host.
    ///
    /// # Errors
    /// Fails if the daemon has no window, or the file does not exist.
    pub(crate) fn new(socket: &Path, name: &str, path: &Path) -> Result<Self, FrontendError> {
        let (mut guest, window) = connect(socket, Setup::default(), Rules::mapping())?;
        guest.init()?;
        let looked = guest.raw(1, &Frame::new(LOOKUP, 1).name(name).message(), OUT_HEADER_LEN + 128)?;
        let node = u64_at(looked.success()?, 0)?;
        let open = Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0).message();
        let handle = u64_at(guest.raw(1, &open, OUT_HEADER_LEN + 16)?.success()?, 0)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        if len % SLOT_LEN != 0 || len > window.len() {
            return Err(FrontendError::Reply(format!("{len} bytes do not fill slots of the window")));
        }
        let native = usize::try_from(len).map_err(std::io::Error::other)?;
        let native = MmapRegion::from_file(FileOffset::new(file, 0), native);
        let native = native.map_err(std::io::Error::other)?;
        Ok(Self {
            window,
            guest,
            path: path.to_owned(),
            node,
            handle,
            len,
            native,
            cache: Vec::new(),
            random: 0x1234_5678,
        })
    }

    /// Maps all of the file for writing, and touches each page.
    ///
    /// # Errors
    /// Fails if a mapping is refused.
    pub(crate) fn map(&mut self) -> Result<(), FrontendError> {
        let mut block = vec![0; 1 << 20];
        for at in (0..self.len).step_by(2 << 20) {
            let setup = setup_mapping(self.node, [at, SLOT_LEN, 3, at]).message();
            self.guest.raw(1, &setup, OUT_HEADER_LEN)?.success()?;
            for half in [at, at + SLOT_LEN / 2] {
                self.window.copy_out(half, &mut block).map_err(std::io::Error::from)?;
            }
        }
        Ok(())
    }

    /// Reads all of the file into memory, as a guest's page cache does.
    ///
    /// # Errors
    /// Fails if a READ fails.
    pub(crate) fn read(&mut self) -> Result<(), FrontendError> {
        self.cache.clear();
        for at in (0..self.len).step_by(1 << 20) {
            let message = self.read_message(at, READ_LEN);
            let reply =
                self.guest.raw(1, &message, OUT_HEADER_LEN + usize::try_from(READ_LEN).unwrap_or(0))?;
            self.cache.extend_from_slice(reply.success()?);
        }
        Ok(())
    }

    /// Returns a READ of the file.
    fn read_message(&self, at: u64, len: u32) -> Vec<u8> {
        let frame = Frame::new(READ, self.node).u64(self.handle).u64(at).u32(len).u32(0);
        frame.u64(0).u32(O_RDWR).u32(0).message()
    }

    /// Loads the whole file through the window and through the mapping on the host, in turns.
    /// Returns the speeds in GiB/s.
    ///
    /// # Errors
    /// Fails if the file is not mapped.
    pub(crate) fn load(&mut self, time: Duration) -> Result<Pair, FrontendError> {
        let mut block = vec![0; 2 << 20];
        self.in_turns(time, |player, through_window, at| {
            let copied = if through_window {
                player.window.copy_out(at, &mut block)
            } else {
                native(&player.native, at, block.len()).map(|slice| {
                    slice.copy_to(&mut block);
                })
            };
            copied.map_err(|error| std::io::Error::from(error).into())
        })
    }

    /// Stores to the whole file in the same way. Returns the speeds in GiB/s.
    ///
    /// # Errors
    /// Fails if the file is not mapped.
    pub(crate) fn store(&mut self, time: Duration) -> Result<Pair, FrontendError> {
        let block = vec![7; 2 << 20];
        self.in_turns(time, |player, through_window, at| {
            let copied = if through_window {
                player.window.copy_in(at, &block)
            } else {
                native(&player.native, at, block.len()).map(|slice| slice.copy_from(&block))
            };
            copied.map_err(|error| std::io::Error::from(error).into())
        })
    }

    /// Passes over the file slot by slot, through the window and through the mapping on the host in
    /// turns, until each has had `time`. The first pass of each does not count. `slot` handles one
    /// slot, through the window if its argument is true.
    fn in_turns(
        &mut self,
        time: Duration,
        mut slot: impl FnMut(&mut Self, bool, u64) -> Result<(), FrontendError>,
    ) -> Result<Pair, FrontendError> {
        let mut spent = [Duration::ZERO; 2];
        let mut bytes = [0_u64; 2];
        for pass in 0.. {
            if spent.iter().all(|spent| *spent >= time) {
                break;
            }
            // The order changes in each pass.
            let order = if pass % 2 == 0 { [0, 1] } else { [1, 0] };
            for way in order {
                let began = Instant::now();
                for at in (0..self.len).step_by(2 << 20) {
                    slot(self, way == 0, at)?;
                }
                if let (Some(spent), Some(bytes), true) = (spent.get_mut(way), bytes.get_mut(way), pass > 0) {
                    *spent += began.elapsed();
                    *bytes += self.len;
                }
            }
        }
        let [window, without_window] = [0, 1].map(|way: usize| {
            let (bytes, spent) = bytes.get(way).zip(spent.get(way)).unwrap_or((&0, &Duration::MAX));
            to_gib(*bytes) / spent.as_secs_f64()
        });
        Ok(Pair { window, without_window })
    }

    /// Returns the median time of SETUPMAPPING and REMOVEMAPPING of one slot together, in
    /// microseconds.
    ///
    /// # Errors
    /// Fails if a request is refused.
    pub(crate) fn map_and_unmap_us(&mut self) -> Result<f64, FrontendError> {
        let setup = setup_mapping(self.node, [0, SLOT_LEN, 3, 0]).message();
        let remove = remove_mapping(self.node, &[(0, SLOT_LEN)]).message();
        self.guest.raw(1, &remove, OUT_HEADER_LEN)?.success()?;
        let us = median_us(|| {
            self.guest.raw(1, &setup, OUT_HEADER_LEN)?.success()?;
            self.guest.raw(1, &remove, OUT_HEADER_LEN)?.success()?;
            Ok(())
        });
        self.guest.raw(1, &setup, OUT_HEADER_LEN)?.success()?;
        us
    }

    /// Returns the median time of the messages on the back channel alone, in microseconds: the
    /// least time for which a daemon's thread waits for such a VMM.
    ///
    /// # Errors
    /// Fails if there are no more descriptors, or a message is refused.
    pub(crate) fn back_channel_us(&self) -> Result<f64, FrontendError> {
        let (ours, theirs) = UnixStream::pair()?;
        let _window = Window::over(ours, SLOT_LEN, Rules::mapping(), None)?;
        let daemon = Backend::from_stream(theirs);
        daemon.set_reply_ack_flag(true);
        daemon.set_shmem_flag(true);
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let range = VhostUserMMap { len: SLOT_LEN, flags: 1, ..VhostUserMMap::default() };
        median_us(|| {
            daemon.shmem_map(&range, &file)?;
            daemon.shmem_unmap(&range)?;
            Ok(())
        })
    }

    /// Returns the number of 4 KiB blocks per second at random offsets: loads through the window,
    /// and READ.
    ///
    /// # Errors
    /// Fails if the file is not mapped, or a READ fails.
    pub(crate) fn random(&mut self, time: Duration) -> Result<Pair, FrontendError> {
        let mut block = vec![0; 4096];
        let window = self.rate(time, |player, at| {
            player.window.copy_out(at, &mut block).map_err(|error| std::io::Error::from(error).into())
        })?;
        let without_window = self.rate(time, |player, at| {
            let message = player.read_message(at, BLOCK_LEN);
            player.guest.raw(1, &message, OUT_HEADER_LEN + 4096)?.success()?;
            Ok(())
        })?;
        Ok(Pair { window, without_window })
    }

    /// Calls `block` with random offsets for `time`. Returns the calls per second.
    fn rate(
        &mut self,
        time: Duration,
        mut block: impl FnMut(&mut Self, u64) -> Result<(), FrontendError>,
    ) -> Result<f64, FrontendError> {
        let began = Instant::now();
        let mut done = 0_u32;
        while began.elapsed() < time {
            for _ in 0..64 {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                let at = self.random % (self.len / 4096) * 4096;
                block(self, at)?;
                done += 1;
            }
        }
        Ok(f64::from(done) / began.elapsed().as_secs_f64())
    }
}

/// Returns `len` bytes at `at` of the mapping on the host.
fn native(mapping: &MmapRegion, at: u64, len: usize) -> Result<VolatileSlice<'_>, Errno> {
    let at = usize::try_from(at).map_err(|_wide| Errno::FAULT)?;
    mapping.get_slice(at, len).map_err(|_outside| Errno::FAULT)
}

/// Returns the median time of `pair`, in microseconds.
fn median_us(mut pair: impl FnMut() -> Result<(), FrontendError>) -> Result<f64, FrontendError> {
    let mut times = Vec::with_capacity(PAIRS);
    for _ in 0..PAIRS {
        let began = Instant::now();
        pair()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(PAIRS / 2).map_or(f64::NAN, |median| median.as_secs_f64() * 1e6))
}

/// Converts bytes to GiB.
fn to_gib(bytes: u64) -> f64 {
    // Whole MiB are exact in a float.
    f64::from(u32::try_from(bytes >> 20).unwrap_or(u32::MAX)) / 1024.0
}
