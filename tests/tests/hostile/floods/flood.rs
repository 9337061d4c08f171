//! Queues that a guest fills with the same request again and again.

use pinhole_protocol::{Errno, GetAttr, NodeId, Operation};
use pinhole_tests::frontend::{EVENT_IDX, Frontend, INDIRECT, OUT_HEADER_LEN, Sent, Setup, Shape};
use std::fs;
use std::ops::RangeInclusive;
use tempfile::TempDir;

/// Set-up with the hiprio queue and five request queues, each with space for a thousand requests.
pub(crate) const WIDE: Setup = Setup { queues: 6, queue_size: 1024, features: INDIRECT | EVENT_IDX };

/// Layout of a request that takes one descriptor of the ring.
const NARROW: Shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };

/// Writes a policy file with these limits. Returns its folder and its path.
pub(crate) fn write_policy(limits: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, format!("[limits]\n{limits}\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

pub(crate) fn get_attr() -> Operation<'static> {
    Operation::GetAttr(GetAttr { handle: None })
}

/// Sends a request about the root and waits for its reply.
pub(crate) fn request_root(
    guest: &mut Frontend,
    queue: usize,
    operation: &Operation<'_>,
) -> Result<Vec<u8>, Errno> {
    let reply = guest.request(queue, NodeId::ROOT, operation, &[]).unwrap();
    match reply.error().unwrap() {
        Some(errno) => Err(errno),
        None => Ok(reply.success().unwrap().to_vec()),
    }
}

/// Sends a request about the root without waiting for its reply.
pub(crate) fn submit(guest: &mut Frontend, queue: usize, operation: &Operation<'_>) -> Sent {
    let sent = offer(guest, queue, operation);
    kick(guest, queue);
    sent
}

/// Adds a request about the root to a queue, without a kick.
pub(crate) fn offer(guest: &mut Frontend, queue: usize, operation: &Operation<'_>) -> Sent {
    let message = guest.encode(NodeId::ROOT, operation, &[]);
    let has_no_reply = matches!(operation, Operation::Forget(_) | Operation::BatchForget(_));
    let room = if has_no_reply { 0 } else { OUT_HEADER_LEN + 128 };
    let (queue, memory) = guest.queue(queue).unwrap();
    queue.submit(memory, &message, room, NARROW).unwrap()
}

/// Notifies the daemon of new requests in a queue.
pub(crate) fn kick(guest: &mut Frontend, queue: usize) {
    guest.queue(queue).unwrap().0.kick().unwrap();
}

/// The same request, many times in several queues.
pub(crate) struct Flood {
    /// Each queue, and its number of requests in progress.
    queues: Vec<(usize, usize)>,
    operation: Operation<'static>,
    /// Number of requests that the daemon has returned, with or without a reply.
    pub(crate) served: usize,
}

impl Flood {
    pub(crate) fn new(queues: RangeInclusive<usize>, operation: Operation<'static>) -> Self {
        Self { queues: queues.map(|queue| (queue, 0)).collect(), operation, served: 0 }
    }

    /// Takes the returned requests from all queues. Fills each queue that has no request left.
    pub(crate) fn poll(&mut self, guest: &mut Frontend) {
        for (queue, under_way) in &mut self.queues {
            {
                let (queue, memory) = guest.queue(*queue).unwrap();
                while queue.take_used(memory).unwrap().is_some() {
                    self.served += 1;
                    *under_way -= 1;
                }
            }
            if *under_way == 0 {
                *under_way = usize::from(WIDE.queue_size);
                for _ in 0..*under_way {
                    offer(guest, *queue, &self.operation);
                }
                kick(guest, *queue);
            }
        }
    }
}
