//! Can a guest do harm by the content of its messages?
//!
//! Whatever is wrong with a message, a descriptor chain or a ring, the daemon replies with an error
//! or stops that one queue, continues to serve, and does not grow.

use pinhole_tests::frontend::frame::opcode::{
    ACCESS, BATCH_FORGET, BMAP, COPY_FILE_RANGE, CREATE, DESTROY, FALLOCATE, FLUSH, FORGET, FSYNC, FSYNCDIR,
    GETATTR, GETLK, GETXATTR, INIT, INTERRUPT, IOCTL, LINK, LISTXATTR, LOOKUP, LSEEK, MKDIR, MKNOD,
    OPEN_FILE, OPENDIR, POLL, READ, READDIR, READDIRPLUS, READLINK, RELEASE, RELEASEDIR, REMOVEMAPPING,
    REMOVEXATTR, RENAME, RENAME2, RMDIR, SETATTR, SETLK, SETUPMAPPING, SETXATTR, STATFS, STATX, SYMLINK,
    SYNCFS, TMPFILE, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{
    Bench, Descriptor, INDIRECT as INDIRECT_FEATURE, MEMORY_LEN, MEMORY_START, OUT_HEADER_LEN, QUEUE_LEN,
    Setup, eventually,
};
use pinhole_tests::linux::ROOT;
use std::fs;

const NEXT: u16 = Descriptor::NEXT;
const WRITABLE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;
/// First address after the guest's memory.
const MEMORY_END: u64 = MEMORY_START + MEMORY_LEN;
/// Memory that the daemon's allocator may keep after any number of requests, in KiB.
const SLACK_KIB: u64 = 8 << 10;
/// Range of the length in the header.
const LEN_AT: std::ops::Range<usize> = 0..4;

/// Valid nodes and file handles of a guest.
struct Scene {
    file: u64,
    handle: u64,
    dir: u64,
    dir_handle: u64,
    link: u64,
}

impl Scene {
    /// Prepares a guest that has just sent INIT, with open files and directories.
    fn begin(bench: &mut Bench) -> Self {
        bench.guest.init().unwrap();
        for entry in fs::read_dir(bench.host("")).unwrap() {
            let path = entry.unwrap().path();
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.unwrap();
        }
        for (name, content) in [("file", "0123456789"), ("other", "x")] {
            fs::write(bench.host(name), content).unwrap();
        }
        fs::create_dir(bench.host("dir")).unwrap();
        std::os::unix::fs::symlink("file", bench.host("link")).unwrap();
        let node = |bench: &mut Bench, name: &str| {
            u64_at(&bench.body(Frame::new(LOOKUP, ROOT).name(name), 128).unwrap(), 0).unwrap()
        };
        let (file, dir, link) = (node(bench, "file"), node(bench, "dir"), node(bench, "link"));
        let handle = bench.body(Frame::new(OPEN_FILE, file).u32(2).u32(0), 16).unwrap();
        let dir_handle = bench.body(Frame::new(OPENDIR, dir).u32(0).u32(0), 16).unwrap();
        Self {
            file,
            dir,
            link,
            handle: u64_at(&handle, 0).unwrap(),
            dir_handle: u64_at(&dir_handle, 0).unwrap(),
        }
    }

    /// Returns one valid message of each kind.
    fn messages(&self) -> Vec<Vec<u8>> {
        let Self { file, handle, dir, dir_handle, link } = *self;
        let list =
            |opcode| Frame::new(opcode, dir).u64(dir_handle).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
        let lock =
            |opcode| Frame::new(opcode, file).u64(handle).u64(1).u64(0).u64(9).u32(1).u32(1).u32(0).u32(0);
        let setattr =
            Frame::new(SETATTR, file).u32(0x1fb).u32(0).u64(handle).u64(5).u64(0).u64(1).u64(2).u64(3);
        let frames = [
            Frame::new(LOOKUP, ROOT).name("file"),
            Frame::new(FORGET, file).u64(0),
            Frame::new(BATCH_FORGET, 0).u32(2).u32(0).u64(file).u64(0).u64(dir).u64(0),
            Frame::new(GETATTR, file).u32(1).u32(0).u64(handle),
            setattr.u32(4).u32(5).u32(6).u32(0o644).u32(0).u32(0).u32(0).u32(0),
            Frame::new(READLINK, link),
            Frame::new(SYMLINK, dir).name("a").name("target"),
            Frame::new(MKNOD, dir).u32(0o100_644).u32(0).u32(0o22).u32(0).name("b"),
            Frame::new(MKDIR, dir).u32(0o755).u32(0o22).name("c"),
            Frame::new(UNLINK, dir).name("a"),
            Frame::new(RMDIR, dir).name("c"),
            Frame::new(RENAME, ROOT).u64(dir).name("other").name("d"),
            Frame::new(RENAME2, dir).u64(ROOT).u32(1).u32(0).name("d").name("other"),
            Frame::new(LINK, dir).u64(file).name("e"),
            Frame::new(OPEN_FILE, file).u32(2).u32(0),
            Frame::new(READ, file).u64(handle).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0),
            Frame::new(WRITE, file).u64(handle).u64(0).u32(4).u32(0).u64(0).u32(2).u32(0).bytes(b"data"),
            Frame::new(STATFS, ROOT),
            Frame::new(RELEASE, file).u64(handle ^ 1).u32(2).u32(0).u64(0),
            Frame::new(FSYNC, file).u64(handle).u32(0).u32(0),
            Frame::new(SETXATTR, file).u32(5).u32(0).u32(0).u32(0).name("user.k").bytes(b"value"),
            Frame::new(GETXATTR, file).u32(64).u32(0).name("user.k"),
            Frame::new(LISTXATTR, file).u32(64).u32(0),
            Frame::new(REMOVEXATTR, file).name("user.k"),
            Frame::new(FLUSH, file).u64(handle).u32(0).u32(0).u64(1),
            Frame::new(INIT, 0).u32(7).u32(45).u32(0x2_0000).u32(u32::MAX).u32(u32::MAX).bytes(&[0; 44]),
            Frame::new(OPENDIR, dir).u32(0).u32(0),
            list(READDIR),
            Frame::new(RELEASEDIR, dir).u64(dir_handle ^ 1).u32(0).u32(0).u64(0),
            Frame::new(FSYNCDIR, dir).u64(dir_handle).u32(0).u32(0),
            lock(GETLK),
            lock(SETLK),
            Frame::new(ACCESS, file).u32(4).u32(0),
            Frame::new(CREATE, dir).u32(2).u32(0o100_644).u32(0o22).u32(0).name("f"),
            Frame::new(INTERRUPT, 0).u64(4),
            Frame::new(BMAP, file).u64(0).u32(4096).u32(0),
            Frame::new(IOCTL, file).u64(handle).u32(0).u32(0x5401).u64(0).u32(8).u32(8).bytes(&[0; 8]),
            Frame::new(POLL, file).u64(handle).u64(0).u32(0).u32(1),
            Frame::new(FALLOCATE, file).u64(handle).u64(0).u64(4096).u32(0).u32(0),
            list(READDIRPLUS),
            Frame::new(LSEEK, file).u64(handle).u64(0).u32(3).u32(0),
            Frame::new(COPY_FILE_RANGE, file)
                .u64(handle)
                .u64(0)
                .u64(file)
                .u64(handle)
                .u64(100)
                .u64(10)
                .u64(0),
            Frame::new(SETUPMAPPING, file).u64(u64::MAX).u64(0).u64(0x20_0000).u64(3).u64(0),
            Frame::new(REMOVEMAPPING, file).u32(1).u64(0).u64(0x20_0000),
            Frame::new(SYNCFS, ROOT).u64(0),
            Frame::new(TMPFILE, dir).u32(2).u32(0o100_644).u32(0).u32(0).name("/"),
            Frame::new(STATX, file).u32(0).u32(0).u64(0).u32(0).u32(0xfff),
            Frame::new(DESTROY, 0),
        ];
        frames.into_iter().map(Frame::message).collect()
    }
}

