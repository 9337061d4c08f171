//! If a guest fills several queues with one request, does the daemon still serve the other queues?
//!
//! The tests use the requests that cost most: INIT affects the whole session, FORGET has no reply,
//! and for SYNCFS and FSYNC the host writes back whole file systems. Needs strace, root and
//! overlayfs.

mod flood;
mod syncs;

use flood::{Flood, WIDE, get_attr, request_root, write_policy};
use pinhole_protocol::{InitFlags, InitRequest, Interrupt, NodeId, Operation, Unique};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::BATCH_FORGET;
use pinhole_tests::frontend::{Bench, Descriptor, Frontend, LIMIT};
use std::time::{Duration, Instant};

/// Limit of INIT and DESTROY per second. `limits.rs` of the daemon has the same two numbers.
const CHANGES_PER_SECOND: usize = 100;
/// Number of FORGETs that count as one operation.
const FORGETS_PER_OPERATION: u64 = 16;
/// Lower bound on the time of requests that a limit delays by two seconds. It is a little less
/// because the daemon starts its clock earlier than the test.
const TWO_SECONDS: Duration = Duration::from_millis(1900);

fn init() -> Operation<'static> {
    Operation::Init(InitRequest { major: 7, minor: 45, max_readahead: 0, flags: InitFlags::all() })
}

/// Returns a BATCH_FORGET with `nodes` entries. Each has an unknown node id and one lookup.
fn batch_forget(nodes: u32) -> Vec<u8> {
    let frame = Frame::new(BATCH_FORGET, 0).u32(nodes).u32(0);
    (0..nodes).fold(frame, |frame, _| frame.u64(u64::MAX).u64(1)).message()
}

#[test]
fn init_in_four_queues_does_not_starve_another() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    let guest = &mut bench.guest;
    let mut flood = Flood::new(2..=5, init());
    flood.poll(guest);
    let mut between: Vec<usize> = (0..50)
        .map(|_| {
            let before = flood.served;
            let sent = flood::submit(guest, 1, &get_attr());
            let began = Instant::now();
            loop {
                let (queue, memory) = guest.queue(1).unwrap();
                if let Some(used) = queue.take_used(memory).unwrap() {
                    assert_eq!(queue.take_reply(memory, &sent, used.len).unwrap().error().unwrap(), None);
                    return flood.served - before;
                }
                flood.poll(guest);
                assert!(began.elapsed() < LIMIT, "{} INITs were served before", flood.served - before);
            }
        })
        .collect();
    between.sort_unstable();
    println!("INITs between a GETATTR and its reply: {between:?}");
    // The limit permits the INITs of one second at once. The bound allows ten seconds, for a busy
    // host.
    assert!(between.iter().sum::<usize>() <= 10 * CHANGES_PER_SECOND, "{between:?}");
}

#[test]
fn init_has_a_limit_without_a_policy() {
    let mut bench = Bench::new().unwrap();
    let began = Instant::now();
    for _ in 0..3 * CHANGES_PER_SECOND {
        request_root(&mut bench.guest, 1, &init()).unwrap();
    }
    assert!(began.elapsed() >= TWO_SECONDS, "{:?}", began.elapsed());
}

/// Function that sends one request.
type Kind<'k> = &'k dyn Fn(&mut Frontend);

/// Sends 150 requests of each kind with a limit of 50 operations per second. They must take two
/// seconds.
#[test]
fn each_request_counts_as_an_operation() {
    let destroy = Operation::Destroy(pinhole_protocol::Destroy);
    let interrupt = Operation::Interrupt(Interrupt { target: Unique(1) });
    let malformed = Descriptor { address: 0, len: 64, flags: 0, next: 0 };
    let unread = |guest: &mut Frontend| {
        assert_eq!(guest.raw_chain(1, &[malformed]).unwrap().len, 0);
    };
    let kinds: [(&str, Kind<'_>); 5] = [
        ("INIT", &|guest| drop(request_root(guest, 1, &init()).unwrap())),
        // Each DESTROY after the first one fails, because there was no INIT in between.
        ("DESTROY", &|guest| drop(request_root(guest, 1, &destroy))),
        ("INTERRUPT", &|guest| drop(guest.request(1, NodeId(0), &interrupt, &[]).unwrap())),
        ("a malformed chain", &unread),
        ("bytes that are no request", &|guest| drop(guest.raw(1, &[0; 40], 256).unwrap())),
    ];
    for (name, send) in kinds {
        let (_folder, path) = write_policy("operations-per-second = 50");
        let mut bench = Bench::with(WIDE, &["--policy", &path]).unwrap();
        let began = Instant::now();
        for _ in 0..150 {
            send(&mut bench.guest);
        }
        assert!(began.elapsed() >= TWO_SECONDS, "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn forgets_have_a_limit_of_their_own() {
    let (_folder, path) = write_policy("operations-per-second = 50");
    let second = 50 * FORGETS_PER_OPERATION;
    // Many FORGETs in each message, in the hiprio queue and in a request queue.
    for queue in [0, 1] {
        let mut bench = Bench::with(WIDE, &["--policy", &path]).unwrap();
        let began = Instant::now();
        let batch = batch_forget(u32::try_from(second).unwrap());
        for _ in 0..4 {
            bench.guest.raw(queue, &batch, 0).unwrap();
        }
        assert!(began.elapsed() >= TWO_SECONDS, "{:?}", began.elapsed());
    }
    // One FORGET in each message.
    let mut bench = Bench::with(WIDE, &["--policy", &path]).unwrap();
    let forget = Operation::Forget(pinhole_protocol::Forget { count: 1 });
    let mut flood = Flood::new(0..=0, forget);
    let began = Instant::now();
    while flood.served < usize::try_from(3 * second).unwrap() {
        flood.poll(&mut bench.guest);
        assert!(began.elapsed() < LIMIT * 3, "{} FORGETs", flood.served);
    }
    assert!(began.elapsed() >= TWO_SECONDS, "{:?}", began.elapsed());
}

/// With the limit, the FORGETs take four minutes. Other queues are not delayed.
#[test]
fn flood_of_forgets_slows_no_other_request() {
    let (_folder, path) = write_policy("operations-per-second = 100");
    let mut bench = Bench::with(WIDE, &["--policy", &path]).unwrap();
    let guest = &mut bench.guest;
    let batch = batch_forget(8_000);
    let shape = guest.shape;
    let (hiprio, memory) = guest.queue(0).unwrap();
    for _ in 0..50 {
        hiprio.submit(memory, &batch, 0, shape).unwrap();
        hiprio.kick().unwrap();
    }
    for queue in [1, 2] {
        for _ in 0..20 {
            request_root(guest, queue, &get_attr()).unwrap();
        }
    }
    let (hiprio, memory) = guest.queue(0).unwrap();
    let given_back = std::iter::from_fn(|| hiprio.take_used(memory).unwrap()).count();
    assert!(given_back < 50, "the FORGETs were not slowed");
    // The queue thread delays one request. Stopping the queue does not wait for the end of the
    // delay.
    let began = Instant::now();
    guest.stop_queue(0).unwrap();
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
}
