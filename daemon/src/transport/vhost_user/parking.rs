//! A request of a queue that waits in [`Parking`].
//!
//! Unlike those in the pool ([`super::pool`]) it holds no memory while it waits. The front-end may have to change the
//! guest's memory before it can answer (QEMU sends ADD_MEM_REG around its answer), and who changes that waits for all who
//! use it.

use super::request::Taken;
use super::ring::Deferral;
use super::split_ring::{Done, Place};
use crate::filesystem::FileSystem;
use crate::session::{Parked, Scratch, Session};
use crate::transport::parking;
use pinhole_protocol::Errno;

/// Those of one connection.
pub(super) type Parking = parking::Parking<Stay>;

/// A request that has stepped aside.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) parked: Parked,
    /// What it says, and where the answer goes.
    pub(super) taken: Taken,
    /// Where it stood in the available ring.
    pub(super) place: Place,
    /// The queue from which it was taken.
    pub(super) queue: usize,
    /// Its way back.
    pub(super) deferral: Deferral,
}

impl parking::Stay for Stay {
    fn parked(&self) -> &Parked {
        &self.parked
    }

    fn queue(&self) -> usize {
        self.queue
    }

    fn number(&self) -> u64 {
        self.place.number
    }

    fn put_back(&self) -> bool {
        self.deferral.put_back(self.place)
    }

    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch) {
        let Self { parked, taken, place, mut deferral, .. } = self;
        let memory = deferral.begin();
        let len = taken.settle((session, memory.view()), &parked, result, scratch);
        deferral.give_back(&memory, Done { head: place.head, len });
        drop((memory, deferral));
    }
}