/// Sends any bytes and checks that a reply, if there is one, is well-formed.
#[track_caller]
fn send_and_check(bench: &mut Bench, queue: usize, message: &[u8], room: usize) {
    let reply = bench.guest.raw(queue, &limited(message), room).unwrap();
    if reply.is_unanswered() {
        assert!(reply.rest_untouched, "the daemon wrote to the buffers of a request without a reply");
        return;
    }
    let unique = u64_at(message, 8).unwrap();
    pinhole_tests::frontend::frame::check(&reply, unique).unwrap();
}

/// Returns the message. Limits the length of a FALLOCATE to 16 MiB, to save disk space on the host.
fn limited(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if message.get(4..8) == Some(&FALLOCATE.to_le_bytes()) {
        message.iter_mut().take(64).skip(59).for_each(|byte| *byte = 0);
    }
    message
}

/// Checks that the daemon serves the guest, if necessary after another INIT, as the last message
/// may have been a DESTROY or an INIT of another version.
#[track_caller]
fn still_serves(bench: &mut Bench) {
    if bench.is_alive().is_err() {
        bench.guest.init().unwrap();
        bench.is_alive().unwrap();
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    let mut bench = Bench::new().unwrap();
    let scene = Scene::begin(&mut bench);
    for message in scene.messages() {
        for len in 0..message.len() {
            // A truncated message, once with a wrong length in its header and once with a right
            // one.
            let mut cut = message[..len].to_vec();
            send_and_check(&mut bench, 1, &cut, 4096);
            if let Some(place) = cut.get_mut(LEN_AT) {
                place.copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                send_and_check(&mut bench, 1, &cut, 4096);
            }
            still_serves(&mut bench);
        }
        for declared in [0, 1, 39, 40, 41, 1 << 16, u32::MAX] {
            let mut lying = message.clone();
            lying[LEN_AT].copy_from_slice(&declared.to_le_bytes());
            send_and_check(&mut bench, 1, &lying, 4096);
        }
        for more in [1, 8, 100, 200_000] {
            let mut long = message.clone();
            long.resize(message.len() + more, 0x41);
            send_and_check(&mut bench, 1, &long, 4096);
            let len = u32::try_from(long.len()).unwrap();
            long[LEN_AT].copy_from_slice(&len.to_le_bytes());
            send_and_check(&mut bench, 1, &long, 4096);
        }
        still_serves(&mut bench);
    }
}

#[test]
fn every_reply_stays_within_its_space() {
    let mut bench = Bench::new().unwrap();
    let scene = Scene::begin(&mut bench);
    for message in scene.messages() {
        for room in [0, 1, 15, 16, 17, 24, 56, 119, 120, 143, 144, 160, 303, 304] {
            send_and_check(&mut bench, 1, &message, room);
        }
        still_serves(&mut bench);
    }
}

#[test]
fn any_number_in_any_field_is_handled() {
    let mut bench = Bench::new().unwrap();
    let extremes =
        [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX];
    let count = Scene::begin(&mut bench).messages().len();
    for index in 0..count {
        let messages = Scene::begin(&mut bench).messages();
        let message = &messages[index];
        // All fields from the node on. Length, opcode and `unique` have their own tests.
        for at in (16..message.len().saturating_sub(7)).step_by(4) {
            for number in extremes {
                let mut wrong = message.clone();
                wrong[at..at + 8].copy_from_slice(&number.to_le_bytes());
                send_and_check(&mut bench, 1, &wrong, 4096);
            }
            still_serves(&mut bench);
        }
    }
}

#[test]
fn any_body_with_any_opcode_is_handled() {
    let mut bench = Bench::new().unwrap();
    let scene = Scene::begin(&mut bench);
    let bodies = scene.messages();
    for opcode in (0..60).chain([4096, 0x1000_0000, u32::MAX]) {
        for body in &bodies {
            let mut crossed = body.clone();
            crossed[4..8].copy_from_slice(&opcode.to_le_bytes());
            send_and_check(&mut bench, 1, &crossed, 4096);
        }
        still_serves(&mut bench);
    }
}

#[test]
fn nodes_and_handles_that_were_never_given_are_refused() {
    let mut bench = Bench::new().unwrap();
    let Scene { file, handle, .. } = Scene::begin(&mut bench);
    for wrong in [0, file + 1000, file ^ 1 << 32, file ^ 1 << 40, 1 << 63, u64::MAX] {
        assert_ne!(
            bench.errno(Frame::new(GETATTR, wrong).u32(0).u32(0).u64(0), 104).unwrap(),
            0,
            "node {wrong:#x}"
        );
        let lookup = Frame::new(LOOKUP, wrong).name("file");
        assert_ne!(bench.errno(lookup, 128).unwrap(), 0, "parent {wrong:#x}");
    }
    for wrong in [handle + 1000, handle ^ 1 << 32, handle ^ 1 << 40, 1 << 63, u64::MAX] {
        let read = Frame::new(READ, file).u64(wrong).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0);
        assert_eq!(bench.errno(read, 16).unwrap(), 9, "handle {wrong:#x} is EBADF");
    }
}

