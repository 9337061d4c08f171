//! A deferred request of a queue.
//!
//! Unlike a request in the pool ([`super::offload`]) it holds no guest memory while it waits. The
//! front-end may have to change the guest's memory before it can answer (QEMU sends ADD_MEM_REG
//! around its answer), and such a change waits for all requests that use the memory.

use super::request::QueueRequest;
use super::ring::InFlight;
use super::split_ring::{Done, RingPlace};
use crate::filesystem::FileSystem;
use crate::session::{Deferred, Scratch, Session};
use crate::transport::deferred::DeferredRequest;
use pinhole_protocol::Errno;

/// A deferred request of a queue.
#[derive(Debug)]
pub(super) struct QueueDeferred {
    pub(super) deferred: Deferred,
    /// The request, without its message.
    pub(super) request: QueueRequest,
    /// Its place in the available ring.
    pub(super) place: RingPlace,
    /// The queue from which it was taken.
    pub(super) queue: usize,
    pub(super) in_flight: InFlight,
}

impl DeferredRequest for QueueDeferred {
    fn deferred(&self) -> &Deferred {
        &self.deferred
    }

    fn queue(&self) -> usize {
        self.queue
    }

    fn number(&self) -> u64 {
        self.place.number
    }

    fn put_back(&self) -> bool {
        self.in_flight.put_back(self.place)
    }

    fn answer<F: FileSystem>(self, session: &Session<F>, result: Result<(), Errno>, scratch: &mut Scratch) {
        let Self { deferred, request, place, mut in_flight, .. } = self;
        let memory = in_flight.begin();
        let len = request.answer_deferred((session, memory.view()), &deferred, result, scratch);
        in_flight.give_back(&memory, Done { head: place.head, len });
        drop((memory, in_flight));
    }
}
