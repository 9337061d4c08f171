//! A request of `/dev/fuse` that waits in [`Parking`].

use super::device::{DeviceSink, Outcome};
use crate::filesystem::FileSystem;
use crate::session::{Parked, Scratch, Session};
use crate::transport::parking;
use pinhole_protocol::Errno;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Those of one mount.
pub(super) type Parking = parking::Parking<Stay>;

/// A request whose caller waits for a lock.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) parked: Parked,
    pub(super) device: Arc<OwnedFd>,
}

impl parking::Stay for Stay {
    fn parked(&self) -> &Parked {
        &self.parked
    }

    /// There are no queues here, and none is ever stopped.
    fn queue(&self) -> usize {
        0
    }

    fn number(&self) -> u64 {
        0
    }

    fn put_back(&self) -> bool {
        false
    }

    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch) {
        let mut outcome = Outcome::default();
        // What waits is answered by success or an error alone.
        let sink = DeviceSink::new(self.device.as_fd(), VolatileSlice::from(&mut [][..]), &mut outcome);
        session.settle(&self.parked, result, sink, scratch);
    }
}