#[test]
fn forget_above_the_lookups_affects_no_other_node() {
    let mut bench = Bench::new().unwrap();
    let Scene { file, handle, .. } = Scene::begin(&mut bench);
    for node in [ROOT, file, file, 77, u64::MAX] {
        for count in [u64::MAX, 1 << 63, 1 << 32] {
            send_and_check(&mut bench, 0, &Frame::new(FORGET, node).u64(count).message(), 0);
        }
    }
    bench.is_alive().unwrap();
    let getattr = Frame::new(GETATTR, file).u32(0).u32(0).u64(0);
    assert_ne!(bench.errno(getattr, 104).unwrap(), 0, "a node without lookups is still valid");
    let read = Frame::new(READ, file).u64(handle).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0);
    let reply = bench.ask(read, 16).unwrap();
    assert!(reply.error().unwrap().is_some() || reply.success().unwrap() == b"0123456789");
}

#[test]
fn a_fifo_and_a_device_are_never_opened() {
    let mut bench = Bench::new().unwrap();
    Scene::begin(&mut bench);
    for (name, mode, device) in [("fifo", 0o010_666, 0), ("null", 0o020_666, 0x103), ("socket", 0o140_666, 0)]
    {
        let made = Frame::new(MKNOD, ROOT).u32(mode).u32(device).u32(0).u32(0).name(name);
        // If the host does not let the daemon make devices, there is no device to open.
        let made = bench.ask(made, 128).unwrap();
        if made.error().unwrap().is_some() {
            assert_eq!(name, "null");
            continue;
        }
        let node = u64_at(made.success().unwrap(), 0).unwrap();
        for flags in [0, 1, 2, 0o1000, 0o4000] {
            assert_ne!(bench.errno(Frame::new(OPEN_FILE, node).u32(flags).u32(0), 16).unwrap(), 0, "{name}");
        }
        let create = Frame::new(CREATE, ROOT).u32(1).u32(0o100_644).u32(0).u32(0).name(name);
        assert_ne!(bench.errno(create, 144).unwrap(), 0, "CREATE over {name}");
    }
    bench.is_alive().unwrap();
}

