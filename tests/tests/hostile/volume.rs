//! Can a guest do harm by the amount that it sends or declares?

use pinhole::limits::LOG_LINE_LEN_MAX;
use pinhole_tests::frontend::frame::opcode::{LOOKUP, OPEN_FILE, READ, WRITE};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Bench, Descriptor, FrontendError, Setup};
use std::fs;
use std::time::{Duration, Instant};

/// Largest READ or WRITE that INIT allows, in bytes.
const TRANSFER_MAX: u32 = 1 << 20;

/// Returns a chain of 80 bytes of arguments, and `times` descriptors of the same memory. The last
/// one has the flag NEXT, so the caller must append one more descriptor.
fn repeated_pieces(here: u64, (piece, flags): (u64, u16), times: u16) -> Vec<Descriptor> {
    let pieces = (0..times).map(|n| at(piece, TRANSFER_MAX, flags | Descriptor::NEXT, n + 2));
    std::iter::once(at(here, 80, Descriptor::NEXT, 1)).chain(pieces).collect()
}

/// Returns a descriptor.
const fn at(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn a_flood_of_malformed_requests_does_not_flood_the_log() -> Result<(), FrontendError> {
    let mut bench = Bench::new()?;
    for _ in 0..5000 {
        bench.guest.raw_chain(1, &[at(0, 0, Descriptor::NEXT, 0)])?;
    }
    let lines = bench.daemon.stderr().lines().count();
    assert!(lines < 100, "{lines} lines for 5,000 requests");
    bench.is_alive()
}

/// The flood lasts longer than the second step of the back-off, and ends before the third.
#[test]
fn long_flood_logs_two_lines_for_each_queue() -> Result<(), FrontendError> {
    let mut bench = Bench::new()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        for queue in [1, 2] {
            bench.guest.raw_chain(queue, &[at(0, 0, Descriptor::NEXT, 0)])?;
        }
    }
    let log = bench.daemon.stderr();
    for queue in ["queue=1", "queue=2"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(queue)).collect();
        assert_eq!(lines.len(), 2, "{log}");
        // `docs/internals/denial-of-service.md` computes with this length of a line.
        assert!(lines.iter().all(|line| line.len() < LOG_LINE_LEN_MAX), "{log}");
    }
    bench.is_alive()
}

#[test]
fn restarted_queue_gets_no_additional_log_lines() -> Result<(), FrontendError> {
    const TIMES: usize = 100;
    let mut bench = Bench::new()?;
    for _ in 0..TIMES {
        bench.guest.raw_chain(1, &[at(0, 0, Descriptor::NEXT, 0)])?;
        let (queue, memory) = bench.guest.queue(1)?;
        // The index claims more requests than the ring holds, so the queue stops.
        let far = u16::MAX / 2;
        queue.publish(memory, far)?;
        queue.kick()?;
        queue.wait_for_failure()?;
        bench.guest.stop_queue(1)?;
        bench.guest.start_queue(1, Setup::default())?;
    }
    let log = bench.daemon.stderr();
    assert!(log.contains("queue stopped"), "{log}");
    let lines = log.lines().count();
    assert!(lines < TIMES / 2, "{lines} lines for {TIMES} times");
    bench.is_alive()
}

#[test]
fn repeated_descriptors_do_not_extend_a_transfer() {
    let mut bench = Bench::new().unwrap();
    fs::File::create(bench.host("file")).unwrap().set_len(64 << 20).unwrap();
    let node = u64_at(&bench.body(Frame::new(LOOKUP, 1).name("file"), 128).unwrap(), 0).unwrap();
    let opened = bench.body(Frame::new(OPEN_FILE, node).u32(2).u32(0), 16).unwrap();
    let handle = u64_at(&opened, 0).unwrap();
    let (queue, _) = bench.guest.queue(1).unwrap();
    let here = queue.place().buffers;
    let (piece, room, times) = (here + 4096, here + 2048, 60);
    let asked = TRANSFER_MAX * u32::from(times);
    let arguments = |opcode, payload: usize| {
        let frame = Frame::new(opcode, node).u64(handle).u64(0).u32(asked).u32(0).u64(0).u32(0).u32(0);
        let mut message = frame.message();
        message[..4].copy_from_slice(&u32::try_from(80 + payload).unwrap().to_le_bytes());
        message
    };
    bench.guest.poke(here, &arguments(READ, 0)).unwrap();
    let mut chain = repeated_pieces(here, (piece, Descriptor::WRITE), times);
    chain.push(at(room, 24, Descriptor::WRITE, 0));
    let used = bench.guest.raw_chain(1, &chain).unwrap();
    assert_eq!(used.len, TRANSFER_MAX + 16, "a READ is cut to the maximum of INIT");
    bench.guest.poke(here, &arguments(WRITE, usize::try_from(asked).unwrap())).unwrap();
    let mut chain = repeated_pieces(here, (piece, 0), times);
    chain.push(at(room, 24, Descriptor::WRITE, 0));
    let used = bench.guest.raw_chain(1, &chain).unwrap();
    assert_eq!(used.len, 16);
    let error = i32::from_le_bytes(bench.guest.peek(room + 4, 4).unwrap().try_into().unwrap());
    assert_eq!(error, -22, "a WRITE above the maximum is EINVAL");
    bench.is_alive().unwrap();
}