/// Writes a well-formed GETATTR on the root into the buffers of queue 1. Returns the addresses of
/// message and descriptor table.
fn chain(bench: &mut Bench) -> (u64, u64) {
    let (queue, _) = bench.guest.queue(1).unwrap();
    let place = queue.place();
    let message = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    bench.guest.poke(place.buffers, &message).unwrap();
    (place.buffers, place.tables)
}

fn at(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn malformed_chain_is_returned_untouched_and_queue_continues() {
    let mut bench = Bench::new().unwrap();
    let (here, table) = chain(&mut bench);
    let room = here + 4096;
    let chains: Vec<(&str, Vec<Descriptor>)> = vec![
        ("a loop of one", vec![at(here, 56, NEXT, 0)]),
        ("a loop of two", vec![at(here, 40, NEXT, 1), at(here + 40, 16, NEXT, 0)]),
        ("a writable loop", vec![at(here, 56, NEXT, 1), at(room, 120, NEXT | WRITABLE, 1)]),
        ("an index behind the table", vec![at(here, 56, NEXT, 128)]),
        ("the last index there is", vec![at(here, 56, NEXT, u16::MAX)]),
        ("no length", vec![at(here, 56, NEXT, 1), at(room, 0, WRITABLE, 0)]),
        ("no length to read", vec![at(here, 0, NEXT, 1), at(room, 120, WRITABLE, 0)]),
        ("address 0", vec![at(here, 56, NEXT, 1), at(0, 120, WRITABLE, 0)]),
        ("below memory", vec![at(MEMORY_START - 8, 56, 0, 0)]),
        ("behind memory", vec![at(here, 56, NEXT, 1), at(MEMORY_END, 120, WRITABLE, 0)]),
        ("over the end of memory", vec![at(here, 56, NEXT, 1), at(MEMORY_END - 8, 120, WRITABLE, 0)]),
        ("the end of the address space", vec![at(u64::MAX - 4, 56, NEXT, 1), at(room, 120, WRITABLE, 0)]),
        ("4 GiB", vec![at(here, u32::MAX, NEXT, 1), at(room, 120, WRITABLE, 0)]),
        ("read behind write", vec![at(room, 120, NEXT | WRITABLE, 1), at(here, 56, 0, 0)]),
        ("nothing to read", vec![at(room, 120, WRITABLE, 0)]),
        ("less than a header", vec![at(here, 39, NEXT, 1), at(room, 120, WRITABLE, 0)]),
        ("indirect with next", vec![at(table, 32, INDIRECT | NEXT, 1), at(here, 56, 0, 0)]),
        ("indirect of no length", vec![at(table, 0, INDIRECT, 0)]),
        ("indirect of half a descriptor", vec![at(table, 24, INDIRECT, 0)]),
        ("indirect too long", vec![at(table, 16 * 1025, INDIRECT, 0)]),
        ("indirect of 4 GiB", vec![at(table, u32::MAX - 15, INDIRECT, 0)]),
        ("indirect behind memory", vec![at(MEMORY_END, 32, INDIRECT, 0)]),
        ("indirect over the end", vec![at(MEMORY_END - 8, 16, INDIRECT, 0)]),
    ];
    for (what, descriptors) in chains {
        bench.guest.poke(room, &[0xa5; 120]).unwrap();
        let used = bench.guest.raw_chain(1, &descriptors).unwrap();
        assert_eq!((used.head, used.len), (0, 0), "{what}");
        assert_eq!(bench.guest.peek(room, 120).unwrap(), [0xa5; 120], "{what}: written to");
        bench.is_alive().unwrap();
        chain(&mut bench);
    }
}

#[test]
fn malformed_indirect_table_is_returned_untouched() {
    let mut bench = Bench::new().unwrap();
    let (here, table) = chain(&mut bench);
    let room = here + 4096;
    let tables: Vec<(&str, Vec<Descriptor>)> = vec![
        ("indirect inside indirect", vec![at(table, 16, INDIRECT, 0)]),
        ("indirect at the end", vec![at(here, 56, NEXT, 1), at(table, 16, INDIRECT, 0)]),
        ("a loop", vec![at(here, 56, NEXT, 1), at(room, 120, NEXT | WRITABLE, 1)]),
        ("an index behind the table", vec![at(here, 56, NEXT, 2), at(room, 120, WRITABLE, 0)]),
        ("no length", vec![at(here, 56, NEXT, 1), at(room, 0, WRITABLE, 0)]),
        ("behind memory", vec![at(here, 56, NEXT, 1), at(MEMORY_END, 120, WRITABLE, 0)]),
        ("read behind write", vec![at(room, 120, NEXT | WRITABLE, 1), at(here, 56, 0, 0)]),
    ];
    for (what, inner) in tables {
        let (queue, memory) = bench.guest.queue(1).unwrap();
        queue.write_table(memory, table, &inner).unwrap();
        bench.guest.poke(room, &[0xa5; 120]).unwrap();
        let len = u32::try_from(inner.len() * 16).unwrap();
        let used = bench.guest.raw_chain(1, &[at(table, len, INDIRECT, 0)]).unwrap();
        assert_eq!((used.head, used.len), (0, 0), "{what}");
        assert_eq!(bench.guest.peek(room, 120).unwrap(), [0xa5; 120], "{what}: written to");
        bench.is_alive().unwrap();
        chain(&mut bench);
    }
}

#[test]
fn an_indirect_table_that_was_not_negotiated_is_refused() {
    let mut bench = Bench::with(Setup { features: 0, ..Setup::default() }, &[]).unwrap();
    assert_ne!(Setup::default().features & INDIRECT_FEATURE, 0);
    let (here, table) = chain(&mut bench);
    let inner = [at(here, 56, NEXT, 1), at(here + 4096, 120, WRITABLE, 0)];
    let (queue, memory) = bench.guest.queue(1).unwrap();
    queue.write_table(memory, table, &inner).unwrap();
    assert_eq!(bench.guest.raw_chain(1, &[at(table, 32, INDIRECT, 0)]).unwrap().len, 0);
    bench.is_alive().unwrap();
}

/// Breaks queue 1. Checks that only this queue stops, and that it serves again after a new set-up.
fn only_that_queue_stops(break_it: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::new().unwrap();
    break_it(&mut bench);
    let (queue, _) = bench.guest.queue(1).unwrap();
    queue.kick().unwrap();
    queue.wait_for_failure().unwrap();
    let getattr = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    for other in [0, 2] {
        let reply = bench.guest.raw(other, &getattr, OUT_HEADER_LEN + 104).unwrap();
        assert_eq!(reply.success().unwrap().len(), 104, "queue {other}");
    }
    assert!(bench.daemon.stderr().contains("queue stopped"), "{}", bench.daemon.stderr());
    bench.guest.stop_queue(1).unwrap();
    bench.guest.share_memory().unwrap();
    bench.guest.start_queue(1, Setup::default()).unwrap();
    bench.is_alive().unwrap();
}

#[test]
fn invalid_head_stops_only_its_queue() {
    only_that_queue_stops(|bench| {
        let (queue, memory) = bench.guest.queue(1).unwrap();
        queue.offer(memory, 128).unwrap();
    });
}

#[test]
fn overfull_ring_stops_only_its_queue() {
    only_that_queue_stops(|bench| {
        let (queue, memory) = bench.guest.queue(1).unwrap();
        // INIT was the only request on this queue, so its index is 1.
        queue.publish(memory, 1 + 129).unwrap();
    });
}

#[test]
fn ring_outside_memory_stops_only_its_queue() {
    only_that_queue_stops(|bench| {
        bench.guest.stop_queue(1).unwrap();
        // Memory now ends four bytes into the used ring of queue 1, and continues with queue 2.
        let used = MEMORY_START + QUEUE_LEN + 0x1_0000;
        let last = MEMORY_START + 2 * QUEUE_LEN;
        bench.guest.remap(&[(MEMORY_START, used + 4 - MEMORY_START), (last, MEMORY_END - last)]).unwrap();
        bench.guest.start_queue(1, Setup::default()).unwrap();
    });
}

/// Random numbers from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % limit.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

fn mutate(random: &mut Random, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut message = messages[random.below(messages.len())].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(message.len());
        match random.below(7) {
            0 => message[at] ^= 1 << random.below(8),
            1 => message[at] = random.pick(&[0, 1, b'/', b'.', 0x7f, 0x80, 0xff]),
            2 => {
                let number = random.pick(&[0, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX]);
                let width = random.pick(&[2, 4, 8]);
                let at = at - at % width;
                for (place, byte) in message.iter_mut().skip(at).zip(&number.to_le_bytes()[..width]) {
                    *place = *byte;
                }
            }
            3 => message.truncate(at.max(1)),
            4 => {
                let len = message.len() + random.below(300);
                let fill = random.pick(&[0, b'a', 0xff]);
                message.resize(len, fill);
            }
            5 => {
                let other = &messages[random.below(messages.len())];
                let from = random.below(other.len());
                message.truncate(at.max(1));
                message.extend_from_slice(&other[from..]);
            }
            _ => {
                // The length in the header is correct. Only the body is wrong.
                let len = u32::try_from(message.len()).unwrap();
                if let Some(place) = message.get_mut(LEN_AT) {
                    place.copy_from_slice(&len.to_le_bytes());
                }
            }
        }
    }
    message
}

/// Returns a few descriptors with random addresses, most of them valid.
fn random_chain(random: &mut Random, here: u64) -> Vec<Descriptor> {
    let addresses = [here, here + 4096, here + 8192, 0, MEMORY_END - 8, MEMORY_END, u64::MAX - 8];
    let lens = [0, 1, 16, 39, 40, 56, 120, 4096, 1 << 20, u32::MAX];
    (0..=random.below(5))
        .map(|_| Descriptor {
            address: random.pick(&addresses),
            len: random.pick(&lens),
            flags: u16::try_from(random.below(8)).unwrap(),
            next: random.pick(&[0, 1, 2, 3, 4, 127, 128, u16::MAX]),
        })
        .collect()
}

#[test]
fn ten_thousand_mutations_leak_and_break_nothing() {
    let seed: u64 =
        std::env::var("PINHOLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.subsec_nanos().into()
        });
    println!("PINHOLE_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut bench = Bench::with(Setup::default(), &["--xattr"]).unwrap();
    let canary = bench.folder().join("canary");
    fs::write(&canary, "untouched").unwrap();
    let mut messages = Scene::begin(&mut bench).messages();
    let mut before = None;
    for round in 0..10_000u32 {
        if round % 250 == 0 {
            messages = Scene::begin(&mut bench).messages();
        }
        // After ten thousand rounds, the daemon may hold no more memory and descriptors than after
        // one
        // thousand.
        if round == 1000 {
            before = Some(bench.footprint().unwrap());
        }
        if random.below(10) == 0 {
            let (here, _) = chain(&mut bench);
            let descriptors = random_chain(&mut random, here);
            bench.guest.raw_chain(1, &descriptors).unwrap();
        } else {
            let message = mutate(&mut random, &messages);
            let room = random.pick(&[0, 15, 16, 120, 144, 4096, 65536]);
            send_and_check(&mut bench, random.below(3), &message, room);
        }
        still_serves(&mut bench);
    }
    bench.guest.init().unwrap();
    let (before, after) = (before.unwrap(), bench.footprint().unwrap());
    assert!(after.anonymous_kib <= before.anonymous_kib + SLACK_KIB, "{before:?} became {after:?}");
    assert!(after.descriptors <= before.descriptors, "{before:?} became {after:?}");
    // A thread that was started on demand ends when it has been idle for a while.
    eventually("no thread of the load is left", || bench.footprint().unwrap().threads <= before.threads);
    assert_eq!(fs::read_to_string(canary).unwrap(), "untouched");
    assert!(!bench.daemon.stderr().contains("panic"), "{}", bench.daemon.stderr());
}

#[test]
fn rename_flags_that_exclude_one_another_are_refused() {
    let mut bench = Bench::new().unwrap();
    Scene::begin(&mut bench);
    // EXCHANGE with NOREPLACE, with WHITEOUT, and with both. A filter that permits each flag alone
    // would end the daemon for a call with two.
    for flags in [3, 6, 7] {
        let rename = Frame::new(RENAME2, ROOT).u64(ROOT).u32(flags).u32(0).name("file").name("other");
        assert_eq!(bench.errno(rename, 0).unwrap(), 22, "flags {flags}");
    }
    bench.is_alive().unwrap();
}
